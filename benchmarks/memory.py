"""Peak memory of a process and its workers."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bcnet_core.engine.logging import peak_memory

Result = TypeVar("Result")

INTERVAL = 0.1
"""Seconds between two samples of `watch_memory`."""


@dataclass
class Peak:
    """The largest memory use sampled so far, in bytes."""

    bytes: int = 0


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a new process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def watch_memory() -> Iterator[Peak]:
    """Sample the memory of this process and its workers while the block runs; shared pages count once.

    Yields:
        The peak of the block; without /proc, that of this process alone.
    """
    peak, done = Peak(), threading.Event()

    def sample() -> None:
        while True:
            pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid is not None)]
            peak.bytes = max(peak.bytes, sum(map(_proportional_memory, pids)))
            if done.wait(INTERVAL):
                return

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        peak.bytes = peak.bytes or peak_memory()


def _proportional_memory(pid: int) -> int:
    """Proportional set size of a process in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
