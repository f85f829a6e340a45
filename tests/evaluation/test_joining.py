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


def see(
    shapes: Sequence[Shape], window: Window, *, order: Sequence[tuple[int, int]] | None = None, least: int = 1
) -> View:
    """Return what an exact detector finds of shapes in a window: each of `least` rows and columns there, cut to it."""
    x, y, width, height = window
    size = shapes[0].visible.shape
    inside = np.zeros(size, bool)
    inside[y : y + height, x : x + width] = True
    seen = [number for number, shape in enumerate(shapes) if _side(shape.visible & inside) >= least]
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


def _side(pixels: NDArray[np.bool_]) -> int:
    return int(min(masks.bounding_box(masks.encode(pixels))[2:]))


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


def box(x0: int, y0: int, x1: int, y1: int, height: int = 100, width: int = 160) -> NDArray[np.bool_]:
    return masks.decode(masks.from_box(x0, y0, x1, y1, height, width))


SIDE = Tiling(64, 0.25)


def shrunk(view: View, share: float) -> View:
    """Keep so much of the height of every mask of a view, from its top."""
    found = view.instances
    rles = []
    for rle in found.masks["occludee_mask"]:
        x, y, width, height = masks.bounding_box(rle).astype(int).tolist()
        rles.append(masks.intersection(rle, masks.from_box(x, y, x + width, y + round(height * share), *rle["size"])))
    return View(view.window, found._replace(masks={"occludee_mask": rles}))


def views_of(shapes: Sequence[Shape], **changes: Any) -> list[View]:
    height, width = shapes[0].visible.shape
    return [see(shapes, window, **changes) for window in tile_windows(height, width, SIDE) if window is not None]


def test_what_is_larger_than_a_tile_replaces_its_fragments() -> None:
    shapes = [Shape(box(5, 5, 150, 95)), Shape(box(152, 3, 158, 9))]
    whole, *_ = views_of(shapes)
    _, *large = views_of(shapes[:1])
    found = join([whole, *(shrunk(tile, 0.3) for tile in large)], stride=SIDE.stride)
    assert pixels(found) == drawn(shapes)
    assert found.scores.tolist() == [np.float32(0.45)] * 2  # no tile confirms them


def test_a_heap_that_only_the_whole_image_shows_gives_way_to_its_objects() -> None:
    shapes = [Shape(box(10, 10, 30, 40)), Shape(box(30, 10, 45, 40))]
    _, *tiles = views_of(shapes)
    heap = see([Shape(box(10, 10, 45, 40))], Window(0, 0, 160, 100))
    found = join([heap, *tiles], stride=SIDE.stride)
    assert pixels(found) == drawn(shapes) and found.scores.tolist() == [np.float32(0.9)] * 2


def test_what_no_tile_found_is_kept_with_half_its_score() -> None:
    shapes = [Shape(box(10, 10, 30, 40))]
    whole, *tiles = views_of(shapes)
    nothing = [see([Shape(box(0, 0, 0, 0))], tile.window) for tile in tiles]
    found = join([whole, *nothing], stride=SIDE.stride)
    assert pixels(found) == drawn(shapes) and found.scores.tolist() == [np.float32(0.45)]
    assert len(join(nothing, stride=SIDE.stride).scores) == 0


def test_duplicates_of_one_tile_take_no_piece_of_another() -> None:
    shapes = [Shape(box(40, 10, 80, 40))]  # in two tiles, whole in none
    whole, *tiles = views_of(shapes)
    weak = [View(one.window, one.instances._replace(scores=one.instances.scores * np.float32(0.3))) for one in tiles]
    doubled = [
        View(
            one.window,
            Instances(
                np.concatenate([one.instances.boxes, two.instances.boxes]),
                np.concatenate([one.instances.scores, two.instances.scores]),
                np.concatenate([one.instances.labels, two.instances.labels]),
                one.instances.image_size,
                {"occludee_mask": one.instances.masks["occludee_mask"] + two.instances.masks["occludee_mask"]},
                None,
            ),
        )
        for one, two in zip(tiles, weak, strict=True)
    ]
    found = join([whole, *doubled], stride=SIDE.stride)
    assert pixels(found) == drawn(shapes)  # each of both tiles has two: the better ones meet, then the weaker ones
    assert found.scores.tolist()[0] == np.float32(0.9) and len(found.scores) == 2


def test_classes_are_not_joined() -> None:
    window = Window(0, 0, 64, 64)
    left, right = (see([Shape(box(40, 10, 80, 40), label)], one) for label, one in
                   enumerate((window, window._replace(x=48))))  # fmt: skip
    found = join([left, right], stride=SIDE.stride)
    assert sorted(found.labels.tolist()) == [0, 1]


def test_the_order_of_pieces_is_that_of_their_objects() -> None:
    shapes = [Shape(box(40, 10, 80, 40), score=0.6), Shape(box(60, 40, 150, 60), score=0.8), Shape(box(3, 3, 9, 9))]
    found = join(views_of(shapes, order=[(0, 1)]), stride=SIDE.stride)
    names = [drawn([shape]).pop() for shape in shapes]
    places = [found.masks["occludee_mask"].index({"size": [100, 160], "counts": name}) for name in names]  # type: ignore[arg-type]
    assert found.order == [FrontPair(places[0], places[1])]
    assert join(views_of(shapes), stride=SIDE.stride).order is None


def test_whole_masks_link_pieces_whose_middle_is_hidden() -> None:
    middle, whole = box(44, 0, 68, 60), box(20, 10, 90, 40)  # the middle hides all that two tiles share
    behind = whole & ~middle
    tiles = [view for view in views_of([Shape(behind)]) if len(view.instances.scores)]

    def with_whole(view: View) -> View:
        seen = masks.from_box(*_corners(view.window), 100, 160)
        name = {**view.instances.masks, "amodal_mask": [masks.intersection(masks.encode(whole), seen)]}
        return View(view.window, view.instances._replace(masks=name))

    _, *alone = tiles
    assert len(join(alone, stride=SIDE.stride).scores) == 2  # visible masks do not tell
    found = join([with_whole(view) for view in alone], stride=SIDE.stride)
    assert pixels(found) == drawn([Shape(behind)]) and len(found.scores) == 1
    assert found.masks["amodal_mask"] == [masks.encode(whole)]


def _corners(window: Window) -> tuple[int, int, int, int]:
    return window.x, window.y, window.x + window.width, window.y + window.height


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.2, 0.4]))
@examples(40)
def test_masks_that_are_off_by_a_pixel_are_joined_too(seed: int, overlap: float) -> None:
    rng = np.random.default_rng(seed)
    shapes = [
        Shape(box(x + 3, y + 3, x + int(rng.integers(18, 33)), y + int(rng.integers(18, 33)), 150, 150))
        for x in range(0, 140, 35) for y in range(0, 140, 35)
    ]  # fmt: skip
    tiling = Tiling(50, overlap)
    views = []
    for window in tile_windows(150, 150, tiling):
        moved = [
            Shape(np.roll(shape.visible, tuple(rng.integers(-1, 2, 2)), (0, 1)), shape.label, shape.score)
            for shape in shapes
        ]
        views.append(see(moved, window or Window(0, 0, 150, 150), least=9))
    found = join(views, stride=tiling.stride)
    table = masks.ious(found.masks["occludee_mask"], [masks.encode(shape.visible) for shape in shapes])
    assert len(found.scores) == len(shapes) and table.max(0).min() > 0.6
