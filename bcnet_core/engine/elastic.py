"""Several processes that work together, started and watched by torch elastic, on one machine or on many."""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from types import MappingProxyType

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from bcnet_core import distributed as dist
from bcnet_core.errors import BCNetError, ExitCode, usage_error

ERROR_MARK = "bcnet-error:"
"""Before an error in the text that a process leaves."""

NEW_STORE_EACH_TIME = MappingProxyType({"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"})
"""Lets processes that begin again exchange their addresses in a store of their own. The store that elastic shares with
them by default outlives them, and gloo would find the addresses of the dead in it, and connect to those."""


@dataclass(frozen=True)
class Cluster:
    """The processes that train, or predict, together.

    Attributes:
        processes: on this machine, one a GPU, or gloo processes on the CPU.
        nodes: machines; each of them runs the same command, and sees the same run directory.
        endpoint: HOST:PORT where the machines meet; of one of them.
        restarts: how often a run begins again from its last checkpoint when a process dies.
    """

    processes: int = 1
    nodes: int = 1
    endpoint: str | None = None
    restarts: int = 0

    @property
    def in_place(self) -> bool:
        """Whether no other process than this one is needed."""
        return self.processes == 1 and self.nodes == 1 and self.restarts == 0


def run_processes(
    worker: Callable[..., str | None],
    *arguments: object,
    cluster: Cluster,
    name: str,
    interrupted: Callable[[], BCNetError],
    environment: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Call a function in every process of a cluster, and wait for all of them.

    Args:
        worker: a module's function, decorated with torch's `record`; what it does is inside of `process_of`. To end all
            processes with one error, without a restart, it returns `packed(error)`.
        arguments: of the function; picklable.
        cluster: which processes.
        name: by which machines know that they belong together.
        interrupted: what is raised after Ctrl-C or SIGTERM.
        environment: variables that the processes see.

    Returns:
        What the process with the lowest rank on this machine returned.

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
    try:
        with _environment({**environment, **(NEW_STORE_EACH_TIME if cluster.restarts else {})}):
            ends = elastic_launch(config, worker)(*arguments)
    except ChildFailedError as failed:
        raise _first_error(failed) from None
    except SignalException:
        raise interrupted() from None
    except RendezvousError as error:
        raise BCNetError(
            f"the {cluster.nodes} machines did not meet at {cluster.endpoint}: {error}",
            "start the same command on every machine within ten minutes; the endpoint is a free port of one of them",
        ) from None
    end: str = ends[min(ends)]
    if ERROR_MARK in end:
        raise unpacked(end)
    return end


@contextmanager
def process_of(cluster: Cluster, device: str) -> Iterator[torch.device]:
    """Be one of the processes of a cluster until the block ends; in a function that `run_processes` calls.

    A `BCNetError` of the block crosses over to the launcher, and the process ends with its launcher.

    Args:
        cluster: that was launched.
        device: "auto", "cpu" or "cuda".

    Yields:
        The device of this process. On a CPU it has its share of the cores.
    """
    threading.Thread(target=end_with_launcher, daemon=True).start()
    try:
        own = dist.choose_device(device)
        if own.type == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // cluster.processes))
        with dist.process_group(own):
            yield own
    except BCNetError as error:
        raise RuntimeError(packed(error)) from None


def check_processes(cluster: Cluster, device: str) -> None:
    """Refuse processes that this machine cannot serve.

    Raises:
        BCNetError: with both numbers and the way out.
    """
    gpus, processes = torch.cuda.device_count(), cluster.processes
    if (cluster.nodes > 1) != (cluster.endpoint is not None):
        raise usage_error(
            "--nnodes and --rdzv-endpoint belong together",
            "on each of two machines: --nnodes 2 --rdzv-endpoint HOST:PORT, HOST being one of them",
        )
    if processes > 1 and ":" in device:
        raise usage_error(f"`{device}` is one GPU, {processes} processes need as many", "use --device cuda")
    wants_gpu = device.startswith("cuda") or (device == "auto" and (gpus or processes > 1))
    if wants_gpu and processes > gpus:
        have = "no GPU" if gpus == 0 else f"{gpus} GPU" + "s" * (gpus > 1)
        raise usage_error(
            f"asked for {processes} GPU{'s' * (processes > 1)}, this machine has {have}",
            f"take what is there: --gpus {max(gpus, 1)} --device auto",
            f"or the CPU:         --gpus {processes} --device cpu",
        )


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables until the block ends; the processes that it starts keep them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def _silence_elastic() -> None:
    """Keep elastic's own log lines from the user, who gets one message, ours."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def end_with_launcher() -> None:
    """A process whose launcher was killed would train on, unseen, into a folder that its user thinks is free."""
    launcher = parent_process()
    if launcher is not None:
        launcher.join()
        os._exit(1)


def packed(error: BCNetError) -> str:
    """An error as a text that crosses from a process to its launcher."""
    return ERROR_MARK + json.dumps({"message": error.message, "hints": error.hints, "exit_code": int(error.exit_code)})


def unpacked(text: str) -> BCNetError:
    """The error that a text from a process carries behind its `ERROR_MARK`."""
    content, _ = json.JSONDecoder().raw_decode(text.split(ERROR_MARK, 1)[1])
    return BCNetError(content["message"], *content["hints"], exit_code=ExitCode(content["exit_code"]))


def _first_error(failed: ChildFailedError) -> BCNetError:
    """Turn elastic's report into the error that the worker meant."""
    failures: Iterable[ProcessFailure] = failed.failures.values()
    first = min(failures, key=lambda failure: (ERROR_MARK not in _message(failure), failure.timestamp))
    message = _message(first)
    if ERROR_MARK in message:
        return unpacked(message)
    rank = next(rank for rank, failure in failed.failures.items() if failure is first)
    return BCNetError(
        f"the process of rank {rank} failed (exit code {first.exitcode}): {message}",
        "see the whole traceback: give the same command with --gpus 1",
    )


def _message(failure: ProcessFailure) -> str:
    message = failure.message
    return str(message.get("message", message)) if isinstance(message, dict) else str(message)
