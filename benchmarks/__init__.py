"""Benchmarks: how fast bcnet is, and what the bilayer head is worth. Not part of the wheel."""
