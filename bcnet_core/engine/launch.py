"""Starting the processes of a run: one in place, several through torch elastic, on one machine or on many."""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, record
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from bcnet_core.engine import dist
from bcnet_core.engine.checkpoint import latest_checkpoint
from bcnet_core.engine.endings import interrupted
from bcnet_core.engine.job import TrainingJob
from bcnet_core.engine.loop import run_training, train_together
from bcnet_core.errors import BCNetError, ExitCode, usage_error
from bcnet_core.reporting import Reporter

_ERROR_MARK = "bcnet-error:"


@dataclass(frozen=True)
class Cluster:
    """The processes that train together.

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
        """Whether training needs no other process than this one."""
        return self.processes == 1 and self.nodes == 1 and self.restarts == 0


def launch(job: TrainingJob, cluster: Cluster, *, reporter: Reporter) -> Path:
    """Train with the processes of a cluster.

    Args:
        job: what to train.
        cluster: one process trains in this very process; more are started by torch elastic.
        reporter: must be picklable when there are several processes.

    Returns:
        The last checkpoint.

    Raises:
        BCNetError: if there are not enough GPUs, the batch cannot be split, the machines do not meet, or training
            fails in any process.
    """
    check_cluster(job, cluster)
    if cluster.in_place:
        return run_training(job, reporter)
    _silence_elastic()
    config = LaunchConfig(
        min_nodes=cluster.nodes,
        max_nodes=cluster.nodes,
        nproc_per_node=cluster.processes,
        run_id=uuid.uuid4().hex if cluster.nodes == 1 else f"bcnet-{job.run_dir.name}",
        rdzv_backend="c10d",
        rdzv_endpoint=cluster.endpoint or "localhost:0",
        max_restarts=cluster.restarts,
        monitor_interval=0.1,
    )
    try:
        with _new_store_each_time() if cluster.restarts else nullcontext():
            ends = elastic_launch(config, _worker)(job, cluster, reporter)
    except ChildFailedError as failed:
        raise _first_error(failed) from None
    except SignalException:
        raise interrupted(job) from None
    except RendezvousError as error:
        raise BCNetError(
            f"the {cluster.nodes} machines did not meet at {cluster.endpoint}: {error}",
            "start the same command on every machine within ten minutes; the endpoint is a free port of one of them",
        ) from None
    end: str = ends[min(ends)]
    if _ERROR_MARK in end:
        raise _unpacked(end)
    return Path(end)


@contextmanager
def _new_store_each_time() -> Iterator[None]:
    """Let processes that begin again exchange their addresses in a store of their own.

    The store that elastic shares with them by default outlives them, and gloo would find the addresses of the dead in
    it, and connect to those.
    """
    name = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _silence_elastic() -> None:
    """Keep elastic's own log lines from the user, who gets one message, ours."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def check_cluster(job: TrainingJob, cluster: Cluster) -> None:
    """Refuse processes that this machine or this batch cannot serve.

    Raises:
        BCNetError: with both numbers and the way out.
    """
    gpus, processes = torch.cuda.device_count(), cluster.processes
    if (cluster.nodes > 1) != (cluster.endpoint is not None):
        raise usage_error(
            "--nnodes and --rdzv-endpoint belong together",
            "on each of two machines: --nnodes 2 --rdzv-endpoint HOST:PORT, HOST being one of them",
        )
    if processes > 1 and ":" in job.device:
        raise usage_error(f"`{job.device}` is one GPU, {processes} processes need as many", "use --device cuda")
    wants_gpu = job.device.startswith("cuda") or (job.device == "auto" and (gpus or processes > 1))
    if wants_gpu and processes > gpus:
        have = "no GPU" if gpus == 0 else f"{gpus} GPU" + "s" * (gpus > 1)
        raise usage_error(
            f"asked for {processes} GPU{'s' * (processes > 1)}, this machine has {have}",
            f"train on what is there: --gpus {max(gpus, 1)} --device auto",
            f"or on the CPU:          --gpus {processes} --device cpu",
        )
    solver = job.recipe.solver
    everyone = processes * cluster.nodes
    if solver.batch_size % (everyone * solver.accumulate):
        parts = f"{everyone} process" + "es" * (everyone > 1)
        parts += f" and {solver.accumulate} parts each (solver.accumulate)" if solver.accumulate > 1 else ""
        unit = everyone * solver.accumulate
        raise usage_error(
            f"a batch of {solver.batch_size} images cannot be split evenly over {parts}",
            f"choose another: solver.batch_size={-(-solver.batch_size // unit) * unit}",
        )


@record
def _worker(job: TrainingJob, cluster: Cluster, reporter: Reporter) -> str:
    """Train in one of the processes that elastic starts, or starts again.

    A loss that is not finite ends all processes; it is returned, so that elastic does not take it for a failure
    and begin again. An error that only this process meets is raised, and so is an interruption, since a launcher that
    was interrupted, too, does not read what is returned, and would wait for its processes in vain.
    """
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    try:
        device = dist.choose_device(job.device)
        if device.type == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // cluster.processes))
        with dist.process_group(device):
            end = train_together(_gone_on_with(job, device), reporter)
    except BCNetError as error:
        raise RuntimeError(_packed(error)) from None
    if isinstance(end, BCNetError) and end.exit_code == ExitCode.INTERRUPTED:
        raise RuntimeError(_packed(end))
    return _packed(end) if isinstance(end, BCNetError) else str(end)


def _gone_on_with(job: TrainingJob, device: torch.device) -> TrainingJob:
    """The job as it is, or, where elastic begins again, from its last checkpoint (a collective call).

    A machine that only meets the others anew counts no restart, so the processes ask each other.
    """
    count = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    restarted, saved = dist.any_process([count > 0, latest_checkpoint(job.run_dir) is not None], device)
    return replace(job, resume=True, init_from=None) if restarted and saved else job


def _end_with_launcher() -> None:
    """A process whose launcher was killed would train on, unseen, into a folder that its user thinks is free."""
    launcher = parent_process()
    if launcher is not None:
        launcher.join()
        os._exit(1)


def _packed(error: BCNetError) -> str:
    return _ERROR_MARK + json.dumps({"message": error.message, "hints": error.hints, "exit_code": int(error.exit_code)})


def _unpacked(text: str) -> BCNetError:
    packed = json.loads(text.split(_ERROR_MARK, 1)[1])
    return BCNetError(packed["message"], *packed["hints"], exit_code=ExitCode(packed["exit_code"]))


def _first_error(failed: ChildFailedError) -> BCNetError:
    """Turn elastic's report into the error that the worker meant."""
    failures: Iterable[ProcessFailure] = failed.failures.values()
    first = min(failures, key=lambda failure: (_ERROR_MARK not in _message(failure), failure.timestamp))
    message = _message(first)
    if _ERROR_MARK in message:
        return _unpacked(message)
    rank = next(rank for rank, failure in failed.failures.items() if failure is first)
    return BCNetError(
        f"the process of rank {rank} failed (exit code {first.exitcode}): {message}",
        "see the whole traceback: train with --gpus 1",
    )


def _message(failure: ProcessFailure) -> str:
    message = failure.message
    return str(message.get("message", message)) if isinstance(message, dict) else str(message)
