"""What bounds a detector: its mask AP if one of its parts were perfect."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, segmentation_rle
from bcnet_core.annotations.occluder import pixel_corners
from bcnet_core.evaluation.coco import evaluate
from bcnet_core.evaluation.true_boxes import is_scored
from bcnet_core.files.images import read_listed
from bcnet_core.masks import RLE
from bcnet_core.masks.crops import crop_rles, paste_rles
from bcnet_core.model.detectors import Detector
from bcnet_core.model.losses import crop_to_boxes

ORACLES = {
    "boxes": "true boxes and classes, own masks",
    "masks": "own boxes and classes, true masks",
    "resolution": "true boxes, classes and masks, at the head's resolution",
}
"""Bounds and their titles in tables; all are mask AP."""


def score_oracles(
    detector: Detector, coco: CocoFile, image_dir: Path, results: Sequence[Record], *, truth: Record, max_dets: int
) -> dict[str, float]:
    """Return the `ORACLES` of a detector.

    True boxes and classes have the score 1. A true mask is cut off at the detected box that it is put into.

    Args:
        detector: in evaluation mode.
        coco: ground truth.
        image_dir: folder of its images.
        results: what the detector finds in them.
        truth: `ground_truth(coco)`.
        max_dets: number of detections of each category in an image that count.
    """
    own, perfect = [], []
    grouped = coco.annotations_by_image()
    for image in coco.images:
        scored = [one for one in grouped[image["id"]] if is_scored(one)]
        if scored:
            boxes = box_convert(torch.tensor([one["bbox"] for one in scored], dtype=torch.float32), "xywh", "xyxy")
            (found,) = detector.predict_inside([read_listed(image_dir, image)], [boxes])
            true = crop_rles([segmentation_rle(one, image) for one in scored])
            crops = crop_to_boxes(true, torch.arange(len(boxes)), boxes, size=found.occludee_mask.shape[-1])
            at_best = paste_rles(crops.float(), boxes, *found.image_size)
            own += [_result(*pair) for pair in zip(scored, found.rles, strict=True)]
            perfect += [_result(*pair) for pair in zip(scored, at_best, strict=True)]
    score = partial(evaluate, truth, kind="segm", max_dets=max_dets)
    with_true_masks = true_masks(coco, results)
    return {
        "boxes": score(results=own).scores.AP,
        "masks": score(results=with_true_masks).scores.AP,
        "resolution": score(results=perfect).scores.AP,
    }


def _result(annotation: Record, mask: RLE) -> Record:
    kept = {key: annotation[key] for key in ("image_id", "category_id", "bbox")}
    return {**kept, "score": 1.0, "segmentation": mask}


def true_masks(coco: CocoFile, results: Sequence[Record]) -> list[Record]:
    """Return results with the masks of the ground truth: of the instance of their class whose box fits best.

    Each is cut off at the box of the result; it is empty where no instance meets the box.
    """
    annotations: dict[tuple[int, int], list[Record]] = defaultdict(list)
    for one in filter(is_scored, coco.annotations):
        annotations[one["image_id"], one["category_id"]].append(one)
    found: dict[tuple[int, int], list[Record]] = defaultdict(list)
    for result in results:
        found[result["image_id"], result["category_id"]].append(result)
    images = {image["id"]: image for image in coco.images}
    return [
        result
        for (image, category), group in found.items()
        for result in _with_true_masks(images[image], annotations[image, category], group)
    ]


def _with_true_masks(image: Record, annotations: Sequence[Record], results: Sequence[Record]) -> list[Record]:
    """Do the work of `true_masks` for the objects and results of one class in one image."""
    size = (image["height"], image["width"])
    boxes = np.array([one["bbox"] for one in results], dtype=np.float64)
    corners = [masks.from_box(*box, *size) for box in pixel_corners(_outward(boxes), *size)]
    if not annotations:
        nothing = masks.from_box(0, 0, 0, 0, *size)
        return [{**one, "segmentation": nothing} for one in results]
    rles = [segmentation_rle(one, image) for one in annotations]
    true = np.array([one["bbox"] for one in annotations], dtype=np.float64)
    first, second = (box_convert(torch.from_numpy(part), "xywh", "xyxy") for part in (boxes, true))
    best = box_iou(first, second).argmax(1).tolist()
    chosen = [rles[index] for index in best]
    return [
        {**one, "segmentation": masks.intersection(rle, box)}
        for one, rle, box in zip(results, chosen, corners, strict=True)
        if rle is not None
    ]


def _outward(boxes: np.ndarray) -> np.ndarray:
    """Grow (N, 4) xywh boxes to whole pixels."""
    ends = np.ceil(boxes[:, :2] + boxes[:, 2:])
    starts = np.floor(boxes[:, :2])
    return np.concatenate([starts, ends - starts], axis=1)
