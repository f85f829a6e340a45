"""The two streams of the command line: results on stdout, everything else on stderr.

Neither reads markup or emoji names: paths and category names are shown as they are. What a terminal would obey instead
of showing it is replaced: escape codes, a change of direction, half characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from bcnet_core.errors import BCNetError

OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, what turns the direction of text, and halves of surrogate pairs."""
MOST_SHOWN = 2000
"""Characters of a line of an error: it may quote a file."""


class PlainConsole(Console):
    """Writes no control character but its own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What rich renders, without what terminals obey."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=OBEYED.sub("\ufffd", segment.text))


out = PlainConsole(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = PlainConsole(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def show_error(error: BCNetError) -> None:
    """Print one sentence and the ways out, without a traceback."""
    err.print(Text.assemble(("error: ", "bold red"), one_line(error.message)))
    for hint in error.hints:
        err.print(Text(f"  {one_line(hint)}"))


def one_line(text: str) -> str:
    """A text of no more than one line, whatever it quotes."""
    line = text.replace("\n", " ")
    return line if len(line) <= MOST_SHOWN else f"{line[:MOST_SHOWN]} ..."


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
