"""Tiles joined by masks, against SAHI's merging of the same tiles and the photo as a whole."""
