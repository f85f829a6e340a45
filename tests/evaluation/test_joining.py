"""Tiles of drawn shapes, joined: exactly the shapes come back, whatever the tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.evaluation.joining import join
from bcnet_core.evaluation.pieces import View
from bcnet_core.evaluation.tiles import Tiling, tile_windows
from bcnet_core.files.windows import Window
from bcnet_core.masks.order import FrontPair
from bcnet_core.structures import Instances
from tests.conftest import examples


class Shape(NamedTuple):
    """A drawn shape: its visible pixels, its class and the score that every view gives it."""

    visible: NDArray[np.bool_]
    label: int = 0
    score: float = 0.9


def see(shapes: Sequence[Shape], window: Window, *, order: Sequence[tuple[int, int]] | None = None) -> View:
    """Return what an exact detector finds of shapes in a window: each of which a pixel is there, cut to it."""
    x, y, width, height = window
    size = shapes[0].visible.shape
    inside = np.zeros(size, bool)
    inside[y : y + height, x : x + width] = True
    seen = [number for number, shape in enumerate(shapes) if (shape.visible & inside).any()]
    seen.sort(key=lambda number: -shapes[number].score)
    rles = [masks.encode(shapes[number].visible & inside) for number in seen]
    boxes = np.array([masks.bounding_box(rle) for rle in rles], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    pairs = (
        None if order is None else [FrontPair(seen.index(a), seen.index(b)) for a, b in order if {a, b} <= set(seen)]
    )
    scores = np.array([shapes[number].score for number in seen], np.float32)
    labels = np.array([shapes[number].label for number in seen], np.int64)
    return View(window, Instances(boxes, scores, labels, (size[0], size[1]), {"occludee_mask": rles}, pairs))


def join_all(shapes: Sequence[Shape], tiling: Tiling, **changes: Any) -> Instances:
    height, width = shapes[0].visible.shape
    windows = tile_windows(height, width, tiling)
    whole = Window(0, 0, width, height)
    return join([see(shapes, window or whole, **changes) for window in windows], stride=tiling.stride)


def pixels(found: Instances) -> set[bytes]:
    """Return the visible masks."""
    return {rle["counts"] for rle in found.masks["occludee_mask"]}


def drawn(shapes: Sequence[Shape]) -> set[bytes]:
    return {masks.encode(shape.visible)["counts"] for shape in shapes}


@st.composite
def scenes(draw: st.DrawFn) -> list[Shape]:
    """Draw boxes and discs of any size over one another: those in front cut those behind, into pieces too."""
    height, width = draw(st.integers(40, 150)), draw(st.integers(40, 150))
    rows, columns = np.mgrid[:height, :width]
    free = np.ones((height, width), bool)
    shapes = []
    for _ in range(draw(st.integers(1, 8))):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        w, h = draw(st.integers(2, width)), draw(st.integers(2, height))
        if draw(st.booleans()):
            shape = (np.abs(columns - x) * 2 < w) & (np.abs(rows - y) * 2 < h)
        else:
            shape = ((columns - x) / w) ** 2 + ((rows - y) / h) ** 2 < 0.25
        visible = shape & free
        free &= ~shape
        if visible.any():
            shapes.append(Shape(visible, draw(st.integers(0, 1)), draw(st.sampled_from([0.2, 0.35, 0.9]))))
    return shapes


@given(scenes(), st.integers(32, 90), st.sampled_from([0.05, 0.2, 0.5, 0.75]))
@examples(300)
def test_exact_masks_of_tiles_give_exactly_the_shapes(shapes: list[Shape], side: int, overlap: float) -> None:
    found = join_all(shapes, Tiling(side, overlap))
    assert pixels(found) == drawn(shapes) and len(found.scores) == len(shapes)
    assert (np.diff(found.scores) <= 0).all()
    by_mask = {masks.encode(shape.visible)["counts"]: shape for shape in shapes}
    for rle, score, label, box in zip(
        found.masks["occludee_mask"], found.scores, found.labels, found.boxes, strict=True
    ):
        shape = by_mask[rle["counts"]]
        assert (label, score) == (shape.label, np.float32(shape.score))
        x, y, width, height = masks.bounding_box(rle)
        assert box.tolist() == [x, y, x + width, y + height]
