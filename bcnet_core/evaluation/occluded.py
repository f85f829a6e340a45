"""Scores by occlusion: AP by level of the ground truth, and the recall of occluded and of separated objects.

Occluded COCO and Separated COCO (Zhan et al., "A Tri-Layer Plugin to Improve Occluded Detection", BMVC 2022) count
which hidden objects a model finds: those whose visible part is in one piece, and those that an occluder cuts into
several. Their lists are of val2017; `hidden_objects` derives such lists for any COCO file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, segmentation_rle
from bcnet_core.annotations.occluder import box_intersections, record_boxes, row_blocks
from bcnet_core.annotations.rates import Level, occlusion_level
from bcnet_core.annotations.split import Rates, measure_images
from bcnet_core.errors import data_error
from bcnet_core.weights.files import read_weight_file

IGNORED_AREA = 1e11
"""Area of an instance that does not count: larger than every size range that COCO scores."""

HIT_SCORE, HIT_IOU = 0.3, 0.75
"""Lowest score and mask IoU at which a detection of the right category hits an object."""

PIECE_SHARE, PIECE_PIXELS = 0.05, 20
"""Smallest share of a mask, and number of pixels, that counts as a piece of it."""


class HiddenObject(NamedTuple):
    """An object that something may hide, and the RLE of its visible part."""

    image_id: int
    category_id: int
    mask: masks.RLE


class Recall(NamedTuple):
    """Number of objects of a list that were found."""

    found: int
    objects: int

    @property
    def share(self) -> float:
        """Recall in [0, 1]; -1 for an empty list."""
        return self.found / self.objects if self.objects else -1.0


def annotation_levels(coco: CocoFile, rates: Rates | None = None) -> list[Level | None]:
    """Return the occlusion level of every annotation, in the order of the file; None for a crowd.

    The rates are those of `measure_images`; without them box IoU is measured.
    """
    rates = measure_images(coco, measure="iou") if rates is None else rates
    queues = {image: iter(found.tolist()) for image, found in rates.items()}
    return [
        None if one.get("iscrowd", 0) else occlusion_level(next(queues[one["image_id"]])) for one in coco.annotations
    ]


def truth_of_level(truth: Record, levels: Sequence[Level | None], level: Level) -> Record:
    """Return ground truth in which only the instances of one level count.

    Finding one of the others is neither right nor wrong, and missing one costs nothing.
    """
    annotations = [
        one if own == level else {**one, "area": IGNORED_AREA}
        for one, own in zip(truth["annotations"], levels, strict=True)
    ]
    return {**truth, "annotations": annotations}


def count_recall(objects: Sequence[HiddenObject], results: Sequence[Record]) -> Recall:
    """Count the objects that a model finds: same category, score >= 0.3, mask IoU >= 0.75."""
    candidates: dict[tuple[int, int], list[masks.RLE]] = {(one.image_id, one.category_id): [] for one in objects}
    for result in results:
        key = (result["image_id"], result["category_id"])
        if key in candidates and result["score"] >= HIT_SCORE:
            candidates[key].append(result["segmentation"])
    found = sum(
        any(masks.iou(mask, one.mask) >= HIT_IOU for mask in candidates[one.image_id, one.category_id])
        for one in objects
    )
    return Recall(found, len(objects))


def hidden_objects(coco: CocoFile, levels: Sequence[Level | None]) -> tuple[list[HiddenObject], list[HiddenObject]]:
    """Derive the occluded and the separated objects of a COCO file.

    An object is separated if its mask has two pieces or more, and the mask of a neighbor has pixels between the
    boxes of two of them, or where these boxes overlap. It is occluded if its mask is in one piece and its level (from
    `annotation_levels`) is "heavy": a box IoU of 0.2 with a neighbor. Crowds are neither.

    Raises:
        BCNetError: if a mask cannot be read.
    """
    level_by_annotation = dict(zip(map(id, coco.annotations), levels, strict=True))
    grouped = coco.annotations_by_image()
    occluded, separated = [], []
    for image in coco.images:
        instances = [one for one in grouped[image["id"]] if not one.get("iscrowd", 0)]
        rles = [segmentation_rle(one, image) for one in instances]
        for index, (one, rle, row) in enumerate(zip(instances, rles, _overlaps(record_boxes(instances)), strict=True)):
            if rle is None or not masks.area(rle):
                continue
            neighbors = [other for j in row.nonzero()[0] if j != index and (other := rles[j]) is not None]
            object_ = HiddenObject(image["id"], one["category_id"], rle)
            pieces = _pieces(rle)
            if len(pieces) > 1 and neighbors and _lies_between(pieces, masks.union(neighbors)):
                separated.append(object_)
            elif len(pieces) == 1 and level_by_annotation[id(one)] == "heavy":
                occluded.append(object_)
    return occluded, separated


def _overlaps(boxes: NDArray[np.float64]) -> Iterator[NDArray[np.bool_]]:
    """Yield for each of N boxes (N,) whether it touches the others."""
    for rows in row_blocks(len(boxes)):
        yield from box_intersections(boxes, rows, pixel=1.0)[0] > 0


def _pieces(rle: masks.RLE) -> list[NDArray[np.int32]]:
    """Return the bounding boxes [x, y, width, height, pixels] of the pieces of a mask."""
    least = max(PIECE_PIXELS, PIECE_SHARE * masks.area(rle))
    x, y, width, height = masks.bounding_box(rle).astype(int).tolist()
    crop = masks.decode_window(rle, x, y, x + width, y + height).view(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(crop, connectivity=8)
    return [row + np.array([x, y, 0, 0, 0], np.int32) for row in stats[1:] if row[4] >= least] or [stats[0]]


def _lies_between(pieces: Sequence[NDArray[np.int32]], others: masks.RLE) -> bool:
    """Return whether other masks have pixels in the gap, or the overlap, between the boxes of two pieces."""
    height, width = others["size"]
    for i, first in enumerate(pieces):
        for second in pieces[:i]:
            x0, x1 = sorted((max(first[0], second[0]), min(first[0] + first[2], second[0] + second[2])))
            y0, y1 = sorted((max(first[1], second[1]), min(first[1] + first[3], second[1] + second[3])))
            gap = masks.from_box(int(x0), int(y0), int(x1), int(y1), height, width)
            if masks.area(masks.intersection(others, gap)) > 0:
                return True
    return False


def read_objects(path: Path, coco: CocoFile) -> list[HiddenObject]:
    """Read a published list, `occluded_coco.pkl` or `separated_coco.pkl`, without running code from it.

    Each entry holds a file name, a category name, an unused value, a box and an RLE.

    Raises:
        BCNetError: if the file is missing, holds anything but plain data and numbers, or names other images.
    """
    expected = "expected: occluded_coco.pkl or separated_coco.pkl of Zhan et al."
    content = read_weight_file(path, kind="a list of objects", hints=(expected,))
    images = {image["file_name"]: image for image in coco.images}
    categories = {str(category["name"]): category["id"] for category in coco.categories}
    try:
        entries = [(str(entry[0]), str(entry[1]), entry[4]) for entry in content]
    except (TypeError, LookupError, ValueError):
        raise data_error(f"`{path}` is not a list of objects", expected) from None
    objects = []
    for file_name, category, segmentation in entries:
        image = images.get(file_name)
        if image is None or category not in categories:
            what = f"the image `{file_name}`" if image is None else f"the category `{category}`"
            raise data_error(
                f"`{path}` names {what}, which is not in `{coco.path}`", "is this the list of another file?"
            )
        try:
            rle = masks.from_segmentation(segmentation, image["height"], image["width"])
        except (ValueError, TypeError) as error:
            raise data_error(f"`{path}`: a mask in `{file_name}` cannot be read: {error}") from None
        if rle is not None:
            objects.append(HiddenObject(image["id"], categories[category], rle))
    return objects
