"""Visualization: pure drawing, panels of a picture, sources of pictures, and a static HTML gallery."""
