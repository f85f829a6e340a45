"""The trials of the study: variants of the start, the plan that a folder keeps to, and the file of the results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from bcnet_core.errors import data_error, usage_error
from bcnet_core.files.json_files import read_json, write_json

RESULTS_FILE, PLAN_FILE, COSTS_FILE = "results.jsonl", "plan.json", "costs.json"
SCORES = {
    "mask_AP": "mask AP",
    "mask_AP50": "AP50",
    "mask_AP75": "AP75",
    "mask_AP_heavy": "AP, occlusion heavy",
    "box_AP": "box AP",
}
"""Scores of an evaluation and their titles in tables."""


class Variant(NamedTuple):
    """A start of the training: its title in tables, and its overrides of the recipe."""

    title: str
    overrides: tuple[str, ...] = ()


SCRATCH = (
    "model.init=none", "model.frozen_norm=false", "model.frozen_stages=0", "solver.backbone_lr=none",
    "solver.layer_decay=1",
)  # fmt: skip
"""Settings without which random weights cannot learn: every layer is trained, BatchNorm with its batch's statistics."""
VARIANTS = {
    "start": Variant("published weights"),
    "scratch": Variant("from scratch", SCRATCH),
    "tiny": Variant("from scratch, backbone tiny", (*SCRATCH, "model.backbone=tiny")),
}
"""The first is the recipe as it is; the others are compared with it."""


class Trial(NamedTuple):
    """One training: name of the data set, key of `VARIANTS`, and seed of weights, order and augmentation."""

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
        steps: number of optimizer steps of a trial; None for the schedule of the recipe.
        minutes: duration of the steps of a trial, instead of their number.
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


class TrialResult(BaseModel):
    """The measurements of one trial.

    Attributes:
        steps: number of optimizer steps that were trained.
        batch_size: images of a step.
        step_seconds: median duration of a step.
        eval_seconds: median duration of an evaluation.
        curve: scores by the names in `SCORES`, 0..1, by the step of their evaluation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    variant: str
    seed: int
    steps: int
    batch_size: int
    step_seconds: float
    eval_seconds: float
    curve: dict[int, dict[str, float]]

    @property
    def trial(self) -> Trial:
        """The trial that it belongs to."""
        return Trial(self.data, self.variant, self.seed)

    @property
    def scores(self) -> Mapping[str, float]:
        """The scores after the last step."""
        return self.curve[max(self.curve)]

    @property
    def best_step(self) -> int:
        """The first step with the best mask AP."""
        return max(self.curve, key=lambda step: (self.curve[step]["mask_AP"], -step))

    def seconds_to(self, step: int) -> float:
        """Return the duration of the training up to the end of the evaluation at a step."""
        evaluations = sum(one <= step for one in self.curve)
        return step * self.step_seconds + evaluations * self.eval_seconds


def plan_trials(data: Sequence[str], variants: Sequence[str], seeds: int) -> list[Trial]:
    """Return the trials seed by seed, so that those of an early end can be compared."""
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise usage_error(f"no variant is called `{unknown[0]}`", "variants: " + " · ".join(VARIANTS))
    chosen = [name for name in VARIANTS if not variants or name in variants]
    return [Trial(name, variant, seed) for seed in range(seeds) for name in data for variant in chosen]


def add_result(folder: Path, result: TrialResult) -> None:
    """Append a result to the file of a folder."""
    with (folder / RESULTS_FILE).open("a", encoding="utf-8") as out:
        out.write(result.model_dump_json() + "\n")


def read_results(folder: Path) -> list[TrialResult]:
    """Read the results of a folder, sorted by data set, variant and seed.

    Raises:
        BCNetError: if a row is no result.
    """
    path = folder / RESULTS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    try:
        results = [TrialResult.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise data_error(f"`{path}` holds a row that is no result: {error}", "delete the row") from None
    names = list(VARIANTS)
    return sorted(results, key=lambda one: (one.data, names.index(one.variant), one.seed))
