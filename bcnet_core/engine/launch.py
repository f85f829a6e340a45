"""The start of a training run: the data, the run directory, and the processes."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from bcnet_core import distributed as dist
from bcnet_core.annotations.coco import CocoFile, ways_out
from bcnet_core.annotations.crowding import report_crowding
from bcnet_core.annotations.instances import Survey
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.config.solver import SolverConfig
from bcnet_core.data.dataset import SURVEYED, TrainingSet
from bcnet_core.data.loaders import open_training_set, require_annotations
from bcnet_core.engine.elastic import Cluster, check_processes, process_of, run_processes
from bcnet_core.engine.loop import interrupted, train
from bcnet_core.engine.optimizer import full_rate
from bcnet_core.engine.resolving import resolve_recipe
from bcnet_core.engine.run_dir import exclusive_run, write_header
from bcnet_core.engine.state import TrainingJob, TrainingState, Validation
from bcnet_core.errors import BCNetError, ExitCode, usage_error
from bcnet_core.reporting import Reporter, SilentReporter
from bcnet_core.weights.checkpoint import checkpoint_path, latest_checkpoint
from bcnet_core.weights.starts import fetch_start

STATISTICS = Path("/proc/stat")
"""Linux's counters of what each core has done, in ticks of 10 ms."""
SAMPLED = 0.2
"""Seconds between two readings of it."""
BUSY = 0.7
"""Cores that other programs keep busy, from which on they are reported."""


def launch(job: TrainingJob, cluster: Cluster, *, reporter: Reporter) -> Path:
    """Train with the processes of a cluster, and return the last checkpoint.

    A single process trains in this one; more are started by torch elastic, and the reporter is pickled for them.

    Raises:
        BCNetError: if there are not enough GPUs, the batch cannot be split, the machines do not meet, or training
            fails in any process.
    """
    check_cluster(job, cluster)
    if job.init is not None:
        require_annotations(job.recipe.data, job.recipe.data.train)  # rather now than after a long download
        fetch_start(job.init, reporter)
    if cluster.in_place:
        if dist.choose_device(job.device).type == "cpu":
            report_busy_cores(job, reporter)
        return run_training(job, reporter)
    return run_processes(
        _worker, job, cluster, reporter, cluster=cluster, name=job.run_dir.name, interrupted=lambda: interrupted(job)
    )


def check_cluster(job: TrainingJob, cluster: Cluster) -> None:
    """Check that this machine can run the processes and that they can share a batch.

    Raises:
        BCNetError: with both numbers and the way out.
    """
    check_processes(cluster, job.device)
    solver = job.recipe.solver
    check_split(solver.batch_size, cluster.processes * cluster.nodes, parts=solver.accumulate)


def check_split(images: int, processes: int, *, parts: int = 1, setting: str = "solver.batch_size") -> None:
    """Check that processes, each with the same number of parts, can share a batch whose size is a setting."""
    unit = processes * parts
    if images % unit:
        shares = f"{processes} process" + "es" * (processes > 1)
        shares += f" and {parts} parts each (solver.accumulate)" if parts > 1 else ""
        raise usage_error(
            f"a batch of {images} images cannot be split evenly over {shares}",
            f"choose another: {setting}={-(-images // unit) * unit}",
        )


def report_busy_cores(job: TrainingJob, reporter: Reporter) -> None:
    """Warn of programs that take cores from the threads of a training, unless the user chose their number.

    The threads meet after every operation: while one waits for a core, so do the others. Their number is not changed
    here, as the numbers of a seed depend on it.
    """
    if not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}.isdisjoint(os.environ) or not STATISTICS.exists():
        return
    cores, threads, before = os.sched_getaffinity(0), torch.get_num_threads(), STATISTICS.read_text("ascii")
    time.sleep(SAMPLED)
    busy = busy_cores(before, STATISTICS.read_text("ascii"), cores)
    if busy >= BUSY and len(cores) - busy < threads > 1:
        fewer = min(max(1, round(len(cores) - busy)), threads - 1)
        reporter.warning(
            f"other programs keep {busy:.1f} of {len(cores)} cores busy, which slows {threads} threads that wait for "
            f"each other; with {fewer} training is faster (1 instead of 2: about twice as fast), and the same seed "
            f"gives slightly different numbers: OMP_NUM_THREADS={fewer} {job.command}"
        )


def busy_cores(before: str, after: str, cores: set[int]) -> float:
    """Return how many of some cores were busy between two readings of /proc/stat."""
    names, ticks, idle = {f"cpu{core}" for core in cores}, 0, 0
    for sign, text in ((-1, before), (1, after)):
        for name, *columns in map(str.split, text.splitlines()):
            if name in names:
                spent = list(map(int, columns[:8]))  # user, nice, system, idle, iowait, irq, softirq, steal
                ticks, idle = ticks + sign * sum(spent), idle + sign * sum(spent[3:5])
    return len(cores) * (1 - idle / ticks) if ticks else 0.0


@record
def _worker(job: TrainingJob, cluster: Cluster, reporter: Reporter) -> Path | BCNetError:
    """Train in one of the processes that elastic starts or restarts.

    A loss that is not finite ends all processes; it is returned, since elastic would take an exception for a failure
    and restart. An interruption is raised: an interrupted launcher reads no results and would wait for ever.
    """
    with process_of(cluster, job.device) as device:
        end = train_together(_resumed_after_restart(job, device), reporter)
        if isinstance(end, BCNetError) and end.exit_code == ExitCode.INTERRUPTED:
            raise end
    return end


def _resumed_after_restart(job: TrainingJob, device: torch.device) -> TrainingJob:
    """Return the job, resuming from its last checkpoint if elastic restarted any process (collective).

    A machine that only joins a new rendezvous counts no restart, so one process's count is not enough.
    """
    count = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    restarted, saved = dist.any_process([count > 0, latest_checkpoint(job.run_dir) is not None], device)
    return replace(job, resume=True, init_from=None) if restarted and saved else job


def run_training(job: TrainingJob, reporter: Reporter) -> Path:
    """Train to the last step, as a process of the current group, and return the last checkpoint.

    Raises:
        BCNetError: on bad data, a loss that is not finite, or an interruption (after saving).
    """
    end = train_together(job, reporter)
    if isinstance(end, BCNetError):
        raise end
    return end


def train_together(job: TrainingJob, reporter: Reporter) -> Path | BCNetError:
    """Like `run_training`, but return an error that ends the run in every process alike instead of raising it."""
    main = dist.rank() == 0
    reporter = reporter if main else SilentReporter()
    device = dist.choose_device(job.device)
    opened = open_data(job.recipe, job.validation, device, reporter)
    job = replace(job, recipe=opened.recipe)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, threads: {torch.get_num_threads()}"
    reporter.info(f"device: {name}, processes: {dist.world_size()}")
    with exclusive_run(job.run_dir, None if job.resume else job.command) if main else nullcontext():
        state = TrainingState(job, opened.coco.categories, device)
        if state.start is not None:
            state.start.report(job.init, reporter)
        if main:
            write_header(job.run_dir, job.recipe, world_size=dist.world_size(), device=device)
        error = train(state, opened.dataset, reporter)
    return error or checkpoint_path(job.run_dir, state.step)


class OpenedData(NamedTuple):
    """The data of a run, and its recipe.

    Attributes:
        dataset: the training set.
        coco: its annotation file, without the annotations that are left out.
        recipe: the recipe, see `resolve_recipe`.
    """

    dataset: TrainingSet
    coco: CocoFile
    recipe: Recipe


def open_data(asked: Recipe, validation: Validation | None, device: torch.device, reporter: Reporter) -> OpenedData:
    """Open the training set, resolve the recipe for it, check the validation set, and report what will be trained on.

    A dry run and a real start both call this, so that they find the same problems (collective).

    Args:
        asked: the recipe as the user gave it.
        validation: evaluation during training; None skips the validation set.
        device: device of this process.
        reporter: receives what will be trained on.

    Raises:
        BCNetError: if training would fail on its data, or the evaluations during training on theirs.
    """
    dataset, coco = open_training_set(asked)
    recipe = resolve_recipe(asked, dataset, device)
    report_instances(dataset.survey, reporter)
    truth = None
    if validation is not None:
        truth = validation.check(recipe.data, coco.categories, recipe.solver.eval_every, reporter)
    kept, way_out = recipe.model.most_detections, "keep and count more: model.detections_per_image={most}"
    for file in (coco, truth):
        if file is not None and report_crowding(file, kept=kept, counted=kept, way_out=way_out, reporter=reporter):
            break
    if asked.model.detections_per_image == "auto":
        _describe_limits(dataset.most_objects, recipe.model, reporter)
    if asked.model.mask_size == "auto":
        reporter.info(f"maps of {recipe.model.map_side} cells a side, which suit the masks (model.mask_size=auto)")
    _describe(dataset, recipe, asked.solver, reporter)
    return OpenedData(dataset, coco, recipe)


def report_instances(survey: Survey, reporter: Reporter) -> None:
    """Report how many instances are trained, and what is left out, as a warning if that is much."""
    sentence = survey.describe("train")
    if survey.is_complete:
        reporter.info(sentence)
    else:
        reporter.warning(f"{sentence}; {ways_out(survey.coco.path)[0]}")


def report_wholes(dataset: TrainingSet, reporter: Reporter) -> None:
    """Report how many instances have a whole mask, and what is odd about these, where they are read."""
    if dataset.reads_wholes:
        counts = dataset.whole_counts
        part = counts.instances < len(dataset.survey.coco.annotations)
        within = f" (counted in {SURVEYED:,} of {len(dataset):,} images)" if part else ""
        reporter.info(f"{counts.describe()}{within}")


def _describe_limits(objects: int, model: ModelConfig, reporter: Reporter) -> None:
    """Report how many detections and proposals follow from the objects of the fullest training image."""
    proposals = f", from {model.proposals_per_image:,} proposals" if model.detector == "faster_rcnn" else ""
    reporter.info(f"up to {objects:,} objects in an image: keeps {model.most_detections:,} detections{proposals}")


def _describe(dataset: TrainingSet, recipe: Recipe, asked: SolverConfig, reporter: Reporter) -> None:
    """Report the training set, the number of epochs, a precision that was chosen and a scaled learning rate.

    `asked` is the section `solver` before it was resolved.
    """
    solver = recipe.solver
    source = "read from the file" if dataset.reads_occluders else "derived from the masks"
    if dataset.reads_occluders and dataset.without_region:
        source += f", derived from the masks for {dataset.without_region:,} instances that it lacks"
    share = f"{'about ' if len(dataset) > SURVEYED else ''}{dataset.occluder_share:.1%}"
    reporter.info(f"{len(dataset):,} training images; {share} of the instances have an occluder, {source}")
    for unused in dataset.survey.describe_unused():
        reporter.info(unused)
    report_wholes(dataset, reporter)
    if dataset.pasted is not None:
        reporter.info(dataset.pasted.describe())
    epochs = solver.steps * solver.batch_size / len(dataset)
    shown = f"{epochs:.1f}" if epochs < 10 else f"{epochs:,.0f}"
    floored = asked.epochs and solver.steps == asked.min_steps
    floor = f" instead of {asked.epochs:g}, for solver.min_steps" if floored else ""
    reporter.info(f"{solver.steps:,} steps of {solver.batch_size} images: {shown} epochs{floor}")
    if asked.precision == "auto":
        reporter.info(f"precision {solver.precision}, chosen for the device (solver.precision=auto)")
    _describe_rate(solver, asked, reporter)


def _describe_rate(solver: SolverConfig, asked: SolverConfig, reporter: Reporter) -> None:
    """Report a learning rate that never falls or is scaled, and a schedule in steps to be scaled with it."""
    if solver.schedule == "step" and solver.milestones and min(solver.milestones) >= solver.steps:
        reporter.info(
            "the learning rate never falls: no milestone lies before the last step; as shares of the run: "
            "'solver.milestones=[0.7,0.9]'"
        )
    if solver.lr_batch_size not in {None, solver.batch_size}:
        factor = solver.batch_size / (solver.lr_batch_size or 1)
        milestones = ",".join(str(round(step / factor)) for step in solver.milestones)
        same = f"solver.steps={round(solver.steps / factor)} solver.warmup_steps={round(solver.warmup_steps / factor)}"
        same += f" 'solver.milestones=[{milestones}]'" if solver.schedule == "step" else ""
        same = f"; for as many epochs as the recipe: {same}" if asked.epochs is None else ""
        reporter.info(
            f"learning rate {full_rate(solver):g}: {solver.lr:g}, meant for {solver.lr_batch_size} images a step, "
            f"scaled by {factor:g}{same}"
        )
