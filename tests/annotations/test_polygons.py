"""Polygons are valid and rasterize back to their mask."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy.ndimage import gaussian_filter

from bcnet_core import masks
from bcnet_core.annotations.coco import read_coco, segmentation_rle
from bcnet_core.annotations.polygons import MIN_IOU, to_outline, to_polygons, to_shape
from tests.conftest import examples

DENSE_MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda shape: arrays(np.bool_, shape))


def check(mask: NDArray[np.bool_]) -> list[list[int]]:
    """Assert everything `to_polygons` promises; returns the polygons."""
    polygons = to_polygons(masks.encode(mask))
    height, width = mask.shape
    raster = np.zeros_like(mask)
    if polygons:
        raster = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)
    np.testing.assert_array_equal(raster, mask)
    shapes = [shapely.Polygon(np.reshape(polygon, (-1, 2))) for polygon in polygons]
    assert all(shape.is_valid for shape in shapes)
    assert sum(shape.area for shape in shapes) == mask.sum()
    for polygon in polygons:
        steps = np.diff(np.reshape([*polygon, *polygon[:4]], (-1, 2)), axis=0) != 0
        assert (steps.sum(axis=1) == 1).all(), "every edge runs along the grid"
        assert (steps[1:] != steps[:-1]).all(), "no point lies on a straight line"
    return polygons


@examples(500)
@given(DENSE_MASKS)
def test_any_mask_survives_a_round_trip(mask: NDArray[np.bool_]) -> None:
    check(mask)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9, 0.98])
def test_image_sized_noise_survives_a_round_trip(density: float) -> None:
    check(np.random.default_rng(0).random((120, 90)) < density)


def test_known_shapes() -> None:
    empty = np.zeros((5, 6), dtype=bool)
    assert check(empty) == []
    assert check(~empty) == [[0, 0, 0, 5, 6, 5, 6, 0]]
    single = empty.copy()
    single[2, 3] = True
    assert check(single) == [[3, 2, 3, 3, 4, 3, 4, 2]]


def test_coordinates_are_integers() -> None:
    ring = np.ones((40, 40), dtype=bool)
    ring[10:20, 15:30] = ring[30:, :5] = False
    for tolerance in (0, 1, 3):
        polygons = to_polygons(masks.encode(ring), tolerance=tolerance)
        assert len(polygons) == 2 and {type(value) for polygon in polygons for value in polygon} == {int}


def test_diagonal_pixels_are_separated() -> None:
    assert len(check(np.eye(4, dtype=bool))) == 4


def test_a_ring_is_cut_in_two() -> None:
    ring = np.ones((7, 7), dtype=bool)
    ring[2:5, 2:5] = False
    assert len(check(ring)) == 2


def test_a_contour_that_touches_itself_is_cut() -> None:
    pinched = np.ones((4, 4), dtype=bool)
    pinched[0, 0] = pinched[1, 1] = False
    assert len(check(pinched)) == 2


def blots(seed: int, height: int, width: int, coarse: int) -> NDArray[np.bool_]:
    """Return a mask like that of an object: smooth outlines, sometimes a hole or several parts."""
    noise = np.random.default_rng(seed).standard_normal((height, width))
    return gaussian_filter(noise, coarse) > 0.02 / coarse


@examples(200)
@given(st.integers(0, 10_000), st.integers(2, 80), st.integers(2, 80), st.integers(1, 8), st.floats(0.3, 20))
def test_simplified_polygons_stay_close(seed: int, height: int, width: int, coarse: int, tolerance: float) -> None:
    mask = blots(seed, height, width, coarse)
    polygons = to_polygons(masks.encode(mask), tolerance=tolerance)
    shapes = [shapely.Polygon(np.reshape(polygon, (-1, 2))) for polygon in polygons]
    assert all(shape.is_valid and shape.area > 0 for shape in shapes)
    exact = to_polygons(masks.encode(mask))
    assert sum(map(len, polygons)) <= sum(map(len, exact))
    drawn = masks.from_segmentation(polygons, height, width)
    assert (drawn is None) == (not mask.any())
    if drawn is not None:
        assert masks.iou(drawn, masks.encode(mask)) >= MIN_IOU


@examples(200)
@given(DENSE_MASKS)
def test_simplified_polygons_of_any_mask_stay_close(mask: NDArray[np.bool_]) -> None:
    drawn = masks.from_segmentation(to_polygons(masks.encode(mask), tolerance=2.0), *mask.shape)
    assert (drawn is None) == (not mask.any())
    assert drawn is None or masks.iou(drawn, masks.encode(mask)) >= MIN_IOU


def test_a_smooth_outline_needs_few_points() -> None:
    y, x = np.mgrid[:200, :200]
    disc = masks.encode((y - 100) ** 2 + (x - 100) ** 2 < 80**2)
    exact, fewer = to_polygons(disc)[0], to_polygons(disc, tolerance=1.0)[0]
    assert len(fewer) < len(exact) / 8
    assert set(zip(fewer[::2], fewer[1::2], strict=True)) <= set(zip(exact[::2], exact[1::2], strict=True))


def test_a_tolerance_that_is_too_large_is_halved() -> None:
    y, x = np.mgrid[:60, :60]
    disc = masks.encode(np.hypot(x - 30, y - 30) < 10)
    assert [len(to_polygons(disc, tolerance=tolerance)[0]) for tolerance in (0, 1, 8, 3)] == [72, 56, 56, 72]
    assert to_polygons(disc, tolerance=8) == to_polygons(disc, tolerance=1)


def test_a_mask_with_many_holes_is_cut_in_reasonable_time() -> None:
    sieve = np.ones((201, 201), dtype=bool)
    sieve[1::4, 1::4] = False  # 2,500 holes
    check(sieve)
    drawn = masks.from_segmentation(to_polygons(masks.encode(sieve), tolerance=1.0), 201, 201)
    assert drawn is not None
    assert masks.iou(drawn, masks.encode(sieve)) >= MIN_IOU


def test_a_mask_of_very_many_pieces_is_traced_exactly() -> None:
    board = np.indices((120, 120)).sum(axis=0) % 2 == 0
    assert to_polygons(masks.encode(board), tolerance=1.0) == to_polygons(masks.encode(board))


def test_real_masks_survive_a_round_trip(coco_mini: Path) -> None:
    coco = read_coco(coco_mini / "annotations" / "instances_val2017.json")
    images = {image["id"]: image for image in coco.images}
    for annotation in coco.annotations[::3]:
        image = images[annotation["image_id"]]
        rle = segmentation_rle(annotation, image)
        assert rle is not None
        assert masks.from_segmentation(to_polygons(rle), image["height"], image["width"]) == rle


@examples(500)
@given(DENSE_MASKS)
def test_one_outline_holds_any_parts_and_holes(mask: NDArray[np.bool_]) -> None:
    outline = to_outline(masks.encode(mask))
    if not mask.any():
        assert outline == []
        return
    np.testing.assert_array_equal(masks.decode(masks.from_polygons([outline], *mask.shape)), mask)


def test_bridges_lead_to_the_nearest_part() -> None:
    row = np.zeros((3, 32), dtype=bool)
    row[:, [0, 10, 20, 30]] = True
    corners = np.reshape(outline := to_outline(masks.encode(row)), (-1, 2))
    lengths = np.abs(np.diff([*corners, corners[0]], axis=0)).sum(axis=1)
    assert sorted(lengths)[-6:] == [9] * 6 and len(outline) == 2 * (4 * 4 + 3 * 2)


@examples(300)
@given(DENSE_MASKS)
def test_a_shape_has_the_holes_of_its_mask(mask: NDArray[np.bool_]) -> None:
    shape = to_shape(masks.encode(mask))
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
    assert shape.is_valid and shape.area == mask.sum()
    np.testing.assert_array_equal(shapely.contains_xy(shape, x, y), mask)


def test_simplified_shapes_and_outlines_are_close_with_fewer_corners() -> None:
    y, x = np.ogrid[:320, :340]
    away = np.hypot(y - 160, x - 170)
    mask = (away < 150) & (away > 40)
    rle = masks.encode(mask)
    shape, exact = to_shape(rle, tolerance=1), to_shape(rle)
    assert isinstance(shape, shapely.Polygon) and len(shape.interiors) == 1
    assert shapely.intersection(shape, exact).area >= MIN_IOU * shapely.union(shape, exact).area
    assert shapely.get_num_coordinates(shape) < shapely.get_num_coordinates(exact) / 2
    outline = to_outline(rle, tolerance=1)
    assert masks.iou(masks.from_polygons([outline], 320, 340), rle) >= MIN_IOU
    assert len(outline) < len(to_outline(rle)) / 2
    tiny = masks.from_box(3, 4, 5, 7, 20, 20)
    assert to_shape(tiny, tolerance=8).equals(shapely.box(3, 4, 5, 7)), "no simpler than the mask allows"
