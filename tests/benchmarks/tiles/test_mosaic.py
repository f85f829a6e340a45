"""Mosaics: their truth is that of the photos, pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, read_coco, segmentation_rle
from bcnet_core.errors import BCNetError
from bcnet_core.files.images import read_image
from benchmarks.tiles.mosaic import ANNOTATIONS, IMAGES, Place, place_annotations, plan_places, write_mosaics

OBJECTS = [(2, 3, 9, 8), (15, 10, 9, 12), (30, 4, 8, 6)]
"""Objects of a photo of 40 x 24 pixels: x, y, width, height. Half of the middle, all of the last is beyond a square."""


@pytest.fixture
def photos(tmp_path: Path) -> CocoFile:
    """Return five photos of 40 x 24 pixels; every object has a color of its own, which no other photo has."""
    images, annotations = [], []
    for number in range(1, 6):
        pixels = np.zeros((24, 40, 3), np.uint8)
        images.append({"id": number, "file_name": f"{number}.png", "height": 24, "width": 40})
        for index, (x, y, width, height) in enumerate(OBJECTS, start=1):
            pixels[y : y + height, x : x + width] = (40 * number, 60 * index, 9)
            polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": 3, "bbox": [x, y, width, height],
                    "area": width * height, "iscrowd": int(index == 2), "segmentation": [polygon],
                }
            )  # fmt: skip
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return CocoFile(tmp_path / "photos.json", {"images": images, "annotations": annotations,
                                               "categories": [{"id": 3, "name": "box"}]})  # fmt: skip


def test_masks_of_a_mosaic_cover_exactly_the_pixels_of_their_objects(photos: CocoFile, tmp_path: Path) -> None:
    write_mosaics(photos, tmp_path, tmp_path / "out", cell=24, grid=2, large=1)
    coco = read_coco(tmp_path / "out" / ANNOTATIONS)
    assert [(one["height"], one["width"]) for one in coco.images] == [(48, 48)] * 2
    colors: list[list[tuple[int, ...]]] = []
    for image, placed in zip(coco.images, coco.annotations_by_image().values(), strict=True):
        pixels = read_image(tmp_path / "out" / IMAGES / image["file_name"])
        seen = []
        for one in placed:
            mask = masks.decode(segmentation_rle(one, image) or pytest.fail("no mask"))
            (color,) = np.unique(pixels[mask], axis=0).tolist()
            assert (mask == (pixels == color).all(2)).all(), "not all of the object, or more than it"
            ys, xs = np.nonzero(mask)
            assert one["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert (one["area"], one["category_id"], one["iscrowd"]) == (mask.sum(), 3, int(color[1] == 120))
            seen.append(tuple(color))
        colors.append(seen)
    # The first object lies in x from 2 to 11, of which the crop from 8 to 32 keeps three columns.
    assert colors[0] == [(40 * number, 60 * index, 9) for number in (1, 2, 3, 4) for index in (1, 2, 3)]
    assert colors[1] == [(40 * number, 60 * index, 9) for number in (5, 1, 2, 3) for index in (1, 2, 3)], (
        "from the first"
    )
    assert [one["area"] for one in coco.annotations[:3]] == [3 * 8, 9 * 12, 2 * 6]
    assert len({one["id"] for one in coco.annotations}) == len(coco.annotations) == 24


def test_the_large_photo_is_enlarged_with_its_masks(photos: CocoFile) -> None:
    image, annotations = photos.images[0], photos.annotations[:3]
    small = list(place_annotations(annotations, image, Place(0, 0, 24), 96))
    large = list(place_annotations(annotations, image, Place(24, 48, 48), 96))
    assert len(small) == len(large) == 3
    for one, other in zip(small, large, strict=True):
        x, y, width, height = one["bbox"]
        assert other["bbox"] == [24 + 2 * x, 48 + 2 * y, 2 * width, 2 * height] and other["area"] == 4 * one["area"]


def test_what_the_crop_removes_has_no_annotation(photos: CocoFile) -> None:
    gone = {**photos.annotations[0], "segmentation": [[0, 0, 6, 0, 6, 6, 0, 6]]}  # left of the crop
    assert list(place_annotations([gone], photos.images[0], Place(0, 0, 24), 48)) == []


def test_places_fill_the_mosaic_without_overlap() -> None:
    for grid, large in ((2, 1), (2, 2), (4, 2), (5, 3)):
        filled = np.zeros((grid * 10, grid * 10), int)
        places = plan_places(cell=10, grid=grid, large=large)
        for x, y, side in places:
            filled[y : y + side, x : x + side] += 1
        assert (filled == 1).all() and len(places) == grid**2 - large**2 + 1 and places[0].side == 10 * large
    with pytest.raises(BCNetError, match="does not fit"):
        plan_places(cell=10, grid=2, large=3)
