"""Processes of detectron2: their errors, where their words go, and what they hear of Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from itertools import chain, islice
from multiprocessing import active_children
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from detectron2.engine import launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing.spawn import ProcessRaisedException

from bcnet_core.distributed import choose_device
from bcnet_core.engine.elastic import ERROR_MARK, exit_with_launcher, pack_error, unpack_error
from bcnet_core.errors import BCNetError
from bcnet_core.files.workers import deaf_children


def device_name(asked: str, *, processes: int) -> str:
    """The `MODEL.DEVICE` that a user's `--device` means: one alone may have a GPU of its choice.

    Raises:
        BCNetError: if it is no device, or a GPU that is not there.
    """
    device = choose_device(asked)
    return str(device) if processes == 1 else device.type


def launch_processes(worker: Callable[..., None], *arguments: object, processes: int) -> None:
    """Call a module's function here, or through detectron2's `launch` in as many processes as asked for.

    Raises:
        BCNetError: the one that a process raised inside of `told`.
        KeyboardInterrupt: if a process was interrupted.
    """
    received: list[int] = []
    try:
        with _passed_on(received) if processes > 1 else nullcontext():
            launch(worker, processes, num_machines=1, machine_rank=0, dist_url="auto", args=arguments)
    except ProcessRaisedException as error:
        text = str(error)
        if received:
            raise KeyboardInterrupt from None
        if ERROR_MARK in text:
            raise unpack_error(text) from None
        last = text.strip().splitlines()[-1]
        raise BCNetError(
            f"a process of detectron2 failed: {last}", "see the whole traceback: give the command with --gpus 1"
        ) from None
    if received:
        raise KeyboardInterrupt


@contextmanager
def _passed_on(received: list[int]) -> Iterator[None]:
    """Pass Ctrl-C and SIGTERM on to the processes, which then end by themselves, and are waited for."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in active_children():
            if process.pid is not None:
                os.kill(process.pid, number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def told(folder: Path | None, *, processes: int, on_gpu: bool) -> Iterator[None]:
    """Be one of the processes of detectron2's `launch` until the block ends.

    What detectron2 logs, and what pycocotools prints, goes to stderr; in one of several processes a `BCNetError`
    crosses over to the launcher, with which the process ends.

    Args:
        folder: that detectron2's `log.txt` goes to; None has none.
        processes: on this machine.
        on_gpu: whether they work on GPUs; on a CPU they share the cores.
    """
    threading.Thread(target=exit_with_launcher, daemon=True).start()
    if not on_gpu and processes > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    for name in ("fvcore", "detectron2"):
        logger = setup_logger(None if folder is None else str(folder), distributed_rank=comm.get_rank(), name=name)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.setStream(sys.stderr)
    try:
        with redirect_stdout(sys.stderr):
            yield
    except BCNetError as error:
        if processes == 1:
            raise
        raise RuntimeError(pack_error(error)) from None
    except FloatingPointError as error:
        finite = BCNetError(
            f"the loss is not finite: {str(error).splitlines()[0]}",
            "the last checkpoint is kept; try a smaller learning rate, a longer warm-up, or clipped gradients",
        )
        raise (finite if processes == 1 else RuntimeError(pack_error(finite))) from None


class UndisturbedLoader:
    """A loader of detectron2 whose processes go on when Ctrl-C or SIGTERM go to all processes of a group.

    Args:
        loader: it starts its processes for the first batch.
    """

    def __init__(self, loader: Any) -> None:  # noqa: ANN401  (of detectron2)
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        with deaf_children():
            first = list(islice(batches, 1))
        yield from chain(first, batches)

    def __len__(self) -> int:
        return len(self.loader)
