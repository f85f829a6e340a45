"""Statistics of the trials: means by visible fraction, paired differences and their uncertainty. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BINS = {"all": (-1.0, 1.0), "visible > .98": (0.98, 1.0), ".7-.98": (0.7, 0.98), "<= .7": (-1.0, 0.7)}
"""By the visible fraction v of an instance: low < v <= high. Those that do not say it count in "all" alone."""
RESAMPLES = 2000
LEVEL = 0.95


class Spread(NamedTuple):
    """A measure over several seeds.

    Attributes:
        mean: nan where no seed has it.
        std: with N - 1; nan for less than two seeds.
    """

    mean: float
    std: float


class Interval(NamedTuple):
    """A difference of means and its 95 % interval; all nan where nothing can be compared."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


class Range(NamedTuple):
    """A difference over several seeds: mean, smallest and largest; all nan where nothing can be compared."""

    mean: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of what is not nan."""
    known = [value for value in values if not math.isnan(value)]
    return Spread(
        float(np.mean(known)) if known else math.nan, float(np.std(known, ddof=1)) if len(known) > 1 else math.nan
    )


def span(values: Sequence[float]) -> Range:
    """Mean, smallest and largest of what is not nan."""
    known = [value for value in values if not math.isnan(value)]
    return Range(float(np.mean(known)), min(known), max(known)) if known else Range(math.nan, math.nan, math.nan)


def bin_means(visible: Floats, values: Floats) -> dict[str, float]:
    """The mean of N instances' values in every bin; nan where there is none. Values that are nan are left out."""
    totals, counts = sum_by_image(np.zeros(len(values), np.int64), visible, values, images=1)
    return dict(zip(BINS, _ratio(totals[0], counts[0]).tolist(), strict=True))


def paired_intervals(
    images: NDArray[np.int64], visible: Floats, values: Floats, reference: Floats, *, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """The mean difference between two arms in every bin, with a 95 % interval of a paired hierarchical bootstrap.

    Seeds are resampled with replacement, and so are images; an image that is drawn twice is so for both arms and for
    all seeds, which saw the same ones. The difference is the mean over instances, so an image with more of them
    counts more. With few seeds the interval is too narrow: resampling S seeds shows (S - 1) / S of the
    variance between them, and of one seed nothing.

    Args:
        images: (N,) the image of each instance.
        visible: (N,) its visible fraction, 0..1, or nan.
        values: (S, N) of the arm, for each of S seeds; nan leaves the instance out for both arms.
        reference: (S, N) of the other, with the same seeds in the same order.
        resamples: drawn with a fixed seed, so that the same values give the same interval.

    Returns:
        Of each bin, values - reference. An arm has a difference of exactly 0 to itself.
    """
    _, positions = np.unique(images, return_inverse=True)
    count = int(positions.max()) + 1
    sums = [sum_by_image(positions, visible, one, images=count) for one in values - reference]
    totals, counts = (np.stack(parts) for parts in zip(*sums, strict=True))  # (S, I, K) each
    rng = np.random.default_rng(0)
    seed_draws = rng.multinomial(len(totals), np.full(len(totals), 1 / len(totals)), size=resamples)
    image_draws = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    drawn = [_weigh(part, seed_draws, image_draws) for part in (totals, counts)]
    means = _ratio(totals.sum((0, 1)), counts.sum((0, 1)))
    intervals = {}
    for name, mean, samples in zip(BINS, means.tolist(), _ratio(drawn[0], drawn[1]).T, strict=True):
        known = samples[~np.isnan(samples)]
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(known, (tail, 1 - tail)).tolist() if len(known) else (math.nan, math.nan)
        intervals[name] = Interval(mean, low, high)
    return intervals


def sum_by_image(
    positions: NDArray[np.int64], visible: Floats, values: Floats, *, images: int
) -> tuple[Floats, Floats]:
    """Sums and counts of N instances' values, for each image and each of the K bins.

    Args:
        positions: (N,) the image of each instance, 0..images - 1.
        visible: (N,) its visible fraction, 0..1, or nan.
        values: (N,); what is nan is left out.
        images: I.

    Returns:
        (I, K) sums and (I, K) counts.
    """
    known = ~np.isnan(values)
    totals, counts = np.zeros((images, len(BINS))), np.zeros((images, len(BINS)))
    for column, (name, (low, high)) in enumerate(BINS.items()):
        inside = known & ((visible > low) & (visible <= high) | (name == "all"))
        totals[:, column] = np.bincount(positions[inside], values[inside], minlength=images)
        counts[:, column] = np.bincount(positions[inside], minlength=images)
    return totals, counts


def _weigh(parts: Floats, seed_draws: NDArray[np.int64], image_draws: NDArray[np.int64]) -> Floats:
    """The (R, K) sums of (S, I, K) parts, each taken as often as its seed and its image are drawn together."""
    seeds, images, bins = parts.shape
    by_image = image_draws @ parts.transpose(1, 0, 2).reshape(images, seeds * bins)  # (R, S K)
    weighed: Floats = (seed_draws[..., None] * by_image.reshape(-1, seeds, bins)).sum(axis=1)
    return weighed


def _ratio(totals: Floats, counts: Floats) -> Floats:
    """Means of sums; nan where nothing was counted."""
    means = np.full(totals.shape, math.nan)
    np.divide(totals, counts, out=means, where=counts > 0)
    return means
