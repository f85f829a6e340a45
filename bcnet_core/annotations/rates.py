"""Measure how much each instance of an image is occluded, from boxes and run-length encodings (METHOD section 6).

COCO labels have no depth order, so a rate is the share of an instance that others may hide, not the share they do.
The occlusion levels of evaluation reports are defined here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.occluder import box_intersections, box_iou, pixel_corners, row_blocks
from bcnet_core.config.choices import Measure
from bcnet_core.masks import RLE

MEASURES: tuple[Measure, ...] = get_args(Measure)

Level = Literal["none", "light", "heavy"]
"""Degree of occlusion of an instance, see `LEVEL_FROM`."""

LEVEL_FROM: dict[Level, float] = {"none": 0.0, "light": 0.05, "heavy": 0.2}
"""Lowest rate of each level. Below a box IoU of 0.05 nobody counts as an occluder (METHOD section 4); from 0.2 on an
instance is occluded in the sense of COCO-OCC (METHOD section 6)."""

HISTOGRAM_EDGES: tuple[float, ...] = tuple(step / 10 for step in range(11))
"""Bin edges of `rate_histogram`; each bin includes its lower edge, the last one its upper edge too."""


def occlusion_rates(
    boxes: NDArray[np.float64],
    rles: Sequence[RLE | None],
    height: int,
    width: int,
    *,
    measure: Measure,
    categories: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Return the occlusion rate of each of the N instances of one image.

    "iou" and "min" take the neighbor that overlaps an instance most: the intersection of the two boxes over their
    union, or over the smaller box. "mask" takes all neighbors whose boxes meet that of the instance together: the area
    of its box that their masks cover, over the area of its own mask, at most 1; 0 for an instance without a mask.

    Args:
        boxes: (N, 4) [x, y, width, height] in pixels.
        rles: the N masks, used by "mask" only; None covers nothing.
        height: image height in pixels.
        width: image width in pixels.
        measure: the measure.
        categories: (N,) category ids if only neighbors of the same category count.

    Returns:
        (N,) rates from 0 to 1; 0 for an instance without neighbors.
    """
    rates = np.zeros(len(boxes))
    for rows in row_blocks(len(boxes)):
        partners = np.arange(len(boxes))[rows, None] != np.arange(len(boxes))
        if categories is not None:
            partners &= categories[rows, None] == categories
        match measure:
            case "iou":
                pairs = box_iou(boxes, rows)
            case "min":
                shared, areas = box_intersections(boxes, rows)
                smaller = np.minimum(areas[rows, None], areas)
                pairs = np.divide(shared, smaller, out=np.zeros_like(shared), where=smaller > 0).clip(0, 1)
            case "mask":
                near = partners & (box_intersections(boxes, rows, pixel=1.0)[0] > 0)
                corners = pixel_corners(boxes[rows], height, width)
                for index, (row, box) in enumerate(zip(near, corners, strict=True), start=rows.start):
                    neighbors = [rle for other in row.nonzero()[0] if (rle := rles[other]) is not None]
                    rates[index] = _mask_rate(rles[index], neighbors, masks.from_box(*box, height, width))
                continue
        rates[rows] = np.where(partners, pairs, 0.0).max(axis=1, initial=0.0)
    return rates


def occlusion_level(rate: float) -> Level:
    """Return the level of a rate of any measure."""
    return max((level for level in LEVEL_FROM if rate >= LEVEL_FROM[level]), key=LEVEL_FROM.__getitem__)


def count_levels(rates: NDArray[np.float64]) -> dict[Level, int]:
    """Count the rates of each level."""
    levels = [occlusion_level(rate) for rate in rates.tolist()]
    return {level: levels.count(level) for level in LEVEL_FROM}


def rate_histogram(rates: NDArray[np.float64]) -> list[int]:
    """Count the rates that are 0, then those above 0 in each bin of `HISTOGRAM_EDGES`."""
    counts, _ = np.histogram(rates[rates > 0], bins=HISTOGRAM_EDGES)
    return [int((rates == 0).sum()), *counts.tolist()]


def _mask_rate(own: RLE | None, neighbors: Sequence[RLE], box: RLE) -> float:
    """Return the area of an instance's box that its neighbors cover, over the area of its own mask."""
    if own is None or not neighbors or masks.area(own) == 0:
        return 0.0
    return min(masks.area(masks.intersection(masks.union(neighbors), box)) / masks.area(own), 1.0)
