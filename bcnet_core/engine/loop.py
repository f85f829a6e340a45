"""The training loop, the same for one process and for many."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from bcnet_core import distributed as dist
from bcnet_core.config.schema import Recipe
from bcnet_core.data.dataset import SURVEYED, Sample, TrainingSet
from bcnet_core.data.loaders import StepSampler, open_training_set, training_batches
from bcnet_core.engine.endings import duration, interrupted, not_finite, summary
from bcnet_core.engine.interrupts import stop_requests
from bcnet_core.engine.job import TrainingJob
from bcnet_core.engine.layers_picture import layers_picture
from bcnet_core.engine.meter import Meter
from bcnet_core.engine.optim import full_rate
from bcnet_core.engine.run_dir import exclusive_run, write_header
from bcnet_core.engine.state import TrainingState
from bcnet_core.engine.writers import RunWriter
from bcnet_core.errors import BCNetError
from bcnet_core.reporting import Reporter, SilentReporter
from bcnet_core.weights.checkpoint import checkpoint_path, keep_as_best


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
    end = train_together(job, reporter)
    if isinstance(end, BCNetError):
        raise end
    return end


def train_together(job: TrainingJob, reporter: Reporter) -> Path | BCNetError:
    """`run_training` that hands over the error that ends a run in every process at once, instead of raising it."""
    main = dist.rank() == 0
    reporter = reporter if main else SilentReporter()
    device = dist.choose_device(job.device)
    dataset, coco = open_training_set(job.recipe.data, need_occluders=job.recipe.trains_occluders)
    if job.validation is not None and job.recipe.solver.eval_every:
        job.validation.check(job.recipe, coco)
    describe(dataset, job.recipe, reporter)
    where = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"the CPU, threads: {torch.get_num_threads()}"
    )
    reporter.info(f"on {where}, processes: {dist.world_size()}")
    with exclusive_run(job.run_dir, None if job.resume else job.command) if main else nullcontext():
        state = TrainingState(job, coco.categories, device)
        if main:
            write_header(job.run_dir, job.recipe, world_size=dist.world_size(), device=device)
        error = train(state, dataset, reporter)
    return error or checkpoint_path(job.run_dir, state.step)


def describe(dataset: TrainingSet, recipe: Recipe, reporter: Reporter) -> None:
    """Say what will be trained on, before step 0."""
    solver = recipe.solver
    source = "read from the file" if dataset.reads_occluders else "derived from the masks"
    if dataset.reads_occluders and dataset.without_region:
        source += f", derived from the masks for {dataset.without_region:,} instances that it lacks"
    about = "about " if len(dataset) > SURVEYED else ""
    share = f"{about}{dataset.occluder_share:.1%}"
    reporter.info(f"{len(dataset):,} training images; {share} of the instances have an occluder, {source}")
    epochs = solver.steps * solver.batch_size / len(dataset)
    shown = f"{epochs:.1f}" if epochs < 10 else f"{epochs:,.0f}"
    reporter.info(f"{solver.steps:,} steps of {solver.batch_size} images: {shown} epochs")
    if solver.lr_batch_size not in {None, solver.batch_size}:
        factor = solver.batch_size / (solver.lr_batch_size or 1)
        milestones = ",".join(str(round(step / factor)) for step in solver.milestones)
        same = f"solver.steps={round(solver.steps / factor)} solver.warmup_steps={round(solver.warmup_steps / factor)}"
        same += f" 'solver.milestones=[{milestones}]'" if solver.schedule == "step" else ""
        reporter.info(
            f"learning rate {full_rate(solver):g}: {solver.lr:g}, meant for {solver.lr_batch_size} images a step, "
            f"scaled by {factor:g}; for as many epochs as the recipe: {same}"
        )


def train(state: TrainingState, dataset: TrainingSet, reporter: Reporter) -> BCNetError | None:
    """Step from where `state` is to the recipe's last step.

    Returns:
        None, or the error that ends the run in every process: an interruption (after saving), or a loss that is not
        finite.

    Raises:
        BCNetError: on bad data, in the process that meets it.
    """
    job, solver = state.job, state.job.recipe.solver
    first, started, meter = state.step, time.perf_counter(), Meter(solver.batch_size, state.device)
    writer = RunWriter(job.run_dir, first_step=first, tensorboard=job.tensorboard) if dist.rank() == 0 else None
    with (
        closing(writer) if writer is not None else nullcontext(),
        stop_requests() as stop,
        reporter.progress("training", solver.steps - first) as progress,
        closing(_batches(state, dataset)) as batches,
    ):
        if first and not _validate_if_due(state, writer, reporter, stop):  # it was cut off before
            return interrupted(job)
        for samples in meter.watch(batches):
            losses = state.backward(samples)
            finite = bool(torch.stack(list(losses.values())).isfinite().all())
            stopping, broken = dist.any_process([bool(stop), not finite], state.device)
            if broken:
                return not_finite(losses, samples, state)
            rate = state.update()
            last, shown = state.step == solver.steps, None
            if state.step % solver.log_every == 0 or last:
                shown = _log(losses, state, writer, rate=rate, speed=meter.read())
            progress.advance(values=shown)
            if last or stopping or state.step % solver.checkpoint_every == 0 or _is_due(state):
                paused = time.perf_counter()
                _save(state, samples, writer)
                if stopping or not _validate_if_due(state, writer, reporter, stop):
                    return None if last else interrupted(job)
                meter.pause(time.perf_counter() - paused)
        summary(job, writer, reporter, steps=state.step - first, seconds=time.perf_counter() - started)
    return None


def _batches(state: TrainingState, dataset: TrainingSet) -> Generator[list[Sample]]:
    """This process's share of every step that is still to do."""
    recipe = state.job.recipe
    sampler = StepSampler(
        wide=dataset.wide & recipe.data.group_aspects,
        batch_size=recipe.solver.batch_size,
        first_step=state.step,
        last_step=recipe.solver.steps,
        seed=recipe.seed,
        rank=dist.rank(),
        world_size=dist.world_size(),
    )
    return training_batches(dataset, sampler, workers=recipe.data.workers)


def _log(
    losses: dict[str, Tensor], state: TrainingState, writer: RunWriter | None, *, rate: float, speed: dict[str, float]
) -> dict[str, str]:
    """Write one row, its losses as means over all processes (a collective call); returns what a person reads of it."""
    values = dist.mean_over_processes(torch.stack(list(losses.values()))).tolist()
    row = {"step": state.step, "loss": sum(values), **dict(zip(losses, values, strict=True)), "lr": rate}
    if writer is not None:
        writer.append({**row, "speed": speed})
    left = (state.job.recipe.solver.steps - state.step) * state.job.recipe.solver.batch_size
    terms = {name: f"{value:.3f}" for name, value in row.items() if name not in {"step", "lr"}}
    return {
        "step": f"{state.step:,}",
        **terms,
        "lr": f"{rate:.2g}",
        "images/s": f"{speed['images_per_second']:.1f}",
        "data wait": f"{speed['data_wait']:.1%}",
        "memory": f"{speed['memory_gb']:.1f} GB",
        "left": duration(left / speed["images_per_second"]),
    }


def _save(state: TrainingState, samples: Sequence[Sample], writer: RunWriter | None) -> None:
    """Write the checkpoint of this step (a collective call)."""
    if writer is not None:
        state.save()
        if writer.events is not None:
            writer.events.add_image("layers", layers_picture(state.best_detector, samples[0]), state.step)
    dist.wait_for_all()


def _is_due(state: TrainingState) -> bool:
    """Whether this step is one to evaluate at."""
    solver = state.job.recipe.solver
    return (
        state.job.validation is not None
        and solver.eval_every > 0
        and (state.step % solver.eval_every == 0 or state.step == solver.steps)
    )


def _validate_if_due(state: TrainingState, writer: RunWriter | None, reporter: Reporter, stop: list[int]) -> bool:
    """Evaluate where it is due and was not done; keep the best (a collective call).

    Returns:
        Whether it came to its end, in every process.
    """
    job = state.job
    if job.validation is None or not _is_due(state):
        return True
    known = writer.validations() if writer is not None else {}
    (missing,) = dist.any_process([writer is not None and state.step not in known], state.device)
    if not missing:
        return True
    detector = state.best_detector.eval()
    scores = job.validation.score(detector, job.recipe, reporter, lambda: bool(stop))
    state.model.train()
    if scores is None:
        return False
    if writer is not None:
        if scores["mask_AP"] > max(known.values(), default=-2.0):
            keep_as_best(checkpoint_path(job.run_dir, state.step), job.run_dir)
        writer.append({"step": state.step, "validation": scores})
        told = "  ".join(f"{name.replace('_', ' ')} {100 * value:.1f}" for name, value in scores.items())
        reporter.info(f"step {state.step:,}: {told}")
    return True
