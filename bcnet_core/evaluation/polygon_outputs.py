"""Write results as polygons, which may overlap: YOLO segmentation, labelme, and GeoJSON.

Outlines are those of the masks without corners that hardly matter; the IoU with the mask is at least `MIN_IOU`. A
result without a pixel has no outline and is left out. A photo without results has a file, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import yaml

from bcnet_core import masks
from bcnet_core.annotations.coco import Record
from bcnet_core.annotations.polygons import DEFAULT_TOLERANCE, to_outline, to_polygons, to_shape
from bcnet_core.evaluation.photo_results import PhotoResults, WritePhoto, prepared
from bcnet_core.files.outputs import atomic_directory

YOLO_DECIMALS = 7
"""Decimals of coordinates as shares of the photo's sides: a hundredth of a pixel in one of 100,000."""

LABELME_VERSION = "5.0.0"
"""Version of labelme whose form is written; later ones read it."""


@contextmanager
def yolo(place: Path, listing: Record) -> Iterator[WritePhoto]:
    """Write YOLO segmentation (https://docs.ultralytics.com/datasets/segment): `labels`, and names in `data.yaml`.

    A line holds one outline and no score. Parts and holes are joined to it by bridges, see `to_outline`. Classes are
    numbered from 0 in the order of the categories.
    """
    numbers = {category["id"]: number for number, category in enumerate(listing["categories"])}
    names = {numbers[category["id"]]: category["name"] for category in listing["categories"]}
    with atomic_directory(place) as folder:
        config = yaml.safe_dump({"train": ".", "val": ".", "names": names}, allow_unicode=True, sort_keys=False)
        _save(folder / "data.yaml", f"# Photos belong into the folder images, beside labels.\n{config}")

        def write(photo: PhotoResults) -> int:
            size = (photo.image["width"], photo.image["height"])
            lines = []
            for _, result in _with_pixels(photo):
                outline = np.reshape(to_outline(result["segmentation"], tolerance=DEFAULT_TOLERANCE), (-1, 2))
                shares = np.round(outline / size, YOLO_DECIMALS).ravel().tolist()
                lines.append(" ".join(map(str, [numbers[result["category_id"]], *shares])) + "\n")
            _save(folder / "labels" / f"{photo.name}.txt", "".join(lines))
            return len(photo.results) - len(lines)

        yield write


@contextmanager
def labelme(place: Path, listing: Record) -> Iterator[WritePhoto]:
    """Write a folder of labelme files (https://github.com/wkentaro/labelme), which name their photos by relative paths.

    Each result is a polygon, or several with one `group_id`: parts of the instance, or pieces around its holes.
    """
    names = {category["id"]: category["name"] for category in listing["categories"]}
    with atomic_directory(place) as folder:

        def write(photo: PhotoResults) -> int:
            shapes: list[Record] = []
            found = _with_pixels(photo)
            for number, result in found:
                polygons = to_polygons(result["segmentation"], tolerance=DEFAULT_TOLERANCE)
                about = {
                    "label": names[result["category_id"]],
                    "group_id": number if len(polygons) > 1 else None,
                    "description": f"score {result['score']:.3f}",
                    "score": result["score"],  # X-AnyLabeling reads it
                    "shape_type": "polygon",
                    "flags": {},
                }
                shapes.extend({"points": np.reshape(polygon, (-1, 2)).tolist(), **about} for polygon in polygons)
            file = f"{photo.name}.json"
            beside = (place.resolve() / file).parent
            content = {
                "version": LABELME_VERSION,
                "flags": {},
                "shapes": shapes,
                "imagePath": Path(os.path.relpath(Path(photo.image["file_name"]).absolute(), beside)).as_posix(),
                "imageData": None,
                "imageHeight": photo.image["height"],
                "imageWidth": photo.image["width"],
            }
            _save(folder / file, _dumped(content))
            return len(photo.results) - len(found)

        yield write


@contextmanager
def geojson(place: Path, listing: Record) -> Iterator[WritePhoto]:
    """Write a folder of GeoJSON files (RFC 7946) in pixels, x to the right and y down, as QuPath and GIS read them."""
    names = {category["id"]: category["name"] for category in listing["categories"]}
    with atomic_directory(place) as folder:

        def write(photo: PhotoResults) -> int:
            features = [
                {
                    "type": "Feature",
                    "geometry": shapely.geometry.mapping(to_shape(result["segmentation"], tolerance=DEFAULT_TOLERANCE)),
                    "properties": {
                        "id": number,
                        "class": names[result["category_id"]],
                        "category_id": result["category_id"],
                        "score": result["score"],
                        # as QuPath reads them
                        "objectType": "annotation",
                        "classification": {"name": names[result["category_id"]]},
                        "measurements": {"score": result["score"]},
                    },
                }
                for number, result in _with_pixels(photo)
            ]
            _save(folder / f"{photo.name}.geojson", _dumped({"type": "FeatureCollection", "features": features}))
            return len(photo.results) - len(features)

        yield write


def _with_pixels(photo: PhotoResults) -> list[tuple[int, Record]]:
    """Return the results of a photo that have a pixel, with their numbers among all of them, from 1."""
    return [
        (number, result) for number, result in enumerate(photo.results, start=1) if masks.area(result["segmentation"])
    ]


def _dumped(content: Any) -> str:  # noqa: ANN401  (JSON data)
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _save(path: Path, text: str) -> None:
    prepared(path).write_text(text, encoding="utf-8")
