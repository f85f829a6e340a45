"""The trials: which mask heads are compared, on which data, and the files of their results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from bcnet_core.errors import data_error
from bcnet_core.files.json_files import read_json


class Arm(NamedTuple):
    """One variant of the mask head: its title in tables, and its overrides of the recipe."""

    title: str
    overrides: tuple[str, ...] = ()


PLAIN = ("model.layers=1", "model.attention=false", "model.boundary=false")
ARMS = {
    "bilayer": Arm("bilayer"),
    "no_occluder_loss": Arm("bilayer, no occluder loss", ("loss.occluder_mask=0", "loss.occluder_boundary=0")),
    "no_boundary": Arm("bilayer, no boundary", ("model.boundary=false",)),
    "fcn": Arm("bilayer, FCN for GCN", ("model.attention=false",)),
    "single_layer": Arm("single layer", ("model.layers=1",)),
    "plain": Arm("plain, 4 convs", PLAIN),
    "plain_deep": Arm(
        "plain, depth and parameters of bilayer", (*PLAIN, "model.mask_convs=8", "model.mask_channels=72")
    ),
}
"""The first is the reference that the others are compared with."""
REFERENCE = next(iter(ARMS))
CHEAPER = ("single_layer", "plain", "plain_deep")
"""Arms without a second layer, whose steps cost less, so that equal time gives them more steps."""

COSTS_FILE = "costs.json"
Costs = dict[str, dict[str, float]]
"""Seconds of a training step by set and arm."""


class Trial(NamedTuple):
    """One training.

    Attributes:
        data: name of the data set.
        arm: key of `ARMS`.
        seed: seed of weights, order and augmentation.
        steps: number of optimizer steps.
        matched: whether the steps are chosen to take as long as the reference.
    """

    data: str
    arm: str
    seed: int
    steps: int
    matched: bool = False

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.arm}{'-time' * self.matched}-{self.seed}"


def plan_trials(data: Sequence[str], seeds: int, steps: int) -> list[Trial]:
    """Return the trials of equal steps, seed by seed, so that early results can be compared."""
    return [Trial(name, arm, seed, steps) for seed in range(seeds) for name in data for arm in ARMS]


def plan_matched(data: Sequence[str], seeds: int, steps: int, costs: Mapping[str, Mapping[str, float]]) -> list[Trial]:
    """Return the trials of equal time: the `CHEAPER` arms, with steps that take as long as the reference's."""
    return [
        Trial(name, arm, seed, round(steps * costs[name][REFERENCE] / costs[name][arm]), matched=True)
        for seed in range(seeds)
        for name in data
        for arm in CHEAPER
    ]


Share = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number that may be unknown: nan in Python, null in json."""


class TrialResult(BaseModel):
    """The fields of a `Trial` and what was measured; the lists have one entry per held-out instance.

    Attributes:
        seconds: duration of the training.
        mask_AP: 0..1; nan without ground truth, like the other two.
        occluded_mask_AP: mask AP on the images of the occluded split.
        head_parameters: number of parameters of the mask head.
        images: position of the image in the file.
        visible: visible fraction of the instance, nan where unknown.
        occludee: IoU of the mask in the true box, nan without a true mask.
        occluder: IoU of the occluder region in the true box, nan without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    arm: str
    seed: int
    steps: int
    matched: bool
    seconds: float
    mask_AP: Share  # noqa: N815  (COCO's own name)
    box_AP: Share  # noqa: N815
    occluded_mask_AP: Share  # noqa: N815
    head_parameters: int
    images: list[int]
    visible: list[Share]
    occludee: list[Share]
    occluder: list[Share]

    @property
    def trial(self) -> Trial:
        """The trial that it belongs to."""
        return Trial(self.data, self.arm, self.seed, self.steps, self.matched)

    def column(self, name: str) -> NDArray[np.float64]:
        """Return one of the lists as (N,) float64."""
        return np.asarray(getattr(self, name), np.float64)


def result_path(folder: Path, trial: Trial) -> Path:
    """Return the file of a trial's result."""
    return folder / "results" / trial.data / f"{trial.name}.json"


def is_measured(folder: Path, trial: Trial) -> bool:
    """Return whether a trial has a result; raises if it is damaged or of another number of steps."""
    path = result_path(folder, trial)
    if not path.exists():
        return False
    steps = read_result(path).steps
    if steps != trial.steps:
        raise data_error(
            f"`{path}` was measured after {steps:,} steps, this trial has {trial.steps:,}",
            "choose another folder: -o, or delete that file and its run",
        )
    return True


def read_result(path: Path) -> TrialResult:
    """Read the result of a trial.

    Raises:
        BCNetError: if the file is not the result of the trial that its name says, for example of an older version.
    """
    try:
        result = TrialResult.model_validate(read_json(path))
        if result.arm in ARMS and (result.data, result.trial.name) == (path.parent.name, path.stem):
            return result
        why = f"it is of {result.data} {result.trial.name}"
    except ValidationError as error:
        why = str(error)
    raise data_error(
        f"`{path}` is not the result of this trial: {why}", "delete the file; the next run measures that trial again"
    )


def read_results(folder: Path) -> list[TrialResult]:
    """Read all results, sorted by set, arm and seed; those of a set must be of the same instances."""
    found = [read_result(path) for path in sorted((folder / "results").glob("*/*.json"))]
    firsts: dict[str, TrialResult] = {}
    for result in found:
        first = firsts.setdefault(result.data, result)
        same = result.images == first.images and np.array_equal(
            result.column("visible"), first.column("visible"), equal_nan=True
        )
        if not same:
            paths = [result_path(folder, one.trial) for one in (result, first)]
            raise data_error(
                f"`{paths[0]}` and `{paths[1]}` were measured on different instances",
                "they cannot be compared; delete the one that is not of this folder's data",
            )
    names = list(ARMS)
    return sorted(found, key=lambda one: (one.data, one.matched, names.index(one.arm), one.seed))


def read_costs(folder: Path) -> Costs:
    """Read the costs that `measure_costs` wrote; empty if there are none, an error if they are of other arms."""
    path = folder / COSTS_FILE
    costs: Costs = read_json(path) if path.exists() else {}
    if not all(seconds.keys() == ARMS.keys() for seconds in costs.values()):
        raise data_error(
            f"`{path}` does not hold the costs of the {len(ARMS)} arms",
            "delete the file; the next run measures the costs again",
        )
    return costs
