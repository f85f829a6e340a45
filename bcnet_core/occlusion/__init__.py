"""How much instances are occluded, and the COCO files of the images in which many are (COCO-OCC). No torch here."""
