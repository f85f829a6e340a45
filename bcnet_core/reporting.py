"""How the core tells a person what it does, without knowing how that person looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Progress(Protocol):
    """A task under way."""

    def advance(self, amount: int = 1, *, note: str = "", values: Mapping[str, str] | None = None) -> None:
        """Mark `amount` more units as done.

        Args:
            amount: of units.
            note: a short text that is shown beside the count until the next one.
            values: names and what they stand at, shown as a table until the next ones.
        """


class Reporter(Protocol):
    """Receives messages and progress; the command line draws them, tests collect them."""

    def info(self, message: str) -> None:
        """Tell something worth knowing."""

    def warning(self, message: str) -> None:
        """Tell something that the user should act on."""

    def progress(self, title: str, total: int) -> AbstractContextManager[Progress]:
        """Open a task of `total` units; it is closed when the context ends."""


class _SilentProgress:
    def advance(self, amount: int = 1, *, note: str = "", values: Mapping[str, str] | None = None) -> None:
        pass


class SilentReporter:
    """Says nothing: the default of every function that takes a reporter."""

    def info(self, message: str) -> None:
        """Drop the message."""

    def warning(self, message: str) -> None:
        """Drop the message."""

    def progress(self, title: str, total: int) -> AbstractContextManager[Progress]:
        """Count nothing."""
        return nullcontext(_SilentProgress())
