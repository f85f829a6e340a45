"""How much memory a process and its workers take at most."""

from __future__ import annotations

import multiprocessing
import os
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

INTERVAL = 0.1
"""Seconds between two looks of `watch_memory`."""


@dataclass
class Peak:
    """The most memory seen so far, in bytes."""

    bytes: int = 0


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # where it does, ru_maxrss begins at that of the parent process
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> Result:
    """What a function returns in a process that has done nothing else, so that its memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def watch_memory() -> Iterator[Peak]:
    """Look at this process and its workers while the block runs; what they share counts once.

    Yields:
        The peak of the block. Where the system does not tell (no /proc), it is that of this process alone.
    """
    peak, done = Peak(), threading.Event()

    def look() -> None:
        while True:
            pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid is not None)]
            peak.bytes = max(peak.bytes, sum(map(_share, pids)))
            if done.wait(INTERVAL):
                return

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        peak.bytes = peak.bytes or peak_memory()


def _share(pid: int) -> int:
    """The memory of a process in bytes, pages that several share divided by their number; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
