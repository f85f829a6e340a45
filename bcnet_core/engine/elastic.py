"""Cooperating processes, started and watched by torch elastic, on one machine or several."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from types import FrameType
from typing import TypeVar

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from bcnet_core import distributed as dist
from bcnet_core.errors import BCNetError, ExitCode, usage_error

TAKEN_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals that elastic sets handlers for."""
ERROR_MARK = "bcnet-error:"
"""Prefix of an error in the text that a process leaves."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Cluster:
    """The processes that train or predict together.

    Attributes:
        processes: processes on this machine: one per GPU, or gloo processes on the CPU.
        nodes: number of machines; each runs the same command and sees the same run directory.
        endpoint: HOST:PORT where the machines meet, on one of them.
        restarts: how often a run restarts from its last checkpoint when a process dies.
    """

    processes: int = 1
    nodes: int = 1
    endpoint: str | None = None
    restarts: int = 0

    @property
    def in_place(self) -> bool:
        """Return whether this process alone is enough."""
        return self.processes == 1 and self.nodes == 1 and self.restarts == 0


def run_processes(
    worker: Callable[..., Value | BCNetError | None],
    *arguments: object,
    cluster: Cluster,
    name: str,
    interrupted: Callable[[], BCNetError],
) -> Value:
    """Call a function in every process of a cluster; return the result of the lowest rank on this machine.

    Args:
        worker: module-level function decorated with torch's `record`, whose body runs inside `process_of`. It returns
            an error, instead of raising it, to end all processes without a restart.
        arguments: picklable arguments of the function.
        cluster: processes to start.
        name: name under which the machines find each other.
        interrupted: makes the error to raise after Ctrl-C or SIGTERM.

    Raises:
        BCNetError: the first error of any process, or if the machines do not meet.
    """
    _silence_elastic()
    config = LaunchConfig(
        min_nodes=cluster.nodes,
        max_nodes=cluster.nodes,
        nproc_per_node=cluster.processes,
        run_id=uuid.uuid4().hex if cluster.nodes == 1 else f"bcnet-{name}",
        rdzv_backend="c10d",
        rdzv_endpoint=cluster.endpoint or "localhost:0",
        max_restarts=cluster.restarts,
        monitor_interval=0.1,
    )
    # The processes share the cores: OpenMP threads that spin while they wait would take them from each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if cluster.restarts:  # else gloo finds the addresses of dead processes in the store that elastic keeps
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    try:
        with _signal_handlers_restored():
            results = elastic_launch(config, worker)(*arguments)
    except ChildFailedError as failed:
        raise _first_error(failed) from None
    except SignalException:
        raise interrupted() from None
    except RendezvousError as error:
        raise BCNetError(
            f"the {cluster.nodes} machines did not meet at {cluster.endpoint}: {error}",
            "start the same command on every machine within ten minutes; the endpoint is a free port of one of them",
        ) from None
    result: Value = results[min(results)]
    if isinstance(result, BCNetError):
        raise result
    return result


@contextmanager
def process_of(cluster: Cluster, device: str) -> Iterator[torch.device]:
    """Act as one process of a cluster until the block ends, and yield its device.

    On a CPU it gets its share of the cores. A `BCNetError` of the block reaches the launcher.
    """
    threading.Thread(target=_exit_with_launcher, daemon=True).start()
    try:
        own = dist.choose_device(device)
        if own.type == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // cluster.processes))
        with dist.process_group(own):
            yield own
    except BCNetError as error:
        content = {"message": error.message, "hints": error.hints, "exit_code": int(error.exit_code)}
        raise RuntimeError(ERROR_MARK + json.dumps(content)) from None  # elastic passes on text only


def check_processes(cluster: Cluster, device: str) -> None:
    """Check that this machine can run its processes of a cluster.

    Raises:
        BCNetError: with both numbers and the way out.
    """
    gpus, processes = torch.cuda.device_count(), cluster.processes
    if (cluster.nodes > 1) != (cluster.endpoint is not None):
        raise usage_error(
            "--nnodes and --rdzv-endpoint belong together",
            "on each of two machines: --nnodes 2 --rdzv-endpoint HOST:PORT, HOST being one of them",
        )
    if cluster.endpoint is not None:
        _check_endpoint(cluster.endpoint)
    if processes > 1 and ":" in device:
        raise usage_error(f"`{device}` is one GPU, {processes} processes need as many", "use --device cuda")
    wants_gpu = device.startswith("cuda") or (device == "auto" and (gpus or processes > 1))
    if wants_gpu and processes > gpus:
        have = "no GPU" if gpus == 0 else f"{gpus} GPU" + "s" * (gpus > 1)
        raise usage_error(
            f"asked for {processes} GPU{'s' * (processes > 1)}, this machine has {have}",
            f"use what there is: --gpus {max(gpus, 1)} --device auto",
            f"or the CPU:        --gpus {processes} --device cpu",
        )


def _check_endpoint(endpoint: str) -> None:
    """Check that the machines can look for each other at HOST:PORT: torch tries for a minute, and prints its frames."""
    example, form = "for example --rdzv-endpoint node1:29500", re.fullmatch(r"(.+):(\d{1,5})", endpoint)
    if form is None or not 0 < int(form[2]) < 2**16:
        raise usage_error(f"--rdzv-endpoint is `{endpoint}`, not HOST:PORT", example)
    try:
        socket.getaddrinfo(form[1].strip("[]"), int(form[2]))
    except OSError as error:
        raise usage_error(
            f"--rdzv-endpoint names `{form[1]}`, which this machine cannot find: {error.strerror}", example
        ) from None


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list, so that the loop can finish its step.

    A second Ctrl-C interrupts a single process at once. A process of a group receives the first one twice, from the
    terminal and from the launcher.
    """
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT and dist.world_size() == 1:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _signal_handlers_restored() -> Iterator[None]:
    """Undo elastic's signal handlers, which it leaves behind: the next Ctrl-C would raise its own exception."""
    if threading.current_thread() is not threading.main_thread():  # elastic sets none there
        yield
        return
    handlers = {number: signal.getsignal(number) for number in TAKEN_SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # one that was not set in Python cannot be set from there
                signal.signal(number, handler)


def _silence_elastic() -> None:
    """Mute elastic's log: the user gets one error message."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _exit_with_launcher() -> None:
    """End this process when its launcher dies, lest it train on in a folder that the user believes to be free."""
    launcher = parent_process()
    if launcher is not None:
        launcher.join()
        os._exit(1)


def _first_error(failed: ChildFailedError) -> BCNetError:
    """Convert elastic's report into the worker's error; a `BCNetError` goes before its consequences elsewhere."""
    failures: list[tuple[int, ProcessFailure]] = list(failed.failures.items())
    rank, first = min(failures, key=lambda item: (ERROR_MARK not in _message(item[1]), item[1].timestamp))
    message = _message(first)
    if ERROR_MARK in message:
        content, _ = json.JSONDecoder().raw_decode(message.split(ERROR_MARK, 1)[1])
        return BCNetError(content["message"], *content["hints"], exit_code=ExitCode(content["exit_code"]))
    return BCNetError(
        f"the process of rank {rank} failed (exit code {first.exitcode}): {message}",
        "see the whole traceback: give the same command with --gpus 1",
    )


def _message(failure: ProcessFailure) -> str:
    message = failure.message
    return str(message.get("message", message)) if isinstance(message, dict) else str(message)
