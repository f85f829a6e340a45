"""Training in one process, here, or in several, through torch elastic."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from bcnet_core import distributed as dist
from bcnet_core.engine.elastic import Cluster, check_processes, packed, process_of, run_processes
from bcnet_core.engine.endings import interrupted
from bcnet_core.engine.job import TrainingJob
from bcnet_core.engine.loop import run_training, train_together
from bcnet_core.errors import BCNetError, ExitCode, usage_error
from bcnet_core.reporting import Reporter
from bcnet_core.weights.checkpoint import latest_checkpoint


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
    end = run_processes(
        _worker, job, cluster, reporter, cluster=cluster, name=job.run_dir.name, interrupted=lambda: interrupted(job)
    )
    return Path(end)


def check_cluster(job: TrainingJob, cluster: Cluster) -> None:
    """Refuse processes that this machine or this batch cannot serve.

    Raises:
        BCNetError: with both numbers and the way out.
    """
    check_processes(cluster, job.device)
    solver = job.recipe.solver
    everyone = cluster.processes * cluster.nodes
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
    with process_of(cluster, job.device) as device:
        end = train_together(_gone_on_with(job, device), reporter)
        if isinstance(end, BCNetError) and end.exit_code == ExitCode.INTERRUPTED:
            raise end
    return packed(end) if isinstance(end, BCNetError) else str(end)


def _gone_on_with(job: TrainingJob, device: torch.device) -> TrainingJob:
    """The job as it is, or, where elastic begins again, from its last checkpoint (a collective call).

    A machine that only meets the others anew counts no restart, so the processes ask each other.
    """
    count = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    restarted, saved = dist.any_process([count > 0, latest_checkpoint(job.run_dir) is not None], device)
    return replace(job, resume=True, init_from=None) if restarted and saved else job
