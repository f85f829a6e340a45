"""How much each instance of an image is occluded: pure, on boxes and run-length encodings (METHOD section 6).

COCO labels know no depth order, so a rate says how much of an instance another one may hide, not that it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.occluder import box_intersections, box_iou, pixel_corners
from bcnet_core.masks import RLE

Measure = Literal["iou", "min", "mask"]
"""What is compared of two instances i and j: see `pair_rates`."""
MEASURES: tuple[Measure, ...] = get_args(Measure)

HISTOGRAM_EDGES: tuple[float, ...] = tuple(step / 10 for step in range(11))
"""The bins of `rate_histogram` are between these; each holds its lower edge, the last one its upper edge too."""


def occlusion_rates(
    boxes: NDArray[np.float64], rles: Sequence[RLE | None], height: int, width: int, *, measure: Measure
) -> NDArray[np.float64]:
    """How much each of the N instances of one image is occluded by the one that occludes it most.

    Args:
        boxes: (N, 4) [x, y, width, height] in pixels.
        rles: the N masks; only "mask" looks at them, None covers nothing.
        height: of the image, in pixels.
        width: of the image, in pixels.
        measure: see `pair_rates`.

    Returns:
        (N,) rates from 0 to 1; 0 for an instance that is alone.
    """
    pairs = pair_rates(boxes, rles, height, width, measure=measure)
    np.fill_diagonal(pairs, 0.0)
    rates: NDArray[np.float64] = pairs.max(axis=1, initial=0.0)
    return rates


def pair_rates(
    boxes: NDArray[np.float64], rles: Sequence[RLE | None], height: int, width: int, *, measure: Measure
) -> NDArray[np.float64]:
    """How much instance j (column) covers instance i (row); arguments as in `occlusion_rates`.

    "iou" is the intersection over union of the two boxes, "min" their intersection over the smaller box, and
    "mask" the share of the pixels of box i that belong to the mask of j: unlike the others, not symmetric.

    Returns:
        (N, N) rates from 0 to 1; the diagonal means nothing.
    """
    match measure:
        case "iou":
            return box_iou(boxes)
        case "min":
            shared, areas = box_intersections(boxes)
            smaller = np.minimum(areas[:, None], areas)
            return np.divide(shared, smaller, out=np.zeros_like(shared), where=smaller > 0).clip(0, 1)
        case "mask":
            return _mask_rates(boxes, rles, height, width)


def rate_histogram(rates: NDArray[np.float64]) -> list[int]:
    """Count the rates that are 0, then those above 0 in each bin of `HISTOGRAM_EDGES`."""
    counts, _ = np.histogram(rates[rates > 0], bins=HISTOGRAM_EDGES)
    return [int((rates == 0).sum()), *counts.tolist()]


def _mask_rates(boxes: NDArray[np.float64], rles: Sequence[RLE | None], height: int, width: int) -> NDArray[np.float64]:
    meet = box_intersections(boxes, pixel=1.0)[0] > 0
    rates = np.zeros(meet.shape)
    for i, (x0, y0, x1, y1) in enumerate(pixel_corners(boxes, height, width)):
        pixels = max(x1 - x0, 0) * max(y1 - y0, 0)
        if pixels == 0:
            continue
        box = masks.from_box(x0, y0, x1, y1, height, width)
        for j in meet[i].nonzero()[0].tolist():
            rle = rles[j]
            if j != i and rle is not None:
                rates[i, j] = masks.area(masks.intersection(rle, box)) / pixels
    return rates
