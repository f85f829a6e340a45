"""Drawing, judged by pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcnet_core.visualization import draw


def disc(size: tuple[int, int], x: int, y: int, radius: int) -> draw.Mask:
    rows, columns = np.ogrid[: size[0], : size[1]]
    mask: draw.Mask = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return mask


def grey(height: int = 120, width: int = 160) -> draw.Image:
    return np.full((height, width, 3), 100, np.uint8)


def test_overlay_colours_the_mask_and_nothing_else() -> None:
    mask = disc((120, 160), 80, 60, 30)
    image = grey()
    drawn = draw.overlay(image, [mask], [(230, 159, 0)], alpha=0.5)
    assert (drawn[~mask] == 100).all()
    assert drawn[60, 80].tolist() == [165, 130, 50]  # half way from grey to the colour
    assert drawn[60, 50].tolist() == [230, 159, 0]  # the outline
    assert (image == 100).all()  # the input is not painted on


def test_small_masks_lie_on_large_ones() -> None:
    large, small = disc((120, 160), 80, 60, 50), disc((120, 160), 80, 60, 10)
    for order in ([large, small], [small, large]):
        colours = [(255, 0, 0) if mask is large else (0, 0, 255) for mask in order]
        drawn = draw.overlay(grey(), order, colours)
        assert drawn[60, 90].tolist() == [0, 0, 255]


def test_ground_is_seen_outside_only() -> None:
    mask = disc((120, 160), 80, 60, 30)
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    pale = draw.dim(image)
    drawn = draw.overlay(image, [mask], [(0, 0, 0)], ground=pale, alpha=0.0)
    core = mask & ~draw.boundary_band(mask)
    assert (drawn[core] == image[core]).all()
    assert (drawn[~mask] == pale[~mask]).all()
    assert (pale[..., 0] == pale[..., 2]).all()
    assert pale.mean() > image.mean()


def test_masks_that_cannot_be_drawn_are_harmless() -> None:
    empty, full = np.zeros((120, 160), np.bool_), np.ones((120, 160), np.bool_)
    dot = np.zeros((120, 160), np.bool_)
    dot[119, 159] = True
    assert (draw.overlay(grey(), [empty], [(1, 2, 3)]) == 100).all()
    assert draw.overlay(grey(), [full], [(1, 2, 3)])[0, 0].tolist() == [1, 2, 3]
    assert draw.overlay(grey(), [dot], [(1, 2, 3)])[119, 159].tolist() == [1, 2, 3]
    assert (draw.add_labels(grey(), [draw.Label("a", (1, 2, 3), empty)]) == 100).all()


def test_boundary_band() -> None:
    mask = np.zeros((20, 30), np.bool_)
    mask[5:15, 0:12] = True
    closed, opened = draw.boundary_band(mask, 2), draw.boundary_band(mask, 2, closed=False)
    assert closed.sum() == 10 * 12 - 6 * 8
    assert opened.sum() == 10 * 12 - 6 * 10  # the left edge is the border of the array, not of the mask
    assert not closed[~mask].any()
    assert closed[10, 0]
    assert not opened[10, 0]


def test_colours_are_stable_and_distinct() -> None:
    colours = [draw.instance_colour(index) for index in range(21)]
    assert len(set(colours)) == 21
    assert colours == [draw.instance_colour(index) for index in range(21)]
    assert colours[:7] == list(draw.PALETTE)
    assert draw.instance_colour(10_000) in colours
    for index, first in enumerate(colours[:7]):  # told apart by lightness or hue, not by a shade
        for second in colours[:index]:
            assert np.abs(np.subtract(first, second)).max() >= 60


def labels_at(drawn: draw.Image, colour: draw.Colour) -> draw.Mask:
    found: draw.Mask = (drawn == colour).all(axis=-1)
    return found


@settings(deadline=None, max_examples=40)
@given(x=st.integers(0, 319), y=st.integers(0, 239), radius=st.integers(2, 80))
def test_a_label_never_covers_its_object_where_there_is_room(x: int, y: int, radius: int) -> None:
    mask = disc((240, 320), x, y, radius)
    drawn = draw.add_labels(grey(240, 320), [draw.Label("teddy bear", (230, 159, 0), mask)])
    changed = (drawn != 100).any(axis=-1)
    assert labels_at(drawn, (230, 159, 0)).sum() > 300
    assert not (changed & mask).any()


def test_labels_avoid_each_other_and_give_way() -> None:
    masks = [disc((240, 320), 160, 120, radius) for radius in (40, 38, 36)]
    colours = [draw.instance_colour(index) for index in range(3)]
    drawn = draw.add_labels(
        grey(240, 320), [draw.Label("bus", colour, mask) for colour, mask in zip(colours, masks, strict=True)]
    )
    areas = [labels_at(drawn, colour).sum() for colour in colours]
    assert max(areas) - min(areas) == 0  # all three in full
    full = np.ones((20, 60), np.bool_)
    crowd = draw.add_labels(grey(20, 60), [draw.Label("bus", colour, full) for colour in colours])
    assert sum(labels_at(crowd, colour).any() for colour in colours) < 3  # no room: the rest is left out


def test_labels_of_any_text_fit() -> None:
    mask = disc((240, 320), 160, 120, 20)
    for text in ("", "x" * 500, "line\nbreak\x00\ud800", "日本語", "<b>&"):
        drawn = draw.add_labels(grey(240, 320), [draw.Label(text, (230, 159, 0), mask)])
        assert labels_at(drawn, (230, 159, 0)).any()


def test_heatmap_keeps_its_cells() -> None:
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


def test_tile_centres_in_a_grid() -> None:
    red, blue = grey(10, 20), grey(30, 40)
    red[:], blue[:] = (255, 0, 0), (0, 0, 255)
    sheet = draw.tile([[red, blue], [blue]], gap=4)
    assert sheet.shape == (30 + 30 + 3 * 4, 40 + 40 + 3 * 4, 3)
    assert labels_at(sheet, (255, 0, 0)).sum() == 200
    assert labels_at(sheet, (255, 0, 0))[4 + 10 : 4 + 20, 4 + 10 : 4 + 30].all()
    assert labels_at(sheet, (0, 0, 255)).sum() == 2400


def test_captions_widen_what_is_narrow() -> None:
    sheet = draw.captioned(grey(20, 5), "occluder boundary")
    assert sheet.shape[1] > 80
    assert (sheet[-20:] == 100).all(axis=-1).sum() == 100
    assert (sheet[: draw.line_height()] < 128).any()


def test_resize_mask_keeps_shares() -> None:
    mask = disc((60, 80), 40, 30, 20)
    assert draw.resize_mask(mask, (120, 160)).sum() == 4 * mask.sum()
    assert draw.resize_mask(mask, (30, 40)).mean() == pytest.approx(mask.mean(), abs=0.02)
    assert draw.resize_image(grey(60, 80), (30, 50)).shape == (30, 50, 3)
