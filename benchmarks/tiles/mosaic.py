"""Mosaics: photos of a COCO set put together without gaps in one large photo, whose truth is therefore known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, segmentation_rle
from bcnet_core.errors import usage_error
from bcnet_core.files.images import check_images, read_listed
from bcnet_core.files.json_files import write_json

ANNOTATIONS = "annotations/instances_val.json"
IMAGES = "val"


class Place(NamedTuple):
    """A square of a mosaic that a photo fills: its upper left corner and its side, pixels."""

    x: int
    y: int
    side: int


def plan_places(*, cell: int, grid: int, large: int) -> list[Place]:
    """Return the places of a mosaic of grid x grid cells.

    The first is a square of large x large cells, so that objects of other photos and of this one differ in size; all
    others are single cells.

    Raises:
        BCNetError: if the large place does not fit.
    """
    if large > grid:
        raise usage_error(f"a place of {large} x {large} cells does not fit in {grid} x {grid}", "give a smaller one")
    single = [(row, column) for row in range(grid) for column in range(grid) if max(row, column) >= large]
    return [Place(0, 0, large * cell), *(Place(column * cell, row * cell, cell) for row, column in single)]


def write_mosaics(coco: CocoFile, image_dir: Path, folder: Path, *, cell: int, grid: int, large: int) -> None:
    """Write mosaics that hold every photo of a set at least once, as a data root: `ANNOTATIONS` and `IMAGES`.

    Photos are taken in file order; those that fill the last mosaic are the first ones again.

    Args:
        coco: annotations of the photos.
        image_dir: folder of the photos.
        folder: of the mosaics, created.
        cell: side of a cell, pixels.
        grid: cells of a mosaic in each direction.
        large: cells of the first photo in each direction.

    Raises:
        BCNetError: if a photo is missing or cannot be read, or a mask cannot.
    """
    check_images(coco.images, image_dir)
    places, grouped, side = plan_places(cell=cell, grid=grid, large=large), coco.annotations_by_image(), grid * cell
    photos, count = cycle(coco.images), -(-len(coco.images) // len(places))
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    (folder / ANNOTATIONS).parent.mkdir(exist_ok=True)
    images: list[Record] = []
    annotations: list[Record] = []
    for number in range(1, count + 1):
        pixels = np.zeros((side, side, 3), np.uint8)
        for place, photo in zip(places, islice(photos, len(places)), strict=True):
            inside = slice(place.y, place.y + place.side), slice(place.x, place.x + place.side)
            pixels[inside] = _fit(read_listed(image_dir, photo), place.side, cv2.INTER_AREA, cv2.INTER_LINEAR)
            placed = place_annotations(grouped[photo["id"]], photo, place, side)
            annotations += [{"id": len(annotations) + position, "image_id": number, **one} for position, one in
                            enumerate(placed, start=1)]  # fmt: skip
        name = f"{number:04}.png"
        Image.fromarray(pixels).save(folder / IMAGES / name)
        images.append({"id": number, "file_name": name, "height": side, "width": side})
    content = {"images": images, "annotations": annotations, "categories": coco.categories}
    write_json(folder / ANNOTATIONS, content)


def place_annotations(annotations: Sequence[Record], photo: Record, place: Place, side: int) -> Iterator[Record]:
    """Yield the annotations of a photo in a mosaic of side x side pixels, without `id` and `image_id`.

    What is cut off with the edges of the photo has no annotation.
    """
    for one in annotations:
        rle = segmentation_rle(one, photo)
        if rle is None:
            continue
        nearest = cv2.INTER_NEAREST_EXACT
        pixels = _fit(masks.decode(rle).view(np.uint8), place.side, nearest, nearest).view(np.bool_)
        moved = masks.from_window(pixels, place.x, place.y, side, side)
        if masks.area(moved):
            kept = {"category_id": one["category_id"], "iscrowd": one.get("iscrowd", 0), "area": masks.area(moved)}
            yield {**kept, "bbox": masks.bounding_box(moved).tolist(), "segmentation": masks.to_json(moved)}


def _fit(pixels: NDArray[np.uint8], side: int, shrinking: int, growing: int) -> NDArray[np.uint8]:
    """Resize (H, W) or (H, W, 3) until its shorter side is as long as a square, and cut off what lies beyond."""
    height, width = pixels.shape[:2]
    scale = side / min(height, width)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    resized = cv2.resize(pixels, size, interpolation=shrinking if scale < 1 else growing)
    x, y = (size[0] - side) // 2, (size[1] - side) // 2
    return np.ascontiguousarray(resized[y : y + side, x : x + side], dtype=np.uint8)
