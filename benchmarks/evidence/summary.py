"""Statistics of the trials: scores by visible fraction, paired differences and their uncertainty. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.trials import REFERENCE, Costs, TrialResult

Floats = NDArray[np.float64]

BINS = {"all": (-1.0, 1.0), "visible > .98": (0.98, 1.0), ".7-.98": (0.7, 0.98), "<= .7": (-1.0, 0.7)}
"""Bins of the visible fraction v: low < v <= high. Instances with an unknown fraction count in "all" only."""
RESAMPLES = 2000
TAILS = (0.025, 0.975)
"""Quantiles of the resamples that bound a 95 % interval."""


class Spread(NamedTuple):
    """Mean of a measure over seeds and its standard deviation (with N - 1); nan without enough seeds."""

    mean: float
    std: float


class Interval(NamedTuple):
    """A mean difference and its 95 % interval, or its range over seeds; nan where nothing can be compared."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def spread(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation, ignoring nan."""
    known = [value for value in values if not math.isnan(value)]
    return Spread(mean(known) if known else math.nan, stdev(known) if len(known) > 1 else math.nan)


def span(values: Sequence[float]) -> Interval:
    """Return mean, smallest and largest value, ignoring nan."""
    known = [value for value in values if not math.isnan(value)]
    return Interval(mean(known), min(known), max(known)) if known else Interval(math.nan, math.nan, math.nan)


def bin_means(visible: Floats, values: Floats) -> dict[str, float]:
    """Return the mean of N instances' values in every bin, ignoring nan; nan for an empty bin."""
    totals, counts = sum_by_image(np.zeros(len(values), np.int64), visible, values, images=1)
    return dict(zip(BINS, _ratio(totals[0], counts[0]).tolist(), strict=True))


def paired_intervals(
    images: NDArray[np.int64], visible: Floats, values: Floats, reference: Floats, *, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Return the mean difference between two arms in every bin, with the 95 % interval of a paired bootstrap.

    The bootstrap is hierarchical: seeds and images are resampled with replacement, the same images for both arms and
    all seeds. The mean is taken over instances, so images with more of them weigh more. With few seeds the interval is
    too narrow: resampling S seeds shows (S - 1) / S of the variance between them, and none of it for a single seed.

    Args:
        images: (N,) the image of each instance.
        visible: (N,) its visible fraction, 0..1, or nan.
        values: (S, N) values of the arm for S seeds; nan excludes the instance for both arms.
        reference: (S, N) values of the reference, with the same seeds in the same order.
        resamples: number of resamples, drawn with a fixed seed: the same values give the same interval.
    """
    _, positions = np.unique(images, return_inverse=True)
    count = int(positions.max()) + 1
    sums = [sum_by_image(positions, visible, one, images=count) for one in values - reference]
    totals, counts = (np.stack(parts) for parts in zip(*sums, strict=True))  # (S, I, K) each
    rng = np.random.default_rng(0)
    seed_draws = rng.multinomial(len(totals), np.full(len(totals), 1 / len(totals)), size=resamples)
    image_draws = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    drawn = (_weigh(part, seed_draws, image_draws) for part in (totals, counts))
    means = _ratio(totals.sum((0, 1)), counts.sum((0, 1)))
    intervals = {}
    for name, centre, samples in zip(BINS, means.tolist(), _ratio(*drawn).T, strict=True):
        known = samples[~np.isnan(samples)]
        ends = np.quantile(known, TAILS).tolist() if len(known) else (math.nan, math.nan)
        intervals[name] = Interval(centre, *ends)
    return intervals


def sum_by_image(
    positions: NDArray[np.int64], visible: Floats, values: Floats, *, images: int
) -> tuple[Floats, Floats]:
    """Sum and count N instances' values in each of I images and K bins, ignoring nan; returns (I, K) each.

    `positions` holds the image of each instance, 0..I - 1; see `paired_intervals` for the others.
    """
    known = ~np.isnan(values)
    totals, counts = np.zeros((images, len(BINS))), np.zeros((images, len(BINS)))
    for column, (name, (low, high)) in enumerate(BINS.items()):
        inside = known & ((visible > low) & (visible <= high) | (name == "all"))
        totals[:, column] = np.bincount(positions[inside], values[inside], minlength=images)
        counts[:, column] = np.bincount(positions[inside], minlength=images)
    return totals, counts


def _weigh(parts: Floats, seed_draws: NDArray[np.int64], image_draws: NDArray[np.int64]) -> Floats:
    """Return the (R, K) sums of (S, I, K) parts, each weighted by how often its seed and image are drawn."""
    seeds, images, bins = parts.shape
    by_image = image_draws @ parts.transpose(1, 0, 2).reshape(images, seeds * bins)  # (R, S K)
    weighed: Floats = (seed_draws[..., None] * by_image.reshape(-1, seeds, bins)).sum(axis=1)
    return weighed


def _ratio(totals: Floats, counts: Floats) -> Floats:
    """Return totals / counts, nan where the count is 0."""
    means = np.full(totals.shape, math.nan)
    np.divide(totals, counts, out=means, where=counts > 0)
    return means


@dataclass(frozen=True)
class Row:
    """Scores of an arm on a set, 0..1; see `Trial` and `TrialResult` for what they share.

    Attributes:
        seeds: measured seeds.
        cost_ratio: time of a step relative to the reference; nan if it was not measured.
        iou: mask IoU in true boxes, by bin of `BINS`.
        occluder: IoU of the occluder layer.
        ap: mask AP.
        occluded_ap: mask AP on the occluded split.
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
    """Difference of an arm to the reference, seed by seed, -1..1; `seeds` are those that both have, else see `Row`."""

    data: str
    arm: str
    matched: bool
    seeds: tuple[int, ...]
    steps: int
    iou: dict[str, Interval]
    ap: Interval
    occluded_ap: Interval


@dataclass(frozen=True)
class Summary:
    """Scores and differences by set, in the order of `ARMS`; arms of equal time come last."""

    rows: list[Row]
    differences: list[Difference]


def summarize(results: Sequence[TrialResult], costs: Costs) -> Summary:
    """Summarize results in the order of `read_results`; a difference needs a seed that the reference has, too."""
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
    """Compare an arm with the reference on the same seeds."""
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
    """Return an AP, nan for the scorer's -1 (no ground truth)."""
    return score if score >= 0 else math.nan
