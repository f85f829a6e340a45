"""Instance masks kept as box-sized crops: what training needs, without one full-image bitmap per instance.

Crops stay in the frame of the stored image, whatever is done to the network's input: a RoI is mapped back through the
image's `Placement` instead. So the two layers cannot drift apart, and no mask is resampled twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bcnet_core import masks


class MaskCrops(NamedTuple):
    """N masks, each cut to its own tight pixel box and flattened, one behind the other.

    Attributes:
        pixels: (P,) uint8, 0 or 1; row-major crops of all masks.
        boxes: (N, 4) int64, half-open x0, y0, x1, y1 in source pixels; all zeros for an empty mask.
        starts: (N,) int64, where each crop begins in `pixels`.
    """

    pixels: Tensor
    boxes: Tensor
    starts: Tensor

    def to(self, device: torch.device) -> MaskCrops:
        """The same crops on `device`."""
        return MaskCrops(*(part.to(device, non_blocking=True) for part in self))


def crop_rles(rles: Sequence[masks.RLE | None]) -> MaskCrops:
    """Cut every mask to its tight box; None is an empty mask."""
    pieces: list[np.ndarray[tuple[int], np.dtype[np.bool_]]] = []
    boxes = np.zeros((len(rles), 4), np.int64)
    for index, rle in enumerate(rles):
        if rle is None or masks.area(rle) == 0:
            continue
        x, y, width, height = masks.bounding_box(rle).astype(np.int64)
        boxes[index] = (x, y, x + width, y + height)
        pieces.append(masks.decode(rle)[y : y + height, x : x + width].ravel())
    sizes = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    pixels = np.concatenate(pieces) if pieces else np.zeros(0, np.bool_)
    starts = np.cumsum(sizes) - sizes
    return MaskCrops(
        torch.from_numpy(pixels.astype(np.uint8)),
        torch.from_numpy(boxes),
        torch.from_numpy(starts.astype(np.int64)),
    )


def concatenate(parts: Sequence[MaskCrops]) -> MaskCrops:
    """The crops of several images as one, in order."""
    sizes = [part.pixels.numel() for part in parts]
    shifts = np.cumsum([0, *sizes[:-1]])
    return MaskCrops(
        torch.cat([part.pixels for part in parts]),
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.starts + int(shift) for part, shift in zip(parts, shifts, strict=True)]),
    )
