"""Messages and progress of the core, independent of how they are shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tab and newline, changes of text direction, and unpaired surrogates."""


def visible(text: str) -> str:
    """Replace what a terminal or browser would act on instead of showing, see `UNSAFE`, by U+FFFD."""
    return UNSAFE.sub("\ufffd", text)


class Progress(Protocol):
    """A task in progress."""

    def advance(self, amount: int = 1, *, note: str = "", values: Mapping[str, str] | None = None) -> None:
        """Mark units as done; show a short note beside the count, and values as a table, until the next ones."""


class Reporter(Protocol):
    """Receives messages and progress; the command line draws them, tests collect them."""

    def info(self, message: str) -> None:
        """Report something worth knowing."""

    def warning(self, message: str) -> None:
        """Report something that the user should act on."""

    def progress(self, title: str, total: int) -> AbstractContextManager[Progress]:
        """Start a task of `total` units; it ends with the context."""


class _SilentProgress:
    def advance(self, amount: int = 1, *, note: str = "", values: Mapping[str, str] | None = None) -> None:
        pass


class SilentReporter:
    """A reporter that drops everything: the default of every function that takes one."""

    def info(self, message: str) -> None:
        """Drop the message."""

    def warning(self, message: str) -> None:
        """Drop the message."""

    def progress(self, title: str, total: int) -> AbstractContextManager[Progress]:
        """Return a task that counts nothing."""
        return nullcontext(_SilentProgress())
