"""Seeing the layers: pure drawing, the panels of one picture, their sources, and a static HTML gallery."""
