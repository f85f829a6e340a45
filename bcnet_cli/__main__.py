"""Entry point of `bcnet`: handles Ctrl-C and SIGTERM and sets the environment before the program is imported."""

from __future__ import annotations

import os
import signal
from types import FrameType


def _exit(number: int, frame: FrameType | None) -> None:
    """Exit at once: nothing needs to be cleaned up yet, and an exception would surface in a library's import."""
    os.write(2, b"interrupted\n")
    os._exit(130)


def main() -> None:
    """Run the program; see `bcnet_cli.app.main`."""
    signal.signal(signal.SIGTERM, _exit)
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # a background job ignores Ctrl-C, and continues to
        signal.signal(signal.SIGINT, _exit)
    # OpenMP threads spin 300,000 times before they sleep, which is ruinous beside another busy process; threads that
    # sleep at once halve the speed of an idle machine (docs/performance.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    from bcnet_cli.app import main as run

    signal.signal(signal.SIGINT, handler)
    run()


if __name__ == "__main__":
    main()
