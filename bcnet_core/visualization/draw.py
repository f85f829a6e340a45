"""From scenes and cards to pixels. Pure: nothing that comes in is changed."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from bcnet_core.visualization import cards, labels
from bcnet_core.visualization.drawing import (
    BLANK,
    INK,
    PAPER,
    Blank,
    Card,
    Color,
    Drawing,
    Heat,
    Image,
    Mask,
    Patch,
    Shape,
    boundary_band,
    text_color,
)
from bcnet_core.visualization.labels import LINE, Placed

_RAMP = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_VIRIDIS)
_HEAT: Image = np.asarray(_RAMP[0, :, ::-1], np.uint8)


def paint(drawing: Drawing | Card) -> Image:
    """The (H, W, 3) uint8 RGB picture of a drawing, as large as its ground, or of a card."""
    return _paint_card(drawing) if isinstance(drawing, Card) else paint_drawing(drawing)


def paint_drawing(drawing: Drawing) -> Image:
    """The picture of a drawing: the tint and the outline of every shape, then the labels."""
    if not (drawing.shapes or drawing.labels):
        return drawing.ground
    canvas: Image = drawing.ground.copy()
    for shape in drawing.shapes:
        _paint_shape(canvas, shape)
    for placed in labels.place_labels(drawing.labels, canvas.shape[:2]):
        _paint_label(canvas, placed)
    return canvas


def dim(image: Image, *, strength: float = 0.72) -> Image:
    """The image in pale gray, as a ground on which colored layers stand out."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    pale = cv2.LUT(gray, _towards(np.arange(256.0), 255, strength))
    return np.asarray(cv2.cvtColor(pale, cv2.COLOR_GRAY2RGB), np.uint8)


def seen_through(image: Image, patches: list[Patch], ground: Image) -> Image:
    """The image inside the patches, the ground outside of them."""
    canvas: Image = ground.copy()
    for patch in patches:
        cv2.copyTo(np.ascontiguousarray(image[patch.window]), patch.bits, canvas[patch.window])
    return canvas


def resize_image(image: Image, size: tuple[int, int]) -> Image:
    """The image at another (height, width), smoothly; itself where that is its size."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=way), np.uint8)


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """The mask at another (height, width), each pixel taken from the nearest one."""
    bits = np.ascontiguousarray(mask).view(np.uint8)
    resized: Mask = cv2.resize(bits, size[::-1], interpolation=cv2.INTER_NEAREST).view(np.bool_)
    return resized


def heatmap(values: NDArray[np.floating], size: tuple[int, int] | None = None) -> Image:
    """A map of values in viridis: 0 is dark purple, 1 is yellow. The cells of the map stay visible.

    Args:
        values: (S, S) in [0, 1]; what lies beyond is taken for the nearest of them.
        size: (height, width) of the picture in pixels; None for one pixel a cell.
    """
    picture: Image = _HEAT[(np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)]
    return picture if size is None else np.asarray(cv2.resize(picture, size[::-1], interpolation=cv2.INTER_NEAREST))


def scale_bar(height: int) -> Image:
    """The colors of `heatmap` from 1 (top) to 0 (bottom), (height, `cards.BAR`, 3)."""
    bar: Image = np.repeat(_HEAT[np.linspace(255, 0, height).round().astype(int)][:, None], cards.BAR, axis=1)
    return bar


def write(canvas: Image, text: str, x: int, y: int, color: Color = INK) -> None:
    """Write one line with its upper left corner at (x, y), in place; what does not fit is cut off."""
    glyphs = labels.glyphs(labels.clean(text))
    area = canvas[max(y, 0) : y + glyphs.shape[0], max(x, 0) : x + glyphs.shape[1]]
    ink = glyphs[: area.shape[0], : area.shape[1], None]
    area[:] = np.rint(area * (1 - ink) + np.array(color, np.float32) * ink)


def _paint_shape(canvas: Image, shape: Shape) -> None:
    """Tint a mask and line it, in place."""
    patch, part = shape.patch, canvas[shape.patch.window]
    plain = np.empty_like(part, order="C")
    cv2.rectangle(plain, (0, 0), plain.shape[1::-1], shape.color, cv2.FILLED)  # much faster than numpy's full
    tinted = plain if shape.alpha == 1 else cv2.addWeighted(part, 1 - shape.alpha, plain, shape.alpha, 0)
    cv2.copyTo(tinted, patch.bits, part)
    if shape.outline and shape.alpha < 1:
        cv2.copyTo(plain, boundary_band(patch.mask, shape.outline).view(np.uint8), part)


def _paint_label(canvas: Image, placed: Placed) -> None:
    color, (pad_x, pad_y) = placed.label.color, labels.PADDING
    part = canvas[placed.y : placed.y + placed.height, placed.x : placed.x + placed.width]
    part[:] = color
    part[pad_y:-pad_y, pad_x:-pad_x] = _line(placed.text, color, text_color(color))


@lru_cache(maxsize=1024)
def _line(text: str, ground: Color, ink: Color) -> Image:
    """One line of text on a plain ground, as large as `labels.glyphs` says."""
    line = np.full((*labels.glyphs(labels.clean(text)).shape, 3), ground, np.uint8)
    write(line, text, 0, 0, ink)
    line.setflags(write=False)
    return line


def _paint_card(card: Card) -> Image:
    plan = cards.lay_out(card)
    sheet = np.full((plan.height, plan.width, 3), PAPER[0], np.uint8)
    for cell in plan.cells:
        line = _line(cell.tile.caption, PAPER, INK)
        above = sheet[cell.y - LINE - cards.CAPTION_GAP :, cell.text_x :]
        above[: line.shape[0], : line.shape[1]] = line
        sheet[cell.y : cell.y + card.size[0], cell.x : cell.x + card.size[1]] = _content(cell.tile.content, card.size)
    for y in plan.bars:
        sheet[y : y + card.size[0], plan.bar_x : plan.bar_x + cards.BAR] = scale_bar(card.size[0])
        for text, below in (("1", 0), ("0", card.size[0] - LINE)):
            write(sheet, text, plan.bar_x + cards.BAR + 4, y + below)
    return sheet


def _content(content: Drawing | Heat | Blank, size: tuple[int, int]) -> Image:
    match content:
        case Drawing():
            return paint_drawing(content)
        case Heat():
            return heatmap(content.values, size)
        case Blank():
            return np.full((*size, 3), BLANK[0], np.uint8)


def _towards(values: NDArray[np.float64], goal: float, share: float) -> NDArray[np.uint8]:
    return np.rint(values + (goal - values) * share).astype(np.uint8)
