"""`python -m benchmarks`: run the benchmarks from a clone."""

from benchmarks.speed.cli import app

app(prog_name="python -m benchmarks")
