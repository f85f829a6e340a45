"""One way to spread work over processes: results in order, a bounded number under way, nothing left running."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
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
    others = set(active_children())
    finished = False
    try:
        yield _in_order(pool, work, tasks, PENDING * workers)
        finished = True
    except BrokenProcessPool:
        raise BCNetError(
            "a worker process died; the machine may be out of memory", "work in one process: --workers 1"
        ) from None
    finally:
        with undisturbed():
            for worker in set() if finished else set(active_children()) - others:
                worker.kill()
            if not finished and sys.version_info < (3, 11, 5):
                # it waits for ever for its own thread, which sends a task to those who were killed; later ones close it
                pool._call_queue._reader.close()  # type: ignore[attr-defined]
            pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, work: Callable[[Task], Result], tasks: Iterable[Task], pending: int
) -> Iterator[Result]:
    futures: deque[Future[Result]] = deque()
    for task in tasks:
        with undisturbed():  # it may start a process
            futures.append(pool.submit(work, task))
        if len(futures) > pending:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def _start() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for its next task for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block ends; processes that are started within never hear of a Ctrl-C.

    Interrupted while it starts or stops a process, the pool would wait for ever for one that it does not know.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in signals}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process inherits it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for interruption in heard[:1]:
        signal.raise_signal(interruption)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started within never hear of Ctrl-C or SIGTERM; this one hears of them when the block ends.

    A terminal sends Ctrl-C, and a cluster's scheduler SIGTERM, to all processes at once. Those that serve another one
    go on serving it until it has come to its end, which is theirs at the latest.
    """
    others = set(active_children())
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # a new process inherits it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if children := set(active_children()) - others:
            Finalize(None, _kill, args=(children,), exitpriority=0)


def _kill(processes: Iterable[BaseProcess]) -> None:
    """End those that are left at the end of this process, which would wait for them: they do not hear of SIGTERM."""
    left = [process for process in processes if process.is_alive()]
    if left and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would call it an error
    for process in left:
        process.kill()
