"""Pictures of ground truth: what the annotations of a COCO file say of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bcnet_core.annotations.coco import CocoFile, Record, segmentation_rle
from bcnet_core.annotations.occluder import occluder_regions
from bcnet_core.errors import BCNetError
from bcnet_core.files.images import read_listed
from bcnet_core.masks import RLE
from bcnet_core.visualization.drawing import BLANK, Image
from bcnet_core.visualization.picture import Instance, Picture, numbered


class Truth:
    """The true instances of a COCO file, image by image; occluders are read where the file has them, else derived."""

    def __init__(self, coco: CocoFile) -> None:
        self._names = {category["id"]: str(category["name"]) for category in coco.categories}
        self._grouped = coco.annotations_by_image()
        self.is_known = bool(coco.annotations)

    def of(self, record: Record) -> tuple[Instance, ...]:
        """The instances of an image, in the order of the file, which decides their colors."""
        annotations = self._grouped[record["id"]]
        rles = [segmentation_rle(annotation, record) for annotation in annotations]
        regions = occluder_regions(annotations, rles, record)
        return numbered(
            [
                _layers(annotation, rle, region, self._names[annotation["category_id"]])
                for annotation, rle, region in zip(annotations, rles, regions, strict=True)
            ]
        )


def annotated_pictures(coco: CocoFile, records: Sequence[Record], images: Path) -> Iterator[Picture]:
    """The annotated instances of each image, one picture at a time, when it is asked for.

    Args:
        coco: plain COCO or bilayer annotations; a test-dev list gives pictures without instances.
        records: the images to show.
        images: the folder that their file names are relative to.
    """
    truth = Truth(coco)
    for record in records:
        pixels, fault = read_picture(images, record)
        layers = truth.of(record) if fault is None else ()
        note = "" if layers or fault else "no instance is annotated here"
        yield Picture(record["file_name"], pixels, layers, note=note, fault=fault)


def read_picture(images: Path, record: Record) -> tuple[Image, str | None]:
    """The image of a record, or a blank of its size and why it cannot be read."""
    size = (record["height"], record["width"])
    try:
        return read_listed(images, record), None
    except BCNetError as error:
        return np.broadcast_to(np.array(BLANK, np.uint8), (*size, 3)), error.message


def _layers(annotation: Record, rle: RLE | None, region: RLE | None, name: str) -> Instance:
    x, y, width, height = annotation["bbox"]
    return Instance(
        category=name,
        box=(x, y, x + width, y + height),
        occludee=rle,
        occluder=region,
        crowd=bool(annotation.get("iscrowd", 0)),
    )
