"""The `bcnet` program: its commands in the order of the workflow, and the exit codes of its errors."""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
import time
from types import FrameType
from typing import Annotated

import typer

from bcnet_cli import console
from bcnet_cli.commands import (
    annotate,
    data,
    demo,
    doctor,
    evaluate,
    predict,
    recipes,
    split_occ,
    synth,
    train,
    viz,
    weights,
)
from bcnet_core import __version__
from bcnet_core.errors import BCNetError, ExitCode

GRACE_SECONDS = 2.0
"""How long another Ctrl-C or SIGTERM is ignored after the first: the command is cleaning up."""
_interrupted = -math.inf


def _print_version(value: bool) -> None:  # noqa: FBT001  (typer's callback signature)
    if value:
        console.out.print(f"bcnet {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="bcnet",
    help="Segment crowded, overlapping objects with two overlapping layers: occluder and occludee.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("annotate")(annotate.annotate)
app.command("split-occ")(split_occ.split_occ)
app.add_typer(data.app, name="data")
app.add_typer(synth.app, name="synth")
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("viz")(viz.viz)
app.add_typer(weights.app, name="weights")
app.add_typer(recipes.app, name="recipes")
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)


@app.callback(invoke_without_command=False)
def options(
    *,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="BCNET_DEBUG", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Options that come before the command."""
    if debug:
        os.environ["BCNET_DEBUG"] = "1"


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Interrupt the command; ignore repeated signals while it cleans up."""
    global _interrupted  # noqa: PLW0603  (a signal handler has no other state)
    if time.monotonic() - _interrupted > GRACE_SECONDS:
        _interrupted = time.monotonic()
        raise KeyboardInterrupt


def _system_error(error: OSError | MemoryError) -> BCNetError:
    """Describe an error of the system that no command explained better."""
    where = "see where it happened: bcnet --debug ..."
    if isinstance(error, MemoryError):
        hint = "use less at once: smaller images, fewer workers"
        return BCNetError("there is not enough memory for this", hint, where)
    file = f"`{os.fsdecode(error.filename)}`: " if isinstance(error.filename, str | bytes) else ""
    code = ExitCode.USAGE if error.errno == errno.ENAMETOOLONG else ExitCode.FAILED
    return BCNetError(f"{file}{error.strerror or error}", where, exit_code=code)


def main() -> None:
    """Run the program and exit with the code of the contract (0, 1, 2, 3 or 130)."""
    signal.signal(signal.SIGTERM, _interrupt)  # remove temporary files as on Ctrl-C
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background job keeps ignoring it
        signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except BrokenPipeError:  # the reader, perhaps `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.FAILED)
    except (BCNetError, OSError, MemoryError) as error:
        if os.environ.get("BCNET_DEBUG"):
            raise
        shown = error if isinstance(error, BCNetError) else _system_error(error)
        console.show_error(shown)
        sys.exit(shown.exit_code)
    except SystemExit as end:
        if end.code == ExitCode.INTERRUPTED:  # typer exits silently on Ctrl-C
            console.err.print("interrupted")
        raise
    except KeyboardInterrupt:
        console.err.print("interrupted")
        sys.exit(ExitCode.INTERRUPTED)
