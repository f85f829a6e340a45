"""Break a command at a chosen change of the disk.

A change is an event of Python's audit hooks: a file below the watched folder is opened for writing, created, renamed,
linked or removed. Data still buffered between two events is not on disk, so killing a process at each event produces
every state that a kill can leave.

As a program, `breaking.py FOLDER EVENT ARGUMENTS...` runs `bcnet ARGUMENTS` and sends SIGKILL to itself at that event.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate"}

Action = Callable[[int, str], None]
"""Called with the number and the description of each event; may raise."""


class Watcher:
    """Report the changes below a folder to an action, while there is one.

    Audit hooks cannot be removed, so one watcher is installed per process and switched on and off.
    """

    def __init__(self) -> None:
        self.folder, self.action = "", None  # type: str, Action | None
        self.events: list[str] = []
        sys.addaudithook(self)

    @contextmanager
    def watching(self, folder: str | os.PathLike[str], action: Action) -> Iterator[list[str]]:
        """Call `action` for every change below `folder` until the block ends; yields the events so far."""
        self.folder, self.action, self.events = os.fspath(folder), action, []
        try:
            yield self.events
        finally:
            self.action = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Handle an audit event."""
        action = self.action
        if action is None or (event not in CHANGES and event != "open"):
            return
        if event == "open" and not arguments[2] & WRITING:
            return
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
        if not os.path.abspath(path).startswith(self.folder):  # noqa: PTH100  (called very often)
            return
        if event in {"os.remove", "os.rmdir"} and not os.path.lexists(path):
            return
        creates = event in {"os.mkdir", "os.link"} or (event == "open" and arguments[2] & os.O_CREAT)
        self.events.append(f"{event}{' new' * bool(creates)} {path}")
        action(len(self.events) - 1, self.events[-1])


def main(folder: str, moment: int, *arguments: str) -> None:
    """Run `bcnet ARGUMENTS`; the process kills itself at an event."""
    from bcnet_cli.__main__ import main as bcnet

    def kill(number: int, _: str) -> None:
        if number == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.argv = ["bcnet", *arguments]
    with Watcher().watching(folder, kill):
        bcnet()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
