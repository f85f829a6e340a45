"""The start of `bcnet`: hears Ctrl-C and SIGTERM from the first moment on, while the program itself is still read."""

from __future__ import annotations

import os
import signal
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:
    """Nothing is under way yet, so nothing has to be cleared away; raising would end in a library's import."""
    os.write(2, b"interrupted\n")
    os._exit(130)


def main() -> None:
    """Run the program, see `bcnet_cli.app.main`."""
    signal.signal(signal.SIGTERM, _end)
    waits = signal.getsignal(signal.SIGINT)
    if waits is signal.default_int_handler:  # not so in a job in the background, which is deaf
        signal.signal(signal.SIGINT, _end)
    from bcnet_cli.app import main as run

    signal.signal(signal.SIGINT, waits)
    run()


if __name__ == "__main__":
    main()
