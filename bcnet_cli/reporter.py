"""Draws the core's progress: a live bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from bcnet_cli import console
from bcnet_core.reporting import Progress

PLAIN_INTERVAL = 10.0
"""Seconds between two progress lines where there is no terminal."""


class ConsoleReporter:
    """A `Reporter` that writes to stderr."""

    def info(self, message: str) -> None:
        """Print a line."""
        console.err.print(Text(message))

    def warning(self, message: str) -> None:
        """Print a line that stands out."""
        console.err.print(Text.assemble(("warning: ", "bold yellow"), message))

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Progress]:
        """Show a task until the context ends."""
        if not console.err.is_terminal:
            yield _PlainProgress(title, total)
            return
        columns = (
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
        )  # fmt: skip
        with RichProgress(*columns, console=console.err, transient=True) as bars:
            yield _BarProgress(bars, bars.add_task(title, total=total, note=""))


class _BarProgress:
    def __init__(self, bars: RichProgress, task: TaskID) -> None:
        self._bars, self._task, self._note = bars, task, ""

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        self._note = note or self._note
        self._bars.update(self._task, advance=amount, note=self._note)


class _PlainProgress:
    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done, self._note = title, total, 0, ""
        self._start = self._last = time.monotonic()

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        self._done += amount
        self._note = note or self._note
        now = time.monotonic()
        if now - self._last < PLAIN_INTERVAL and self._done < self._total:
            return
        self._last = now
        left = (now - self._start) / self._done * (self._total - self._done)
        ending = f"{left:.0f} s left" if self._done < self._total else f"done in {now - self._start:.1f} s"
        console.err.print(
            Text("  ".join(filter(None, (f"{self._title} {self._done}/{self._total}", self._note, ending))))
        )
