"""Training and measurement of the trials, several at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from bcnet_core.annotations.coco import Record
from bcnet_core.annotations.crowding import detections_to_count
from bcnet_core.config.load import load_recipe
from bcnet_core.config.schema import Recipe
from bcnet_core.data.loaders import read_truth
from bcnet_core.engine.run_dir import METRICS_FILE
from bcnet_core.engine.state import TrainingJob, Validation
from bcnet_core.evaluation.predict import predict_images
from bcnet_core.evaluation.report import ScoreOptions, score_results
from bcnet_core.evaluation.validation import check_validation
from bcnet_core.files.json_files import read_json, write_json
from bcnet_core.files.workers import parallel_map
from bcnet_core.model.detectors import Detector
from bcnet_core.reporting import Reporter, SilentReporter
from bcnet_core.weights.checkpoint import latest_checkpoint
from bcnet_core.weights.starts import fetch_start
from benchmarks.evidence.run import one_thread, step_seconds, train_trial
from benchmarks.starts.trials import (
    COSTS_FILE,
    SCORES,
    VARIANTS,
    Plan,
    Trial,
    TrialResult,
    add_result,
    read_results,
)

EVALUATIONS = 4
"""Evaluations of a trial of a given length, the last of them after its last step."""
ROUNDS, ROUND_STEPS = 3, 12
"""Measurement of costs: in every round each variant trains `ROUND_STEPS` steps."""
LOG_EVERY = 10
"""Steps between two readings of the speed."""
MINUTES = "eval_minutes"
"""Name of the duration of an evaluation, beside its scores."""


@dataclass(frozen=True)
class Sweep:
    """Settings that all trials share.

    Attributes:
        roots: data roots by the name of their data set.
        folder: folder of the results.
        plan: recipe and length of the trials.
        device: "auto", "cpu" or "cuda".
    """

    roots: dict[str, Path]
    folder: Path
    plan: Plan
    device: str = "auto"

    def recipe(self, trial: Trial, steps: int | None) -> Recipe:
        """Return the recipe of a trial, with its own schedule if no steps are given."""
        length = (
            f"solver.steps={steps}", "solver.epochs=none", f"solver.eval_every={-(-steps // EVALUATIONS)}",
            "solver.min_steps=0", "solver.eval_epochs=none", "solver.patience=0",
        ) if steps is not None else ()  # fmt: skip
        own = ("data.workers=0", f"solver.log_every={LOG_EVERY}", "solver.keep_checkpoints=1")
        variant = (*VARIANTS[trial.variant].overrides, f"seed={trial.seed}")
        return load_recipe(
            self.plan.recipe, [*own, *self.plan.overrides, *length, *variant], data_root=self.roots[trial.data]
        )

    def job(self, trial: Trial, steps: int | None, run_dir: Path) -> TrainingJob:
        """Return the training of a trial, from its newest checkpoint if there is one."""
        recipe, resume = self.recipe(trial, steps), latest_checkpoint(run_dir) is not None
        return TrainingJob(
            recipe=recipe,
            run_dir=run_dir,
            device=self.device,
            command="python -m benchmarks starts",
            resume=resume,
        )


def run_trials(sweep: Sweep, trials: Sequence[Trial], *, parallel: int, reporter: Reporter) -> None:
    """Train and measure the trials that have no result yet, and add their results to the folder's.

    Raises:
        BCNetError: if a training fails or is interrupted; the same call resumes it.
    """
    measured = {one.trial for one in read_results(sweep.folder)}
    missing = [trial for trial in trials if trial not in measured]
    for source in {sweep.recipe(trial, None).model.init for trial in missing} - {None}:
        fetch_start(str(source), reporter)
    costs = measure_costs(sweep, missing, reporter=reporter) if sweep.plan.minutes is not None else {}
    with (
        reporter.progress("trials", len(missing)) as progress,
        parallel_map(partial(run_trial, sweep, costs), missing, workers=parallel, most=len(missing)) as done,
    ):
        for result in done:
            add_result(sweep.folder, result)
            progress.advance(note=f"{result.trial.name}: mask AP {100 * result.scores['mask_AP']:.1f}")


def run_trial(sweep: Sweep, costs: dict[str, dict[str, float]], trial: Trial) -> TrialResult:
    """Train one trial and return its measurements.

    Args:
        sweep: its plan says how long.
        costs: seconds of a step by data set and variant, for a plan in minutes.
        trial: the trial.
    """
    minutes = sweep.plan.minutes
    steps = sweep.plan.steps if minutes is None else max(1, round(60 * minutes / costs[trial.data][trial.variant]))
    job = sweep.job(trial, steps, sweep.folder / "runs" / trial.data / f"{trial.variant}-{trial.seed}")
    with one_thread(sweep.device):
        train_trial(replace(job, validation=VALIDATION), trial.name, SilentReporter())
    rows = [json.loads(line) for line in (job.run_dir / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    return result_of(trial, rows, job.recipe.solver.batch_size)


def result_of(trial: Trial, rows: Sequence[Record], batch_size: int) -> TrialResult:
    """Return the measurements of a trial from the rows of its metrics.jsonl."""
    evaluations = {row["step"]: row["validation"] for row in rows if "validation" in row}
    return TrialResult(
        **trial._asdict(),
        steps=max(row["step"] for row in rows),
        batch_size=batch_size,
        step_seconds=median(batch_size / row["speed"]["images_per_second"] for row in rows if "speed" in row),
        eval_seconds=60 * median(scores[MINUTES] for scores in evaluations.values()),
        curve={step: {name: scores[name] for name in SCORES} for step, scores in evaluations.items()},
    )


def score(
    detector: Detector, recipe: Recipe, reporter: Reporter, stopping: Callable[[], bool]
) -> dict[str, float] | None:
    """Return the `SCORES` of a detector on the validation set of a recipe, and the minutes that it took.

    It has the form of `bcnet_core.engine.state.Validation`, for one process.
    """
    started = time.perf_counter()
    coco = read_truth(recipe.data, recipe.data.val)
    _, image_dir = recipe.data.locate(recipe.data.val)
    found = predict_images(detector, coco.images, image_dir, reporter=reporter, stopping=stopping)
    if stopping():
        return None
    options = ScoreOptions(occlusion=True, max_dets=detections_to_count(recipe.model.most_detections))
    rows = score_results(coco, found, options).rows
    masks = rows["masks"]
    return {
        "mask_AP": masks.AP,
        "mask_AP50": masks.AP50,
        "mask_AP75": masks.AP75,
        "mask_AP_heavy": rows["masks, occlusion heavy"].AP,
        "box_AP": rows["boxes"].AP,
        MINUTES: (time.perf_counter() - started) / 60,
    }


VALIDATION = Validation(check=check_validation, score=score)


def measure_costs(sweep: Sweep, trials: Sequence[Trial], *, reporter: Reporter) -> dict[str, dict[str, float]]:
    """Time a training step of every variant on every set, and keep the seconds in the folder's `costs.json`.

    The variants alternate in one process, so that other load on the machine affects them alike; the median of the
    rounds is taken.
    """
    path = sweep.folder / COSTS_FILE
    costs: dict[str, dict[str, float]] = read_json(path) if path.exists() else {}
    pairs = dict.fromkeys((one.data, one.variant) for one in trials)
    missing = [Trial(*pair, seed=0) for pair in pairs if pair[1] not in costs.get(pair[0], {})]
    spent: dict[Trial, list[float]] = {trial: [] for trial in missing}
    with reporter.progress("seconds a step", len(missing) * ROUNDS) as progress, one_thread(sweep.device):
        for _ in range(ROUNDS):
            for trial, seconds in spent.items():
                seconds.append(step_seconds(partial(sweep.job, trial, ROUND_STEPS), trial.name))
                progress.advance(note=f"{trial.name}: {seconds[-1]:.3f} s")
    for trial, seconds in spent.items():
        costs.setdefault(trial.data, {})[trial.variant] = median(seconds)
    write_json(path, costs)
    return costs
