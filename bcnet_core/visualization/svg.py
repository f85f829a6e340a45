"""From scenes and cards to SVG: shapes are paths, labels are text, only photographs and maps stay pixels.

A file stands on its own: the pixels are embedded. Masks are followed along their pixel edges, so that a path covers
what the mask covers.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape

import cv2
import numpy as np

from bcnet_core import masks
from bcnet_core.annotations.polygons import trace
from bcnet_core.visualization import cards, draw, labels
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
from bcnet_core.visualization.labels import FONT_SIZE, LINE

QUALITY = 90
"""Of the photographs, as JPEG counts."""
BASELINE = 12
"""Pixels from the top of a line of text to where its letters stand."""


def to_svg(drawing: Drawing | Card) -> str:
    """The SVG document of a drawing, as large as its ground, or of a card; text is escaped."""
    width, height = cards.drawn_size(drawing)
    body = "\n".join(_card(drawing) if isinstance(drawing, Card) else _scene(drawing))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="{FONT_SIZE}">\n{body}\n</svg>\n'
    )


def _scene(drawing: Drawing) -> Iterator[str]:
    yield _pixels(drawing.ground, drawing.ground.shape[:2], ".jpg", [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    for shape in drawing.shapes:
        yield _shape(shape)
    for placed in labels.place_labels(drawing.labels, drawing.ground.shape[:2]):
        color, (pad_x, pad_y) = placed.label.color, labels.PADDING
        yield _rectangle(placed.x, placed.y, placed.width, placed.height, color)
        yield _text(placed.text, placed.x + pad_x, placed.y + pad_y, text_color(color), placed.width - 2 * pad_x)


def _card(card: Card) -> Iterator[str]:
    plan, (height, width) = cards.lay_out(card), card.size
    yield _rectangle(0, 0, plan.width, plan.height, PAPER)
    for cell in plan.cells:
        yield _text(cell.tile.caption, cell.text_x, cell.y - LINE - cards.CAPTION_GAP, INK)
        yield f'<g transform="translate({cell.x} {cell.y})">'
        match cell.tile.content:
            case Drawing():
                yield from _scene(cell.tile.content)
            case Heat(values):
                yield _pixels(draw.heatmap(values), card.size, ".png", [])
            case Blank():
                yield _rectangle(0, 0, width, height, BLANK)
        yield "</g>"
    for y in plan.bars:
        yield f'<g transform="translate({plan.bar_x} {y})">'
        yield _pixels(draw.scale_bar(height)[:, :1], (height, cards.BAR), ".png", [])
        yield _text("1", cards.BAR + 4, 0, INK)
        yield _text("0", cards.BAR + 4, height - LINE, INK)
        yield "</g>"


def _shape(shape: Shape) -> str:
    line = f' stroke="{_rgb(shape.color)}" stroke-width="{shape.outline}"' if shape.outline else ""
    color, path = _rgb(shape.color), _path(shape.patch)
    return f'<path fill="{color}" fill-opacity="{shape.alpha:g}" fill-rule="evenodd"{line} d="{path}"/>'


def _path(patch: Patch) -> str:
    """The outlines of a mask and of its holes."""
    outer, holes = trace(masks.encode(patch.mask))
    return "".join("M" + " ".join(f"{x + patch.x},{y + patch.y}" for x, y in ring) + "z" for ring in (*outer, *holes))


def _pixels(image: Image, size: tuple[int, ...], suffix: str, options: list[int]) -> str:
    """An image, embedded, stretched to (height, width) without smoothing."""
    _, data = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), options)
    kind, text = suffix[1:].replace("jpg", "jpeg"), base64.b64encode(data.tobytes()).decode()
    return (
        f'<image width="{size[1]}" height="{size[0]}" preserveAspectRatio="none" style="image-rendering:pixelated" '
        f'href="data:image/{kind};base64,{text}"/>'
    )


def _rectangle(x: int, y: int, width: int, height: int, color: Color) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{_rgb(color)}"/>'


def _text(text: str, x: int, y: int, color: Color, width: int | None = None) -> str:
    """A line of text with its upper left corner at (x, y), as wide as it was measured, whatever font is there."""
    line = labels.clean(text)
    wide = labels.glyphs(line).shape[1] if width is None else width
    fit = f' textLength="{wide}" lengthAdjust="spacingAndGlyphs"' if line.strip() else ""
    return f'<text x="{x}" y="{y + BASELINE}" fill="{_rgb(color)}"{fit}>{escape(line)}</text>'


def _rgb(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
