"""Worker processes: work spread over them in order, a bounded number of tasks under way, none left running."""

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
from functools import partial
from itertools import islice
from multiprocessing import active_children, get_context, parent_process
from typing import TypeVar

from bcnet_core.errors import BCNetError
from bcnet_core.reporting import Reporter, SilentReporter

Task = TypeVar("Task")
Result = TypeVar("Result")

PENDING = 4
"""Most tasks per worker that are under way; this bounds the memory."""


@contextmanager
def parallel_map(
    work: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int, most: int
) -> Iterator[Iterator[Result]]:
    """Map `work` over tasks in worker processes; leaving the block stops them.

    Args:
        work: a function that can be pickled and depends on nothing but its task; what it raises is passed on.
        tasks: taken one by one, as workers become free.
        workers: number of processes, 0 for one per CPU core. 1 works in this process; others are spawned, so a script
            calls this below `if __name__ == "__main__":`.
        most: number of processes beyond which more are not worth their start.

    Yields:
        The results, in the order of the tasks.
    """
    workers = min(workers or os.cpu_count() or 1, most)
    if workers <= 1:
        yield map(work, tasks)
        return
    # spawned: a forked process could inherit locks that another thread holds
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=obey_parent_only)
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
        with deferred_signals():
            for worker in set() if finished else set(active_children()) - others:
                worker.kill()
            if not finished and sys.version_info < (3, 11, 5):
                # shutdown waits for a thread that is sending a task to a killed worker; newer Pythons close the pipe
                pool._call_queue._reader.close()  # type: ignore[attr-defined]
            pool.shutdown(cancel_futures=True)


@contextmanager
def map_with_progress(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    title: str,
    count: int,
    chunk: int,
    workers: int,
    most: int,
    reporter: Reporter | None,
) -> Iterator[Iterator[Result]]:
    """Call `parallel_map` with a number of tasks at a time and report the progress.

    Args:
        work: as in `parallel_map`, like `tasks`, `workers` and `most`.
        tasks: as many as `count`.
        title: what the progress counts.
        count: number of tasks.
        chunk: number of tasks that a process gets at once.
        workers: number of processes, 0 for one per CPU core.
        most: number of processes beyond which more are not worth their start.
        reporter: receiver of the progress.

    Yields:
        The results, in the order of the tasks.
    """
    ahead = iter(tasks)
    chunks = iter(lambda: list(islice(ahead, chunk)), [])
    with (
        (reporter or SilentReporter()).progress(title, count) as progress,
        parallel_map(partial(_map_chunk, work), chunks, workers=workers, most=most) as results,
    ):

        def one_by_one() -> Iterator[Result]:
            for found in results:
                yield from found
                progress.advance(len(found))

        yield one_by_one()


def _map_chunk(work: Callable[[Task], Result], tasks: list[Task]) -> list[Result]:
    return [work(task) for task in tasks]


def _in_order(
    pool: ProcessPoolExecutor, work: Callable[[Task], Result], tasks: Iterable[Task], pending: int
) -> Iterator[Result]:
    futures: deque[Future[Result]] = deque()
    for task in tasks:
        with deferred_signals():  # submit may start a process
            futures.append(pool.submit(work, task))
        if len(futures) > pending:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def obey_parent_only(_: object = None) -> None:
    """Block SIGINT and SIGTERM in a worker process unless its parent sends them, and end it with its parent.

    A terminal sends Ctrl-C, and a cluster's scheduler SIGTERM, to all processes at once; workers must keep serving
    until the main process has saved. A worker whose parent is killed would wait for its next task forever.

    macOS does not say who sent a signal: there a worker ignores Ctrl-C, and SIGTERM ends it, whoever sends it.

    This is an `initializer` of a process pool and a `worker_init_fn` of a data loader.
    """
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})  # blocked by `deferred_signals`
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    while parent is not None and parent.is_alive():
        if not hasattr(signal, "sigtimedwait"):
            parent.join()
            break
        received = signal.sigtimedwait({signal.SIGINT, signal.SIGTERM}, 1.0)
        if received is not None and received.si_pid == parent.pid:
            break
    os._exit(0)  # a data loader would report any other code as an error of its worker


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM until the block ends; processes that are started within begin with both blocked.

    A process pool that is interrupted while it starts or stops a process would wait forever for one that it has lost,
    and a signal to the whole group would end a worker before it reaches `obey_parent_only`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.signal(number, lambda number, _: received.append(number)) for number in signals}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # a new process inherits it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])
