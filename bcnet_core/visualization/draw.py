"""Drawing on pictures: masks, outlines, labels, heatmaps, tiles. Pure: arrays in, new arrays out.

Images are (H, W, 3) uint8 RGB, masks (H, W) bool of the same size. The colours are told apart with every
common form of colour blindness (Okabe and Ito, 2008, https://jfly.uni-koeln.de/color/).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Colour = tuple[int, int, int]

PALETTE: tuple[Colour, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0),
    (0, 114, 178),
)  # fmt: skip
"""Orange, sky blue, green, yellow, purple, vermilion, blue."""
SHADES = (0.0, 0.45, -0.35)
"""How far each round through the palette is moved towards white (positive) or black (negative)."""
OCCLUDEE: Colour = (86, 180, 233)
OCCLUDER: Colour = (230, 159, 0)
PAPER: Colour = (250, 250, 248)
INK: Colour = (32, 33, 36)
MAX_TEXT = 28
"""Characters of a label before it is cut."""
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_RAMP = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_VIRIDIS)
_HEAT: Image = np.asarray(_RAMP[0, :, ::-1], np.uint8)


class Label(NamedTuple):
    """A text to put beside an object."""

    text: str
    colour: Colour
    mask: Mask


def instance_colour(index: int) -> Colour:
    """The colour of the instance at `index` of a picture; the same index always has the same colour."""
    shade = SHADES[index // len(PALETTE) % len(SHADES)]
    goal, share = (255 if shade > 0 else 0), abs(shade)
    red, green, blue = (round(part + (goal - part) * share) for part in PALETTE[index % len(PALETTE)])
    return red, green, blue


def window(mask: Mask) -> tuple[slice, slice] | None:
    """The tight (rows, columns) around the pixels that are set; None for an empty mask."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return (slice(y, y + height), slice(x, x + width)) if width and height else None


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


def dim(image: Image, *, strength: float = 0.72) -> Image:
    """The image in pale grey, as a ground on which coloured layers stand out."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    pale = cv2.LUT(grey, _towards(np.arange(256.0), 255, strength))
    return np.asarray(cv2.cvtColor(pale, cv2.COLOR_GRAY2RGB), np.uint8)


def fill(canvas: Image, mask: Mask, colour: Colour, *, alpha: float = 1.0) -> None:
    """Paint the pixels of a mask in place; alpha 1 covers what was there."""
    if alpha == 1:
        canvas[mask] = colour
        return
    ramp = np.arange(256.0)
    table = np.stack([_towards(ramp, part, alpha) for part in colour], axis=-1)[None]  # (1, 256, 3)
    cv2.copyTo(cv2.LUT(canvas, table), mask.view(np.uint8), canvas)


def overlay(
    image: Image,
    masks: Sequence[Mask],
    colours: Sequence[Colour],
    *,
    alpha: float = 0.45,
    ground: Image | None = None,
) -> Image:
    """Tint every mask of an image and outline it on its inside; small masks lie on top of large ones.

    Args:
        image: what is seen through the masks.
        masks: one for each object; a pixel outside all of them is not touched.
        colours: one for each mask.
        alpha: opacity of the tint in [0, 1].
        ground: what is seen outside the masks, where it differs from `image`.
    """
    canvas: Image = (image if ground is None else ground).copy()
    for index in sorted(range(len(masks)), key=lambda index: -np.count_nonzero(masks[index])):
        mask, colour = masks[index], colours[index]
        cut = window(mask)
        if cut is None:
            continue
        inside = np.ascontiguousarray(mask[cut])
        if ground is not None:
            cv2.copyTo(np.ascontiguousarray(image[cut]), inside.view(np.uint8), canvas[cut])
        fill(canvas[cut], inside, colour, alpha=alpha)
        fill(canvas[cut], boundary_band(inside), colour)
    return canvas


def add_labels(image: Image, labels: Sequence[Label]) -> Image:
    """Write every label beside its object, off the object and off the other labels where there is room.

    Larger objects choose first. A label that could only lie on top of others is left out, so that the rest
    stays legible.
    """
    canvas: Image = image.copy()
    objects = np.zeros(image.shape[:2], np.uint8)
    for label in labels:
        objects |= label.mask.view(np.uint8)
    written = np.zeros_like(objects)
    for label in sorted(labels, key=lambda label: -np.count_nonzero(label.mask)):
        cut = window(label.mask)
        if cut is None:
            continue
        chip = _chip(_clean(label.text), label.colour)
        if chip.shape[0] > canvas.shape[0] or chip.shape[1] > canvas.shape[1]:
            continue
        x, y = _place(chip.shape[:2], cut, label.mask, written, objects)
        place = (slice(y, y + chip.shape[0]), slice(x, x + chip.shape[1]))
        if np.count_nonzero(written[place]) <= 0.25 * written[place].size:
            canvas[place] = chip
            written[place] = 1
    return canvas


def resize_image(image: Image, size: tuple[int, int]) -> Image:
    """The image at another (height, width), smoothly."""
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=way), np.uint8)


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """The mask at another (height, width), each pixel taken from the nearest one."""
    resized: Mask = cv2.resize(mask.view(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).view(np.bool_)
    return resized


def heatmap(probabilities: NDArray[np.floating], size: tuple[int, int]) -> Image:
    """A probability map in viridis: 0 is dark purple, 1 is yellow. The cells of the map stay visible.

    Args:
        probabilities: (S, S) in [0, 1].
        size: (height, width) of the picture in pixels.
    """
    levels = (np.clip(probabilities, 0, 1) * 255 + 0.5).astype(np.uint8)
    picture: Image = _HEAT[cv2.resize(levels, size[::-1], interpolation=cv2.INTER_NEAREST)]
    return picture


def scale_bar(height: int) -> Image:
    """The colours of `heatmap` from 1 (top) to 0 (bottom), with their values beside them."""
    bar = np.full((height, 26, 3), PAPER, np.uint8)
    bar[:, :10] = _HEAT[np.linspace(255, 0, height).round().astype(int)][:, None]
    for text, y in (("1", 0), ("0", height - line_height())):
        write(bar, text, 14, y)
    return bar


def write(canvas: Image, text: str, x: int, y: int, colour: Colour = INK) -> None:
    """Write one line with its upper left corner at (x, y), in place; what does not fit is cut off."""
    glyphs = _glyphs(_clean(text))
    area = canvas[max(y, 0) : y + glyphs.shape[0], max(x, 0) : x + glyphs.shape[1]]
    ink = glyphs[: area.shape[0], : area.shape[1], None]
    area[:] = np.rint(area * (1 - ink) + np.array(colour) * ink)


def line_height() -> int:
    """Height of a line of text in pixels."""
    return int(_glyphs("x").shape[0])


def tile(rows: Sequence[Sequence[Image]], *, gap: int = 8) -> Image:
    """Put pictures into a grid on paper; a column is as wide as its widest picture, pictures are centred."""
    columns = max(len(row) for row in rows)
    widths = [max(row[column].shape[1] for row in rows if column < len(row)) for column in range(columns)]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    size = (sum(heights) + gap * (len(rows) + 1), sum(widths) + gap * (columns + 1))
    sheet = np.full((*size, 3), PAPER, np.uint8)
    y = gap
    for row, height in zip(rows, heights, strict=True):
        x = gap
        for picture, width in zip(row, widths, strict=False):
            left, top = x + (width - picture.shape[1]) // 2, y + (height - picture.shape[0]) // 2
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            x += width + gap
        y += height + gap
    return sheet


def captioned(picture: Image, text: str) -> Image:
    """The picture with a caption above it, widened where the caption needs more room."""
    glyphs = _glyphs(_clean(text))
    width = max(picture.shape[1], glyphs.shape[1])
    sheet = np.full((picture.shape[0] + line_height() + 2, width, 3), PAPER, np.uint8)
    left = (width - picture.shape[1]) // 2
    sheet[-picture.shape[0] :, left : left + picture.shape[1]] = picture
    write(sheet, text, left if glyphs.shape[1] <= picture.shape[1] else 0, 0)
    return sheet


def _place(
    size: tuple[int, ...],
    cut: tuple[slice, slice],
    mask: Mask,
    written: NDArray[np.uint8],
    objects: NDArray[np.uint8],
) -> tuple[int, int]:
    """The upper left corner of a label: beside the object where that covers none of it, else nearby."""
    height, width = size
    top, bottom, left, right = cut[0].start, cut[0].stop, cut[1].start, cut[1].stop
    most_x, most_y = mask.shape[1] - width, mask.shape[0] - height
    beside = [(x, y) for y in (top - height, bottom) for x in (left, right - width, (left + right - width) // 2)]
    beside += [(x, y) for y in (top, bottom - height) for x in (right, left - width, left, right - width)]
    spots = [(min(max(x, 0), most_x), min(max(y, 0), most_y)) for x, y in beside]

    def covered(spot: tuple[int, int]) -> list[int]:
        area = (slice(spot[1], spot[1] + height), slice(spot[0], spot[0] + width))
        return [cv2.countNonZero(layer[area]) for layer in (mask.view(np.uint8), written, objects)]

    def cost(spot: tuple[int, int]) -> int:
        own, labels, others = covered(spot)
        away = max(left - spot[0] - width, spot[0] - right, 0) + max(top - spot[1] - height, spot[1] - bottom, 0)
        return int(100 * own + 30 * labels + others + 20 * away)

    best = min(spots, key=cost)
    if sum(covered(best)[:2]) == 0:
        return best
    reach = 2 * height + width // 2
    rows = range(max(top - reach, 0), min(bottom + reach, most_y) + 1, 12)
    columns = range(max(left - reach, 0), min(right + reach, most_x) + 1, 12)
    return min([*spots, *((x, y) for y in rows for x in columns)], key=cost)


def _towards(values: NDArray[np.float64], goal: float, share: float) -> NDArray[np.uint8]:
    return np.rint(values + (goal - values) * share).astype(np.uint8)


def _clean(text: str) -> str:
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"


@lru_cache(maxsize=512)
def _glyphs(text: str) -> NDArray[np.float32]:
    """The (height, width) ink of one line of text, in [0, 1]."""
    font = ImageFont.load_default(size=13)
    right, bottom = (int(side) + 1 for side in font.getbbox(text)[2:])
    page = PillowImage.new("L", (max(right, 1), max(bottom, 16)))
    ImageDraw.Draw(page).text((0, 0), text, fill=255, font=font)
    ink: NDArray[np.float32] = np.asarray(page, np.float32) / np.float32(255)
    return ink


@lru_cache(maxsize=512)
def _chip(text: str, colour: Colour) -> Image:
    """A label: the text on a patch of its object's colour, black or white, whichever reads better."""
    glyphs = _glyphs(text)
    chip = np.full((glyphs.shape[0] + 3, glyphs.shape[1] + 8, 3), colour, np.uint8)
    luminance = float(np.dot(colour, (0.299, 0.587, 0.114)))
    write(chip, text, 4, 1, INK if luminance > 110 else PAPER)
    chip.setflags(write=False)
    return chip
