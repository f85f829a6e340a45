"""Write masks that share no pixel as images of numbers: label images, and COCO's panoptic format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcnet_core import masks
from bcnet_core.annotations.coco import Record
from bcnet_core.errors import usage_error
from bcnet_core.evaluation.photo_results import PhotoResults, WritePhoto, prepared
from bcnet_core.files.outputs import atomic_directory, atomic_file

DEEPEST_PNG = 65_535
"""Largest value of a PNG with one channel."""

MOST_SEGMENTS = 2**24 - 1
"""Largest id of a segment in COCO's panoptic format, which has three bytes."""


@contextmanager
def label_images(place: Path, _listing: Record) -> Iterator[WritePhoto]:
    """Write a folder of label images: a PNG of 16 bits for each photo, or a TIFF of 32 bits if its values need them."""
    with atomic_directory(place) as folder:

        def write(photo: PhotoResults) -> int:
            labels = draw_labels(photo.image, photo.results)
            path = prepared(folder / f"{photo.name}.{'tif' if labels.dtype == np.int32 else 'png'}")
            Image.fromarray(labels).save(path)
            return 0

        yield write


@contextmanager
def panoptic(place: Path, listing: Record) -> Iterator[WritePhoto]:
    """Write COCO's panoptic format (https://cocodataset.org/#format-data): a folder of PNGs, and the json beside it."""
    things = [{**category, "isthing": 1} for category in listing["categories"]]
    head = json.dumps({"images": listing["images"], "categories": things}, separators=(",", ":"))
    with (
        atomic_directory(place) as folder,
        atomic_file(index_path(place)) as index,
        index.open("w", encoding="utf-8") as out,
    ):
        out.write(f'{head[:-1]},"annotations":[')
        comma = ""

        def write(photo: PhotoResults) -> int:
            nonlocal comma
            if len(photo.results) > MOST_SEGMENTS:
                raise usage_error(
                    f"`{photo.image['file_name']}` has {len(photo.results):,} results, COCO's panoptic format holds "
                    f"{MOST_SEGMENTS:,} in an image",
                    "keep fewer with --score, or leave out --format panoptic",
                )
            file_name = f"{photo.name}.png"
            picture = colors(draw_labels(photo.image, photo.results))
            png = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1]  # Pillow copies a color picture
            prepared(folder / file_name).write_bytes(png.tobytes())
            about = {"image_id": photo.image["id"], "file_name": file_name, "segments_info": segments(photo.results)}
            out.write(comma + json.dumps(about, separators=(",", ":")))
            comma = ","
            return 0

        yield write
        out.write("]}")


def index_path(place: Path) -> Path:
    """Return the json of COCO's panoptic format that belongs to a folder of its images."""
    return place.with_name(f"{place.name}.json")


def draw_labels(image: Record, results: Sequence[Record]) -> NDArray[np.uint16] | NDArray[np.int32]:
    """Return (H, W): n where the n-th of results with disjoint masks is seen, counted from 1, otherwise 0.

    It is uint16, or int32 if there are more results than that can count.
    """
    labels: NDArray[Any] = np.zeros(
        (image["height"], image["width"]), np.int32 if len(results) > DEEPEST_PNG else np.uint16
    )
    for number, result in enumerate(results, start=1):
        x, y, width, height = masks.bounding_box(result["segmentation"]).astype(int).tolist()
        inside = masks.decode_window(result["segmentation"], x, y, x + width, y + height)
        labels[y : y + height, x : x + width][inside] = number
    return labels


def segments(results: Sequence[Record]) -> list[Record]:
    """Return the `segments_info` of COCO's panoptic format (https://cocodataset.org/#format-data)."""
    return [
        {
            "id": number,
            "category_id": result["category_id"],
            "area": masks.area(result["segmentation"]),
            "bbox": masks.bounding_box(result["segmentation"]).astype(int).tolist(),
            "iscrowd": 0,
            "score": result["score"],
        }
        for number, result in enumerate(results, start=1)
    ]


def colors(labels: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 picture of (H, W) ids in COCO's panoptic format: id = R + 256 G + 65,536 B.

    The channels are in OpenCV's order, blue first.
    """
    picture = np.zeros((*labels.shape, 3), np.uint8)
    lowest_first = labels.astype(labels.dtype.newbyteorder("<"), copy=False)
    digits = lowest_first.view(np.uint8).reshape(*labels.shape, -1)[..., :3]
    picture[..., 3 - digits.shape[2] :] = digits[..., ::-1]
    return picture
