"""The trials in numbers: the scores of every arm and their differences from the reference. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from benchmarks.evidence.intervals import (
    BINS,
    Interval,
    Range,
    Spread,
    bin_means,
    paired_intervals,
    span,
    spread,
)
from benchmarks.evidence.trials import REFERENCE, Costs, TrialResult


@dataclass(frozen=True)
class Row:
    """What an arm reaches on a set. Shares are 0..1.

    Attributes:
        data: the name of the set.
        arm: key of `ARMS`.
        matched: whether it was trained for the reference's time instead of its steps.
        seeds: that were measured.
        steps: of the optimiser.
        head_parameters: of the mask head.
        cost_ratio: a step's time by that of the reference; nan where it was not measured.
        iou: of each bin of `BINS`, mask IoU in true boxes.
        occluder: IoU of the occluder layer.
        ap: mask AP.
        occluded_ap: on the occluded split.
    """

    data: str
    arm: str
    matched: bool
    seeds: tuple[int, ...]
    steps: int
    head_parameters: int
    cost_ratio: float
    iou: dict[str, Spread]
    occluder: Spread
    ap: Spread
    occluded_ap: Spread


@dataclass(frozen=True)
class Difference:
    """An arm less the reference, seed by seed. Shares are -1..1.

    Attributes:
        data: the name of the set.
        arm: key of `ARMS`.
        matched: whether the arm was trained for the reference's time instead of its steps.
        seeds: that both were measured with; of no other.
        steps: of the arm.
        iou: of each bin of `BINS`, mask IoU in true boxes.
        ap: mask AP.
        occluded_ap: on the occluded split.
    """

    data: str
    arm: str
    matched: bool
    seeds: tuple[int, ...]
    steps: int
    iou: dict[str, Interval]
    ap: Range
    occluded_ap: Range


@dataclass(frozen=True)
class Summary:
    """Everything that the results say, set by set in the order of `ARMS`, those of equal time behind the others."""

    rows: list[Row]
    differences: list[Difference]


def summarise(results: Sequence[TrialResult], costs: Costs) -> Summary:
    """Put results together.

    Args:
        results: in the order of `read_results`, of any trials; those of one set were measured on the same instances.
        costs: of the sets whose costs were measured.

    Returns:
        A row for each arm that was measured, and its difference where a seed of the reference was, too.
    """
    groups = {key: list(group) for key, group in groupby(results, key=lambda one: (one.data, one.matched, one.arm))}
    rows, differences = [], []
    for (data, matched, arm), group in groups.items():
        rows.append(_row(group, costs.get(data, {})))
        reference = {one.seed: one for one in groups.get((data, False, REFERENCE), [])}
        pairs = [(one, reference[one.seed]) for one in group if one.seed in reference]
        if pairs and (matched or arm != REFERENCE):
            differences.append(_difference(pairs))
    return Summary(rows, differences)


def _row(group: Sequence[TrialResult], seconds: dict[str, float]) -> Row:
    first = group[0]
    means = [bin_means(one.column("visible"), one.column("occludee")) for one in group]
    occluders = [bin_means(one.column("visible"), one.column("occluder"))["all"] for one in group]
    return Row(
        first.data,
        first.arm,
        first.matched,
        tuple(one.seed for one in group),
        first.steps,
        first.head_parameters,
        seconds[first.arm] / seconds[REFERENCE] if seconds else math.nan,
        {name: spread([one[name] for one in means]) for name in BINS},
        spread(occluders),
        spread([_share(one.mask_AP) for one in group]),
        spread([_share(one.occluded_mask_AP) for one in group]),
    )


def _difference(pairs: Sequence[tuple[TrialResult, TrialResult]]) -> Difference:
    """An arm less the reference, of the same seeds."""
    first = pairs[0][0]
    own, reference = (np.stack([pair[side].column("occludee") for pair in pairs]) for side in (0, 1))
    return Difference(
        first.data,
        first.arm,
        first.matched,
        tuple(one.seed for one, _ in pairs),
        first.steps,
        paired_intervals(np.asarray(first.images), first.column("visible"), own, reference),
        span([_share(one.mask_AP) - _share(other.mask_AP) for one, other in pairs]),
        span([_share(one.occluded_mask_AP) - _share(other.occluded_mask_AP) for one, other in pairs]),
    )


def _share(score: float) -> float:
    """An AP; the scorer gives -1 where there is nothing to find."""
    return score if score >= 0 else math.nan
