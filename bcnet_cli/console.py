"""The two streams of the command line: results on stdout, everything else on stderr.

Neither interprets markup or emoji names: paths and category names are shown as they are. What a terminal would act on
instead of showing is replaced: escape codes, changes of text direction, unpaired surrogates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from bcnet_core.errors import BCNetError
from bcnet_core.reporting import visible

MAX_LINE = 2000
"""Most characters of a line of an error, which may quote a file."""


class PlainConsole(Console):
    """A console that writes no control characters but its own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render without the characters that terminals act on."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


out = PlainConsole(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = PlainConsole(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def show_error(error: BCNetError) -> None:
    """Print the message and the hints of an error, without a traceback."""
    err.print(Text.assemble(("error: ", "bold red"), one_line(error.message)))
    for hint in error.hints:
        err.print(Text(f"  {one_line(hint)}"))


def one_line(text: str) -> str:
    """Put a text on one line and cut it to `MAX_LINE`, whatever it quotes."""
    line = text.replace("\n", " ")
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} ..."


def counted(number: int, noun: str) -> str:
    """Return a number and a regular noun, in the plural unless the number is one."""
    return f"{number:,} {noun if number == 1 else f'{noun}s'}"


def show_outputs(*paths: Path, then: str | Sequence[str] | None = None, dry_run: bool = False) -> None:
    """Print, at the end of a command, what it wrote, or would, and the commands that usually follow (on stderr)."""
    if dry_run:
        err.print(Text(f"would write {', '.join(map(str, paths))}"))
        return
    for path in paths:
        err.print(Text.assemble(("wrote ", "green"), str(path)))
    for command in [then] if isinstance(then, str) else then or []:
        err.print(Text.assemble(("next  ", "cyan"), command))


def make_table(title: str, *columns: str) -> Table:
    """Make a table whose first column is text and whose other columns are numbers."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table
