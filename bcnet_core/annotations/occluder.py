"""Find the occluder region of every instance of one image (METHOD section 4), on run-length encodings.

COCO labels have no depth order, so each of two overlapping objects is the other's occluder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, Record, segmentation_rle
from bcnet_core.config.choices import OccluderSource
from bcnet_core.errors import usage_error
from bcnet_core.masks import RLE
from bcnet_core.masks.order import front_pairs

MOST_PAIRS = 2**20
"""Pairs of boxes compared at once, so that an image of 20,000 instances (cells, say) fits in memory."""
ALL_ROWS = slice(None)


@dataclass(frozen=True)
class OccluderRule:
    """Thresholds for an occluder; the defaults are the official ones.

    Attributes:
        min_iou: box IoU, from 0 to 1, above which two instances are compared.
        min_area: area in pixels that a region must exceed to be kept.
        crowd: whether crowd annotations occlude others (they can always be occluded).
        pixel: pixels added to every width and height in the IoU; the official code counts one more.
    """

    min_iou: float = 0.05
    min_area: int = 20
    crowd: bool = False
    pixel: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_iou <= 1:
            raise usage_error(f"the smallest box IoU is a number from 0 to 1, not {self.min_iou}")
        if self.min_area < 0:
            raise usage_error(f"the smallest area is 0 pixels or more, not {self.min_area}")
        if not 0 <= self.pixel <= 1:
            raise usage_error(f"boxes are counted larger by 0 to 1 pixel, not by {self.pixel}")


def occluder_regions(
    annotations: Sequence[Record],
    rles: Sequence[RLE | None],
    image: Record,
    *,
    source: OccluderSource = "auto",
    wholes: Sequence[RLE | None] = (),
) -> list[RLE | None]:
    """Return the occluder region of each of the N annotations of one image; None where nothing overlaps the instance.

    Training, evaluation and visualization all take their regions from here, so they agree on every file. The source
    "derive" ignores stored regions; "file" derives nothing, so an annotation without a stored region gets None; "auto"
    decides per annotation. An RLE is None where there is no mask.

    Whole masks tell who is in front: where one is known, "auto" and "derive" give the region of `hiding_regions`, which
    also covers the box of the whole mask.

    Raises:
        BCNetError: if a stored region is not a segmentation.
    """
    known = [source != "file" and whole is not None for whole in wholes] or [False] * len(rles)
    stored = [
        source != "derive" and OCCLUDER_KEY in annotation and not whole
        for annotation, whole in zip(annotations, known, strict=True)
    ]
    regions: list[RLE | None] = [None] * len(annotations)
    if source != "file" and not all(one or other for one, other in zip(stored, known, strict=True)):
        regions = derive_occluders(annotations, rles, image["height"], image["width"])
    hiding = hiding_regions(rles, wholes, image["height"], image["width"]) if any(known) else regions
    for index, annotation in enumerate(annotations):
        if stored[index]:
            regions[index] = segmentation_rle(annotation, image, key=OCCLUDER_KEY)
        elif known[index]:
            regions[index] = hiding[index]
    return regions


def hiding_regions(
    rles: Sequence[RLE | None],
    wholes: Sequence[RLE | None],
    height: int,
    width: int,
    *,
    rule: OccluderRule = OccluderRule(),
) -> list[RLE | None]:
    """Return the occluder region of each of N instances of one image by their true order; None where there is none.

    It is the union of the visible masks of all instances in front, see `front_pairs`, cut to the box of the whole mask.

    Args:
        rles: visible masks; None for an instance that hides nothing.
        wholes: whole masks; None where it is unknown.
        height: of the image, pixels.
        width: of the image, pixels.
        rule: its smallest area holds here, too.
    """
    in_front: list[list[RLE]] = [[] for _ in rles]
    for front, back in front_pairs(rles, wholes):
        if (rle := rles[front]) is not None:
            in_front[back].append(rle)
    regions: list[RLE | None] = [None] * len(rles)
    for index, (whole, others) in enumerate(zip(wholes, in_front, strict=True)):
        if whole is not None and others:
            (corners,) = pixel_corners(masks.bounding_box(whole)[None], height, width)
            region = masks.intersection(masks.union(others), masks.from_box(*corners, height, width))
            if masks.area(region) > rule.min_area:
                regions[index] = region
    return regions


def derive_occluders(
    annotations: Sequence[Record],
    rles: Sequence[RLE | None],
    height: int,
    width: int,
    *,
    rule: OccluderRule = OccluderRule(),
) -> list[RLE | None]:
    """Find the occluder region of each of the N annotations of one image by its definition; None where there is none.

    The region of instance i is the union of the masks of all other instances whose boxes overlap box i enough,
    cut to box i. An instance whose RLE is None occludes nobody. The result does not depend on the order of instances.
    """
    boxes = record_boxes(annotations)
    occludes = np.array([rule.crowd or not annotation.get("iscrowd", 0) for annotation in annotations], dtype=bool)
    regions: list[RLE | None] = [None] * len(rles)
    corners = pixel_corners(boxes, height, width)
    for rows in row_blocks(len(boxes)):
        near = (box_iou(boxes, rows, pixel=rule.pixel) > rule.min_iou) & occludes
        for index, row in enumerate(near, start=rows.start):
            others = [rle for other in row.nonzero()[0] if other != index and (rle := rles[other]) is not None]
            if not others:
                continue
            region = masks.intersection(masks.union(others), masks.from_box(*corners[index], height, width))
            if masks.area(region) > rule.min_area:
                regions[index] = region
    return regions


def record_boxes(records: Sequence[Record]) -> NDArray[np.float64]:
    """Return the (N, 4) boxes [x, y, width, height] of N annotations, in pixels."""
    return np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)


def row_blocks(count: int) -> Iterator[slice]:
    """Split the rows of a (count, count) table of pairs into blocks of at most `MOST_PAIRS` pairs."""
    step = max(1, MOST_PAIRS // max(1, count))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def box_iou(boxes: NDArray[np.float64], rows: slice = ALL_ROWS, *, pixel: float = 0.0) -> NDArray[np.float64]:
    """Return the IoUs of R of N [x, y, width, height] boxes with all, (R, N) from 0 to 1; empty boxes overlap nothing.

    `pixel` is added to every width and height; the official annotation code adds 1.
    """
    shared, areas = box_intersections(boxes, rows, pixel=pixel)
    joint = areas[rows, None] + areas - shared
    return np.divide(shared, joint, out=np.zeros_like(shared), where=(shared > 0) & (joint > 0))


def box_intersections(
    boxes: NDArray[np.float64], rows: slice = ALL_ROWS, *, pixel: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the areas in pixels that R of N [x, y, width, height] boxes share with all (R, N), and all areas (N,)."""
    start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    sides = np.minimum(end[rows, None], end) - np.maximum(start[rows, None], start) + pixel  # (R, N, 2)
    areas: NDArray[np.float64] = np.prod(end - start + pixel, axis=1)
    shared: NDArray[np.float64] = np.prod(sides.clip(0), axis=2)
    return shared, areas


def pixel_corners(boxes: NDArray[np.float64], height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Return the half-open pixel boxes (x0, y0, x1, y1) of [x, y, width, height] boxes.

    Corners are truncated to integers as in the official code, and clipped to the image (the official code let
    negative corners wrap around).
    """
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    inside = np.clip(corners, 0, [width, height, width, height]).astype(np.int64)
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in inside.tolist()]
