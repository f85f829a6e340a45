"""What is measured of a trained detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.annotations.crowding import detections_to_count
from bcnet_core.annotations.rates import LEVEL_FROM
from bcnet_core.annotations.split import SplitRule, measure_images
from bcnet_core.config.schema import Recipe
from bcnet_core.data.loaders import read_truth
from bcnet_core.evaluation.coco import evaluate, ground_truth
from bcnet_core.evaluation.predict import predict_images
from bcnet_core.evaluation.report import ScoreOptions, score_results
from bcnet_core.evaluation.true_boxes import score_true_boxes
from bcnet_core.model.detectors import Detector
from bcnet_core.reporting import SilentReporter
from benchmarks.study.oracles import score_oracles

SCORES = {
    "mask_AP": "mask AP",
    "mask_AP50": "AP50",
    "mask_AP75": "AP75",
    "mask_AP_none": "AP, occlusion none",
    "mask_AP_light": "light",
    "mask_AP_heavy": "heavy",
    "recall_occluded": "recall of occluded",
    "boundary_AP": "boundary AP",
    "box_AP": "box AP",
    "iou": "IoU in true boxes",
    "iou_heavy": "the same, heavy",
}
"""Scores of a trial and their titles in tables."""


class Measured(NamedTuple):
    """The scores of a detector by their names, and its COCO results."""

    scores: dict[str, float]
    results: list[Record]


class Measurement(NamedTuple):
    """What a study measures of every trial.

    Attributes:
        scores: titles in tables by the names of the scores; `mask_AP` is among them.
        measure: measures a detector, in evaluation mode, on the validation set of its resolved recipe.
    """

    scores: dict[str, str]
    measure: Callable[[Detector, Recipe], Measured]


def measure(detector: Detector, recipe: Recipe) -> Measured:
    """Measure the `SCORES` of a detector on the validation set of its recipe.

    Args:
        detector: in evaluation mode.
        recipe: resolved; as many detections count as it keeps.
    """
    coco, (_, image_dir) = read_truth(recipe.data, recipe.data.val), recipe.data.locate(recipe.data.val)
    most = detections_to_count(recipe.model.most_detections)
    results = predict_images(detector, coco.images, image_dir, reporter=SilentReporter())
    truth = ground_truth(coco)
    report = score_results(coco, results, ScoreOptions(occlusion=True, max_dets=most), truth=truth)
    inside = score_true_boxes(detector, with_rates(coco), image_dir, reporter=SilentReporter())
    overlaps, heavy = inside.scores["occludee"], inside.visible <= 1 - LEVEL_FROM["heavy"]
    masks = report.rows["masks"]
    scores = {
        "mask_AP": masks.AP,
        "mask_AP50": masks.AP50,
        "mask_AP75": masks.AP75,
        **{f"mask_AP_{level}": report.rows[f"masks, occlusion {level}"].AP for level in LEVEL_FROM},
        "recall_occluded": report.recall["occluded"].share,
        "boundary_AP": evaluate(truth, results, "boundary", max_dets=most).scores.AP,
        "box_AP": report.rows["boxes"].AP,
        "iou": float(np.nanmean(overlaps)),
        "iou_heavy": float(np.nanmean(overlaps[heavy])) if heavy.any() else -1.0,
    }
    return Measured(scores, results)


CROWDS = Measurement(SCORES, measure)
"""Objects in crowds: AP by occlusion, recall of the occluded, and masks in true boxes."""


def measure_oracles(detector: Detector, recipe: Recipe, results: Sequence[Record]) -> dict[str, float]:
    """Return what bounds a detector on the validation set of its recipe, by the names in `ORACLES`.

    Args:
        detector: in evaluation mode.
        recipe: resolved.
        results: what the detector finds in the images of the set.
    """
    coco, (_, image_dir) = read_truth(recipe.data, recipe.data.val), recipe.data.locate(recipe.data.val)
    most = detections_to_count(recipe.model.most_detections)
    return score_oracles(detector, coco, image_dir, results, truth=ground_truth(coco), max_dets=most)


def mask_ap(detector: Detector, recipe: Recipe) -> float:
    """Return the mask AP of a detector on the validation set of its recipe."""
    coco, (_, image_dir) = read_truth(recipe.data, recipe.data.val), recipe.data.locate(recipe.data.val)
    results = predict_images(detector, coco.images, image_dir, reporter=SilentReporter())
    most = detections_to_count(recipe.model.most_detections)
    return evaluate(ground_truth(coco), results, "segm", max_dets=most).scores.AP


def with_rates(coco: CocoFile) -> CocoFile:
    """Return the annotations with the box IoU of their nearest neighbor as `occlusion_rate`; crowds are left out."""
    rates = measure_images(coco, measure=SplitRule().measure)
    rated = [
        {**one, "occlusion_rate": float(rate)}
        for image, found in coco.annotations_by_image().items()
        for one, rate in zip([one for one in found if not one.get("iscrowd", 0)], rates[image], strict=True)
    ]
    return CocoFile(coco.path, {**coco.content, "annotations": rated})
