"""Masks of which many small parts are compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bcnet_core.masks.rle import RLE, bounding_box, fill_window, runs

Extent = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the image, half open; empty where x0 >= x1 or y0 >= y1."""


def hull(*extents: Extent) -> Extent:
    """Return the smallest extent around others; zeros without any."""
    if not extents:
        return 0, 0, 0, 0
    x0, y0, x1, y1 = zip(*extents, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def overlap(one: Extent, other: Extent) -> Extent:
    """Return what two extents share."""
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


class IndexedMask:
    """A mask whose runs are decoded once, so that reading a part of it costs no more than that part.

    Attributes:
        rle: the mask.
        extent: the tight box around its pixels; zeros if it has none.
        area: number of its pixels.
    """

    def __init__(self, rle: RLE) -> None:
        lengths = runs(rle["counts"])
        self.rle, self._ends = rle, lengths.cumsum()
        self.area = int(lengths[1::2].sum())
        x, y, width, height = bounding_box(rle).astype(int).tolist() if self.area else (0, 0, 0, 0)
        self.extent: Extent = (x, y, x + width, y + height)

    def part(self, extent: Extent) -> NDArray[np.bool_]:
        """Decode a part of the mask, which is not empty, to (H, W) bool."""
        return fill_window(self._ends, self.rle["size"][0], *extent)

    def agreement(self, other: IndexedMask, within: Extent) -> float | None:
        """Return the IoU with another mask of the same image in a part of it; None if neither has a pixel there."""
        x0, y0, x1, y1 = part = overlap(within, hull(self.extent, other.extent))
        if x0 >= x1 or y0 >= y1:
            return None
        mine, theirs = self.part(part), other.part(part)
        either = np.count_nonzero(mine | theirs)
        return float(np.count_nonzero(mine & theirs) / either) if either else None

    def shared(self, other: IndexedMask) -> int:
        """Count the pixels that another mask of the same image has, too."""
        x0, y0, x1, y1 = part = overlap(self.extent, other.extent)
        return 0 if x0 >= x1 or y0 >= y1 else int(np.count_nonzero(self.part(part) & other.part(part)))
