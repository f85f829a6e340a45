"""The one error of the package: what is wrong, the ways out, and the exit code."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    OK = 0
    FAILED = 1
    USAGE = 2
    BAD_DATA = 3
    INTERRUPTED = 130


class BCNetError(Exception):
    """A problem that the user can act on.

    Args:
        message: one sentence that says what is wrong, naming the file, key or value.
        hints: ways out, one line each.
        exit_code: exit code of the command line.
    """

    def __init__(self, message: str, *hints: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hints = hints
        self.exit_code = exit_code


def usage_error(message: str, *hints: str) -> BCNetError:
    """Return an error of a command line or recipe (exit code 2)."""
    return BCNetError(message, *hints, exit_code=ExitCode.USAGE)


def data_error(message: str, *hints: str) -> BCNetError:
    """Return an error of an input file that is missing, damaged or invalid (exit code 3)."""
    return BCNetError(message, *hints, exit_code=ExitCode.BAD_DATA)
