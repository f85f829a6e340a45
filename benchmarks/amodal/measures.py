"""What is measured of whole masks: AP, and IoU in true boxes by part of the object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.amodal import whole_masks
from bcnet_core.annotations.coco import AMODAL_KEY, CocoFile, Record, segmentation_rle
from bcnet_core.annotations.crowding import detections_to_count
from bcnet_core.config.schema import Recipe
from bcnet_core.data.loaders import read_truth
from bcnet_core.errors import data_error
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
    "iou_of_visible": "true visible mask as the whole one",
}
"""Scores of a trial and their titles in tables."""


class WholeTruth:
    """The validation set of a recipe, whose instances all have a whole mask.

    Attributes:
        visible: annotations as they are, with the hidden share of each as `occlusion_rate`.
        whole: annotations whose mask, box and area are those of the whole object.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Read it.

        Raises:
            BCNetError: if an instance has no whole mask.
        """
        coco = read_truth(recipe.data, recipe.data.val)
        visible, whole = list[Record](), list[Record]()
        grouped = coco.annotations_by_image()
        for image in coco.images:
            annotations = grouped[image["id"]]
            rles = [segmentation_rle(one, image) for one in annotations]
            for one, seen, rle in zip(annotations, rles, whole_masks(annotations, rles, image), strict=True):
                crowd = bool(one.get("iscrowd", 0))
                if not crowd and (seen is None or rle is None):
                    raise data_error(
                        f"annotation {one['id']} of `{coco.path}` has no whole mask, which this study measures",
                        f"take a set whose instances all have an `{AMODAL_KEY}`, such as bcnet synth shapes",
                    )
                visible.append(one if seen is None or rle is None else {**one, "occlusion_rate": _hidden(seen, rle)})
                whole.append(one if rle is None or crowd else _whole(one, rle))
        self.visible = CocoFile(coco.path, {**coco.content, "annotations": visible})
        self.whole = CocoFile(coco.path, {**coco.content, "annotations": whole})


def _hidden(visible: masks.RLE, whole: masks.RLE) -> float:
    return 1 - masks.area(visible) / masks.area(whole)


def _whole(annotation: Record, mask: masks.RLE) -> Record:
    box = masks.bounding_box(mask).tolist()
    return {**annotation, "segmentation": mask, "bbox": box, "area": masks.area(mask)}


def measure(detector: Detector, recipe: Recipe) -> Measured:
    """Measure the `SCORES` of a detector on the validation set of its recipe.

    A detector without whole masks is scored with its visible ones in their place; of an object's hidden part it finds
    nothing.

    Args:
        detector: in evaluation mode.
        recipe: resolved; as many detections count as it keeps.

    Raises:
        BCNetError: if an instance of the set has no whole mask.
    """
    truth, (_, image_dir) = WholeTruth(recipe), recipe.data.locate(recipe.data.val)
    most = detections_to_count(recipe.model.most_detections)
    results = predict_images(detector, truth.visible.images, image_dir, reporter=SilentReporter())
    seen, whole = ground_truth(truth.visible), ground_truth(truth.whole)
    wholes = [_whole_result(one) for one in results]
    inside = score_true_boxes(detector, truth.visible, image_dir, reporter=SilentReporter())
    occluded = 1 - inside.visible >= LEAST_HIDDEN
    whole_iou = inside.scores.get("amodal", np.full(len(occluded), np.nan))
    hidden_iou = inside.scores.get("hidden", np.zeros(len(occluded)))
    scores = {
        "mask_AP": evaluate(seen, results, "segm", max_dets=most).scores.AP,
        "whole_AP": evaluate(whole, wholes, "segm", max_dets=most).scores.AP,
        "box_AP": evaluate(seen, results, "bbox", max_dets=most).scores.AP,
        "whole_box_AP": evaluate(whole, wholes, "bbox", max_dets=most).scores.AP,
        "iou": _mean(inside.scores["occludee"]),
        "iou_whole": _mean(whole_iou),
        "iou_whole_occluded": _mean(whole_iou[occluded]),
        "iou_hidden": _mean(hidden_iou[occluded]),
        "iou_of_visible": _mean(inside.visible[occluded]),
    }
    return Measured(scores, results)


def _whole_result(result: Record) -> Record:
    mask, box = result.get(AMODAL_KEY, result["segmentation"]), result.get("amodal_bbox", result["bbox"])
    return {**result, "segmentation": mask, "bbox": box}


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the known values; -1 if there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else -1.0


WHOLE_MASKS = Measurement(SCORES, measure)
"""Whole masks and their parts."""
