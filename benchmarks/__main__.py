"""`python -m benchmarks`: run the benchmarks from a clone of the repository."""

from __future__ import annotations

import sys

import typer

from bcnet_cli import console
from bcnet_core.errors import BCNetError
from benchmarks.amodal.cli import amodal
from benchmarks.crowds.cli import crowds
from benchmarks.evidence.cli import evidence
from benchmarks.heads.cli import heads
from benchmarks.speed.annotate import annotate
from benchmarks.speed.evaluate import evaluate
from benchmarks.speed.model import model
from benchmarks.speed.throughput import throughput
from benchmarks.speed.viz import viz
from benchmarks.starts.cli import starts
from benchmarks.tiles.cli import tiles

app = typer.Typer(
    help="Measure how fast bcnet is on this machine, and what the bilayer head is worth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(model)
app.command()(throughput)
app.command()(annotate)
app.command("eval")(evaluate)
app.command()(viz)
app.command()(evidence)
app.command()(heads)
app.command()(starts)
app.command()(crowds)
app.command()(amodal)
app.command()(tiles)


def main() -> None:
    """Run one benchmark and exit with the codes of `bcnet`."""
    try:
        app(prog_name="python -m benchmarks")
    except BCNetError as error:
        console.show_error(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
