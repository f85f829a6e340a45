"""One way to spread work over processes: results in order, a bounded number under way, nothing left running."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

from bcnet_core.errors import BCNetError

Task = TypeVar("Task")
Result = TypeVar("Result")

PENDING = 4
"""Tasks per worker that are under way at most; it bounds the memory."""


@contextmanager
def mapped(
    work: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int, most: int
) -> Iterator[Iterator[Result]]:
    """Do `work` for every task, in processes; leaving the block stops them.

    Args:
        work: a function that can be pickled, and sees nothing but its task.
        tasks: taken one by one, as workers become free.
        workers: processes to use, 0 for one per CPU core. 1 works in this process; others are spawned, so a script
            calls this below `if __name__ == "__main__":`.
        most: more processes than this are not worth their start.

    Yields:
        The results, in the order of the tasks.

    Raises:
        BCNetError: if a worker process dies. What `work` raises is passed on.
    """
    workers = min(workers or os.cpu_count() or 1, most)
    if workers <= 1:
        yield map(work, tasks)
        return
    # a fork could inherit locks that another thread holds
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start)
    try:
        yield _in_order(pool, work, tasks, PENDING * workers)
    except BrokenProcessPool:
        raise BCNetError(
            "a worker process died; the machine may be out of memory", "work in one process: --workers 1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and stops its workers


def _in_order(
    pool: ProcessPoolExecutor, work: Callable[[Task], Result], tasks: Iterable[Task], pending: int
) -> Iterator[Result]:
    futures: deque[Future[Result]] = deque()
    for task in tasks:
        futures.append(pool.submit(work, task))
        if len(futures) > pending:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()
