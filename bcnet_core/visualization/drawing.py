"""Drawings before they become pixels or vectors: shapes and labels on a background, and cards of tiles.

Images are (H, W, 3) uint8 RGB; lengths and positions are in pixels of the displayed image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.masks import RLE

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Color = tuple[int, int, int]
Point = tuple[float, float]
"""x and y."""

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
SHAFT, HEAD = 2.0, 9.0
"""Width of the shaft of an arrow, and length and width of its head, in pixels."""
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
    """A mask in one color: a tint of opacity `alpha`, an opaque outline of that width inside it, a label beside it.

    If it is `hatched`, opaque oblique lines take the place of the tint.
    """

    patch: Patch
    color: Color
    alpha: float = 0.45
    outline: int = 2
    label: str | None = None
    hatched: bool = False


class Arrow(NamedTuple):
    """An arrow from one point to another, in pixels."""

    tail: Point
    tip: Point

    @property
    def corners(self) -> NDArray[np.float64]:
        """Corners of its outline, (7, 2)."""
        tail, tip = np.array(self.tail), np.array(self.tip)
        along = (tip - tail) / max(math.dist(tail, tip), 1e-9)
        across, neck = along[::-1] * (1, -1), tip - along * HEAD
        shaft, head = across * SHAFT / 2, across * HEAD / 2
        return np.stack([tail + shaft, neck + shaft, neck + head, tip, neck - head, neck - shaft, tail - shaft])


class Drawing(NamedTuple):
    """Shapes, the first at the bottom, on a background image, and arrows over them."""

    ground: Image
    shapes: tuple[Shape, ...] = ()
    arrows: tuple[Arrow, ...] = ()


class Tile(NamedTuple):
    """A caption above a drawing, an (S, S) map of values in [0, 1], or None in place of a missing map."""

    caption: str
    content: Drawing | NDArray[np.floating] | None


class Card(NamedTuple):
    """Rows of tiles of one (height, width); each row ends with the color scale of its maps."""

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


def cut(patch: Patch, other: Patch, *, inside: bool) -> Patch | None:
    """Return the pixels of a patch inside or outside another one, in its own window; None if there are none."""
    covered = np.zeros_like(patch.mask)
    x, y = other.x - patch.x, other.y - patch.y
    (height, width), (rows, columns) = patch.mask.shape, other.mask.shape
    part = np.s_[max(y, 0) : max(min(y + rows, height), 0), max(x, 0) : max(min(x + columns, width), 0)]
    from_other = np.s_[max(-y, 0) : max(height - y, 0), max(-x, 0) : max(width - x, 0)]
    covered[part] = other.mask[from_other]
    mask = patch.mask & covered if inside else patch.mask & ~covered
    return patch._replace(mask=mask) if mask.any() else None


def inner_point(patch: Patch) -> Point:
    """Return the centroid in the image of a mask that is not empty, or its deepest pixel if that lies outside."""
    moments = cv2.moments(patch.bits, binaryImage=True)
    x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    if not patch.mask[round(y), round(x)]:
        framed = cv2.copyMakeBorder(patch.bits, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        depth = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = map(float, np.unravel_index(int(depth.argmax()), depth.shape))
    return patch.x + x + 0.5, patch.y + y + 0.5


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
