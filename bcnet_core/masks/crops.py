"""Instance masks as box-sized crops: what training needs, without one full-image bitmap per instance.

Crops stay in the frame of the stored image; a RoI of the network's input is mapped back through its `Placement`.
So the two layers cannot drift apart, and no mask is resampled twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bcnet_core import masks


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
    for rle, (x0, y0, x1, y1), start, size in zip(rles, boxes, starts, sizes, strict=True):
        if rle is not None and size:
            bits[start : start + size] = np.packbits(masks.decode(rle)[y0:y1, x0:x1])
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
