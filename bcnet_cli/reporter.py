"""Progress of the core: a live bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType

from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from bcnet_cli import console
from bcnet_core.reporting import Progress

PLAIN_INTERVAL = 10.0
"""Seconds between two progress lines without a terminal."""

TABLE_COLUMNS = 5
"""Number of values side by side above a bar."""


class ConsoleReporter:
    """A `Reporter` that writes to stderr."""

    def __init__(self) -> None:
        self._bars: _Bars | None = None

    def info(self, message: str) -> None:
        """Print a line."""
        console.err.print(Text(message))

    def warning(self, message: str) -> None:
        """Print a highlighted line."""
        console.err.print(Text.assemble(("warning: ", "bold yellow"), console.one_line(message)))

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Progress]:
        """Show a task until the context ends."""
        if not console.err.is_terminal:
            yield _PlainProgress(title, total)
            return
        with ExitStack() as stack:
            if self._bars is None:  # a nested task adds a bar and keeps the outer task's table
                self._bars = stack.enter_context(_Bars(*COLUMNS, console=console.err, transient=True))
                stack.callback(setattr, self, "_bars", None)
            task = self._bars.add_task(title, total=total, note="")
            stack.callback(self._bars.remove_task, task)
            yield _BarProgress(self._bars, task)


COLUMNS = (
    TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
    TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
)  # fmt: skip


class _Bars(RichProgress):
    """Rich's progress bars below a table of values."""

    values: Mapping[str, str] = MappingProxyType({})

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the table, if there are values, and the bars."""
        if self.values:
            table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
            pairs = [Text.assemble((f"{name} ", "dim"), value) for name, value in self.values.items()]
            for start in range(0, len(pairs), TABLE_COLUMNS):
                table.add_row(*pairs[start : start + TABLE_COLUMNS])
            yield table
        yield from super().get_renderables()


class _BarProgress:
    def __init__(self, bars: _Bars, task: TaskID) -> None:
        self._bars, self._task, self._note = bars, task, ""

    def advance(self, amount: int = 1, *, note: str = "", values: Mapping[str, str] | None = None) -> None:
        self._note = console.one_line(note) or self._note
        self._bars.values = values or self._bars.values
        self._bars.update(self._task, advance=amount, note=self._note)


class _PlainProgress:
    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done, self._note = title, total, 0, ""
        self._start = self._last = time.monotonic()

    def advance(self, amount: int = 1, *, note: str = "", values: Mapping[str, str] | None = None) -> None:
        self._done += amount
        listed = "  ".join(f"{name} {value}" for name, value in (values or {}).items())
        self._note = console.one_line(note) or listed or self._note
        now = time.monotonic()
        if now - self._last < PLAIN_INTERVAL and self._done < self._total:
            return
        self._last = now
        left = (now - self._start) / self._done * (self._total - self._done)
        ending = f"{left:.0f} s left" if self._done < self._total else f"done in {now - self._start:.1f} s"
        parts = f"{self._title} {self._done}/{self._total}", self._note, ending
        console.err.print(Text("  ".join(filter(None, parts))))
