"""The trials of a study: variants, the plan that a folder keeps to, and the files of the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from bcnet_core.config.load import load_recipe
from bcnet_core.config.schema import Recipe
from bcnet_core.errors import data_error, usage_error
from bcnet_core.files.json_files import read_json, write_json
from bcnet_core.model.detectors import Detector
from benchmarks.study.measures import CROWDS, Measurement

PLAN_FILE, COSTS_FILE = "plan.json", "costs.json"
RESULTS, DETECTIONS = "results", "detections"


class Variant(NamedTuple):
    """What is trained.

    Attributes:
        title: name in tables.
        overrides: of the recipe.
        change: applied to the new detector of a recipe, for what is no setting.
        minus: keys of the variants that its scores are compared with: the differences are its own less theirs.
        oracles: whether to measure what bounds it, see `benchmarks.study.oracles`.
    """

    title: str
    overrides: tuple[str, ...] = ()
    change: Callable[[Detector, Recipe], None] | None = None
    minus: tuple[str, ...] = ()
    oracles: bool = False


class Trial(NamedTuple):
    """One training: name of the data set, key of the variant, and seed of weights, order and augmentation."""

    data: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """Name for people."""
        return f"{self.data} {self.variant} {self.seed}"


@dataclass(frozen=True)
class Plan:
    """Settings that all trials of a folder share.

    Attributes:
        recipe: its name.
        steps: number of optimizer steps of a trial.
        minutes: duration of the steps of a trial, instead of their number; without both, the recipe's own schedule.
        overrides: of the recipe.
    """

    recipe: str
    steps: int | None = None
    minutes: float | None = None
    overrides: tuple[str, ...] = ()

    def keep_in(self, folder: Path) -> None:
        """Write the plan into a new folder, or require an old one to have the same.

        Raises:
            BCNetError: if the folder was begun with another plan.
        """
        path, content = folder / PLAN_FILE, json.loads(json.dumps(asdict(self)))
        if not path.exists():
            write_json(path, content)
        elif (found := read_json(path)) != content:
            raise usage_error(
                f"`{folder}` was begun with another plan: {found}, now {content}", "choose another folder: -o"
            )


@dataclass(frozen=True)
class Study:
    """A study in its folder.

    Attributes:
        variants: by their keys; the most important first.
        roots: data roots by the name of their data set.
        folder: folder of the results.
        plan: recipe and length of the trials.
        device: "auto", "cpu" or "cuda".
        measurement: what is measured of every trial.
        evaluations: evaluations of mask AP along a training, evenly spread, the last of them after its last step.
    """

    variants: dict[str, Variant]
    roots: dict[str, Path]
    folder: Path
    plan: Plan
    device: str = "auto"
    measurement: Measurement = CROWDS
    evaluations: int = 1

    def recipe(self, trial: Trial, steps: int | None) -> Recipe:
        """Return the recipe of a trial, with its own schedule if no steps are given."""
        length = () if steps is None else (f"solver.steps={steps}", "solver.epochs=none", "solver.min_steps=0")
        own = (*self.variants[trial.variant].overrides, f"seed={trial.seed}")
        return load_recipe(self.plan.recipe, [*self.plan.overrides, *length, *own], data_root=self.roots[trial.data])

    def path(self, trial: Trial, kind: str = RESULTS) -> Path:
        """Return the file of a trial's result, or of its COCO results (`DETECTIONS`), which pictures are drawn from."""
        return self.folder / kind / trial.data / f"{trial.variant}-{trial.seed}.json"

    def plan_trials(self, variants: Sequence[str], seeds: int) -> list[Trial]:
        """Return the trials seed by seed, so that those of an early end can be compared.

        Args:
            variants: keys of the variants to train; all if there is none.
            seeds: trainings of each variant on each set.

        Raises:
            BCNetError: if there is no such variant.
        """
        unknown = [name for name in variants if name not in self.variants]
        if unknown:
            raise usage_error(f"no variant is called `{unknown[0]}`", "variants: " + " · ".join(self.variants))
        chosen = [name for name in self.variants if not variants or name in variants]
        return [Trial(data, variant, seed) for seed in range(seeds) for data in self.roots for variant in chosen]


class TrialResult(BaseModel):
    """The measurements of one trial.

    Attributes:
        steps: number of optimizer steps.
        seconds: duration of training and measurement.
        step_seconds: mean duration of a training step, with the loading of its images.
        gradient_norm: mean norm of the gradient before clipping.
        losses: weighted losses, means of the last tenth of the steps.
        scores: by the names in the study's `measurement`, 0..1; -1 where the ground truth has no such object.
        oracles: by the names in `benchmarks.study.oracles.ORACLES`, 0..1; empty where they were not asked for.
        curve: mask AP by step.
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
    oracles: dict[str, float]
    curve: dict[int, float]


def read_results(study: Study) -> list[TrialResult]:
    """Read all results of a folder, in the order of data sets, variants and seeds.

    Raises:
        BCNetError: if a file is no result of the study.
    """
    results = [_read_result(study, path) for path in sorted((study.folder / RESULTS).glob("*/*.json"))]
    names = list(study.variants)
    return sorted(results, key=lambda one: (one.data, names.index(one.variant), one.seed))


def _read_result(study: Study, path: Path) -> TrialResult:
    try:
        result = TrialResult.model_validate(read_json(path))
    except ValidationError as error:
        raise data_error(f"`{path}` is not the result of a trial: {error}", "delete the file") from None
    trial = Trial(result.data, result.variant, result.seed)
    if study.path(trial) != path or trial.variant not in study.variants:
        raise data_error(f"`{path}` holds the result of {trial.name}", "delete the file")
    return result
