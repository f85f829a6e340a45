"""How the tiles of a card are laid out: the same in pixels and in vectors."""

from __future__ import annotations

from typing import NamedTuple

from bcnet_core.visualization.drawing import Card, Drawing, Tile
from bcnet_core.visualization.labels import LINE, clean, glyphs

GAP = 8
"""Pixels between the columns and rows of a card, and around them."""
CAPTION_GAP = 2
"""Pixels between a caption and its tile."""
BAR, BAR_TEXT = 10, 16
"""Pixels that the color scale and its values are wide."""


class Cell(NamedTuple):
    """A tile and where it goes: its upper left corner, and where its caption begins."""

    tile: Tile
    x: int
    y: int
    text_x: int


class Plan(NamedTuple):
    """A card's size, its cells, and the left and the upper ends of its color scales, in pixels."""

    width: int
    height: int
    cells: tuple[Cell, ...]
    bar_x: int
    bars: tuple[int, ...]


def lay_out(card: Card) -> Plan:
    """Place the tiles of a card; a column is as wide as its widest caption, and tiles lie in the middle of it."""
    tile_height, tile_width = card.size
    captions = [[glyphs(clean(tile.caption)).shape[1] for tile in row] for row in card.rows]
    widths = [max(tile_width, *column) for column in zip(*captions, strict=True)]
    step = LINE + CAPTION_GAP + tile_height + GAP
    cells, bars = [], []
    for number, row in enumerate(card.rows):
        x, y = GAP, GAP + number * step + LINE + CAPTION_GAP
        for tile, width, text in zip(row, widths, captions[number], strict=True):
            left = x + (width - tile_width) // 2
            cells.append(Cell(tile, left, y, left if text <= tile_width else x))
            x += width + GAP
        bars.append(y)
    return Plan(x + BAR + BAR_TEXT, GAP + len(card.rows) * step, tuple(cells), x, tuple(bars))


def drawn_size(drawing: Drawing | Card) -> tuple[int, int]:
    """(width, height) in pixels of a drawing, in whatever format."""
    if isinstance(drawing, Card):
        plan = lay_out(drawing)
        return plan.width, plan.height
    height, width = drawing.ground.shape[:2]
    return width, height
