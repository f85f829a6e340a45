"""Pixel rendering and layout."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcnet_core import masks
from bcnet_core.visualization import draw, drawing, layout
from bcnet_core.visualization.drawing import Card, Color, Drawing, Image, Mask, Shape, Tile
from bcnet_core.visualization.layout import place_labels


def disc(size: tuple[int, int], x: int, y: int, radius: int) -> Mask:
    rows, columns = np.ogrid[: size[0], : size[1]]
    mask: Mask = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return mask


def gray(height: int = 120, width: int = 160) -> Image:
    return np.full((height, width, 3), 100, np.uint8)


def patch(mask: Mask) -> drawing.Patch:
    found = drawing.patch_of_mask(mask)
    assert found is not None
    return found


def painted(ground: Image, *shapes: tuple[Mask, Color], alpha: float = 0.45) -> Image:
    return draw.paint(Drawing(ground, tuple(Shape(patch(mask), color, alpha) for mask, color in shapes)))


def labelled(ground: Image, labels: Sequence[tuple[str, Color, Mask]]) -> Image:
    return draw.paint(Drawing(ground, tuple(Shape(patch(mask), color, 0.0, 0, text) for text, color, mask in labels)))


def test_a_shape_colors_its_mask_and_nothing_else() -> None:
    mask = disc((120, 160), 80, 60, 30)
    image = gray()
    drawn = painted(image, (mask, (230, 159, 0)), alpha=0.5)
    assert (drawn[~mask] == 100).all()
    assert drawn[60, 80].tolist() == [165, 130, 50]  # half way from gray to the color
    assert drawn[60, 50].tolist() == [230, 159, 0]  # the outline
    assert (image == 100).all()  # the input is not painted on


def test_later_shapes_lie_on_earlier_ones() -> None:
    large, small = disc((120, 160), 80, 60, 50), disc((120, 160), 80, 60, 10)
    assert painted(gray(), (large, (255, 0, 0)), (small, (0, 0, 255)))[60, 90].tolist() == [0, 0, 255]


def test_revealed_patches_keep_their_pixels() -> None:
    mask = disc((120, 160), 80, 60, 30)
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    pale = draw.dim(image)
    seen = draw.reveal(image, [patch(mask)], pale)
    assert (seen[mask] == image[mask]).all()
    assert (seen[~mask] == pale[~mask]).all()
    assert (pale[..., 0] == pale[..., 2]).all()
    assert pale.mean() > image.mean()


def test_empty_full_and_single_pixel_masks() -> None:
    assert drawing.patch_of_mask(np.zeros((120, 160), np.bool_)) is None
    full, dot = np.ones((120, 160), np.bool_), np.zeros((120, 160), np.bool_)
    dot[119, 159] = True
    assert painted(gray(), (full, (1, 2, 3)))[0, 0].tolist() == [1, 2, 3]
    assert painted(gray(), (dot, (1, 2, 3)))[119, 159].tolist() == [1, 2, 3]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 999),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    shown=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_a_mask_is_resampled_like_its_image(seed: int, size: tuple[int, int], shown: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.bool_)
    y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
    mask[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = True
    mask &= rng.random(size) < 0.8
    rows = ((np.arange(shown[0]) + 0.5) * size[0] / shown[0]).astype(int)
    columns = ((np.arange(shown[1]) + 0.5) * size[1] / shown[1]).astype(int)
    expected = mask[rows[:, None], columns]
    found = drawing.patch_of_rle(masks.encode(mask), shown)
    drawn = np.zeros(shown, np.bool_)
    if found is not None:
        drawn[found.window] = found.mask
    assert (drawn == expected).all()


def test_boundary_band() -> None:
    mask = np.zeros((20, 30), np.bool_)
    mask[5:15, 0:12] = True
    closed, opened = drawing.boundary_band(mask, 2), drawing.boundary_band(mask, 2, closed=False)
    assert closed.sum() == 10 * 12 - 6 * 8
    assert opened.sum() == 10 * 12 - 6 * 10  # the left edge is the border of the array, not of the mask
    assert not closed[~mask].any()
    assert closed[10, 0]
    assert not opened[10, 0]


def test_colors_are_stable_and_distinct() -> None:
    colors = [drawing.instance_color(index) for index in range(21)]
    assert len(set(colors)) == 21
    assert colors == [drawing.instance_color(index) for index in range(21)]
    assert colors[:7] == list(drawing.PALETTE)
    assert drawing.instance_color(10_000) in colors
    for index, first in enumerate(colors[:7]):  # told apart by lightness or hue, not by a shade
        for second in colors[:index]:
            assert np.abs(np.subtract(first, second)).max() >= 60


def labels_at(drawn: Image, color: Color) -> Mask:
    found: Mask = (drawn == color).all(axis=-1)
    return found


@settings(deadline=None, max_examples=60)
@given(x=st.integers(0, 319), y=st.integers(0, 239), radius=st.integers(2, 300))
def test_a_label_never_covers_its_object(x: int, y: int, radius: int) -> None:
    mask = disc((240, 320), x, y, radius)
    drawn = labelled(gray(240, 320), [("teddy bear", (230, 159, 0), mask)])
    changed = (drawn != 100).any(axis=-1)
    assert not (changed & mask).any()
    if radius <= 80:  # there is room
        assert labels_at(drawn, (230, 159, 0)).sum() > 300


def test_labels_avoid_each_other_and_are_dropped_without_room() -> None:
    shapes = [disc((240, 320), 160, 120, radius) for radius in (40, 38, 36)]
    colors = [drawing.instance_color(index) for index in range(3)]
    drawn = labelled(gray(240, 320), [("bus", color, mask) for color, mask in zip(colors, shapes, strict=True)])
    areas = [labels_at(drawn, color).sum() for color in colors]
    assert min(areas) == max(areas) > 0  # all three in full
    full = np.ones((20, 60), np.bool_)
    crowd = labelled(gray(20, 60), [("bus", color, full) for color in colors])
    assert (crowd == 100).all()  # no room beside the object: the legend names it


def test_labels_of_three_hundred_objects_stay_readable() -> None:
    rng = np.random.default_rng(0)
    shapes = [disc((480, 640), *rng.integers(0, (640, 480)).tolist(), int(rng.integers(4, 60))) for _ in range(300)]
    placed = place_labels([Shape(patch(mask), (0, 0, 200), label="person") for mask in shapes], (480, 640))
    assert 20 < len(placed) < 60  # the picture is to be seen, too
    written = np.zeros((480, 640), np.bool_)
    for one in placed:
        place = (slice(one.y, one.y + one.height), slice(one.x, one.x + one.width))
        assert written[place].size == one.height * one.width  # inside the picture
        assert written[place].mean() <= 0.25
        own = np.zeros((480, 640), np.bool_)
        own[one.shape.patch.window] = one.shape.patch.mask
        assert not own[place].any()
        written[place] = True
    assert 0.1 < written.mean() < 0.13


def test_labels_of_any_text_fit() -> None:
    mask = disc((240, 320), 160, 120, 20)
    for text in ("", "x" * 500, "line\nbreak\x00\ud800", "日本語", "<b>&"):
        drawn = labelled(gray(240, 320), [(text, (230, 159, 0), mask)])
        assert labels_at(drawn, (230, 159, 0)).any()


def test_a_heatmap_keeps_its_cells() -> None:
    probabilities = np.zeros((28, 28), np.float32)
    probabilities[3, 5] = 1.0
    probabilities[0, 0] = np.float32(7.0)  # out of range is clipped
    picture = draw.heatmap(probabilities, (56, 84))
    assert picture.shape == (56, 84, 3)
    low, high = picture[55, 83], picture[0, 0]
    assert (picture[6:8, 15:18] == high).all()
    assert (picture == high).all(axis=-1).sum() == 2 * 6
    assert high.sum() > 2 * low.sum()
    bar = draw.scale_bar(100)
    assert (bar[0, 0] == high).all()
    assert (bar[-1, 0] == low).all()


def test_a_card_holds_all_of_its_tiles() -> None:
    red, blue = gray(50, 40), gray(50, 40)
    red[:], blue[:] = (255, 0, 0), (0, 0, 255)
    hot, cold = (np.ones((28, 28), np.float32)), (np.zeros((28, 28), np.float32))
    card = Card(
        (50, 40),
        (
            (Tile("box", Drawing(red)), Tile("occluder boundary", hot), Tile("true", None)),
            (Tile("both layers", Drawing(blue)), Tile("occludee boundary", cold), Tile("true", hot)),
        ),
    )
    sheet, plan = draw.paint(card), layout.lay_out(card)
    assert sheet.shape == (plan.height, plan.width, 3)
    assert labels_at(sheet, (255, 0, 0)).sum() == labels_at(sheet, (0, 0, 255)).sum() == 50 * 40
    for tile, cell in zip([tile for row in card.rows for tile in row], plan.cells, strict=True):
        shown = sheet[cell.y : cell.y + 50, cell.x : cell.x + 40]
        assert (shown == shown[0, 0]).all()
        assert (sheet[cell.y - layout.LINE - layout.CAPTION_GAP : cell.y, cell.text_x : cell.text_x + 20] < 128).any()
        assert tile is cell.tile
    boxes = [(cell.x, cell.y) for cell in plan.cells]
    assert boxes[0][0] == boxes[3][0] and boxes[0][1] == boxes[2][1] and len(set(boxes)) == 6
    for x, y in plan.bars:
        bar = sheet[y : y + 50, x]
        assert (bar[0] == draw.heatmap(np.ones((1, 1)))[0, 0]).all() and (
            bar[-1] == draw.heatmap(np.zeros((1, 1)))[0, 0]
        ).all()


def test_resize_mask_keeps_proportions() -> None:
    mask = disc((60, 80), 40, 30, 20)
    assert draw.resize_mask(mask, (120, 160)).sum() == 4 * mask.sum()
    assert draw.resize_mask(mask, (30, 40)).mean() == pytest.approx(mask.mean(), abs=0.02)
    assert draw.resize_image(gray(60, 80), (30, 50)).shape == (30, 50, 3)


def test_a_hatched_shape_is_drawn_in_lines_that_run_on_from_shape_to_shape() -> None:
    left, right = np.zeros((120, 160), np.bool_), np.zeros((120, 160), np.bool_)
    left[20:60, 30:71], right[20:60, 71:110] = True, True
    shapes = tuple(Shape(patch(mask), (230, 159, 0), outline=0, hatched=True) for mask in (left, right))
    lines = (draw.paint(Drawing(gray(), shapes)) == (230, 159, 0)).all(axis=2)
    assert not lines[~(left | right)].any()
    rows, columns = np.ogrid[:120, :160]
    assert (lines == ((left | right) & ((rows + columns) % draw.STRIPE_STEP < draw.STRIPE))).all()
    outlined = draw.paint(Drawing(gray(), (shapes[0]._replace(outline=1),)))
    assert (outlined[drawing.boundary_band(left, 1)] == (230, 159, 0)).all()


def test_an_arrow_is_dark_with_a_light_rim_and_points_at_its_tip() -> None:
    drawn = draw.paint(Drawing(gray(), (), (drawing.Arrow((20, 60), (100, 60)),)))
    dark, light = drawn.max(axis=2) < 60, drawn.min(axis=2) > 200
    columns = np.flatnonzero(dark.any(axis=0))
    assert abs(columns.min() - 20) <= 1 and abs(columns.max() - 100) <= 1
    assert dark[:, 60].sum() < dark[:, 93].sum()  # the head is wider
    assert light[:, 60].any() and not light[:, 130].any()
    assert (gray() == 100).all()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 999))
def test_patches_cut_each_other_as_masks_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    both = []
    for _ in range(2):
        mask = np.zeros((30, 40), np.bool_)
        y, x = rng.integers(0, 30), rng.integers(0, 40)
        mask[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = True
        mask &= rng.random(mask.shape) < 0.8
        mask[y, x] = True
        both.append(mask)
    for inside in (True, False):
        expected = both[0] & (both[1] if inside else ~both[1])
        found = drawing.cut(patch(both[0]), patch(both[1]), inside=inside)
        assert (found is None) == (not expected.any())
        if found is not None:
            drawn = np.zeros_like(expected)
            drawn[found.window] = found.mask
            assert (drawn == expected).all()


def test_the_point_of_a_mask_lies_on_it() -> None:
    assert drawing.inner_point(patch(disc((120, 160), 80, 60, 30))) == (80.5, 60.5)
    ring = disc((120, 160), 80, 60, 30) & ~disc((120, 160), 80, 60, 20)
    x, y = drawing.inner_point(patch(ring))
    assert ring[int(y), int(x)] and 23 <= np.hypot(x - 80.5, y - 60.5) <= 27
