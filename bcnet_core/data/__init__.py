"""From COCO files and images to batches of tensors."""
