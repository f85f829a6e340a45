"""Geometric transforms of training images, and the placement that carries boxes and masks along."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Placement(NamedTuple):
    """Where the stored image lies in the network's input: x_input = scale_x * x + shift_x, and so for y.

    Coordinates are continuous, with pixel edges at the integers. A flip is a negative scale.
    """

    scale_x: float
    shift_x: float
    scale_y: float
    shift_y: float

    def to_input(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map (N, 4) xyxy boxes of the stored image to the network's input; corners stay ordered."""
        x = boxes[:, 0::2] * self.scale_x + self.shift_x
        y = boxes[:, 1::2] * self.scale_y + self.shift_y
        return np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)


def target_size(height: int, width: int, *, min_size: int, max_size: int) -> tuple[int, int]:
    """The (height, width) whose shorter side is `min_size`, or whose longer side is `max_size` if that is less."""
    scale = min(min_size / min(height, width), max_size / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize an (H, W, 3) uint8 image, bilinear and antialiased."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def place(image: NDArray[np.uint8], *, min_size: int, max_size: int, flip: bool) -> tuple[NDArray[np.uint8], Placement]:
    """Resize and perhaps mirror an image.

    Args:
        image: (H, W, 3) uint8.
        min_size: shorter side of the result, pixels.
        max_size: bound of its longer side, pixels.
        flip: whether to mirror left and right.

    Returns:
        The (h, w, 3) uint8 network input and the placement of the stored image in it.
    """
    height, width = image.shape[:2]
    new_height, new_width = target_size(height, width, min_size=min_size, max_size=max_size)
    placed = resize(image, new_height, new_width)
    scale_x, scale_y = new_width / width, new_height / height
    if flip:
        return placed[:, ::-1], Placement(-scale_x, float(new_width), scale_y, 0.0)
    return placed, Placement(scale_x, 0.0, scale_y, 0.0)
