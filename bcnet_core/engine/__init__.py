"""Training: one loop for one process and for many."""
