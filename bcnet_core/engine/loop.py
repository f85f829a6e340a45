"""The training loop, the same for one process and for many, and the ways a run ends."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext

import torch
from torch import Tensor

from bcnet_core import distributed as dist
from bcnet_core.data.batches import StepSampler, training_batches
from bcnet_core.data.dataset import Sample, TrainingSet
from bcnet_core.engine.elastic import stop_requests
from bcnet_core.engine.logging import Meter, RunWriter, duration, layers_picture
from bcnet_core.engine.run_dir import interruption
from bcnet_core.engine.state import TrainingJob, TrainingState
from bcnet_core.errors import BCNetError
from bcnet_core.reporting import Reporter
from bcnet_core.weights.checkpoint import best_path, checkpoint_path, checkpoint_step, keep_as_best, latest_checkpoint


def train(state: TrainingState, dataset: TrainingSet, reporter: Reporter) -> BCNetError | None:
    """Train from the current step of `state` to the recipe's last step.

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
        if first and not _validate_if_due(state, writer, reporter, stop):  # the interrupted run did not finish it
            return interrupted(job)
        for samples in () if _is_out_of_patience(state, writer) else meter.watch(batches):
            losses = state.backward(samples)
            finite = bool(torch.stack(list(losses.values())).isfinite().all())
            stopping, diverged = dist.any_process([bool(stop), not finite], state.device)
            if diverged:
                return _not_finite(losses, samples, state)
            rate = state.update()
            last, shown = state.step == solver.steps, None
            if state.step % solver.log_every == 0 or last:
                shown = _log(losses, state, writer, rate=rate, speed=meter.read())
            progress.advance(values=shown)
            if last or stopping or state.step % solver.checkpoint_every == 0 or _is_due(state):
                paused = time.perf_counter()
                _save(state, samples, writer)
                if stopping or not _validate_if_due(state, writer, reporter, stop):
                    return None if last and not _is_due(state) else interrupted(job)
                if _is_out_of_patience(state, writer):
                    break
                meter.pause(time.perf_counter() - paused)
        _summarize(state, writer, reporter, steps=state.step - first, seconds=time.perf_counter() - started)
    return None


def _batches(state: TrainingState, dataset: TrainingSet) -> Generator[list[Sample]]:
    """Load this process's share of every remaining step."""
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
    """Write one row with the mean losses of all processes (collective); return it formatted for display."""
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
    """Write the checkpoint of this step (collective)."""
    if writer is not None:
        state.save()
        if writer.events is not None:
            writer.events.add_image("layers", layers_picture(state.best_detector, samples[0]), state.step)
    dist.barrier()


def _is_due(state: TrainingState) -> bool:
    """Return whether an evaluation is due at this step."""
    solver = state.job.recipe.solver
    return (
        state.job.validation is not None
        and solver.eval_every > 0
        and (state.step % solver.eval_every == 0 or state.step == solver.steps)
    )


def _validate_if_due(state: TrainingState, writer: RunWriter | None, reporter: Reporter, stop: list[int]) -> bool:
    """Evaluate if due and not yet done, and keep the best checkpoint (collective).

    Returns:
        Whether it was completed, or nothing was due, in every process.
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
        shown = "  ".join(f"{name.replace('_', ' ')} {100 * value:.1f}" for name, value in scores.items())
        reporter.info(f"step {state.step:,}: {shown}")
    return True


def _is_out_of_patience(state: TrainingState, writer: RunWriter | None) -> bool:
    """Return whether so many evaluations have passed without a better one that the run ends (collective)."""
    patience = state.job.recipe.solver.patience
    if not patience or state.job.validation is None:
        return False
    scores = writer.validations() if writer is not None else {}
    best = max(scores, key=scores.__getitem__, default=0)
    (is_out,) = dist.any_process([sum(step > best for step in scores) >= patience], state.device)
    return is_out


def _summarize(
    state: TrainingState, writer: RunWriter | None, reporter: Reporter, *, steps: int, seconds: float
) -> None:
    """Report how a run ended, its speed and its best checkpoint."""
    job, solver = state.job, state.job.recipe.solver
    if state.step < solver.steps:
        reporter.info(
            f"stopped after step {state.step:,} of {solver.steps:,}: the mask AP was no better in the last "
            f"{solver.patience} evaluation{'s' * (solver.patience > 1)} (solver.patience)"
        )
    if steps:
        speed = steps * solver.batch_size / seconds
        reporter.info(f"{steps:,} steps in {duration(seconds)}, {speed:.1f} images/s")
    elif state.step == solver.steps:
        way_out = "to train on, start a new run from its weights: --init-from RUN"
        reporter.info(f"all {solver.steps:,} steps were done before; {way_out}")
    scores = writer.validations() if writer is not None else {}
    if scores:
        best = max(scores, key=scores.__getitem__)
        reporter.info(f"best: step {best:,}, mask AP {100 * scores[best]:.1f}, {best_path(job.run_dir)}")


def interrupted(job: TrainingJob) -> BCNetError:
    """Return the error of an interrupted run, with the command that resumes it."""
    saved = latest_checkpoint(job.run_dir)
    solver = job.recipe.solver
    of_all = f" of {solver.steps:,}" if solver.epochs is None else ""  # a launcher reads no data, so it knows epochs
    what = f"step {checkpoint_step(saved):,}{of_all}" if saved is not None else None
    return interruption(job.run_dir, job.command, what)


def _not_finite(losses: dict[str, Tensor], samples: Sequence[Sample], state: TrainingState) -> BCNetError:
    """Return the error of a run whose loss is not finite in some process (collective)."""
    terms = [name for name, loss in losses.items() if not bool(loss.isfinite())]
    images = [sample.image_id for sample in samples]
    found = [part for part in dist.gather((terms, images)) or [(terms, images)] if part[0]]
    where = "; ".join(f"in {', '.join(names)}, image ids {ids}" for names, ids in found)
    floor = "loss.normalizer=official divides by the positives of a batch, which may be none: use floored"
    return BCNetError(
        f"the loss of step {state.step + 1} is not finite ({where or 'in another process'})",
        *([floor] if state.job.recipe.loss.normalizer == "official" else []),
        "the last checkpoint is kept; try a smaller solver.lr, a longer solver.warmup_steps, or solver.clip_norm=5",
    )
