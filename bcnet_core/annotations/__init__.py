"""COCO files and the bilayer annotations derived from them. No torch here."""
