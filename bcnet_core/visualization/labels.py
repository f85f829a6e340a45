"""Where labels go: beside their objects, never on them, off each other and off other objects where there is room."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from bcnet_core.visualization.drawing import Label, Patch

MAX_TEXT = 28
"""Characters of a label before it is cut."""
FONT_SIZE = 13
LINE = 16
"""Height of a line of text in pixels."""
PADDING = (4, 1)
"""Pixels (x, y) around the text of a label."""
STEP = 12
"""Pixels between the places that are tried around an object."""
MOST_COVERED = 0.25
"""The share of a label that may lie on another label."""

MOST_TEXT = 0.12
"""The share of a picture that labels may take up together, so that a crowd is still to be seen."""


class Placed(NamedTuple):
    """A label's text as it is written, and its patch: upper left corner, width and height in pixels."""

    label: Label
    text: str
    x: int
    y: int
    width: int
    height: int


@lru_cache(maxsize=1024)
def glyphs(text: str) -> NDArray[np.float32]:
    """The (height, width) ink of one line of text, in [0, 1]; `text` comes from `clean`."""
    font = ImageFont.load_default(size=FONT_SIZE)
    right, bottom = (int(side) + 1 for side in font.getbbox(text)[2:])
    page = PillowImage.new("L", (max(right, 1), max(bottom, LINE)))
    ImageDraw.Draw(page).text((0, 0), text, fill=255, font=font)
    ink: NDArray[np.float32] = np.asarray(page, np.float32) / np.float32(255)
    ink.setflags(write=False)
    return ink


def clean(text: str) -> str:
    """A text in one line of printable letters, cut where it is long."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"


def place_labels(labels: Sequence[Label], size: tuple[int, int]) -> list[Placed]:
    """Find a place for every label that has one.

    Larger objects choose first. A label that could only lie on its own object, or on top of others, is left out, and so
    are those for which there are too many: no text covers the object that it names, and the picture stays readable.

    Args:
        labels: one for each object.
        size: (height, width) of the picture.
    """
    objects, written = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for label in labels:
        objects[label.patch.window] |= label.patch.bits
    placed: list[Placed] = []
    for label in sorted(labels, key=lambda label: -np.count_nonzero(label.patch.mask)):
        text = clean(label.text)
        height, width = (side + 2 * pad for side, pad in zip(glyphs(text).shape, PADDING[::-1], strict=True))
        if height > size[0] or width > size[1]:
            continue
        if sum(one.height * one.width for one in placed) > MOST_TEXT * written.size:
            break
        spot = _best_spot((height, width), label.patch, written, objects)
        if spot is not None:
            placed.append(Placed(label, text, *spot, width, height))
            written[spot[1] : spot[1] + height, spot[0] : spot[0] + width] = 1
    return placed


def _best_spot(
    size: tuple[int, int], patch: Patch, written: NDArray[np.uint8], objects: NDArray[np.uint8]
) -> tuple[int, int] | None:
    """The upper left corner of a label: a free place that touches the object's box, else the best one nearby."""
    height, width = size
    rows, columns = patch.window
    reach = 2 * height + width // 2
    y0, y1 = _stretch(rows, reach, height, written.shape[0])
    x0, x1 = _stretch(columns, reach, width, written.shape[1])
    own = np.zeros((y1 - y0, x1 - x0), np.uint8)
    own[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = patch.bits
    layers = [own, written[y0:y1, x0:x1], objects[y0:y1, x0:x1]]
    box = (columns.start - x0, rows.start - y0, columns.stop - x0, rows.stop - y0)
    most = (x1 - x0 - width, y1 - y0 - height)
    spots = [(min(max(x, 0), most[0]), min(max(y, 0), most[1])) for x, y in _beside(size, box)]
    busy = layers[1] | layers[2]  # an object's own pixels are among them
    for x, y in spots:
        if cv2.countNonZero(busy[y : y + height, x : x + width]) == 0:
            return x + x0, y + y0
    beside = np.array(spots)
    covered = np.array([[cv2.countNonZero(layer[y : y + height, x : x + width]) for layer in layers] for x, y in spots])
    free = (covered[:, 0] == 0) & (covered[:, 1] == 0)
    if not free.any():
        beside = np.concatenate([beside, _around(most)])
        sums = [cv2.integral(np.ascontiguousarray(layer)) for layer in layers]
        (x, y), (x2, y2) = beside.T, np.add(beside, (width, height)).T
        covered = np.stack([table[y2, x2] - table[y, x2] - table[y2, x] + table[y, x] for table in sums], axis=1)
        free = (covered[:, 0] == 0) & (covered[:, 1] <= MOST_COVERED * height * width)
    gaps = np.maximum(box[:2] - np.add(beside, (width, height)), beside - box[2:])
    away = np.maximum(gaps, 0).sum(axis=1)
    cost = np.where(free, 30 * covered[:, 1] + covered[:, 2] + 20 * away, np.inf)
    best = int(cost.argmin())
    return (int(beside[best, 0]) + x0, int(beside[best, 1]) + y0) if free[best] else None


def _stretch(span: slice, reach: int, least: int, most: int) -> tuple[int, int]:
    """A span, longer by `reach` at both ends as far as there is room, and at least `least` long."""
    start, stop = max(span.start - reach, 0), min(span.stop + reach, most)
    stop = max(stop, min(start + least, most))
    return min(start, stop - least), stop


def _beside(size: tuple[int, int], box: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    """The corners of places that touch a box, the preferred ones first."""
    height, width = size
    left, top, right, bottom = box
    spots = [(x, y) for y in (top - height, bottom) for x in (left, right - width, (left + right - width) // 2)]
    spots += [(x, y) for y in (top, bottom - height) for x in (right, left - width, left, right - width)]
    return spots


def _around(most: tuple[int, int]) -> NDArray[np.int64]:
    """A grid of corners over a region."""
    x, y = np.meshgrid(*(np.arange(0, side + 1, STEP) for side in most))
    return np.stack([x.ravel(), y.ravel()], axis=1)
