"""Tiles: a large image as windows that a detector sees one by one, and once as a whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bcnet_core.errors import usage_error
from bcnet_core.evaluation.joining import join
from bcnet_core.evaluation.pieces import View
from bcnet_core.files.image_headers import image_size
from bcnet_core.files.images import as_image
from bcnet_core.files.windows import Window, WindowReader, reduced
from bcnet_core.model.boxes import scale_boxes
from bcnet_core.structures import Detections, Instances, Predictor

SMALLEST_TILE = 32
"""Least side of a tile, pixels."""
LEAST_OVERLAP, MOST_OVERLAP = 0.05, 0.75
"""Bounds of the overlap: tiles that share no pixel cannot be joined, and more overlap only costs time."""


class Tiling(NamedTuple):
    """Division of large images into tiles.

    Attributes:
        side: height and width of a tile, pixels.
        overlap: share of the side that neighbours have in common, or more.
    """

    side: int
    overlap: float

    @property
    def stride(self) -> int:
        """Largest distance of neighbours, pixels: an object up to the rest of the side is in one tile as a whole."""
        return self.side - max(1, math.ceil(self.side * self.overlap))


def check_tiling(side: int, overlap: float) -> Tiling:
    """Return the tiling of these numbers.

    Raises:
        BCNetError: if tiles would be too small, share too little to be joined, or hardly move.
    """
    if side < SMALLEST_TILE:
        raise usage_error(f"a tile of {side} pixels is too small", f"give {SMALLEST_TILE} or more, for example 1024")
    if not LEAST_OVERLAP <= overlap <= MOST_OVERLAP:
        raise usage_error(
            f"tiles cannot overlap by {overlap:g} of their side",
            f"give a share from {LEAST_OVERLAP} to {MOST_OVERLAP}, for example 0.2",
        )
    return Tiling(side, overlap)


def tile_windows(height: int, width: int, tiling: Tiling | None) -> list[Window | None]:
    """Return what a detector sees of an image of these pixels, part by part.

    Returns:
        The whole image, at low resolution, then its tiles by rows: all of one size, the last ones moved inwards. None,
        the image as it is, if there is no tiling, or the image is no larger than a tile (or of unknown size: zeros).
    """
    if tiling is None or max(height, width) <= tiling.side:
        return [None]
    columns, rows = (_starts(length, tiling) for length in (width, height))
    size = min(tiling.side, width), min(tiling.side, height)
    return [Window(0, 0, width, height), *(Window(x, y, *size) for y in rows for x in columns)]


def _starts(length: int, tiling: Tiling) -> list[int]:
    """Return where tiles begin along a side of an image, evenly spread."""
    last = max(length - tiling.side, 0)
    steps = math.ceil(last / tiling.stride)
    return [round(last * step / max(steps, 1)) for step in range(steps + 1)]


def best_windows(corners: NDArray[np.float32], views: Sequence[Window]) -> NDArray[np.intp]:
    """Return which view of an image shows each of its boxes best.

    Args:
        corners: (N, 4) boxes, xyxy in pixels of the image.
        views: all of the image, then its tiles.

    Returns:
        (N,) positions of views: of the tile that has most room around the box, or 0 if no tile holds it.
    """
    whole, tiles = views[0], np.array(views[1:], np.float64)
    first, last = tiles[:, :2], tiles[:, :2] + tiles[:, 2:]
    first[first == 0] = -np.inf  # the border of the image cuts nothing off
    last[last == (whole.width, whole.height)] = np.inf
    room = np.minimum(corners[:, None, :2] - first, last - corners[:, None, 2:]).min(2)  # (N, number of tiles)
    return np.where(room.max(1) >= 0, room.argmax(1) + 1, 0)


def see_boxes(corners: NDArray[np.float32], window: Window, shown: tuple[int, int]) -> NDArray[np.float32]:
    """Move (N, 4) xyxy boxes of an image to a window of it, which is shown in (H, W) pixels."""
    inside = torch.from_numpy(corners).double() - torch.tensor([window.x, window.y]).repeat(2)
    return scale_boxes(inside, (window.height, window.width), shown).float().numpy()


def place(found: Detections, window: Window, image_size: tuple[int, int]) -> Detections:
    """Move detections in the pixels of a window, which may have been reduced, to its image of (H, W) pixels."""
    corner = found.boxes.new_tensor([window.x, window.y]).repeat(2)
    boxes = scale_boxes(found.boxes, found.image_size, (window.height, window.width)) + corner
    return found._replace(boxes=boxes, image_size=image_size)


def join_parts(parts: Sequence[tuple[Window | None, Instances]], tiling: Tiling | None) -> Instances:
    """Return the instances of an image from those of its `tile_windows`, in the frame of the image."""
    if len(parts) == 1 or tiling is None:
        return parts[0][1]
    return join([View(window, found) for window, found in parts if window is not None], stride=tiling.stride)


def predict_tiled(
    detector: Predictor, image: NDArray[np.uint8] | str | Path, *, tile: int = 1024, overlap: float = 0.2
) -> Instances:
    """Find the instances of one image, tile by tile; see `bcnet_core.predict_tiled`."""
    tiling = check_tiling(tile, overlap)
    pixels = None if isinstance(image, str | Path) else as_image(image)
    size = image_size(Path(str(image))) if pixels is None else (pixels.shape[0], pixels.shape[1])
    parts, whole = [], Window(0, 0, size[1], size[0])
    with WindowReader() as reader:
        for window in tile_windows(size[0], size[1], tiling):
            seen = window or whole
            if pixels is None:
                shown = reader.read(Path(str(image)), seen, size)
            else:
                shown = reduced(seen.cut(pixels), seen, size)
            (found,) = detector.predict([shown])
            parts.append((window, place(found, seen, size).instances(layers=True)))
    return join_parts(parts, tiling)
