"""Pictures of ground truth: what the annotations of a COCO file say of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, Record, has_occluders, segmentation_rle
from bcnet_core.annotations.occluder import derive_from_records
from bcnet_core.errors import BCNetError
from bcnet_core.files.images import read_listed
from bcnet_core.masks import RLE
from bcnet_core.visualization.drawing import BLANK, Image
from bcnet_core.visualization.picture import Instance, Picture, numbered


class Truth:
    """The true instances of a COCO file, image by image; occluders are read where the file has them, else derived."""

    def __init__(self, coco: CocoFile) -> None:
        self._names = {category["id"]: str(category["name"]) for category in coco.categories}
        self._grouped, self._stored = coco.annotations_by_image(), has_occluders(coco)
        self.is_known = bool(coco.annotations)

    def of(self, record: Record) -> tuple[Instance, ...]:
        """The instances of an image, in the order of the file, which decides their colors."""
        annotations = self._grouped[record["id"]]
        regions = occluder_regions(record, annotations, stored=self._stored)
        return numbered(
            [
                _layers(annotation, record, region, self._names[annotation["category_id"]])
                for annotation, region in zip(annotations, regions, strict=True)
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


def occluder_regions(record: Record, annotations: Sequence[Record], *, stored: bool) -> list[RLE | None]:
    """The occluder region of each annotation of an image.

    Args:
        record: of the image.
        annotations: all of the image.
        stored: whether the file has occluders, see `has_occluders`; else they are derived from the masks.
    """
    if stored:
        return [segmentation_rle(annotation, record, key=OCCLUDER_KEY) for annotation in annotations]
    rles = [segmentation_rle(annotation, record) for annotation in annotations]
    return derive_from_records(annotations, rles, record["height"], record["width"])


def _layers(annotation: Record, record: Record, region: RLE | None, name: str) -> Instance:
    x, y, width, height = annotation["bbox"]
    return Instance(
        category=name,
        box=(x, y, x + width, y + height),
        occludee=segmentation_rle(annotation, record),
        occluder=region,
        crowd=bool(annotation.get("iscrowd", 0)),
    )
