"""From a detector to numbers: predictions, COCO scores, submissions."""
