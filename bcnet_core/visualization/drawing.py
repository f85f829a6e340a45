"""What is drawn, before it becomes pixels or vectors: shapes and labels on a ground, and cards of tiles.

Images are (H, W, 3) uint8 RGB, lengths and places are in pixels of the picture as it is shown.
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
"""Orange, sky blue, green, yellow, purple, vermilion, blue: told apart with every common form of color blindness
(Okabe and Ito, 2008, https://jfly.uni-koeln.de/color/)."""
SHADES = (0.0, 0.45, -0.35)
"""How far each round through the palette is moved towards white (positive) or black (negative)."""
OCCLUDEE: Color = (86, 180, 233)
OCCLUDER: Color = (230, 159, 0)
INK: Color = (32, 33, 36)
PAPER: Color = (250, 250, 250)
BLANK: Color = (226, 226, 226)
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


class Patch(NamedTuple):
    """A mask, cut to where it is.

    Attributes:
        x: of its left column.
        y: of its upper row.
        mask: (h, w) bool.
    """

    x: int
    y: int
    mask: Mask

    @property
    def window(self) -> tuple[slice, slice]:
        """The (rows, columns) of the picture that it lies on."""
        height, width = self.mask.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)

    @property
    def bits(self) -> NDArray[np.uint8]:
        """The mask as 0 and 1, the same memory."""
        return self.mask.view(np.uint8)


class Shape(NamedTuple):
    """A mask in a color.

    Attributes:
        patch: where it is.
        color: of its tint and outline.
        alpha: opacity of the tint, in [0, 1].
        outline: width of the opaque line along its inside.
    """

    patch: Patch
    color: Color
    alpha: float = 0.45
    outline: int = 2


class Label(NamedTuple):
    """A text to put beside an object."""

    text: str
    color: Color
    patch: Patch


class Drawing(NamedTuple):
    """Shapes, the first at the bottom, and labels on a ground."""

    ground: Image
    shapes: tuple[Shape, ...] = ()
    labels: tuple[Label, ...] = ()


class Heat(NamedTuple):
    """An (S, S) map of values in [0, 1], drawn in viridis: 0 is dark purple, 1 is yellow."""

    values: NDArray[np.floating]


class Blank(NamedTuple):
    """A gray tile, for what there is not."""


class Tile(NamedTuple):
    """One picture of a card, and what is written above it."""

    caption: str
    content: Drawing | Heat | Blank


class Card(NamedTuple):
    """Rows of tiles of one size, each row with the color scale of its maps at its end.

    Attributes:
        size: (height, width) of a tile.
        rows: of tiles, the same number in each.
    """

    size: tuple[int, int]
    rows: tuple[tuple[Tile, ...], ...]


def instance_color(index: int) -> Color:
    """The color of the instance at `index` of a picture; the same index always has the same color."""
    shade = SHADES[index // len(PALETTE) % len(SHADES)]
    goal, share = (255 if shade > 0 else 0), abs(shade)
    red, green, blue = (round(part + (goal - part) * share) for part in PALETTE[index % len(PALETTE)])
    return red, green, blue


def text_color(ground: Color) -> Color:
    """Black or white, whichever reads better on a color."""
    return INK if float(np.dot(ground, (0.299, 0.587, 0.114))) > 110 else PAPER


def patch_of_mask(mask: Mask) -> Patch | None:
    """Cut an (H, W) mask to what is set; None for an empty one."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    return Patch(x, y, np.ascontiguousarray(mask[y : y + height, x : x + width])) if width and height else None


def patch_of_rle(rle: RLE | None, size: tuple[int, int]) -> Patch | None:
    """A mask as it is shown in another size, each pixel taken from the one below its centre.

    Args:
        rle: of the image.
        size: (height, width) in which the image is shown.

    Returns:
        The patch; None of no mask, and of one that is empty or falls between the pixels.
    """
    if rle is None:
        return None
    x, y, width, height = masks.bounding_box(rle).astype(int).tolist()
    top, rows = _shown(y, height, rle["size"][0], size[0])
    left, columns = _shown(x, width, rle["size"][1], size[1])
    if not (len(rows) and len(columns)):
        return None
    window = masks.decode_window(rle, x, y, x + width, y + height)
    if tuple(rle["size"]) != size:
        window = window[(rows - y)[:, None], columns - x]
    return Patch(left, top, window) if window.any() else None


def _shown(first: int, count: int, old: int, new: int) -> tuple[int, NDArray[np.int64]]:
    """The first pixel of a side of `new` that shows any of these of a side of `old`, and which one each pixel shows."""
    if old == new:
        return first, np.arange(first, first + count)
    start, stop = (int(np.ceil(edge * new / old - 0.5)) for edge in (first, first + count))
    places = ((np.arange(start, stop) + 0.5) * old / new).astype(np.int64)
    return start, np.clip(places, first, first + count - 1)


def boundary_band(mask: Mask, width: int = 2, *, closed: bool = True) -> Mask:
    """The outermost `width` pixels of a mask, inside it.

    Args:
        mask: (H, W) bool.
        width: of the band, in pixels.
        closed: whether the band also runs along the border of the array, where the mask is merely cut off.
    """
    bits, beyond = mask.view(np.uint8), 0 if closed else 1
    core = cv2.erode(bits, _CROSS, iterations=width, borderType=cv2.BORDER_CONSTANT, borderValue=beyond)
    band: Mask = mask & (core == 0)
    return band
