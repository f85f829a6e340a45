"""Rendering of drawings and cards to pixels and to SVG. Pure: inputs are never modified.

SVG files are self-contained: shapes are paths, labels are text, and photographs and maps are embedded as pixels. Paths
follow the pixel edges of a mask, so they cover exactly its pixels.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from pathlib import Path

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image as PillowImage

from bcnet_core import masks
from bcnet_core.annotations.polygons import trace
from bcnet_core.visualization import layout
from bcnet_core.visualization.drawing import (
    BLANK,
    INK,
    PAPER,
    Arrow,
    Card,
    Color,
    Drawing,
    Image,
    Mask,
    Patch,
    Shape,
    boundary_band,
    text_color,
)

JPEG_QUALITY = 88
SVG_JPEG_QUALITY = 90
"""JPEG quality of photographs embedded in SVG."""
PALENESS = 0.72
"""How far `dim` moves gray levels towards white."""
BASELINE = 12
"""Pixels from the top of a line of text to its baseline."""
STRIPE_STEP, STRIPE = 8, 2
"""Distance between the lines of a hatched shape, and their width, in pixels along a row."""
_RAMP = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_VIRIDIS)
_HEAT: Image = np.asarray(_RAMP[0, :, ::-1], np.uint8)


def paint(drawing: Drawing | Card) -> Image:
    """Return the (H, W, 3) uint8 RGB image of a drawing, as large as its background, or of a card."""
    if isinstance(drawing, Card):
        return _paint_card(drawing)
    if not (drawing.shapes or drawing.arrows):
        return drawing.ground
    canvas: Image = drawing.ground.copy()
    for shape in drawing.shapes:
        _paint_shape(canvas, shape)
    for arrow in drawing.arrows:
        _paint_arrow(canvas, arrow)
    for shape, text, x, y, width, height in layout.place_labels(drawing.shapes, canvas.shape[:2]):
        canvas[y : y + height, x : x + width] = shape.color
        write(canvas, text, x + layout.PADDING[0], y + layout.PADDING[1], shape.color, text_color(shape.color))
    return canvas


def save(drawing: Drawing | Card, path: Path) -> tuple[int, int]:
    """Write a drawing in the format of the path's suffix; return (width, height) in pixels."""
    if path.suffix == ".svg":
        path.write_text(to_svg(drawing), encoding="utf-8", errors="xmlcharrefreplace")
    else:
        # full chroma resolution: thin colored outlines would be smeared otherwise; png ignores both options
        PillowImage.fromarray(paint(drawing)).save(path, quality=JPEG_QUALITY, subsampling=0)
    return layout.drawn_size(drawing)


def dim(image: Image) -> Image:
    """Return the image in pale gray, as a background that makes colored layers stand out."""
    levels = np.arange(256.0)
    pale = np.rint(levels + (255 - levels) * PALENESS).astype(np.uint8)
    gray = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), pale)
    return np.asarray(cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB), np.uint8)


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
    """Color an (S, S) map, clipped to [0, 1], in viridis, at (height, width) pixels or one pixel per cell."""
    colors: Image = _HEAT[(np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)]
    return colors if size is None else np.asarray(cv2.resize(colors, size[::-1], interpolation=cv2.INTER_NEAREST))


def scale_bar(height: int) -> Image:
    """Return the colors of `heatmap` from 1 (top) to 0 (bottom), (height, `layout.BAR`, 3)."""
    bar: Image = np.repeat(_HEAT[np.linspace(255, 0, height).round().astype(int)][:, None], layout.BAR, axis=1)
    return bar


def write(canvas: Image, text: str, x: int, y: int, ground: Color, ink: Color = INK) -> None:
    """Write one line on a plain background, its upper left corner at (x, y), in place; clip it to the canvas."""
    line = _line(text, ground, ink)
    part = canvas[y : y + line.shape[0], x : x + line.shape[1]]
    part[:] = line[: part.shape[0], : part.shape[1]]


@lru_cache(maxsize=1024)
def _line(text: str, ground: Color, ink: Color) -> Image:
    """Return one line of text on a plain background, as large as its `layout.glyphs`."""
    glyphs = layout.glyphs(layout.clean(text))[..., None]
    line = np.rint(np.array(ground, np.float32) * (1 - glyphs) + np.array(ink, np.float32) * glyphs).astype(np.uint8)
    line.setflags(write=False)
    return line


def _paint_shape(canvas: Image, shape: Shape) -> None:
    """Tint or hatch a mask and outline it, in place."""
    patch, part = shape.patch, canvas[shape.patch.window]
    plain = np.empty_like(part, order="C")
    cv2.rectangle(plain, (0, 0), plain.shape[1::-1], shape.color, cv2.FILLED)  # much faster than numpy's full
    if shape.hatched:
        height, width = canvas.shape[:2]
        cv2.copyTo(plain, patch.bits & _stripes(height, width)[patch.window], part)
    else:
        tinted = plain if shape.alpha == 1 else cv2.addWeighted(part, 1 - shape.alpha, plain, shape.alpha, 0)
        cv2.copyTo(tinted, patch.bits, part)
    if shape.outline and shape.alpha < 1:
        cv2.copyTo(plain, boundary_band(patch.mask, shape.outline).view(np.uint8), part)


@lru_cache(maxsize=4)
def _stripes(height: int, width: int) -> NDArray[np.uint8]:
    """Return the lines of hatched shapes over a whole image, as zeros and ones."""
    rows, columns = np.ogrid[:height, :width]
    lines = ((rows + columns) % STRIPE_STEP < STRIPE).astype(np.uint8)
    lines.setflags(write=False)
    return lines


def _paint_arrow(canvas: Image, arrow: Arrow) -> None:
    """Draw a dark arrow with a light rim, in place."""
    corners = np.rint(arrow.corners * 16).astype(np.int32)  # OpenCV's fixed point, 4 bits behind it
    cv2.polylines(canvas, [corners], isClosed=True, color=PAPER, thickness=3, lineType=cv2.LINE_AA, shift=4)
    cv2.fillPoly(canvas, [corners], INK, lineType=cv2.LINE_AA, shift=4)


def _paint_card(card: Card) -> Image:
    plan = layout.lay_out(card)
    sheet = np.full((plan.height, plan.width, 3), PAPER[0], np.uint8)
    for cell in plan.cells:
        write(sheet, cell.tile.caption, cell.text_x, cell.y - layout.LINE - layout.CAPTION_GAP, PAPER)
        content, place = cell.tile.content, sheet[cell.y : cell.y + card.size[0], cell.x : cell.x + card.size[1]]
        if isinstance(content, Drawing):
            place[:] = paint(content)
        else:
            place[:] = BLANK if content is None else heatmap(content, card.size)
    for x, y in plan.bars:
        sheet[y : y + card.size[0], x : x + layout.BAR] = scale_bar(card.size[0])
        for text, below in (("1", 0), ("0", card.size[0] - layout.LINE)):
            write(sheet, text, x + layout.BAR + 4, y + below, PAPER)
    return sheet


def to_svg(drawing: Drawing | Card) -> str:
    """Return the SVG document of a drawing, as large as its background, or of a card; text is escaped."""
    width, height = layout.drawn_size(drawing)
    drawn = _svg_card(drawing) if isinstance(drawing, Card) else _svg_drawing(drawing)
    body = "\n".join([*_hatches(drawing), *drawn])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="{layout.FONT_SIZE}">\n{body}\n</svg>\n'
    )


def _svg_drawing(drawing: Drawing) -> Iterator[str]:
    yield _pixels(drawing.ground, drawing.ground.shape[:2], ".jpg", [cv2.IMWRITE_JPEG_QUALITY, SVG_JPEG_QUALITY])
    for shape in drawing.shapes:
        yield _shape(shape)
    yield from map(_arrow, drawing.arrows)
    for shape, text, x, y, width, height in layout.place_labels(drawing.shapes, drawing.ground.shape[:2]):
        yield _rectangle(x, y, width, height, shape.color)
        yield _text(text, x + layout.PADDING[0], y + layout.PADDING[1], text_color(shape.color))


def _svg_card(card: Card) -> Iterator[str]:
    plan, (height, width) = layout.lay_out(card), card.size
    yield _rectangle(0, 0, plan.width, plan.height, PAPER)
    for cell in plan.cells:
        yield _text(cell.tile.caption, cell.text_x, cell.y - layout.LINE - layout.CAPTION_GAP, INK)
        yield f'<g transform="translate({cell.x} {cell.y})">'
        if isinstance(cell.tile.content, Drawing):
            yield from _svg_drawing(cell.tile.content)
        elif cell.tile.content is None:
            yield _rectangle(0, 0, width, height, BLANK)
        else:
            yield _pixels(heatmap(cell.tile.content), card.size, ".png", [])
        yield "</g>"
    for x, y in plan.bars:
        yield f'<g transform="translate({x} {y})">'
        yield _pixels(scale_bar(height)[:, :1], (height, layout.BAR), ".png", [])
        yield _text("1", layout.BAR + 4, 0, INK)
        yield _text("0", layout.BAR + 4, height - layout.LINE, INK)
        yield "</g>"


def _shape(shape: Shape) -> str:
    """Return the outlines of a mask and its holes, filled with its tint or its lines."""
    fill, alpha = (f"url(#{_hatch_name(shape.color)})", 1) if shape.hatched else (_rgb(shape.color), shape.alpha)
    line = f' stroke="{_rgb(shape.color)}" stroke-width="{shape.outline}"' if shape.outline else ""
    rings = map(shapely.get_coordinates, shapely.get_rings(trace(masks.encode(shape.patch.mask))))
    offset = np.array([shape.patch.x, shape.patch.y])
    corners = ((ring[:-1].astype(int) + offset).tolist() for ring in rings)
    path = "".join("M" + " ".join(f"{x},{y}" for x, y in ring) + "z" for ring in corners)
    return f'<path fill="{fill}" fill-opacity="{alpha:g}" fill-rule="evenodd"{line} d="{path}"/>'


def _hatches(drawing: Drawing | Card) -> list[str]:
    """Return the definitions of the lines of hatched shapes, one for each color."""
    tiles = (tile.content for row in drawing.rows for tile in row) if isinstance(drawing, Card) else (drawing,)
    shapes = (shape for content in tiles if isinstance(content, Drawing) for shape in content.shapes)
    step, width = STRIPE_STEP, round(STRIPE / 2**0.5, 3)
    lines = "".join(f"M-2,{reach + 2}L{reach + 2},-2" for reach in ((STRIPE + 1) / 2, (STRIPE + 1) / 2 + step))
    return [
        f'<pattern id="{_hatch_name(color)}" width="{step}" height="{step}" patternUnits="userSpaceOnUse">'
        f'<path d="{lines}" stroke="{_rgb(color)}" stroke-width="{width}"/></pattern>'
        for color in sorted({shape.color for shape in shapes if shape.hatched})
    ]


def _hatch_name(color: Color) -> str:
    return f"hatch-{_rgb(color)[1:]}"


def _arrow(arrow: Arrow) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in arrow.corners.tolist())
    return (
        f'<polygon points="{points}" fill="{_rgb(INK)}" stroke="{_rgb(PAPER)}" stroke-width="3" paint-order="stroke" '
        'stroke-linejoin="round"/>'
    )


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
