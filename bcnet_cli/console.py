"""The two streams of the command line: results on stdout, everything else on stderr.

Neither reads markup or emoji names: paths and category names are shown as they are.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bcnet_core.errors import BCNetError

out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def show_error(error: BCNetError) -> None:
    """Print one sentence and the ways out, without a traceback."""
    err.print(Text.assemble(("error: ", "bold red"), error.message))
    for hint in error.hints:
        err.print(Text(f"  {hint}"))


def show_outputs(*paths: Path, then: str | None = None) -> None:
    """End a command: name what was written and the command that usually follows (on stderr)."""
    for path in paths:
        err.print(Text.assemble(("wrote ", "green"), str(path)))
    if then is not None:
        err.print(Text.assemble(("next  ", "cyan"), then))


def make_table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose other columns are numbers."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table
