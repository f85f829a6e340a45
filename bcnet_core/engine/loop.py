"""The training loop, the same for one process and for many."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from bcnet_core.config.schema import Recipe
from bcnet_core.data.dataset import SURVEYED, Sample, TrainingSet
from bcnet_core.data.loaders import StepSampler, open_training_set, training_batches
from bcnet_core.engine import dist
from bcnet_core.engine.checkpoint import checkpoint_path, checkpoint_step, latest_checkpoint
from bcnet_core.engine.job import TrainingJob
from bcnet_core.engine.run_dir import MetricsFile, exclusive_run, write_header
from bcnet_core.engine.state import TrainingState
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.reporting import Reporter, SilentReporter


def run_training(job: TrainingJob, reporter: Reporter) -> Path:
    """Train to the last step, as one of the processes of the current process group.

    Args:
        job: what to train.
        reporter: heard from rank 0 only.

    Returns:
        The last checkpoint.

    Raises:
        BCNetError: on bad data, a loss that is not finite, or an interruption (after saving).
    """
    main = dist.rank() == 0
    reporter = reporter if main else SilentReporter()
    device = dist.choose_device(job.device)
    dataset, coco = open_training_set(job.recipe.data, need_occluders=job.recipe.trains_occluders)
    describe(dataset, job.recipe, reporter)
    where = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"the CPU, threads: {torch.get_num_threads()}"
    )
    reporter.info(f"on {where}, processes: {dist.world_size()}")
    state = TrainingState(job, coco.categories, device)
    with exclusive_run(job.run_dir) if main else nullcontext():
        if main:
            write_header(job.run_dir, job.recipe, world_size=dist.world_size(), device=device)
        train(state, dataset, reporter)
    return checkpoint_path(job.run_dir, state.step)


def describe(dataset: TrainingSet, recipe: Recipe, reporter: Reporter) -> None:
    """Say what will be trained on, before step 0."""
    source = "read from the file" if dataset.reads_occluders else "derived from the masks"
    if dataset.reads_occluders and dataset.without_region:
        source += f", derived from the masks for {dataset.without_region:,} instances that it lacks"
    about = "about " if len(dataset) > SURVEYED else ""
    share = f"{about}{dataset.occluder_share:.1%}"
    reporter.info(f"{len(dataset):,} training images; {share} of the instances have an occluder, {source}")
    epochs = recipe.solver.steps * recipe.solver.batch_size / len(dataset)
    reporter.info(f"{recipe.solver.steps:,} steps of {recipe.solver.batch_size} images: {epochs:.1f} epochs")


def train(state: TrainingState, dataset: TrainingSet, reporter: Reporter) -> None:
    """Step from where `state` is to the recipe's last step.

    Raises:
        BCNetError: on bad data, a loss that is not finite, or an interruption (after saving).
    """
    job, solver, main = state.job, state.job.recipe.solver, dist.rank() == 0
    steps, started = solver.steps - state.step, time.perf_counter()
    metrics = MetricsFile(job.run_dir, first_step=state.step) if main else None
    state.model.train()
    with stop_requests() as stop, reporter.progress("training", steps) as progress:
        for samples in _batches(state, dataset):
            losses = state.model(
                [sample.image.to(state.device, non_blocking=True) for sample in samples],
                [sample.targets.to(state.device) for sample in samples],
                [sample.seed for sample in samples],
            )
            total = torch.stack(list(losses.values())).sum()
            stopping, broken = dist.any_process([bool(stop), not bool(total.isfinite())], state.device)
            if broken:
                raise _not_finite(losses, samples, state)
            torch.autograd.backward(total)
            if solver.clip_norm:
                clip_grad_norm_(state.detector.parameters(), solver.clip_norm)
            lr = float(state.schedule.get_last_lr()[0])
            state.optimizer.step()
            state.optimizer.zero_grad()
            state.schedule.step()
            state.step += 1
            last, note = state.step == solver.steps, ""
            if state.step % solver.log_every == 0 or last:
                row = _metrics_row(losses, state, lr=lr)
                note = f"loss {row['loss']:.3f}  lr {lr:.2g}"
                if metrics is not None:
                    metrics.append(row)
            progress.advance(note=note)
            if last or stopping or state.step % solver.checkpoint_every == 0:
                if main:
                    state.save()
                dist.wait_for_all()
            if stopping and not last:
                raise interrupted(job)
    seconds = time.perf_counter() - started
    if steps:
        reporter.info(f"{steps:,} steps in {seconds:.0f} s, {steps * solver.batch_size / seconds:.1f} images/s")


def _batches(state: TrainingState, dataset: TrainingSet) -> Iterator[list[Sample]]:
    """This process's share of every step that is still to do."""
    recipe = state.job.recipe
    sampler = StepSampler(
        size=len(dataset),
        batch_size=recipe.solver.batch_size,
        first_step=state.step,
        last_step=recipe.solver.steps,
        seed=recipe.seed,
        rank=dist.rank(),
        world_size=dist.world_size(),
    )
    return training_batches(dataset, sampler, workers=recipe.data.workers)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list, so that the loop can finish its step.

    A second Ctrl-C kills a process that trains alone. One of several gets the first twice, from the terminal and from
    the launcher.
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


def _metrics_row(losses: dict[str, Tensor], state: TrainingState, *, lr: float) -> dict[str, float]:
    """One row of metrics.jsonl: the losses as means over all processes (a collective call)."""
    values = dist.mean_over_processes(torch.stack([loss.detach() for loss in losses.values()])).tolist()
    return {"step": state.step, "loss": sum(values), **dict(zip(losses, values, strict=True)), "lr": lr}


def _not_finite(losses: dict[str, Tensor], samples: list[Sample], state: TrainingState) -> BCNetError:
    terms = [name for name, loss in losses.items() if not bool(loss.isfinite())]
    where = f"in {', '.join(terms)}" if terms else "in another process"
    floor = "loss.normalizer=official divides by the positives of a batch, of which there may be none: take floored"
    return BCNetError(
        f"the loss of step {state.step + 1} is not finite "
        f"({where}; image ids {[sample.image_id for sample in samples]})",
        *([floor] if state.job.recipe.loss.normalizer == "official" else []),
        "the last checkpoint is kept; try a smaller solver.lr, a longer solver.warmup_steps, or solver.clip_norm=5",
    )


def interrupted(job: TrainingJob) -> BCNetError:
    """The error that ends a run on request, naming what was saved."""
    saved = latest_checkpoint(job.run_dir)
    if saved is None:
        return BCNetError("interrupted before the first step was saved", exit_code=ExitCode.INTERRUPTED)
    return BCNetError(
        f"interrupted; saved step {checkpoint_step(saved):,} of {job.recipe.solver.steps:,}",
        f"go on with it: {job.command} --run-dir {shlex.quote(str(job.run_dir))} --resume",
        exit_code=ExitCode.INTERRUPTED,
    )
