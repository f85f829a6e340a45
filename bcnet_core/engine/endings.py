"""How a run ends, in words: finished, interrupted, or with a loss that is not a number."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from torch import Tensor

from bcnet_core import distributed as dist
from bcnet_core.data.dataset import Sample
from bcnet_core.engine.job import TrainingJob
from bcnet_core.engine.state import TrainingState
from bcnet_core.engine.writers import RunWriter
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.reporting import Reporter
from bcnet_core.weights.checkpoint import best_path, checkpoint_step, latest_checkpoint


def summary(job: TrainingJob, writer: RunWriter | None, reporter: Reporter, *, steps: int, seconds: float) -> None:
    """Say what a run that came to its end did, and which checkpoint is its best."""
    if steps:
        speed = steps * job.recipe.solver.batch_size / seconds
        reporter.info(f"{steps:,} steps in {duration(seconds)}, {speed:.1f} images/s")
    scores = writer.validations() if writer is not None else {}
    if scores:
        best = max(scores, key=scores.__getitem__)
        reporter.info(f"best: step {best:,}, mask AP {100 * scores[best]:.1f}, {best_path(job.run_dir)}")


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


def not_finite(losses: dict[str, Tensor], samples: Sequence[Sample], state: TrainingState) -> BCNetError:
    """The error that ends a run whose loss is not a number, in whichever process (a collective call)."""
    terms = [name for name, loss in losses.items() if not bool(loss.isfinite())]
    images = [sample.image_id for sample in samples]
    found = [part for part in dist.gather((terms, images)) or [(terms, images)] if part[0]]
    where = "; ".join(f"in {', '.join(names)}, image ids {ids}" for names, ids in found)
    floor = "loss.normalizer=official divides by the positives of a batch, of which there may be none: take floored"
    return BCNetError(
        f"the loss of step {state.step + 1} is not finite ({where or 'in another process'})",
        *([floor] if state.job.recipe.loss.normalizer == "official" else []),
        "the last checkpoint is kept; try a smaller solver.lr, a longer solver.warmup_steps, or solver.clip_norm=5",
    )


def duration(seconds: float) -> str:
    """A time as people say it: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"
