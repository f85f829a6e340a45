"""Pixel rendering of drawings and cards. Pure: inputs are never modified."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from bcnet_core.visualization import layout
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

_RAMP = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_VIRIDIS)
_HEAT: Image = np.asarray(_RAMP[0, :, ::-1], np.uint8)


def paint(drawing: Drawing | Card) -> Image:
    """Return the (H, W, 3) uint8 RGB image of a drawing, as large as its background, or of a card."""
    if isinstance(drawing, Card):
        return _paint_card(drawing)
    if not (drawing.shapes or drawing.labels):
        return drawing.ground
    canvas: Image = drawing.ground.copy()
    for shape in drawing.shapes:
        _paint_shape(canvas, shape)
    for placed in layout.place_labels(drawing.labels, canvas.shape[:2]):
        color, (pad_x, pad_y) = placed.label.color, layout.PADDING
        part = canvas[placed.y : placed.y + placed.height, placed.x : placed.x + placed.width]
        part[:] = color
        part[pad_y:-pad_y, pad_x:-pad_x] = _line(placed.text, color, text_color(color))
    return canvas


def dim(image: Image, *, strength: float = 0.72) -> Image:
    """Return the image in pale gray, as a background that makes colored layers stand out."""
    levels = np.arange(256.0)
    pale = cv2.LUT(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.rint(levels + (255 - levels) * strength).astype(np.uint8)
    )
    return np.asarray(cv2.cvtColor(pale, cv2.COLOR_GRAY2RGB), np.uint8)


def reveal(image: Image, patches: list[Patch], ground: Image) -> Image:
    """Return the image inside the patches and the background elsewhere."""
    canvas: Image = ground.copy()
    for patch in patches:
        cv2.copyTo(np.ascontiguousarray(image[patch.window]), patch.bits, canvas[patch.window])
    return canvas


def resize_image(image: Image, size: tuple[int, int]) -> Image:
    """Resize an image smoothly to (height, width); return it unchanged if it already has that size."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method), np.uint8)


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Resize a mask to (height, width) by nearest neighbor."""
    bits = np.ascontiguousarray(mask).view(np.uint8)
    resized: Mask = cv2.resize(bits, size[::-1], interpolation=cv2.INTER_NEAREST).view(np.bool_)
    return resized


def heatmap(values: NDArray[np.floating], size: tuple[int, int] | None = None) -> Image:
    """Color a map in viridis (0 is dark purple, 1 is yellow), with its cells left visible.

    Args:
        values: (S, S); clipped to [0, 1].
        size: (height, width) of the result in pixels; None for one pixel per cell.
    """
    colors: Image = _HEAT[(np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)]
    return colors if size is None else np.asarray(cv2.resize(colors, size[::-1], interpolation=cv2.INTER_NEAREST))


def scale_bar(height: int) -> Image:
    """Return the colors of `heatmap` from 1 (top) to 0 (bottom), (height, `layout.BAR`, 3)."""
    bar: Image = np.repeat(_HEAT[np.linspace(255, 0, height).round().astype(int)][:, None], layout.BAR, axis=1)
    return bar


def write(canvas: Image, text: str, x: int, y: int, color: Color = INK) -> None:
    """Write one line with its upper left corner at (x, y), in place; clip it to the canvas."""
    glyphs = layout.glyphs(layout.clean(text))
    area = canvas[max(y, 0) : y + glyphs.shape[0], max(x, 0) : x + glyphs.shape[1]]
    ink = glyphs[: area.shape[0], : area.shape[1], None]
    area[:] = np.rint(area * (1 - ink) + np.array(color, np.float32) * ink)


def _paint_shape(canvas: Image, shape: Shape) -> None:
    """Tint a mask and outline it, in place."""
    patch, part = shape.patch, canvas[shape.patch.window]
    plain = np.empty_like(part, order="C")
    cv2.rectangle(plain, (0, 0), plain.shape[1::-1], shape.color, cv2.FILLED)  # much faster than numpy's full
    tinted = plain if shape.alpha == 1 else cv2.addWeighted(part, 1 - shape.alpha, plain, shape.alpha, 0)
    cv2.copyTo(tinted, patch.bits, part)
    if shape.outline and shape.alpha < 1:
        cv2.copyTo(plain, boundary_band(patch.mask, shape.outline).view(np.uint8), part)


@lru_cache(maxsize=1024)
def _line(text: str, ground: Color, ink: Color) -> Image:
    """Return one line of text on a plain background, as large as its `layout.glyphs`."""
    line = np.full((*layout.glyphs(layout.clean(text)).shape, 3), ground, np.uint8)
    write(line, text, 0, 0, ink)
    line.setflags(write=False)
    return line


def _paint_card(card: Card) -> Image:
    plan = layout.lay_out(card)
    sheet = np.full((plan.height, plan.width, 3), PAPER[0], np.uint8)
    for cell in plan.cells:
        line = _line(cell.tile.caption, PAPER, INK)
        above = sheet[cell.y - layout.LINE - layout.CAPTION_GAP :, cell.text_x :]
        above[: line.shape[0], : line.shape[1]] = line
        sheet[cell.y : cell.y + card.size[0], cell.x : cell.x + card.size[1]] = _content(cell.tile.content, card.size)
    for y in plan.bars:
        sheet[y : y + card.size[0], plan.bar_x : plan.bar_x + layout.BAR] = scale_bar(card.size[0])
        for text, below in (("1", 0), ("0", card.size[0] - layout.LINE)):
            write(sheet, text, plan.bar_x + layout.BAR + 4, y + below)
    return sheet


def _content(content: Drawing | Heat | Blank, size: tuple[int, int]) -> Image:
    match content:
        case Drawing():
            return paint(content)
        case Heat():
            return heatmap(content.values, size)
        case Blank():
            return np.full((*size, 3), BLANK[0], np.uint8)
