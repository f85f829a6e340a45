"""Layout of text and tiles, shared by pixel and vector output.

Labels go beside their objects, never on them, and off each other and other objects where there is room.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from bcnet_core.visualization.drawing import Card, Drawing, Patch, Shape, Tile

MAX_TEXT = 28
"""Longest label in characters; longer ones are truncated."""
FONT_SIZE = 13
LINE = 16
"""Height of a line of text in pixels."""
PADDING = (4, 1)
"""Pixels (x, y) around the text of a label."""
STEP = 12
"""Grid spacing in pixels of the positions tried around an object."""
MAX_OVERLAP = 0.25
"""Largest fraction of a label that may lie on other labels."""
MAX_COVERAGE = 0.12
"""Largest fraction of an image that labels may cover together, so that a crowd stays visible."""
GAP = 8
"""Pixels between the columns and rows of a card, and around them."""
CAPTION_GAP = 2
"""Pixels between a caption and its tile."""
BAR, BAR_TEXT = 10, 16
"""Width in pixels of a color scale, and of its values beside it."""


class Placed(NamedTuple):
    """A labeled shape, its cleaned label, and the upper left corner and size of that in pixels."""

    shape: Shape
    text: str
    x: int
    y: int
    width: int
    height: int


class Cell(NamedTuple):
    """A tile, its upper left corner, and the left end of its caption."""

    tile: Tile
    x: int
    y: int
    text_x: int


class Plan(NamedTuple):
    """Layout of a card in pixels: its size, its cells, and the upper left corners of its color scales."""

    width: int
    height: int
    cells: tuple[Cell, ...]
    bars: tuple[tuple[int, int], ...]


@lru_cache(maxsize=1024)
def glyphs(text: str) -> NDArray[np.float32]:
    """Return the (height, width) coverage in [0, 1] of one line of text that `clean` returned."""
    font = ImageFont.load_default(size=FONT_SIZE)
    right, bottom = (int(side) + 1 for side in font.getbbox(text)[2:])
    page = PillowImage.new("L", (max(right, 1), max(bottom, LINE)))
    ImageDraw.Draw(page).text((0, 0), text, fill=255, font=font)
    ink: NDArray[np.float32] = np.asarray(page, np.float32) / np.float32(255)
    ink.setflags(write=False)
    return ink


def clean(text: str) -> str:
    """Replace unprintable characters by spaces and truncate long text."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"


def lay_out(card: Card) -> Plan:
    """Arrange the tiles of a card; each column is as wide as its widest caption, with its tiles centered."""
    tile_height, tile_width = card.size
    captions = [[glyphs(clean(tile.caption)).shape[1] for tile in row] for row in card.rows]
    widths = [max(tile_width, *column) for column in zip_longest(*captions, fillvalue=0)]
    step = LINE + CAPTION_GAP + tile_height + GAP
    cells, bars = list[Cell](), list[tuple[int, int]]()
    for number, row in enumerate(card.rows):
        x, y = GAP, GAP + number * step + LINE + CAPTION_GAP
        for tile, width, text in zip(row, widths, captions[number], strict=False):
            left = x + (width - tile_width) // 2
            cells.append(Cell(tile, left, y, left if text <= tile_width else x))
            x += width + GAP
        bars.append((x, y))
    right = max(x for x, _ in bars)
    return Plan(right + BAR + BAR_TEXT, GAP + len(card.rows) * step, tuple(cells), tuple(bars))


def drawn_size(drawing: Drawing | Card) -> tuple[int, int]:
    """Return (width, height) of a drawing in pixels."""
    if isinstance(drawing, Card):
        return lay_out(drawing)[:2]
    height, width = drawing.ground.shape[:2]
    return width, height


def place_labels(shapes: Sequence[Shape], size: tuple[int, int]) -> list[Placed]:
    """Find a position for as many labels of shapes as fit, larger objects first.

    A label that could only lie on its own object or on top of others is dropped, and so are labels beyond
    `MAX_COVERAGE` of the (height, width) image.
    """
    objects, written = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for shape in shapes:
        if shape.label is not None:
            objects[shape.patch.window] |= shape.patch.bits
    placed: list[Placed] = []
    for shape in sorted(shapes, key=lambda shape: -np.count_nonzero(shape.patch.mask)):
        if shape.label is None:
            continue
        text = clean(shape.label)
        height, width = (side + 2 * pad for side, pad in zip(glyphs(text).shape, PADDING[::-1], strict=True))
        if height > size[0] or width > size[1]:
            continue
        if sum(one.height * one.width for one in placed) > MAX_COVERAGE * written.size:
            break
        spot = _best_spot((height, width), shape.patch, written, objects)
        if spot is not None:
            placed.append(Placed(shape, text, *spot, width, height))
            written[spot[1] : spot[1] + height, spot[0] : spot[0] + width] = 1
    return placed


def _best_spot(
    size: tuple[int, int], patch: Patch, written: NDArray[np.uint8], objects: NDArray[np.uint8]
) -> tuple[int, int] | None:
    """Find the upper left corner for a label: a free position that touches its object's box, else the best nearby."""
    height, width = size
    rows, columns = patch.window
    reach = 2 * height + width // 2
    y0, y1 = _extend(rows, reach, height, written.shape[0])
    x0, x1 = _extend(columns, reach, width, written.shape[1])
    own = np.zeros((y1 - y0, x1 - x0), np.uint8)
    own[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = patch.bits
    layers = [own, written[y0:y1, x0:x1], objects[y0:y1, x0:x1]]
    box = (columns.start - x0, rows.start - y0, columns.stop - x0, rows.stop - y0)
    last = (x1 - x0 - width, y1 - y0 - height)
    beside = [(min(max(x, 0), last[0]), min(max(y, 0), last[1])) for x, y in _beside(size, box)]
    busy = layers[1] | layers[2]  # includes the object's own pixels
    for x, y in beside:  # the usual case, without the integral images below
        if cv2.countNonZero(busy[y : y + height, x : x + width]) == 0:
            return x + x0, y + y0
    spots = np.array(beside)
    sums = [np.asarray(cv2.integral(np.ascontiguousarray(layer)), np.int32) for layer in layers]
    covered = _covered(sums, spots, size)
    free = (covered[:, 0] == 0) & (covered[:, 1] == 0)
    if not free.any():
        grid = np.meshgrid(*(np.arange(0, side + 1, STEP) for side in last))
        spots = np.concatenate([spots, np.stack([axis.ravel() for axis in grid], axis=1)])
        covered = _covered(sums, spots, size)
        free = (covered[:, 0] == 0) & (covered[:, 1] <= MAX_OVERLAP * height * width)
    gaps = np.maximum(box[:2] - np.add(spots, (width, height)), spots - box[2:])
    distance = np.maximum(gaps, 0).sum(axis=1)
    cost = np.where(free, 30 * covered[:, 1] + covered[:, 2] + 20 * distance, np.inf)
    best = int(cost.argmin())
    return (int(spots[best, 0]) + x0, int(spots[best, 1]) + y0) if free[best] else None


def _covered(sums: Sequence[NDArray[np.int32]], spots: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int32]:
    """Count the set pixels of each layer under labels at (N, 2) corners, from integral images; (N, layers)."""
    (x, y), (x2, y2) = spots.T, (spots + size[::-1]).T
    return np.stack([table[y2, x2] - table[y, x2] - table[y2, x] + table[y, x] for table in sums], axis=1)


def _extend(span: slice, reach: int, least: int, most: int) -> tuple[int, int]:
    """Extend a span by `reach` at both ends within [0, most], to a length of at least `least`."""
    start, stop = max(span.start - reach, 0), min(span.stop + reach, most)
    stop = max(stop, min(start + least, most))
    return min(start, stop - least), stop


def _beside(size: tuple[int, int], box: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    """Return the corners of labels that touch a box, preferred ones first."""
    height, width = size
    left, top, right, bottom = box
    spots = [(x, y) for y in (top - height, bottom) for x in (left, right - width, (left + right - width) // 2)]
    spots += [(x, y) for y in (top, bottom - height) for x in (right, left - width, left, right - width)]
    return spots
