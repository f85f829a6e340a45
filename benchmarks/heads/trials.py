"""The trials of the study, and the files of their results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from bcnet_core.errors import data_error, usage_error
from bcnet_core.files.json_files import read_json
from benchmarks.heads.variants import VARIANTS

SCORES = {
    "mask_AP": "mask AP",
    "mask_AP75": "AP75",
    "mask_AP_heavy": "AP, occlusion heavy",
    "recall_occluded": "recall of occluded",
    "box_AP": "box AP",
    "iou": "IoU in true boxes",
    "iou_heavy": "the same, heavy",
}
"""Scores of a trial and their titles in tables."""


class Trial(NamedTuple):
    """One training: key of `VARIANTS`, and seed of weights, order and augmentation."""

    variant: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.variant}-{self.seed}"


class TrialResult(BaseModel):
    """The measurements of one trial.

    Attributes:
        steps: number of optimizer steps.
        seconds: duration of training and measurement.
        step_seconds: mean duration of a training step.
        gradient_norm: mean norm of the gradient before clipping.
        losses: weighted losses, means of the last tenth of the steps.
        scores: by the names in `SCORES`, 0..1; -1 where the ground truth has no such object.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    variant: str
    seed: int
    steps: int
    seconds: float
    step_seconds: float
    gradient_norm: float
    losses: dict[str, float]
    scores: dict[str, float]


def plan_trials(variants: Sequence[str], seeds: int) -> list[Trial]:
    """Return the trials seed by seed, so that those of an early end can be compared."""
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise usage_error(f"no variant is called `{unknown[0]}`", "variants: " + " · ".join(VARIANTS))
    chosen = [name for name in VARIANTS if not variants or name in variants]
    return [Trial(name, seed) for seed in range(seeds) for name in chosen]


def result_path(folder: Path, trial: Trial) -> Path:
    """Return the file of a trial's result."""
    return folder / "results" / f"{trial.name}.json"


def read_results(folder: Path) -> list[TrialResult]:
    """Read all results of a folder, in the order of `VARIANTS` and seeds.

    Raises:
        BCNetError: if a file is no result, or the results are not of one data set and number of steps.
    """
    results = [_read_result(path) for path in sorted((folder / "results").glob("*.json"))]
    plans = {(one.data, one.steps) for one in results}
    if len(plans) > 1:
        raise data_error(f"`{folder}` holds results of {len(plans)} plans (data, steps): {sorted(plans)}")
    names = list(VARIANTS)
    return sorted(results, key=lambda one: (names.index(one.variant), one.seed))


def _read_result(path: Path) -> TrialResult:
    try:
        result = TrialResult.model_validate(read_json(path))
    except ValidationError as error:
        raise data_error(f"`{path}` is not the result of a trial: {error}", "delete the file") from None
    if Trial(result.variant, result.seed).name != path.stem or result.variant not in VARIANTS:
        raise data_error(f"`{path}` holds the result of {result.variant}-{result.seed}", "delete the file")
    return result


def check_plan(folder: Path, data: str, steps: int) -> None:
    """Require the results of a folder to be of this data set and number of steps.

    Raises:
        BCNetError: with both, if they differ.
    """
    for one in read_results(folder)[:1]:
        if (one.data, one.steps) != (data, steps):
            raise usage_error(
                f"`{folder}` holds trials of {one.steps:,} steps on {one.data}, these have {steps:,} on {data}",
                f"go on with those: --steps {one.steps}" if one.data == data else "choose another folder: -o",
            )
