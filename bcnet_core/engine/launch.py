"""Starting the processes of a run: one in place, several through torch elastic."""

from __future__ import annotations

import json
import logging
import os
import uuid
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from bcnet_core.engine import dist
from bcnet_core.engine.job import TrainingJob
from bcnet_core.engine.loop import interrupted, run_training
from bcnet_core.errors import BCNetError, ExitCode, usage_error
from bcnet_core.reporting import Reporter

_ERROR_MARK = "bcnet-error:"


def launch(job: TrainingJob, *, processes: int, reporter: Reporter) -> Path:
    """Train with a number of processes, one a GPU (or gloo processes on the CPU).

    Args:
        job: what to train.
        processes: 1 trains in this very process; more are started by torch elastic.
        reporter: must be picklable when there are several processes.

    Returns:
        The last checkpoint.

    Raises:
        BCNetError: if there are not enough GPUs, the batch cannot be split, or training fails in any process.
    """
    check_processes(job, processes)
    if processes == 1:
        return run_training(job, reporter)
    _silence_elastic()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        results = elastic_launch(config, _worker)(job, processes, reporter)
    except ChildFailedError as failed:
        raise _first_error(failed) from None
    except SignalException:
        raise interrupted(job) from None
    return Path(results[0])


def _silence_elastic() -> None:
    """Keep elastic's own log lines from the user, who gets one message, ours."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def check_processes(job: TrainingJob, processes: int) -> None:
    """Refuse a number of processes that this machine or this batch cannot serve.

    Raises:
        BCNetError: with both numbers and the way out.
    """
    gpus = torch.cuda.device_count()
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
    batch = job.recipe.solver.batch_size
    if batch % processes:
        raise usage_error(
            f"a batch of {batch} images cannot be split evenly over {processes} processes",
            f"choose another: solver.batch_size={-(-batch // processes) * processes}",
        )


@record
def _worker(job: TrainingJob, processes: int, reporter: Reporter) -> str:
    try:
        device = dist.choose_device(job.device)
        if device.type == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
        with dist.process_group(device):
            return str(run_training(job, reporter))
    except BCNetError as error:
        packed = {"message": error.message, "hints": error.hints, "exit_code": int(error.exit_code)}
        raise RuntimeError(_ERROR_MARK + json.dumps(packed)) from None


def _first_error(failed: ChildFailedError) -> BCNetError:
    """Turn elastic's report into the error that the worker meant."""
    failures = sorted(
        failed.failures.values(),
        key=lambda failure: (_ERROR_MARK not in _message(failure), failure.timestamp),
    )
    first = failures[0]
    message = _message(first)
    if _ERROR_MARK in message:
        packed = json.loads(message.split(_ERROR_MARK, 1)[1])
        return BCNetError(packed["message"], *packed["hints"], exit_code=ExitCode(packed["exit_code"]))
    return BCNetError(
        f"the process of rank {first.local_rank} failed (exit code {first.exitcode}): {message}",
        "see the whole traceback: train with --gpus 1",
    )


def _message(failure: ProcessFailure) -> str:
    message = failure.message
    return str(message.get("message", message)) if isinstance(message, dict) else str(message)
