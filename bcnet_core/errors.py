"""The one error of the package: what is wrong, the way out, and the exit code a shell should see."""

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
    """A problem that a person can act on.

    Args:
        message: one sentence that says what is wrong, naming the file, key or value.
        hints: the ways out, one line each.
        exit_code: what the command line exits with.
    """

    def __init__(self, message: str, *hints: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hints = hints
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[object, ...]:
        """Keep hints and exit code when the error crosses a process boundary."""
        return _rebuild, (self.message, self.hints, int(self.exit_code))


def _rebuild(message: str, hints: tuple[str, ...], exit_code: int) -> BCNetError:
    return BCNetError(message, *hints, exit_code=ExitCode(exit_code))


def usage_error(message: str, *hints: str) -> BCNetError:
    """A command line or recipe that cannot be obeyed (exit code 2)."""
    return BCNetError(message, *hints, exit_code=ExitCode.USAGE)


def data_error(message: str, *hints: str) -> BCNetError:
    """An input file that is missing, damaged or not what it should be (exit code 3)."""
    return BCNetError(message, *hints, exit_code=ExitCode.BAD_DATA)
