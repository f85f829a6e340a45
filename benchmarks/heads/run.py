"""Training and measurement of the trials, several at a time, within a budget of time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from bcnet_core.annotations.coco import CocoFile
from bcnet_core.annotations.rates import LEVEL_FROM
from bcnet_core.annotations.split import SplitRule, measure_images
from bcnet_core.config.load import load_recipe
from bcnet_core.config.schema import Recipe
from bcnet_core.data.batches import StepSampler
from bcnet_core.data.dataset import Sample
from bcnet_core.data.loaders import open_training_set, read_annotations
from bcnet_core.distributed import choose_device
from bcnet_core.engine.optimizer import build_optimizer
from bcnet_core.engine.state import TrainingJob, TrainingState
from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.evaluation.predict import predict_images
from bcnet_core.evaluation.report import ScoreOptions, score_results
from bcnet_core.evaluation.true_boxes import score_true_boxes
from bcnet_core.files.json_files import write_json
from bcnet_core.files.workers import parallel_map
from bcnet_core.model.detectors import Detector
from bcnet_core.reporting import Reporter, SilentReporter
from benchmarks.evidence.run import one_thread
from benchmarks.heads.trials import Trial, TrialResult, read_results, result_path
from benchmarks.heads.variants import RECIPE, VARIANTS

PROBE_STEPS, PROBE_WARM_UP = 40, 20
"""Steps that are trained to predict how long a trial takes, and those of them that do not count."""
MEASUREMENT = 15.0
"""Seconds allowed for the start and the measurement of a trial when its steps are chosen."""
RESERVE = 0.85
"""Share of the time left that is planned for."""
COARSE, LEAST = 50, 300
"""Chosen numbers of steps are multiples of the first and not below the second: better fewer trials than shorter."""


@dataclass(frozen=True)
class Sweep:
    """Settings that all trials share.

    Attributes:
        root: data root.
        folder: folder of the results.
        steps: number of optimizer steps of a trial.
        device: "auto", "cpu" or "cuda".
        overrides: of the recipe, on top of `RECIPE`.
        deadline: time (`time.time()`) at which the last trial must have ended; infinite without a budget.
    """

    root: Path
    folder: Path
    steps: int
    device: str = "auto"
    overrides: tuple[str, ...] = ()
    deadline: float = float("inf")

    def recipe(self, trial: Trial) -> Recipe:
        """Return the recipe of a trial."""
        own = (*VARIANTS[trial.variant].overrides, f"seed={trial.seed}", f"solver.steps={self.steps}")
        return load_recipe("tiny", [*RECIPE, *self.overrides, *own], data_root=self.root)


class Outcome(NamedTuple):
    """The end of a trial: whether it was measured, and a line about it."""

    trial: Trial
    measured: bool
    note: str


class OutOfTimeError(Exception):
    """The deadline of the sweep has passed."""


def run_trials(sweep: Sweep, trials: Sequence[Trial], *, parallel: int, reporter: Reporter) -> list[Outcome]:
    """Train and measure the trials that have no result yet; a trial that fails does not stop the others.

    Returns:
        The trials that were not measured, and why.
    """
    missing = [trial for trial in trials if not result_path(sweep.folder, trial).exists()]
    outcomes = []
    with (
        reporter.progress("trials", len(missing)) as progress,
        parallel_map(partial(run_trial, sweep), missing, workers=parallel, most=len(missing)) as done,
    ):
        for outcome in done:
            outcomes.append(outcome)
            progress.advance(note=f"{outcome.trial.name}: {outcome.note}")
    return [outcome for outcome in outcomes if not outcome.measured]


def run_trial(sweep: Sweep, trial: Trial) -> Outcome:
    """Train and measure one trial and write its result, if the slowest trial so far would still end in time."""
    slowest = max((one.seconds for one in read_results(sweep.folder)), default=0.0)
    if time.time() + slowest > sweep.deadline:
        return Outcome(trial, measured=False, note="no time left")
    try:
        with one_thread(sweep.device):
            result = _measure_trial(sweep, trial)
    except OutOfTimeError:
        return Outcome(trial, measured=False, note="cut off by the budget of time")
    except (BCNetError, RuntimeError) as error:
        return Outcome(trial, measured=False, note=f"{type(error).__name__}: {error}")
    write_json(result_path(sweep.folder, trial), result.model_dump())
    return Outcome(trial, measured=True, note=f"mask AP {100 * result.scores['mask_AP']:.1f}, {result.seconds:.0f} s")


def _measure_trial(sweep: Sweep, trial: Trial) -> TrialResult:
    started, recipe = time.perf_counter(), sweep.recipe(trial)
    training = Training(recipe, trial, sweep)
    ready = time.perf_counter()
    rows = list(training.run())
    trained = time.perf_counter()
    last = rows[-max(1, len(rows) // 10) :]
    return TrialResult(
        data=sweep.root.name,
        **trial._asdict(),
        steps=sweep.steps,
        step_seconds=(trained - ready) / sweep.steps,
        gradient_norm=fmean(float(row.norm) for row in rows),
        losses={name: fmean(float(row.losses[name]) for row in last) for name in last[0].losses},
        scores=measure(training.detector.eval(), recipe),
        seconds=time.perf_counter() - started,
    )


class Step(NamedTuple):
    """The losses of a step and the norm of its gradient, as scalars on the device."""

    losses: dict[str, Tensor]
    norm: Tensor


class Training:
    """The training of one trial: no checkpoints, and all samples kept in memory.

    Args:
        recipe: of the trial.
        trial: its variant says how the detector is changed.
        sweep: its device and deadline.
    """

    def __init__(self, recipe: Recipe, trial: Trial, sweep: Sweep) -> None:
        self.deadline, device = sweep.deadline, choose_device(sweep.device)
        self.samples = KeptSamples(recipe, device)
        job = TrainingJob(recipe=recipe, run_dir=sweep.folder, device=sweep.device, command="")
        self.state = TrainingState(job, self.samples.coco.categories, device)
        change = VARIANTS[trial.variant].change
        if change is not None:
            change(self.detector)
            self.detector.to(device)
            self.state.optimizer = build_optimizer(self.detector, recipe.solver)

    @property
    def detector(self) -> Detector:
        """The detector in training."""
        return self.state.detector

    def run(self) -> Iterator[Step]:
        """Train step by step.

        Raises:
            BCNetError: if a loss is not finite.
            OutOfTimeError: after the deadline.
        """
        recipe = self.state.job.recipe
        sampler = StepSampler(
            wide=self.samples.wide, batch_size=recipe.solver.batch_size, first_step=0, last_step=recipe.solver.steps,
            seed=recipe.seed, rank=0, world_size=1,
        )  # fmt: skip
        for items in sampler:
            if time.time() > self.deadline:
                raise OutOfTimeError
            losses = self.state.backward([self.samples[item] for item in items])
            if not torch.stack(list(losses.values())).isfinite().all():
                raise BCNetError(f"the loss of step {self.state.step + 1} is not finite")
            gradients = [one.grad for one in self.detector.parameters() if one.grad is not None]
            norm = get_total_norm(gradients)
            self.state.update()
            yield Step(losses, norm)


class KeptSamples:
    """Training samples, kept on the device: without scale jitter an image has two, one of them mirrored.

    Args:
        recipe: with its data root, one training size and no jitter.
        device: of the kept images and targets.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        if recipe.data.scale_jitter is not None or recipe.data.train_sizes:
            raise usage_error(
                "the trials keep their samples in memory, so an image has one size",
                "leave data.scale_jitter and data.train_sizes as they are",
            )
        sides = [recipe.data.model_copy(update={"flip": flip}) for flip in (0.0, 1.0)]
        (self._plain, self.coco), (self._mirrored, _) = (
            open_training_set(side, need_occluders=recipe.trains_occluders) for side in sides
        )
        self._flip, self._device = recipe.data.flip, device
        self._kept: dict[tuple[int, bool], Sample] = {}
        self.wide = self._plain.wide & recipe.data.group_aspects

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """Return the sample of a position and a seed, which decides whether it is mirrored."""
        position, seed = item
        mirrored = bool(np.random.default_rng(seed).random() < self._flip)
        if (position, mirrored) not in self._kept:
            sample = (self._mirrored if mirrored else self._plain)[item]
            moved = sample._replace(image=sample.image.to(self._device), targets=sample.targets.to(self._device))
            self._kept[position, mirrored] = moved
        return self._kept[position, mirrored]._replace(seed=seed)


def measure(detector: Detector, recipe: Recipe) -> dict[str, float]:
    """Return the `SCORES` of a trained detector on the validation set of a recipe."""
    coco = read_annotations(recipe.data, recipe.data.val)
    _, image_dir = recipe.data.locate(recipe.data.val)
    results = predict_images(detector, coco.images, image_dir, reporter=SilentReporter())
    report = score_results(coco, results, ScoreOptions(occlusion=True))
    inside = score_true_boxes(detector, with_rates(coco), image_dir, reporter=SilentReporter())
    overlaps, heavy = inside.scores["occludee"], inside.visible <= 1 - LEVEL_FROM["heavy"]
    masks = report.rows["masks"]
    return {
        "mask_AP": masks.AP,
        "mask_AP75": masks.AP75,
        "mask_AP_heavy": report.rows["masks, occlusion heavy"].AP,
        "recall_occluded": report.recall["occluded"].share,
        "box_AP": report.rows["boxes"].AP,
        "iou": float(np.nanmean(overlaps)),
        "iou_heavy": float(np.nanmean(overlaps[heavy])) if heavy.any() else -1.0,
    }


def with_rates(coco: CocoFile) -> CocoFile:
    """Return the annotations with the box IoU of their nearest neighbor as `occlusion_rate`; crowds are left out."""
    rates = measure_images(coco, measure=SplitRule().measure)
    rated = [
        {**one, "occlusion_rate": float(rate)}
        for image, found in coco.annotations_by_image().items()
        for one, rate in zip([one for one in found if not one.get("iscrowd", 0)], rates[image], strict=True)
    ]
    return CocoFile(coco.path, {**coco.content, "annotations": rated})


def choose_steps(sweep: Sweep, trials: Sequence[Trial], *, parallel: int) -> int:
    """Train a few steps in all processes at once; return the steps at which the trials end by the deadline.

    Raises:
        BCNetError: if the deadline passes before.
    """
    probes = [Trial("published", seed) for seed in range(parallel)]
    work = partial(_probe, replace(sweep, steps=PROBE_STEPS))
    try:
        with parallel_map(work, probes, workers=parallel, most=parallel) as found:
            seconds = max(found)
    except OutOfTimeError:
        raise usage_error("the budget of time ends before a few steps could be timed", "allow more: --budget") from None
    return steps_within(
        sweep.deadline - time.time(), rounds=-(-len(trials) // parallel), step_seconds=seconds, most=sweep.steps
    )


def steps_within(left: float, *, rounds: int, step_seconds: float, most: int) -> int:
    """Return the number of steps that a trial may have, rounded down to a multiple of `COARSE`, from `LEAST` to `most`.

    Args:
        left: seconds for all trials.
        rounds: trials that a process trains, one after the other.
        step_seconds: duration of a step.
        most: largest number of steps.
    """
    steps = (RESERVE * left / rounds - MEASUREMENT) / step_seconds
    return min(most, max(LEAST, int(steps) // COARSE * COARSE))


def _probe(sweep: Sweep, trial: Trial) -> float:
    """Return the seconds of a training step."""
    with one_thread(sweep.device):
        ends = []
        for step in Training(sweep.recipe(trial), trial, sweep).run():
            float(step.norm)  # waits for a GPU
            ends.append(time.perf_counter())
    return float(np.diff(ends[PROBE_WARM_UP - 1 :]).mean())
