"""Scores of whole (amodal) masks: their AP, also by the visible share, and the IoU of whole and of hidden parts.

Sources: levels of the visible share from TAO-Amodal (Hsieh et al., "Tracking Any Object Amodally", 2023), whose code
counts both ends, beside finer ones of our own; the IoU of the hidden part, given the true visible mask, from C2F-Seg
(Gao et al., ICCV 2023).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bcnet_core import masks
from bcnet_core.annotations.amodal import whole_masks
from bcnet_core.annotations.coco import AMODAL_KEY, CocoFile, Record, segmentation_rle
from bcnet_core.annotations.crowding import MOST_DETECTIONS
from bcnet_core.errors import data_error
from bcnet_core.evaluation.occluded import IGNORED_AREA
from bcnet_core.evaluation.order import Order, score_order, true_pairs
from bcnet_core.masks import RLE

Shares = tuple[float, float]
"""Lowest and highest visible share of an instance, from 0 to 1; both ends count."""

OWN_SHARES: tuple[Shares, ...] = ((0.85, 1.0), (0.75, 0.85), (0.6, 0.75), (0.0, 0.6))
TAO_SHARES: tuple[Shares, ...] = ((0.8, 1.0), (0.1, 0.8), (0.0, 0.1))
"""Highly visible, partially occluded and highly occluded, as TAO-Amodal has them."""

MATCH_IOU = 0.5
"""Lowest IoU of the whole masks of an instance and of the detection that it is matched to."""

WITHOUT = "or score visible masks alone: leave out --amodal"


class PartScores(NamedTuple):
    """Mean IoU of one part of true instances: the whole, or what is hidden.

    Attributes:
        instances: number of instances that have the part.
        found: number of those that are matched to a detection.
        iou: mean over all of them, in [0, 1], where an instance that is not found counts 0; -1 where there are none.
    """

    instances: int
    found: int
    iou: float


class AmodalScores(NamedTuple):
    """Scores of whole masks besides AP; instances whose whole mask is unknown are left out.

    Attributes:
        instances: number of true instances that are no crowds, with those whose whole mask is unknown.
        whole: IoU of whole masks.
        hidden: IoU of hidden parts, given the true visible masks.
        order: order of the pairs of `true_pairs`.
    """

    instances: int
    whole: PartScores
    hidden: PartScores
    order: Order

    def content(self) -> Record:
        """Return the scores as JSON data."""
        order = {"accuracy": self.order.accuracy, "accuracy_found": self.order.accuracy_found}
        parts = {"whole": self.whole._asdict(), "hidden": self.hidden._asdict()}
        return {"instances": self.instances, **parts, "order": {**self.order._asdict(), **order}}


class ImageTruth(NamedTuple):
    """The N annotations of one image.

    Attributes:
        places: N positions in the file.
        annotations: N records.
        visible: N visible masks.
        wholes: N whole masks; None for crowds, and where it is unknown.
    """

    places: list[int]
    annotations: list[Record]
    visible: list[RLE | None]
    wholes: list[RLE | None]


class AmodalTruth(NamedTuple):
    """Ground truth with whole masks.

    Attributes:
        images: by the id of the image.
    """

    images: dict[int, ImageTruth]

    def ground_truth(self, truth: Record, shares: Shares = (0.0, 1.0)) -> Record:
        """Return ground truth for the scorers whose masks, boxes and areas are those of the whole instances.

        Instances of other visible shares, and those whose whole mask is unknown, which keep their visible one, are
        ignored: finding one is neither right nor wrong, and missing one costs nothing.

        Args:
            truth: `ground_truth` of the same file.
            shares: the visible shares that count.
        """
        annotations = list(truth["annotations"])
        for image in self.images.values():
            for place, seen, whole in zip(image.places, image.visible, image.wholes, strict=True):
                one, changed = annotations[place], Record(area=IGNORED_AREA)
                if seen is not None and whole is not None:
                    area = masks.area(whole)
                    counts = shares[0] <= masks.area(seen) / area <= shares[1]
                    box = masks.bounding_box(whole).tolist()
                    changed = {"area": area if counts else IGNORED_AREA, "segmentation": whole, "bbox": box}
                annotations[place] = one if one["iscrowd"] else {**one, **changed}
        return {**truth, "annotations": annotations}


def read_amodal_truth(coco: CocoFile) -> AmodalTruth:
    """Read the whole masks of a ground truth.

    Raises:
        BCNetError: if no instance has one, or a mask cannot be read.
    """
    places = defaultdict[int, list[int]](list)
    for place, one in enumerate(coco.annotations):
        places[one["image_id"]].append(place)
    images = {}
    for image in coco.images:
        own = [coco.annotations[place] for place in places[image["id"]]]
        visible = [segmentation_rle(one, image) for one in own]
        wholes = whole_masks(own, visible, image)
        known = [None if one.get("iscrowd", 0) else whole for one, whole in zip(own, wholes, strict=True)]
        images[image["id"]] = ImageTruth(places[image["id"]], own, visible, known)
    if not any(any(image.wholes) for image in images.values()):
        raise data_error(
            f"no instance of `{coco.path}` has an `{AMODAL_KEY}`, so whole masks cannot be scored",
            "import a set that has whole masks: bcnet data import SOURCE -o ROOT",
            WITHOUT,
        )
    return AmodalTruth(images)


def whole_results(results: Sequence[Record]) -> list[Record]:
    """Return results whose `segmentation` and `bbox` are those of whole instances, for the scorers.

    The box is `amodal_bbox`, or where that is missing the tight box of the whole mask.

    Raises:
        BCNetError: if a result has no whole mask.
    """
    missing = sum(AMODAL_KEY not in one for one in results)
    if missing:
        raise data_error(
            f"{missing:,} of {len(results):,} results have no `{AMODAL_KEY}`, so whole masks cannot be scored",
            "predict with a detector that was trained with model.amodal=true",
            WITHOUT,
        )
    return [
        {
            **{key: one[key] for key in ("image_id", "category_id", "score")},
            "segmentation": one[AMODAL_KEY],
            "bbox": one.get("amodal_bbox") or masks.bounding_box(one[AMODAL_KEY]).tolist(),
        }
        for one in results
    ]


def score_amodal(truth: AmodalTruth, results: Sequence[Record], *, max_dets: int = MOST_DETECTIONS) -> AmodalScores:
    """Score whole masks, hidden parts and the order of results.

    Each instance is matched to at most one detection, see `match_detections`.

    Args:
        truth: of the same images.
        results: COCO results that have whole masks.
        max_dets: number of detections of each category in an image that count.
    """
    by_image = defaultdict[int, list[Record]](list)
    for one in results:
        by_image[one["image_id"]].append(one)
    whole: list[float | None] = []  # None: not found
    hidden: list[float | None] = []
    orders, instances = [], 0
    for number, image in truth.images.items():
        detections = by_image[number]
        matches = match_detections(image, detections, max_dets=max_dets)
        for index, (seen, true) in enumerate(zip(image.visible, image.wholes, strict=True)):
            if seen is not None and true is not None:
                mask = detections[matches[index]][AMODAL_KEY] if index in matches else None
                whole.append(None if mask is None else masks.iou(mask, true))
                if masks.area(true) > masks.area(seen):
                    hidden.append(None if mask is None else hidden_iou(mask, true, seen))
        orders.append(score_order(true_pairs(image.annotations, image.visible, image.wholes), matches, detections))
        instances += sum(not one.get("iscrowd", 0) for one in image.annotations)
    return AmodalScores(instances, _part(whole), _part(hidden), Order(*map(sum, zip(*orders, strict=True))))


def _part(ious: Sequence[float | None]) -> PartScores:
    found = [iou for iou in ious if iou is not None]
    return PartScores(len(ious), len(found), sum(found) / len(ious) if ious else -1.0)


def hidden_iou(found: RLE, whole: RLE, visible: RLE) -> float:
    """Return the IoU of the hidden part of an instance, given its true visible mask; nan where nothing is hidden."""
    hidden = masks.difference(whole, visible)
    return masks.iou(masks.difference(found, visible), hidden) if masks.area(hidden) else np.nan


def match_detections(image: ImageTruth, detections: Sequence[Record], *, max_dets: int) -> dict[int, int]:
    """Match the instances of an image that have a whole mask to detections of their category, one to one.

    COCO's rule on whole masks: the detections choose in the order of their scores, each the instance that is still
    free and overlaps it most, with an IoU of at least `MATCH_IOU`.

    Args:
        image: the truth.
        detections: results of the image that have whole masks.
        max_dets: number of detections of each category that count, those with the highest scores.

    Returns:
        The position of the detection for each position of a matched annotation.
    """
    instances, candidates = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list)
    for index, (one, whole) in enumerate(zip(image.annotations, image.wholes, strict=True)):
        if whole is not None:
            instances[one["category_id"]].append(index)
    for index in sorted(range(len(detections)), key=lambda index: -detections[index]["score"]):
        candidates[detections[index]["category_id"]].append(index)
    matches: dict[int, int] = {}
    for category, own in instances.items():
        best = candidates[category][:max_dets]
        true = [whole for index in own if (whole := image.wholes[index]) is not None]
        for found, row in zip(best, masks.ious([detections[index][AMODAL_KEY] for index in best], true), strict=True):
            free = [(iou, index) for iou, index in zip(row.tolist(), own, strict=True) if index not in matches]
            iou, index = max(free, default=(0.0, 0))  # the last of equal ones, as in COCO
            if iou >= MATCH_IOU:
                matches[index] = found
    return matches
