"""How much each instance of an image is occluded: pure, on boxes and run-length encodings (METHOD section 6).

COCO labels know no depth order, so a rate says how much of an instance others may hide, not that they do. The levels
that evaluation reports by are defined here, and nowhere else.
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
"""How occluded an instance is, in a word: see `LEVEL_FROM`."""

LEVEL_FROM: dict[Level, float] = {"none": 0.0, "light": 0.05, "heavy": 0.2}
"""The rate from which on a level holds. Below 0.05 of box IoU nobody counts as an occluder (METHOD section 4);
from 0.2 on an instance is occluded in the sense of COCO-OCC (METHOD section 6)."""

HISTOGRAM_EDGES: tuple[float, ...] = tuple(step / 10 for step in range(11))
"""The bins of `rate_histogram` are between these; each holds its lower edge, the last one its upper edge too."""


def occlusion_rates(
    boxes: NDArray[np.float64],
    rles: Sequence[RLE | None],
    height: int,
    width: int,
    *,
    measure: Measure,
    categories: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """How much each of the N instances of one image is occluded.

    "iou" and "min" look at the neighbour that overlaps an instance most: the intersection of the two boxes over
    their union, or over the smaller box. "mask" looks at all neighbours whose boxes meet that of an instance together:
    what their masks cover of its box, over its own mask. That is 1 where they cover more, and 0 for an instance without
    a mask.

    Args:
        boxes: (N, 4) [x, y, width, height] in pixels.
        rles: the N masks; only "mask" looks at them, None covers nothing.
        height: of the image, in pixels.
        width: of the image, in pixels.
        measure: what is compared.
        categories: (N,) where only neighbours of the same category count.

    Returns:
        (N,) rates from 0 to 1; 0 for an instance that is alone.
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
                    neighbours = [rle for other in row.nonzero()[0] if (rle := rles[other]) is not None]
                    rates[index] = _mask_rate(rles[index], neighbours, masks.from_box(*box, height, width))
                continue
        rates[rows] = np.where(partners, pairs, 0.0).max(axis=1, initial=0.0)
    return rates


def occlusion_level(rate: float) -> Level:
    """The level of a rate, whatever the measure."""
    return max((level for level in LEVEL_FROM if rate >= LEVEL_FROM[level]), key=LEVEL_FROM.__getitem__)


def count_levels(rates: NDArray[np.float64]) -> dict[Level, int]:
    """How many of the rates belong to each level."""
    levels = [occlusion_level(rate) for rate in rates.tolist()]
    return {level: levels.count(level) for level in LEVEL_FROM}


def rate_histogram(rates: NDArray[np.float64]) -> list[int]:
    """Count the rates that are 0, then those above 0 in each bin of `HISTOGRAM_EDGES`."""
    counts, _ = np.histogram(rates[rates > 0], bins=HISTOGRAM_EDGES)
    return [int((rates == 0).sum()), *counts.tolist()]


def _mask_rate(own: RLE | None, neighbours: Sequence[RLE], box: RLE) -> float:
    """What the neighbours' masks cover of an instance's box, over its own mask."""
    if own is None or not neighbours or masks.area(own) == 0:
        return 0.0
    return min(masks.area(masks.intersection(masks.union(neighbours), box)) / masks.area(own), 1.0)
