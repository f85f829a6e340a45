"""Drawings before they become pixels or vectors: shapes and labels on a background, and cards of tiles.

Images are (H, W, 3) uint8 RGB; lengths and positions are in pixels of the displayed image.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.masks import RLE

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0),
    (0, 114, 178),
)  # fmt: skip
"""Orange, sky blue, green, yellow, purple, vermilion, blue: distinguishable with every common form of color blindness
(Okabe and Ito, 2008, https://jfly.uni-koeln.de/color/)."""
SHADES = (0.0, 0.45, -0.35)
"""How far each round through the palette is moved towards white (positive) or black (negative)."""
OCCLUDEE: Color = (86, 180, 233)
OCCLUDER: Color = (230, 159, 0)
INK: Color = (32, 33, 36)
PAPER: Color = (250, 250, 250)
BLANK: Color = (226, 226, 226)
CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


class Patch(NamedTuple):
    """An (h, w) mask cropped to its extent, and its upper left pixel in the image."""

    x: int
    y: int
    mask: Mask

    @property
    def window(self) -> tuple[slice, slice]:
        """(rows, columns) of the image that the patch covers."""
        height, width = self.mask.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)

    @property
    def bits(self) -> NDArray[np.uint8]:
        """The mask as zeros and ones; shares its memory."""
        return self.mask.view(np.uint8)


class Shape(NamedTuple):
    """A mask in one color: a tint of opacity `alpha`, an opaque outline of that width inside it, a label beside it."""

    patch: Patch
    color: Color
    alpha: float = 0.45
    outline: int = 2
    label: str | None = None


class Drawing(NamedTuple):
    """Shapes, the first at the bottom, on a background image."""

    ground: Image
    shapes: tuple[Shape, ...] = ()


class Tile(NamedTuple):
    """A caption above a drawing, an (S, S) map of values in [0, 1], or None in place of a missing map."""

    caption: str
    content: Drawing | NDArray[np.floating] | None


class Card(NamedTuple):
    """Equally long rows of tiles of one (height, width); each row ends with the color scale of its maps."""

    size: tuple[int, int]
    rows: tuple[tuple[Tile, ...], ...]


def instance_color(index: int) -> Color:
    """Return the color of the instance at `index` of a picture; the same index always gets the same color."""
    shade = SHADES[index // len(PALETTE) % len(SHADES)]
    goal, share = (255 if shade > 0 else 0), abs(shade)
    red, green, blue = (round(part + (goal - part) * share) for part in PALETTE[index % len(PALETTE)])
    return red, green, blue


def text_color(ground: Color) -> Color:
    """Return black or white, whichever reads better on a color."""
    return INK if float(np.dot(ground, (0.299, 0.587, 0.114))) > 110 else PAPER


def patch_of_mask(mask: Mask) -> Patch | None:
    """Crop an (H, W) mask to its extent; None if it is empty."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    return Patch(x, y, np.ascontiguousarray(mask[y : y + height, x : x + width])) if width and height else None


def patch_of_rle(rle: RLE | None, size: tuple[int, int]) -> Patch | None:
    """Resample a mask of the original image to the displayed (height, width) by nearest neighbor.

    None if there is no mask, or it is empty or falls between the displayed pixels.
    """
    if rle is None:
        return None
    x, y, width, height = masks.bounding_box(rle).astype(int).tolist()
    top, rows = _sampled(y, height, rle["size"][0], size[0])
    left, columns = _sampled(x, width, rle["size"][1], size[1])
    if not (len(rows) and len(columns)):
        return None
    window = masks.decode_window(rle, x, y, x + width, y + height)
    if tuple(rle["size"]) != size:
        window = window[(rows - y)[:, None], columns - x]
    return Patch(left, top, window) if window.any() else None


def _sampled(first: int, count: int, old: int, new: int) -> tuple[int, NDArray[np.int64]]:
    """Map a span of a side of length `old` to length `new`: its first new pixel, and the old pixel each one samples."""
    if old == new:
        return first, np.arange(first, first + count)
    start, stop = (int(np.ceil(edge * new / old - 0.5)) for edge in (first, first + count))
    samples = ((np.arange(start, stop) + 0.5) * old / new).astype(np.int64)
    return start, np.clip(samples, first, first + count - 1)


def boundary_band(mask: Mask, width: int = 2, *, closed: bool = True) -> Mask:
    """Return the outermost `width` pixels inside an (H, W) mask.

    `closed` bands also run along the border of the array, where the mask is merely cut off.
    """
    beyond = 0 if closed else 1
    core = cv2.erode(mask.view(np.uint8), CROSS, iterations=width, borderType=cv2.BORDER_CONSTANT, borderValue=beyond)
    band: Mask = mask & (core == 0)
    return band
