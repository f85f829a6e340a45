"""Instance masks inside boxes: crops of ground truth for training, and predicted maps pasted into the image.

Crops stay in the frame of the stored image; an RoI of the network's input is mapped back through its `Placement`, so
both layers share one frame and no mask is resampled twice. A pasted map spans its box exactly, as RoIAlign saw it;
torchvision's paste rounds the box outward by up to a pixel on each side, which makes small masks a tenth too large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from bcnet_core import masks
from bcnet_core.masks import RLE

MOST_PIXELS = 2**24
"""Pixels of a map that are pasted at once, so that a box of 20,000 x 20,000 pixels fits in memory."""


class MaskCrops(NamedTuple):
    """N masks, each cut to its own tight pixel box and packed to one bit per pixel, concatenated.

    Even 500 masks that each fill an image of 800 x 1333 pixels are only 67 MB.

    Attributes:
        bits: (P,) uint8, eight pixels each, the first in the highest bit; row-major crops of all masks.
        boxes: (N, 4) int64, half-open x0, y0, x1, y1 in source pixels; all zeros for an empty mask.
        starts: (N,) int64, the byte at which each crop begins in `bits`.
    """

    bits: Tensor
    boxes: Tensor
    starts: Tensor

    def to(self, device: torch.device) -> MaskCrops:
        """Return a copy on `device`."""
        return MaskCrops(*(part.to(device, non_blocking=True) for part in self))


def crop_rles(rles: Sequence[masks.RLE | None]) -> MaskCrops:
    """Cut every mask to its tight box; None is an empty mask."""
    boxes = np.zeros((len(rles), 4), np.int64)
    for index, rle in enumerate(rles):
        if rle is not None and masks.area(rle):
            x, y, width, height = masks.bounding_box(rle).astype(np.int64)
            boxes[index] = (x, y, x + width, y + height)
    sizes = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) + 7) // 8
    starts = np.cumsum(sizes) - sizes
    bits = np.zeros(sizes.sum(), np.uint8)
    for rle, box, start, size in zip(rles, boxes.tolist(), starts, sizes, strict=True):
        if rle is not None and size:
            bits[start : start + size] = np.packbits(masks.decode_window(rle, *box))
    return MaskCrops(torch.from_numpy(bits), torch.from_numpy(boxes), torch.from_numpy(starts.astype(np.int64)))


def concatenate(parts: Sequence[MaskCrops]) -> MaskCrops:
    """Join the crops of several images, in order."""
    if len(parts) == 1:
        return parts[0]
    sizes = [part.bits.numel() for part in parts]
    shifts = np.cumsum([0, *sizes[:-1]])
    return MaskCrops(
        torch.cat([part.bits for part in parts]),
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.starts + int(shift) for part, shift in zip(parts, shifts, strict=True)]),
    )


def paste_rles(maps: Tensor, boxes: Tensor, height: int, width: int) -> list[RLE]:
    """Sample every map at the pixel centers of its box and threshold it at 0.5, without a mask of the image's size.

    Bilinear sampling is separable: two small matrix products per box, whose columns are in the order of the runs.

    Args:
        maps: (N, S, S) float probabilities.
        boxes: (N, 4) float xyxy in pixels of the image.
        height: of the image.
        width: of the image.

    Returns:
        N masks of [height, width].
    """
    grids, corners = maps.detach().float().cpu().numpy(), boxes.detach().double().cpu().numpy()
    counts = [
        {"size": [height, width], "counts": _runs(grid, box, height, width)}
        for grid, box in zip(grids, corners, strict=True)
    ]
    rles: list[RLE] = coco_mask.frPyObjects(counts, height, width) if counts else []
    return rles


def _runs(grid: NDArray[np.float32], box: NDArray[np.float64], height: int, width: int) -> list[int]:
    """Return the run lengths of one (S, S) map in its box, column by column; the first is background."""
    x0, y0 = (max(int(value), 0) for value in np.floor(box[:2]))
    x1, y1 = min(int(np.ceil(box[2])), width), min(int(np.ceil(box[3])), height)
    if x1 <= x0 or y1 <= y0:
        return [height * width]
    y_weights = _weights(y0, y1, box[1], box[3] - box[1], len(grid))
    rows = grid.T @ y_weights.T
    step = max(1, MOST_PIXELS // (y1 - y0))
    parts = []
    for first in range(x0, x1, step):
        last = min(first + step, x1)
        x_weights = _weights(first, last, box[0], box[2] - box[0], len(grid))
        inside = np.zeros((last - first, y1 - y0 + 2), bool)  # a background pixel above and below every column
        np.greater_equal(x_weights @ rows, 0.5, out=inside[:, 1:-1])
        column, y = np.nonzero(inside[:, 1:] != inside[:, :-1])
        parts.append((first + column) * height + y0 + y)
    edges = np.concatenate(parts)
    if y1 - y0 == height:  # a run that reaches the bottom continues at the top of the next column
        joined = np.flatnonzero(edges[1:] == edges[:-1])
        edges = np.delete(edges, [*joined, *(joined + 1)])
    end = [] if len(edges) and edges[-1] == height * width else [height * width]
    lengths: list[int] = np.diff(edges, prepend=0, append=end).tolist()
    return lengths


def _weights(first: int, last: int, corner: float, size: float, side: int) -> NDArray[np.float32]:
    """Return the bilinear weights of a map's cells for the pixels first..last-1: (last - first, side)."""
    places = (np.arange(first, last) + 0.5 - corner) / max(size, 1e-6) * side - 0.5
    distances = np.abs(places.astype(np.float32)[:, None] - np.arange(side, dtype=np.float32))
    weights: NDArray[np.float32] = np.maximum(1 - distances, 0)
    return weights
