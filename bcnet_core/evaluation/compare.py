"""Two models on the same images: the difference of their AP, and how sure it is (paired bootstrap over images)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.annotations.rates import LEVEL_FROM
from bcnet_core.evaluation.coco import Kind, ground_truth
from bcnet_core.evaluation.matched import MatchedResults
from bcnet_core.evaluation.occluded import annotation_levels, truth_of_level
from bcnet_core.evaluation.report import ROWS
from bcnet_core.reporting import Progress, Reporter

PERCENTILES = (2.5, 97.5)
"""Of the resampled differences: a 95 % interval."""


class Comparison(NamedTuple):
    """Two models; all in [0, 1], or -1, both of them, where there is nothing to find.

    Attributes:
        first: AP of the first.
        second: AP of the second.
        low: of the 95 % interval of second - first.
        high: of the same.
    """

    first: float
    second: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """How much better the second is."""
        return self.second - self.first

    @property
    def is_measured(self) -> bool:
        """Whether there was anything to find."""
        return min(self.first, self.second) >= 0

    @property
    def is_certain(self) -> bool:
        """Whether the interval excludes no difference at all."""
        return self.low > 0 or self.high < 0


def compare_results(
    coco: CocoFile,
    first: Sequence[Record],
    second: Sequence[Record],
    *,
    resamples: int,
    seed: int,
    reporter: Reporter,
) -> dict[str, Comparison]:
    """Compare two models by mask AP (box AP where one of them has no masks), overall and by occlusion level.

    Args:
        coco: ground truth.
        first: results from `read_results`.
        second: the same.
        resamples: how often images are drawn.
        seed: of the draws.
        reporter: told of the progress.

    Raises:
        BCNetError: if the ground truth lacks masks.
    """
    with_masks = all("segmentation" in one[0] for one in (first, second))
    kind: Kind = "segm" if with_masks else "bbox"
    truth, levels = ground_truth(coco, need_masks=with_masks), annotation_levels(coco)
    truths = {f"{ROWS[kind]}, all": truth}
    truths |= {f"{ROWS[kind]}, occlusion {level}": truth_of_level(truth, levels, level) for level in LEVEL_FROM}
    with reporter.progress("resampling", resamples * len(truths)) as progress:
        return {
            name: compare(one, first, second, kind, resamples=resamples, seed=seed, progress=progress)
            for name, one in truths.items()
        }


def compare(
    truth: Record,
    first: Sequence[Record],
    second: Sequence[Record],
    kind: Kind,
    *,
    resamples: int,
    seed: int,
    progress: Progress,
) -> Comparison:
    """Compare two models by mask or box AP.

    Images are drawn with replacement, as many as there are, the same for both models, and the library that computes
    AP computes it again of what was matched in them.

    Args:
        truth: from `ground_truth`, or with some instances ignored.
        first: COCO results.
        second: COCO results.
        kind: what is compared.
        resamples: how often images are drawn.
        seed: of the draws.
        progress: advanced once for every draw.
    """
    models = [MatchedResults(truth, results, kind) for results in (first, second)]
    everything = np.arange(models[0].images)
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(resamples):
        drawn = rng.integers(len(everything), size=len(everything))
        one, two = (model.precision(drawn) for model in models)
        differences.append(two - one)
        progress.advance()
    low, high = np.percentile(differences, PERCENTILES).tolist()
    one, two = (model.precision(everything) for model in models)
    return Comparison(one, two, low, high)
