"""SVG rendering of drawings and cards: shapes are paths, labels are text, only photographs and maps stay pixels.

Files are self-contained: pixels are embedded. Paths follow the pixel edges of a mask, so they cover exactly its pixels.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape

import cv2
import numpy as np

from bcnet_core import masks
from bcnet_core.annotations.polygons import trace
from bcnet_core.visualization import draw, layout
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
    Patch,
    Shape,
    text_color,
)

QUALITY = 90
"""JPEG quality of embedded photographs."""
BASELINE = 12
"""Pixels from the top of a line of text to its baseline."""


def to_svg(drawing: Drawing | Card) -> str:
    """Return the SVG document of a drawing, as large as its background, or of a card; text is escaped."""
    width, height = layout.drawn_size(drawing)
    body = "\n".join(_card(drawing) if isinstance(drawing, Card) else _drawing(drawing))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="{layout.FONT_SIZE}">\n{body}\n</svg>\n'
    )


def _drawing(drawing: Drawing) -> Iterator[str]:
    yield _pixels(drawing.ground, drawing.ground.shape[:2], ".jpg", [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    for shape in drawing.shapes:
        yield _shape(shape)
    for placed in layout.place_labels(drawing.labels, drawing.ground.shape[:2]):
        color, (pad_x, pad_y) = placed.label.color, layout.PADDING
        yield _rectangle(placed.x, placed.y, placed.width, placed.height, color)
        yield _text(placed.text, placed.x + pad_x, placed.y + pad_y, text_color(color))


def _card(card: Card) -> Iterator[str]:
    plan, (height, width) = layout.lay_out(card), card.size
    yield _rectangle(0, 0, plan.width, plan.height, PAPER)
    for cell in plan.cells:
        yield _text(cell.tile.caption, cell.text_x, cell.y - layout.LINE - layout.CAPTION_GAP, INK)
        yield f'<g transform="translate({cell.x} {cell.y})">'
        match cell.tile.content:
            case Drawing():
                yield from _drawing(cell.tile.content)
            case Heat(values):
                yield _pixels(draw.heatmap(values), card.size, ".png", [])
            case Blank():
                yield _rectangle(0, 0, width, height, BLANK)
        yield "</g>"
    for y in plan.bars:
        yield f'<g transform="translate({plan.bar_x} {y})">'
        yield _pixels(draw.scale_bar(height)[:, :1], (height, layout.BAR), ".png", [])
        yield _text("1", layout.BAR + 4, 0, INK)
        yield _text("0", layout.BAR + 4, height - layout.LINE, INK)
        yield "</g>"


def _shape(shape: Shape) -> str:
    line = f' stroke="{_rgb(shape.color)}" stroke-width="{shape.outline}"' if shape.outline else ""
    color, path = _rgb(shape.color), _path(shape.patch)
    return f'<path fill="{color}" fill-opacity="{shape.alpha:g}" fill-rule="evenodd"{line} d="{path}"/>'


def _path(patch: Patch) -> str:
    """Return the outlines of a mask and its holes."""
    outer, holes = trace(masks.encode(patch.mask))
    return "".join("M" + " ".join(f"{x + patch.x},{y + patch.y}" for x, y in ring) + "z" for ring in (*outer, *holes))


def _pixels(image: Image, size: tuple[int, ...], suffix: str, options: list[int]) -> str:
    """Embed an image, stretched to (height, width) without smoothing."""
    _, data = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), options)
    kind, text = suffix[1:].replace("jpg", "jpeg"), base64.b64encode(data.tobytes()).decode()
    return (
        f'<image width="{size[1]}" height="{size[0]}" preserveAspectRatio="none" style="image-rendering:pixelated" '
        f'href="data:image/{kind};base64,{text}"/>'
    )


def _rectangle(x: int, y: int, width: int, height: int, color: Color) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{_rgb(color)}"/>'


def _text(text: str, x: int, y: int, color: Color) -> str:
    """Return a line of text with its upper left corner at (x, y), fitted to its measured width in any font."""
    line = layout.clean(text)
    fit = f' textLength="{layout.glyphs(line).shape[1]}" lengthAdjust="spacingAndGlyphs"' if line.strip() else ""
    return f'<text x="{x}" y="{y + BASELINE}" fill="{_rgb(color)}"{fit}>{escape(line)}</text>'


def _rgb(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
