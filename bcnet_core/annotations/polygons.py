"""From a mask to COCO polygons that rasterise back to exactly that mask.

The polygons run along pixel edges (integer corners), where pycocotools' rasteriser is exact. A COCO polygon
knows no holes, and a contour that touches itself is not a valid polygon, so a mask with either is cut into
vertical strips that have neither. The official code traced half a pixel too wide and filled holes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.masks import RLE

Keys = NDArray[np.int64]
"""Points of the pixel grid of an image of height H, as x * (H + 1) + y: sorted, they go down column by column."""


def to_polygons(rle: RLE) -> list[list[float]]:
    """Trace a mask along its pixel edges.

    Args:
        rle: the mask.

    Returns:
        Flat polygons [x0, y0, x1, y1, ...] in whole pixels: valid, without holes, without points on a
        straight line, none overlapping another. Rasterised by pycocotools, their union is `rle`. An empty
        mask has none.
    """
    height, width = rle["size"]
    tops, bottoms = _spans(rle)
    outlines, flaws = _trace(tops, bottoms, height)
    cuts = _cuts(flaws)
    if cuts:
        edges = np.searchsorted(tops, [x * (height + 1) for x in (0, *cuts, width)])
        strips = [_trace(tops[a:b], bottoms[a:b], height) for a, b in pairwise(edges)]
        outlines = [outline for strip in strips for outline in strip.outlines]
    return [[value for point in outline for value in point] for outline in outlines]


class _Contours(NamedTuple):
    """What surrounds the pixels of a mask.

    Attributes:
        outlines: the corners (x, y) of every outer contour in order.
        flaws: columns (first, last); a cut there removes a hole or a point where a contour meets itself.
    """

    outlines: list[list[tuple[int, int]]]
    flaws: list[tuple[int, int]]


def _spans(rle: RLE) -> tuple[Keys, Keys]:
    """The upper and lower ends of the vertical spans of set pixels; a run over several columns is several spans."""
    height = rle["size"][0]
    ends = masks.runs(rle["counts"]).cumsum()
    starts, stops = ends[: len(ends) // 2 * 2 : 2], ends[1::2]
    column, last = starts // height, (stops - 1) // height
    wraps = last - column
    wrapped = np.repeat(column - wraps.cumsum() + wraps, wraps) + np.arange(wraps.sum())
    # the key of a pixel's upper corner is its index plus its column
    tops = np.sort(np.concatenate([starts + column, (wrapped + 1) * (height + 1)]))
    bottoms = np.sort(np.concatenate([stops + last, wrapped * (height + 1) + height]))
    return tops, bottoms


def _trace(tops: Keys, bottoms: Keys, height: int) -> _Contours:
    """Follow all contours; pixels that only touch at a corner are taken apart."""
    corners, opens, across = _corners(tops, bottoms, height)
    cycle_of = [-1] * len(corners)
    outlines: list[list[tuple[int, int]]] = []
    flaws: list[tuple[int, int]] = []
    for start in range(0, len(corners), 2):
        if cycle_of[start] >= 0:
            continue
        points: list[tuple[int, int]] = []
        corner = start
        while cycle_of[corner] < 0:
            cycle_of[corner] = cycle_of[corner ^ 1] = start
            points += (corners[corner], corners[corner ^ 1])
            corner = across[corner ^ 1]
        if opens[start]:
            outlines.append(points)
        else:
            flaws.append((corners[start][0], max(x for x, _ in points)))
    flaws += [
        (corners[corner][0], corners[corner][0])
        for corner in range(1, len(corners) - 1, 2)
        if corners[corner] == corners[corner + 1] and cycle_of[corner] == cycle_of[corner + 1]
    ]
    return _Contours(outlines, flaws)


def _corners(tops: Keys, bottoms: Keys, height: int) -> tuple[list[tuple[int, int]], list[bool], list[int]]:
    """The corners of all contours, and how they are joined.

    Returns:
        The corners (x, y) from left to right and top to bottom, where 2k and 2k + 1 are the ends of a
        vertical edge; a point where two pixels touch diagonally is there twice. For every corner, whether
        the mask lies to the right of an edge that starts there. And the other end of its horizontal edge.
    """
    # opening: below the point a span begins to the right of the grid line, or one ends to its left
    opening = np.concatenate([tops, bottoms + height + 1])
    closing = np.concatenate([bottoms, tops + height + 1])
    keys = np.concatenate([opening, closing])
    order = keys.argsort()
    keys, opens = keys[order], order < len(opening)
    again = keys[1:] == keys[:-1]
    straight = again & (opens[1:] != opens[:-1])  # a horizontal edge goes on there
    kept = np.ones(len(keys), dtype=bool)
    kept[1:] &= ~straight
    kept[:-1] &= ~straight
    keys, opens = keys[kept], opens[kept]
    # of two corners at one point the first ends the upper edge; its horizontal edge goes to the left if the
    # two pixels lie on the falling diagonal
    rightward = ~opens
    rightward[1:] ^= keys[1:] == keys[:-1]
    x, y = keys // (height + 1), keys % (height + 1)
    order = ((y * (x.max(initial=0) + 1) + x) * 2 + rightward).argsort()
    across = np.empty(len(x), dtype=np.int64)
    across[order[0::2]], across[order[1::2]] = order[1::2], order[0::2]
    return list(zip(x.tolist(), y.tolist(), strict=True)), opens.tolist(), across.tolist()


def _cuts(flaws: list[tuple[int, int]]) -> list[int]:
    """The fewest columns such that one lies in every flaw."""
    cuts: list[int] = []
    for first, last in sorted(flaws, key=lambda flaw: flaw[1]):
        if not cuts or first > cuts[-1]:
            cuts.append(last)
    return cuts
