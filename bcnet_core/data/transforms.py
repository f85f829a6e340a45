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


class View(NamedTuple):
    """Which part of a stored image becomes the network's input, and how large.

    Attributes:
        x0: left edge of the window in source pixels, continuous.
        y0: upper edge.
        x1: right edge.
        y1: lower edge.
        height: of the input, pixels.
        width: of the input, pixels.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    height: int
    width: int

    def pixels(self) -> tuple[int, int, int, int]:
        """The source pixels whose centre is in the window, as half-open x0, y0, x1, y1."""
        x0, y0, x1, y1 = (int(np.ceil(edge - 0.5)) for edge in self[:4])
        return x0, y0, x1, y1


def whole_view(height: int, width: int, *, min_size: int, max_size: int) -> View:
    """The whole image, resized to `target_size`."""
    return View(
        0.0, 0.0, float(width), float(height), *target_size(height, width, min_size=min_size, max_size=max_size)
    )


def jittered_view(
    rng: np.random.Generator, height: int, width: int, *, factors: tuple[float, float], side: int
) -> View:
    """Large-scale jitter (Ghiasi et al., 2021): resize by a random factor, then cut a random window out.

    Args:
        rng: decides factor and window.
        height: of the stored image, pixels.
        width: of the stored image, pixels.
        factors: least and largest length of the longer side, in `side`s.
        side: most height and width of the result, pixels.
    """
    scale = rng.uniform(*factors) * side / max(height, width)
    whole = [max(1, round(height * scale)), max(1, round(width * scale))]
    cut = [min(length, side) for length in whole]
    y, x = (int(rng.integers(length - part + 1)) for length, part in zip(whole, cut, strict=True))
    per_y, per_x = height / whole[0], width / whole[1]
    return View(x * per_x, y * per_y, (x + cut[1]) * per_x, (y + cut[0]) * per_y, *cut)


def place(image: NDArray[np.uint8], view: View, *, flip: bool) -> tuple[NDArray[np.uint8], Placement]:
    """Cut and resize an image as a view says, and perhaps mirror it.

    Args:
        image: (H, W, 3) uint8.
        view: of this image.
        flip: whether to mirror left and right.

    Returns:
        The (h, w, 3) uint8 network input and the placement of the stored image in it.
    """
    window = (view.x0, view.y0, view.x1, view.y1)
    if window == (0, 0, image.shape[1], image.shape[0]):
        placed = resize(image, view.height, view.width)
    else:
        size = (view.width, view.height)
        placed = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box=window))
    scale_x, scale_y = view.width / (view.x1 - view.x0), view.height / (view.y1 - view.y0)
    shift_x, shift_y = -view.x0 * scale_x, -view.y0 * scale_y
    if flip:
        return placed[:, ::-1], Placement(-scale_x, view.width - shift_x, scale_y, shift_y)
    return placed, Placement(scale_x, shift_x, scale_y, shift_y)
