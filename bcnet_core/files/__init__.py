"""Reading and writing files: JSON, images, atomic outputs, worker processes."""
