"""Masks as COCO run-length encodings: the form that everything outside the neural network works on.

An `RLE` is pycocotools' compressed form: `{"size": [height, width], "counts": bytes}`. Its algebra (union,
intersection, area) works on the runs, so nothing here holds a dense image unless its name says `decode`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

FARTHEST = 1_000_000
"""Largest coordinate of a polygon, in pixels: the rasterizer walks along every edge, point by point."""

LONGEST_OUTLINE = 1_000_000
"""Longest outline of a polygon, in pixels; the rasterizer takes a hundred bytes for each."""


class RLE(TypedDict):
    """A compressed run-length encoding; `size` is [height, width] in pixels."""

    size: list[int]
    counts: bytes


def from_segmentation(segmentation: Any, height: int, width: int) -> RLE | None:  # noqa: ANN401  (as read from json)
    """Convert any COCO segmentation to one RLE.

    Args:
        segmentation: polygons (list of flat [x0, y0, x1, y1, ...] lists in pixels, their union is meant), an
            uncompressed RLE (`counts` a list) or a compressed one (`counts` a string or bytes).
        height: image height in pixels.
        width: image width in pixels.

    Returns:
        The mask, or None if it is missing, empty, or has only degenerate polygons.

    Raises:
        ValueError: if the value is no segmentation, or an RLE of another size.
    """
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if _is_polygon(polygon)]
        if not polygons:
            return None
        return from_polygons(polygons, height, width)
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        return _from_rle(segmentation, height, width)
    raise ValueError(f"neither polygons nor an RLE: {type(segmentation).__name__}")


def from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> RLE:
    """Rasterize the union of flat polygons [x0, y0, x1, y1, ...] of at least three points, which is not checked."""
    return union(coco_mask.frPyObjects(polygons, height, width))


def _is_polygon(polygon: Any) -> bool:  # noqa: ANN401
    """Return whether this is a polygon of three or more points; raise ValueError if it is no polygon at all."""
    if not isinstance(polygon, list) or not {int, float}.issuperset(map(type, polygon)):
        raise ValueError("a polygon is a list of numbers")
    farthest = max(map(abs, polygon), default=0)
    if not (farthest <= FARTHEST and math.isfinite(sum(polygon))):
        raise ValueError(f"a polygon has a coordinate that is not finite or beyond {FARTHEST:,} pixels")
    if len(polygon) % 2:
        raise ValueError(f"a polygon has an odd number of coordinates ({len(polygon)})")
    if farthest * len(polygon) > LONGEST_OUTLINE and _outline(polygon) > LONGEST_OUTLINE:
        raise ValueError(f"the outline of a polygon is longer than {LONGEST_OUTLINE:,} pixels")
    return len(polygon) >= 6


def _outline(polygon: Sequence[float]) -> float:
    """Return the length that the rasterizer walks along the edges of a polygon, in pixels."""
    points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    return float(np.abs(np.roll(points, -1, axis=0) - points).max(axis=1).sum())


def _from_rle(segmentation: dict[str, Any], height: int, width: int) -> RLE:
    """Check an RLE and drop empty runs: pycocotools crashes on invalid ones, and its merge stops at empty runs."""
    size, counts = list(segmentation["size"]), segmentation["counts"]
    if size != [height, width]:
        raise ValueError(f"an RLE of size {size} in an image of {height} x {width}")
    if isinstance(counts, str | bytes):
        text = counts.encode() if isinstance(counts, str) else counts
        lengths = runs(text)
        if int(lengths.sum()) == height * width and lengths[0] >= 0 and lengths[1:].min(initial=1) > 0:
            return {"size": size, "counts": text}
        counts = lengths.tolist()
    if not isinstance(counts, list) or any(type(run) is not int or run < 0 for run in counts):
        raise ValueError("the counts of an RLE are neither text nor a list of whole numbers")
    if sum(counts) != height * width:
        raise ValueError("the runs of an RLE do not add up to its size")
    rle: RLE = coco_mask.frPyObjects({"size": size, "counts": _without_empty(counts)}, height, width)
    return rle


def _without_empty(lengths: list[int]) -> list[int]:
    """Merge runs until none but the first has length 0."""
    filled = [(index % 2, length) for index, length in enumerate(lengths) if length]
    merged = [sum(length for _, length in run) for _, run in groupby(filled, key=itemgetter(0))]
    return merged if filled and filled[0][0] == 0 else [0, *merged]


def runs(counts: bytes) -> NDArray[np.int64]:
    """Decode the compressed `counts` of an RLE to run lengths, in column order; the first run is background.

    The text holds 5 bits a character, the lowest first, as the difference to the run two before.

    Raises:
        ValueError: if the text is damaged; whether the runs fit a mask is not checked.
    """
    codes = np.frombuffer(counts, dtype=np.uint8) - np.uint8(48)  # characters below "0" wrap around
    ends = np.flatnonzero(codes < 32)  # the last character of each run
    if not len(ends) or ends[-1] != len(codes) - 1 or codes.max() > 63:
        raise ValueError("the compressed counts of an RLE are damaged")
    first = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - first + 1
    if digits.max() > 7:
        raise ValueError("the compressed counts of an RLE hold a run of more than 32 bits")
    place = np.arange(len(codes)) - np.repeat(first, digits)
    lengths: NDArray[np.int64] = np.add.reduceat((codes & 31).astype(np.int64) << (5 * place), first)
    lengths -= (codes[ends] >> 4).astype(np.int64) << (5 * digits)  # the sign bit
    lengths[1::2], lengths[2::2] = lengths[1::2].cumsum(), lengths[2::2].cumsum()
    return lengths


def union(rles: Sequence[RLE]) -> RLE:
    """Return the union of one or more masks of one size."""
    merged: RLE = coco_mask.merge(list(rles))
    return merged


def intersection(a: RLE, b: RLE) -> RLE:
    """Return the intersection of two masks of one size."""
    merged: RLE = coco_mask.merge([a, b], intersect=True)
    return merged


def complement(rle: RLE) -> RLE:
    """Return the mask of the pixels that are not set."""
    lengths = runs(rle["counts"]).tolist()
    counts = lengths[1:] if not lengths[0] else [0, *lengths]
    inverse: RLE = coco_mask.frPyObjects({"size": list(rle["size"]), "counts": counts}, *rle["size"])
    return inverse


def difference(a: RLE, b: RLE) -> RLE:
    """Return the pixels of the first of two masks of one size that the second does not have."""
    return intersection(a, complement(b))


def area(rle: RLE) -> int:
    """Count the pixels that are set."""
    return int(coco_mask.area(rle))


def iou(a: RLE, b: RLE) -> float:
    """Return the intersection over union of two masks of one size, of which one is not empty."""
    return float(ious([a], [b])[0, 0])


def ious(first: Sequence[RLE], second: Sequence[RLE]) -> NDArray[np.float64]:
    """Return the (N, M) intersections over unions of N masks with M others of one size, none of them empty."""
    table: NDArray[np.float64] = np.asarray(coco_mask.iou(list(first), list(second), [False] * len(second)))
    return table.reshape(len(first), len(second))


def overlaps(first: Sequence[RLE], second: Sequence[RLE]) -> NDArray[np.int64]:
    """Return the (N, M) pixels that N masks share with M others of one size; masks whose boxes are apart cost little.

    pycocotools divides by the area of the first mask where the second is a crowd.
    """
    shares: Any = coco_mask.iou(list(first), list(second), [True] * len(second)) if first and second else []
    areas = np.array([area(rle) for rle in first], np.float64)
    return np.rint(np.asarray(shares).reshape(len(first), len(second)) * areas[:, None]).astype(np.int64)


def bounding_box(rle: RLE) -> NDArray[np.float64]:
    """Return the tight box [x, y, width, height] in pixels; zeros for an empty mask."""
    box: NDArray[np.float64] = coco_mask.toBbox(rle)
    return box


def from_box(x0: int, y0: int, x1: int, y1: int, height: int, width: int) -> RLE:
    """Return the mask of the half-open pixel box [x0, x1) x [y0, y1), clipped to the image."""
    x0, y0 = max(x0, 0), max(y0, 0)
    box = [x0, y0, max(min(x1, width) - x0, 0), max(min(y1, height) - y0, 0)]
    rle: RLE = coco_mask.frPyObjects(np.array([box], dtype=np.float64), height, width)[0]
    return rle


def encode(mask: NDArray[np.bool_]) -> RLE:
    """Encode one dense (H, W) mask."""
    rle: RLE = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return rle


def from_labels(labels: NDArray[np.integer[Any]]) -> dict[int, RLE]:
    """Encode every value of a (H, W) label image but 0 as a mask, by value in rising order.

    All masks are made of one pass over the runs of the image, so hundreds of instances cost little more than one.
    """
    height, width = labels.shape
    flat = labels.ravel(order="F")
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    edges = np.column_stack([starts, np.append(starts[1:], flat.size)])
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    found, first = np.unique(values[order], return_index=True)
    rles: dict[int, RLE] = {}
    for value, runs_of_value in zip(found.tolist(), np.split(edges[order], first[1:]), strict=True):
        if value != 0:
            lengths = np.diff(runs_of_value.ravel(), prepend=0, append=flat.size).tolist()
            counts = lengths if lengths[-1] else lengths[:-1]
            rles[value] = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return rles


def decode(rle: RLE) -> NDArray[np.bool_]:
    """Decode to a dense (H, W) boolean mask."""
    mask: NDArray[np.bool_] = coco_mask.decode(rle).astype(bool)
    return mask


def decode_window(rle: RLE, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.bool_]:
    """Decode the window [x0, x1) x [y0, y1) of a mask, inside its size, to (y1 - y0, x1 - x0) bool.

    Time and memory are those of the runs and the window: the rest of the image is not decoded.
    """
    return fill_window(runs(rle["counts"]).cumsum(), rle["size"][0], x0, y0, x1, y1)


def fill_window(ends: NDArray[np.int64], height: int, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.bool_]:
    """Decode the window [x0, x1) x [y0, y1) of a mask of this height from the ends of its runs, see `decode_window`.

    Time is that of the runs in the window. The ends are `runs(counts).cumsum()`.
    """
    rows, pixels = y1 - y0, (x1 - x0) * (y1 - y0)
    if not pixels:
        return np.zeros((rows, x1 - x0), bool)
    first, last = np.searchsorted(ends, (x0 * height, x1 * height))
    column, row = np.divmod(ends[first : last + 1], height)  # behind the last pixel of each run
    inside = ((column - x0) * rows + np.clip(row - y0, 0, rows)).clip(0, pixels)  # counted in pixels of the window
    lengths = np.diff(inside, prepend=0)
    columns = np.repeat(np.arange(first, first + len(lengths)) % 2 == 1, lengths).reshape(x1 - x0, rows)
    return cv2.transpose(columns.view(np.uint8)).view(np.bool_)  # ten times as fast as NumPy's copy where it is large


def from_window(pixels: NDArray[np.bool_], x: int, y: int, height: int, width: int) -> RLE:
    """Encode a mask of (height, width) that is empty outside a (H, W) window, clipped, at column x and row y."""
    inside = pixels[max(-y, 0) : max(height - y, 0), max(-x, 0) : max(width - x, 0)]
    x, y = max(x, 0), max(y, 0)
    if not inside.any():
        return from_box(0, 0, 0, 0, height, width)
    columns = np.zeros((height, inside.shape[1]), dtype=bool)
    columns[y : y + inside.shape[0]] = inside
    lengths = runs(encode(columns)["counts"]).tolist()
    lengths[0] += x * height
    behind = (width - x - inside.shape[1]) * height
    counts = [*lengths[:-1], lengths[-1] + behind] if len(lengths) % 2 else [*lengths, *([behind] if behind else [])]
    rle: RLE = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return rle


def shifted(rle: RLE, x: int, y: int) -> RLE:
    """Return a mask moved by so many pixels to the right and downwards; what leaves the image is cut off."""
    left, top, width, height = bounding_box(rle).astype(int).tolist()
    pixels = decode_window(rle, left, top, left + width, top + height)
    return from_window(pixels, left + x, top + y, *rle["size"])


def to_json(rle: RLE) -> dict[str, Any]:
    """Return the RLE with `counts` as text, as COCO json files hold it."""
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
