"""What is measured of whole masks: AP, and IoU in true boxes by part of the object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import AMODAL_KEY, CocoFile
from bcnet_core.annotations.crowding import detections_to_count
from bcnet_core.config.schema import Recipe
from bcnet_core.data.loaders import read_truth
from bcnet_core.errors import data_error
from bcnet_core.evaluation.amodal import AmodalTruth, read_amodal_truth, whole_results
from bcnet_core.evaluation.coco import evaluate, ground_truth
from bcnet_core.evaluation.predict import predict_images
from bcnet_core.evaluation.true_boxes import score_true_boxes
from bcnet_core.model.detectors import Detector
from bcnet_core.reporting import SilentReporter
from benchmarks.study.measures import Measured, Measurement

LEAST_HIDDEN = 0.1
"""Hidden share from which an instance counts as one with a hidden part."""
SCORES = {
    "mask_AP": "AP of visible masks",
    "whole_AP": "AP of whole masks",
    "box_AP": "AP of visible boxes",
    "whole_box_AP": "AP of whole boxes",
    "iou": "IoU in true boxes: visible",
    "iou_whole": "whole",
    "iou_whole_occluded": "whole, 10 % and more hidden",
    "iou_hidden": "hidden, 10 % and more",
    "order": "who is in front",
    "iou_of_visible": "true visible mask as the whole one",
}
"""Scores of a trial and their titles in tables."""


def require_wholes(recipe: Recipe) -> None:
    """Require the validation set of a recipe to have whole masks, before anything is trained.

    Raises:
        BCNetError: if no instance has one, or the set cannot be read.
    """
    coco = read_truth(recipe.data, recipe.data.val)
    if not any(one.get(AMODAL_KEY) for one in coco.annotations):
        raise data_error(
            f"no instance of `{coco.path}` has a whole mask (`{AMODAL_KEY}`), which this study measures",
            "compose a set that has them: bcnet synth paste, bcnet synth shapes",
        )


def measure(detector: Detector, recipe: Recipe) -> Measured:
    """Measure the `SCORES` of a detector on the validation set of its recipe.

    A detector without whole masks is scored with its visible ones in their place: of hidden parts it finds nothing.

    Args:
        detector: in evaluation mode.
        recipe: resolved; as many detections count as it keeps.

    Raises:
        BCNetError: if no instance of the set has a whole mask.
    """
    coco, (_, image_dir) = read_truth(recipe.data, recipe.data.val), recipe.data.locate(recipe.data.val)
    wholes = read_amodal_truth(coco)
    most = detections_to_count(recipe.model.most_detections)
    results = predict_images(detector, coco.images, image_dir, reporter=SilentReporter())
    truth = ground_truth(coco)
    whole_truth, whole_found = (
        wholes.ground_truth(truth),
        whole_results([{AMODAL_KEY: one["segmentation"], **one} for one in results]),
    )
    inside = score_true_boxes(detector, with_hidden_shares(coco, wholes), image_dir, reporter=SilentReporter())
    occluded = 1 - inside.visible >= LEAST_HIDDEN
    whole_iou = inside.scores.get("amodal", np.full(len(occluded), np.nan))
    hidden_iou = inside.scores.get("hidden", np.zeros(len(occluded)))
    scores = {
        "mask_AP": evaluate(truth, results, "segm", max_dets=most).scores.AP,
        "whole_AP": evaluate(whole_truth, whole_found, "segm", max_dets=most).scores.AP,
        "box_AP": evaluate(truth, results, "bbox", max_dets=most).scores.AP,
        "whole_box_AP": evaluate(whole_truth, whole_found, "bbox", max_dets=most).scores.AP,
        "iou": _mean(inside.scores["occludee"]),
        "iou_whole": _mean(whole_iou),
        "iou_whole_occluded": _mean(whole_iou[occluded]),
        "iou_hidden": _mean(hidden_iou[occluded]),
        "order": _mean(inside.order),
        "iou_of_visible": _mean(inside.visible[occluded]),
    }
    return Measured(scores, results)


def with_hidden_shares(coco: CocoFile, truth: AmodalTruth) -> CocoFile:
    """Return the annotations with the hidden share of their whole mask as `occlusion_rate`; nan where it is unknown."""
    annotations = list(coco.annotations)
    for image in truth.images.values():
        for place, one, seen, whole in zip(*image, strict=True):
            rate = np.nan if seen is None or whole is None else 1 - masks.area(seen) / masks.area(whole)
            annotations[place] = {**one, "occlusion_rate": rate}
    return CocoFile(coco.path, {**coco.content, "annotations": annotations})


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the known values; -1 if there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else -1.0


WHOLE_MASKS = Measurement(SCORES, measure)
"""Whole masks and their parts."""
