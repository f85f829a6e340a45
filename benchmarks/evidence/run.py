"""Training and measurement of the trials.

Every trial trains `recipes/shapes.yaml` with other settings of the mask head, and is measured on the same held-out
scenes. A measured trial is never repeated, and an interrupted one resumes from its last checkpoint.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from bcnet_core.annotations.coco import Record, read_coco
from bcnet_core.annotations.split import SplitRule, split_occluded
from bcnet_core.config.load import load_recipe
from bcnet_core.engine.launch import run_training
from bcnet_core.engine.state import TrainingJob
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.evaluation.coco import evaluate, ground_truth
from bcnet_core.evaluation.predict import predict_images
from bcnet_core.evaluation.true_boxes import score_true_boxes
from bcnet_core.files.json_files import write_json
from bcnet_core.files.workers import parallel_map
from bcnet_core.reporting import Progress, Reporter, SilentReporter
from bcnet_core.weights.checkpoint import latest_checkpoint
from bcnet_core.weights.loading import read_trained
from benchmarks.evidence.data import DataSet
from benchmarks.evidence.trials import ARMS, COSTS_FILE, Costs, Trial, TrialResult, is_measured, read_costs, result_path
from benchmarks.study.training import one_thread

ROUNDS, ROUND_STEPS, WARM_UP = 5, 20, 4
"""Measurement of costs: in every round each arm trains `ROUND_STEPS` steps; the first `WARM_UP` do not count."""


def run_trials(
    folder: Path,
    trials: Sequence[Trial],
    data: Mapping[str, DataSet],
    *,
    workers: int,
    device: str,
    reporter: Reporter,
) -> None:
    """Train and measure the trials that have no result yet.

    Args:
        folder: folder of runs and results.
        trials: all trials.
        data: the sets by name.
        workers: concurrent trainings, 0 for one per CPU core.
        device: "auto", "cpu", "cuda"; on a CPU each training has one thread.
        reporter: receives progress.

    Raises:
        BCNetError: if a training fails or is interrupted; its result is not written, and the next run resumes it.
    """
    missing = [trial for trial in trials if not is_measured(folder, trial)]
    work = partial(_run_trial, folder, dict(data), device)
    with (
        reporter.progress("trials", len(missing)) as progress,
        parallel_map(work, missing, workers=workers, most=len(missing)) as done,
    ):
        for note in done:
            progress.advance(note=note)


def _run_trial(folder: Path, data: dict[str, DataSet], device: str, trial: Trial) -> str:
    """Train, measure, write the result, and return a one-line summary."""
    with one_thread(device):
        started = time.perf_counter()
        run_dir = folder / "runs" / trial.data / trial.name
        job = _job(trial, data[trial.data], run_dir, device=device)
        checkpoint = train_trial(job, f"{trial.data} {trial.name}", SilentReporter())
        seconds = time.perf_counter() - started
        measures = measure(checkpoint, data[trial.data].root, data[trial.data].held_out, device)
    result = TrialResult(**trial._asdict(), seconds=seconds, **measures)
    write_json(result_path(folder, trial), json.loads(result.model_dump_json()))  # whose nan become null
    return f"{trial.data} {trial.name}: IoU {np.nanmean(measures['occludee']):.4f}, AP {measures['mask_AP']:.3f}"


PUBLISHED = (
    "model.detector=fcos", "model.attention=true", "model.candidates_per_level=1000", "loss.box=1.25",
    "loss.mask_dice=0",
)  # fmt: skip
"""The detector of the paper's release, and its whole mask head."""


def _job(trial: Trial, data: DataSet, run_dir: Path, *, device: str) -> TrainingJob:
    """Return the training of a trial, from its newest checkpoint if there is one."""
    overrides = [
        f"seed={trial.seed}", f"solver.steps={trial.steps}", "data.workers=0",
        f"data.train.annotations=annotations/instances_{data.train}.json", f"data.train.images={data.train}",
        f"data.val.annotations=annotations/instances_{data.held_out}.json", f"data.val.images={data.held_out}",
        *PUBLISHED, *ARMS[trial.arm].overrides,
    ]  # fmt: skip
    return TrainingJob(
        recipe=load_recipe("shapes", overrides, data_root=data.root),
        run_dir=run_dir,
        device=device,
        command="python -m benchmarks evidence",
        resume=latest_checkpoint(run_dir) is not None,
    )


def train_trial(job: TrainingJob, name: str, reporter: Reporter) -> Path:
    """Train the job of a trial and return its last checkpoint.

    Raises:
        BCNetError: with the name of the trial, if the training fails or is interrupted.
    """
    try:
        return run_training(job, reporter)
    except BCNetError as error:
        stopped = error.exit_code == ExitCode.INTERRUPTED
        hints = ("give the same command again to resume",) if stopped else error.hints
        raise BCNetError(f"trial {name}: {error.message}", *hints, exit_code=error.exit_code) from None


def measure(checkpoint: Path, root: Path, split: str, device: str) -> Record:
    """Measure a trained detector on a held-out split: the fields of `TrialResult` but for the trial and its seconds."""
    detector = read_trained(checkpoint).restore(device)
    coco = read_coco(root / "annotations" / f"instances_{split}.json")
    scores = score_true_boxes(detector, coco, root / split, reporter=SilentReporter())
    results = predict_images(detector, coco.images, root / split, reporter=SilentReporter())
    missing = np.full(len(scores.images), np.nan)
    truth = ground_truth(coco)
    occluded = [image["id"] for image in split_occluded(coco, rule=SplitRule()).content["images"]]
    return {
        "mask_AP": evaluate(truth, results, "segm").scores.AP,
        "box_AP": evaluate(truth, results, "bbox").scores.AP,
        "occluded_mask_AP": evaluate(truth, results, "segm", image_ids=occluded).scores.AP if occluded else np.nan,
        "head_parameters": sum(parameter.numel() for parameter in detector.heads.masks.parameters()),
        "images": scores.images.tolist(),
        "visible": np.round(scores.visible, 5).tolist(),
        **{name: np.round(scores.scores.get(name, missing), 5).tolist() for name in ("occludee", "occluder")},
    }


class _Clock:
    """A reporter that records when each training step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def info(self, message: str) -> None:
        """Ignore the message."""

    def warning(self, message: str) -> None:
        """Ignore the message."""

    def progress(self, title: str, total: int) -> AbstractContextManager[Progress]:
        """Record the steps of the training and ignore other tasks."""
        return nullcontext(self) if title == "training" else SilentReporter().progress(title, total)

    def advance(self, amount: int = 1, *, note: str = "", values: Mapping[str, str] | None = None) -> None:
        """Record the time."""
        self.ends.append(time.perf_counter())


def measure_costs(
    folder: Path,
    data: Mapping[str, DataSet],
    *,
    device: str,
    reporter: Reporter,
    rounds: int = ROUNDS,
    steps: int = ROUND_STEPS,
) -> Costs:
    """Time a training step of every arm on every set, and keep the costs in the folder's `costs.json`.

    The arms alternate in one process, on a CPU with one thread, so that other load on the machine affects them alike.
    A round is the mean step of one short training on the same scenes; the median of the rounds is taken.
    """
    costs = read_costs(folder)
    missing = [name for name in data if name not in costs]
    with reporter.progress("seconds a step", len(missing) * rounds * len(ARMS)) as progress, one_thread(device):
        for name in missing:
            seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
            for seed in range(rounds):
                for arm, spent in seconds.items():
                    trial = Trial(name, arm, seed, steps)
                    spent.append(step_seconds(partial(_job, trial, data[name], device=device), trial.name))
                    progress.advance(note=f"{name} {arm}: {spent[-1]:.3f} s")
            costs[name] = {arm: median(spent) for arm, spent in seconds.items()}
            write_json(folder / COSTS_FILE, costs)
    return costs


def step_seconds(job: Callable[[Path], TrainingJob], name: str) -> float:
    """Return the mean seconds from the end of one training step to the end of the next, less `WARM_UP` steps.

    Args:
        job: makes a short training in a run directory, which is deleted again.
        name: of the trial, for errors.
    """
    clock = _Clock()
    with tempfile.TemporaryDirectory(prefix="bcnet-costs-") as folder:
        train_trial(job(Path(folder) / "run"), name, clock)
    return float(np.diff(clock.ends)[WARM_UP - 1 :].mean())
