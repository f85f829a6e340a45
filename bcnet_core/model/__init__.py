"""The bilayer mask head, its targets and losses, and the detectors that carry it."""
