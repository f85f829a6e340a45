"""Scores of single images, and two models compared on the same images by a paired bootstrap."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import faster_coco_eval.faster_eval_api_cpp as coco_eval
import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, segmentation_rle
from bcnet_core.annotations.crowding import MOST_DETECTIONS
from bcnet_core.annotations.rates import LEVEL_FROM
from bcnet_core.evaluation.coco import ScoreKind, ground_truth, mean_found, prepare
from bcnet_core.evaluation.occluded import annotation_levels, truth_of_level
from bcnet_core.evaluation.report import ROWS
from bcnet_core.evaluation.results import has_masks
from bcnet_core.masks import RLE
from bcnet_core.reporting import Progress, Reporter

FEW_IMAGES = 20
"""Images below which the intervals of a comparison are called too narrow."""
PERCENTILES = (2.5, 97.5)
"""Bounds of the 95 % interval of the resampled differences."""


class Comparison(NamedTuple):
    """AP of two models, in [0, 1], or both -1 where there is nothing to find.

    `low` and `high` bound the 95 % interval of second - first.
    """

    first: float
    second: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """AP of the second model minus AP of the first."""
        return self.second - self.first

    @property
    def is_measured(self) -> bool:
        """Whether there was anything to find."""
        return min(self.first, self.second) >= 0

    @property
    def is_certain(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def compare_results(
    coco: CocoFile,
    first: Sequence[Record],
    second: Sequence[Record],
    *,
    resamples: int,
    seed: int,
    max_dets: int = MOST_DETECTIONS,
    reporter: Reporter,
) -> dict[str, Comparison]:
    """Compare two models by mask AP (box AP if one of them has no masks), overall and by occlusion level.

    Raises:
        BCNetError: if the ground truth lacks masks.
    """
    with_masks = has_masks(first, coco) and has_masks(second, coco)
    kind: ScoreKind = "segm" if with_masks else "bbox"
    truth, levels = ground_truth(coco, need_masks=with_masks), annotation_levels(coco)
    truths = {f"{ROWS[kind]}, all": truth}
    truths |= {f"{ROWS[kind]}, occlusion {level}": truth_of_level(truth, levels, level) for level in LEVEL_FROM}
    if len(coco.images) < FEW_IMAGES:
        reporter.warning(f"draws of {len(coco.images):,} images say little: intervals of so few are too narrow")
    with reporter.progress("resampling", resamples * len(truths)) as progress:
        return {
            name: _compare(
                [MatchedResults(one, results, kind, max_dets=max_dets) for results in (first, second)],
                resamples,
                seed,
                progress,
            )
            for name, one in truths.items()
        }


def _compare(models: Sequence[MatchedResults], resamples: int, seed: int, progress: Progress) -> Comparison:
    """Compare two models by AP over images drawn with replacement, as many as there are, the same for both."""
    everything = np.arange(len(models[0].image_ids))
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


class MatchedResults:
    """Detections of one model matched to ground truth image by image, for the AP of any selection of images."""

    def __init__(
        self, truth: Record, results: Sequence[Record], kind: ScoreKind, *, max_dets: int = MOST_DETECTIONS
    ) -> None:
        evaluation: Any = prepare(truth, results, kind, "faster-coco-eval")
        params = evaluation.params
        params.areaRng, params.areaRngLbl, params.maxDets = params.areaRng[:1], params.areaRngLbl[:1], [max_dets]
        evaluation.separate_eval = True
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
        self.image_ids: list[int] = list(params.imgIds)
        self._params = evaluation._paramsEval
        matches = np.array(evaluation._evalImgs_cpp, dtype=object).reshape(-1, len(self.image_ids))
        positions = {image: position for position, image in enumerate(params.imgIds)}
        present: dict[int, set[int]] = {}
        for one in (*truth["annotations"], *results):
            present.setdefault(one["category_id"], set()).add(positions[one["image_id"]])
        self._categories = [
            (np.array(sorted(present[category])), row)
            for category, row in zip(params.catIds, matches, strict=True)
            if category in present
        ]

    def precision(self, drawn: NDArray[np.int64]) -> float:
        """Return AP over the images at these positions, which may repeat; -1 if there is nothing to find.

        Each category is accumulated over the images that contain it only: nine in ten do not.
        """
        times = np.bincount(drawn, minlength=len(self.image_ids))
        parts = []
        for positions, row in self._categories:
            matches = row[np.repeat(positions, times[positions])].tolist()
            if not matches:
                continue
            self._params.catIds, self._params.imgIds = [0], list(range(len(matches)))
            parts.append(np.asarray(coco_eval.COCOevalAccumulate(self._params, matches)["precision"]))
        return mean_found(np.concatenate(parts) if parts else np.zeros(0))


def image_precisions(coco: CocoFile, results: Sequence[Record]) -> dict[int, float]:
    """Return the mask AP of each image on its own, over the categories in it, in [0, 1], by image id.

    All detections count, however many. Images that have no instance are left out.

    Raises:
        BCNetError: if the ground truth lacks masks.
    """
    matched = MatchedResults(ground_truth(coco), results, "segm", max_dets=max(len(results), 1))
    precisions = {image: matched.precision(np.array([position])) for position, image in enumerate(matched.image_ids)}
    return {image: precision for image, precision in precisions.items() if precision >= 0}


def mean_ious(coco: CocoFile, results: Sequence[Record], *, score: float) -> dict[int, float]:
    """Return for each image the mean over its instances of the IoU with the best detection of the same category.

    Crowds, instances without a mask, detections below `score` and images without any instance do not count.
    """
    found: dict[tuple[int, int], list[RLE]] = {}
    for result in results:
        if result["score"] >= score:
            found.setdefault((result["image_id"], result["category_id"]), []).append(result["segmentation"])
    images = {image["id"]: image for image in coco.images}
    ious: dict[int, list[float]] = {}
    for one in coco.annotations:
        rle = segmentation_rle(one, images[one["image_id"]])
        if one.get("iscrowd", 0) or rle is None or not masks.area(rle):
            continue
        candidates = found.get((one["image_id"], one["category_id"]), [])
        best = max((masks.iou(candidate, rle) for candidate in candidates), default=0.0)
        ious.setdefault(one["image_id"], []).append(best)
    return {image: sum(values) / len(values) for image, values in ious.items()}
