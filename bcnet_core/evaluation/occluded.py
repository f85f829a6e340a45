"""Scores by occlusion: AP by level of the ground truth, and the recall of occluded and of separated objects.

Occluded COCO and Separated COCO (Zhan et al., "A Tri-Layer Plugin to Improve Occluded Detection", BMVC 2022) count
which hidden objects a model finds: those whose visible part is in one piece, and those that an occluder cuts into
several. Their lists are of val2017; `occluded_objects` and `separated_objects` derive such lists for any COCO file.
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
from bcnet_core.annotations.split import measure_images
from bcnet_core.config.choices import Measure
from bcnet_core.errors import data_error
from bcnet_core.evaluation.coco import ignoring
from bcnet_core.evaluation.image_scores import result_rle
from bcnet_core.weights.files import read_weight_file

HIT_SCORE, HIT_IOU = 0.3, 0.75
"""A detection of the right category hits an object from this score and this mask IoU on."""

PIECE_SHARE, PIECE_PIXELS = 0.05, 20
"""A part of a mask is a piece from this share of it on, and from as many pixels as an occluder region needs."""


class HiddenObject(NamedTuple):
    """An object that something may hide.

    Attributes:
        image_id: of the image.
        category_id: of the object.
        mask: its visible part.
    """

    image_id: int
    category_id: int
    mask: masks.RLE


class Recall(NamedTuple):
    """How many of a list of objects were found."""

    found: int
    objects: int

    @property
    def share(self) -> float:
        """In [0, 1]; -1 of no objects."""
        return self.found / self.objects if self.objects else -1.0


def annotation_levels(coco: CocoFile, *, measure: Measure = "iou") -> list[Level | None]:
    """How occluded every annotation of a file is, in its order; None of a crowd."""
    rates = {image: iter(found.tolist()) for image, found in measure_images(coco, measure=measure).items()}
    return [
        None if one.get("iscrowd", 0) else occlusion_level(next(rates[one["image_id"]])) for one in coco.annotations
    ]


def truth_of_level(truth: Record, levels: Sequence[Level | None], level: Level) -> Record:
    """Ground truth in which only the instances of one level count."""
    return ignoring(truth, np.array([one == level for one in levels], dtype=bool))


def count_recall(objects: Sequence[HiddenObject], results: Sequence[Record]) -> Recall:
    """How many objects a model finds: same category, score >= 0.3, mask IoU >= 0.75.

    Args:
        objects: with masks.
        results: COCO results with masks.
    """
    wanted = {(one.image_id, one.category_id) for one in objects}
    candidates: dict[tuple[int, int], list[masks.RLE]] = {}
    for result in results:
        place = (result["image_id"], result["category_id"])
        if place in wanted and result["score"] >= HIT_SCORE:
            candidates.setdefault(place, []).append(result_rle(result))
    found = sum(
        any(masks.iou(mask, one.mask) >= HIT_IOU for mask in candidates.get((one.image_id, one.category_id), []))
        for one in objects
    )
    return Recall(found, len(objects))


def hidden_objects(coco: CocoFile) -> tuple[list[HiddenObject], list[HiddenObject]]:
    """Derive the occluded and the separated objects of a COCO file.

    An object is separated where its mask has two pieces or more, and the mask of a neighbour has pixels between the
    boxes of two of them, or where these boxes overlap. It is occluded where its mask is in one piece and its level is
    "heavy": a box IoU of 0.2 with a neighbour. Crowds are neither.

    Returns:
        Occluded objects, separated objects.

    Raises:
        BCNetError: if a mask cannot be read.
    """
    images = {image["id"]: image for image in coco.images}
    levels = dict(zip(map(id, coco.annotations), annotation_levels(coco), strict=True))
    occluded, separated = [], []
    for image_id, records in coco.annotations_by_image().items():
        instances = [one for one in records if not one.get("iscrowd", 0)]
        rles = [segmentation_rle(one, images[image_id]) for one in instances]
        for index, (one, rle, row) in enumerate(zip(instances, rles, _near(record_boxes(instances)), strict=True)):
            if rle is None or not masks.area(rle):
                continue
            neighbours = [other for j in row.nonzero()[0] if j != index and (other := rles[j]) is not None]
            object_ = HiddenObject(image_id, one["category_id"], rle)
            parts = _pieces(rle)
            if len(parts) > 1 and neighbours and _lies_between(parts, masks.union(neighbours)):
                separated.append(object_)
            elif len(parts) == 1 and levels[id(one)] == "heavy":
                occluded.append(object_)
    return occluded, separated


def _near(boxes: NDArray[np.float64]) -> Iterator[NDArray[np.bool_]]:
    """For each of N boxes, (N,) whether it meets the others."""
    for rows in row_blocks(len(boxes)):
        yield from box_intersections(boxes, rows, pixel=1.0)[0] > 0


def _pieces(rle: masks.RLE) -> list[NDArray[np.int32]]:
    """The boxes [x, y, width, height, pixels] of the pieces of a mask."""
    least = max(PIECE_PIXELS, PIECE_SHARE * masks.area(rle))
    x, y, width, height = masks.bounding_box(rle).astype(int)
    crop = masks.decode(rle)[y : y + height, x : x + width].astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(crop, connectivity=8)
    return [row + np.array([x, y, 0, 0, 0], np.int32) for row in stats[1:] if row[4] >= least] or [stats[0]]


def _lies_between(parts: Sequence[NDArray[np.int32]], others: masks.RLE) -> bool:
    """Whether other masks have pixels in the gap between the boxes of two pieces, or where these boxes overlap."""
    height, width = others["size"]
    for i, first in enumerate(parts):
        for second in parts[:i]:
            x0, x1 = sorted((max(first[0], second[0]), min(first[0] + first[2], second[0] + second[2])))
            y0, y1 = sorted((max(first[1], second[1]), min(first[1] + first[3], second[1] + second[3])))
            gap = masks.from_box(int(x0), int(y0), int(x1), int(y1), height, width)
            if masks.area(masks.intersection(others, gap)) > 0:
                return True
    return False


def read_objects(path: Path, coco: CocoFile) -> list[HiddenObject]:
    """Read a public list, `occluded_coco.pkl` or `separated_coco.pkl`, without running code from it.

    Each entry holds a file name, a category's name, something unused, a box and an RLE.

    Args:
        path: the pickle.
        coco: the annotations whose images and categories it names.

    Raises:
        BCNetError: if the file is missing, asks for anything but plain data and numbers, or names other images.
    """
    lists = "occluded_coco.pkl and separated_coco.pkl of Zhan et al. are"
    content = read_weight_file(path, kind="a list of objects", hints=(lists,))
    images = {image["file_name"]: image for image in coco.images}
    categories = {str(category["name"]): category["id"] for category in coco.categories}
    try:
        entries = [(str(entry[0]), str(entry[1]), entry[4]) for entry in content]
    except (TypeError, LookupError, ValueError):
        raise data_error(f"`{path}` is not a list of objects", lists) from None
    objects = []
    for file_name, category, segmentation in entries:
        image = images.get(file_name)
        if image is None or category not in categories:
            what = f"the image `{file_name}`" if image is None else f"the category `{category}`"
            raise data_error(f"`{path}` names {what}, which `{coco.path}` has not", "is this list of another file?")
        try:
            rle = masks.from_segmentation(segmentation, image["height"], image["width"])
        except (ValueError, TypeError) as error:
            raise data_error(f"`{path}`: a mask in `{file_name}` cannot be read: {error}") from None
        if rle is not None:
            objects.append(HiddenObject(image["id"], categories[category], rle))
    return objects
