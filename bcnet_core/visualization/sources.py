"""Where pictures come from: the ground truth of a COCO file, or what a detector finds in its images.

Pictures are made one at a time, when they are asked for, at the size in which they are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from bcnet_core import masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, Record, has_occluders, segmentation_rle
from bcnet_core.annotations.occluder import derive_from_records
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.images import read_image
from bcnet_core.masks import RLE
from bcnet_core.paste import paste_masks
from bcnet_core.structures import Detections
from bcnet_core.visualization import draw
from bcnet_core.visualization.draw import Image, Mask
from bcnet_core.visualization.panels import Box, Layers, Maps, Picture

LONGEST = 1280
"""Longest side of a picture in pixels; larger images are shown smaller."""
SMALL = 512
"""Images with a much shorter longest side are enlarged to about this, by a whole factor."""
AT_LEAST = 5
"""Detections that are shown of an image even if they score less than asked for."""


class Predictor(Protocol):
    """What finds instances: a `Detector`, or a stand-in."""

    @property
    def categories(self) -> Sequence[Record]:
        """COCO category records; the label of a detection is the position in this list."""

    def predict(self, images: list[Image], /) -> list[Detections]:
        """Find instances in (H, W, 3) uint8 RGB images."""


class Place(NamedTuple):
    """Where annotations and images are.

    Attributes:
        annotations: a COCO json.
        images: a folder.
        model: the run or checkpoint to predict with, if any.
        results: the results file to show, if any.
    """

    annotations: Path
    images: Path
    model: Path | None
    results: Path | None = None


def locate(source: Path, *, images: Path | None = None, data_root: Path | None = None, gt: Path | None = None) -> Place:
    """Find the annotations and images that a source means.

    Args:
        source: a COCO json (`.json`, `.json.gz`), a run directory or a checkpoint. A run means its validation
            set.
        images: the folder of the images, where it is not the one that the source implies.
        data_root: what a run's data paths are relative to, where that is not what it was trained with.
        gt: the COCO json that a source names images and categories of, which is a results file then.

    Raises:
        BCNetError: if there is no such source, or its images are nowhere to be found.
    """
    if not source.exists():
        raise data_error(f"`{source}` does not exist", "SOURCE is a run directory, a checkpoint or a COCO json")
    if source.is_file() and (source.suffix == ".json" or source.name.endswith(".json.gz")):
        annotations = gt or source
        folder = _folder(images) if images is not None else _implied_images(annotations)
        return Place(annotations, folder, None, None if gt is None else source)
    if gt is not None:
        raise usage_error("--gt belongs to a results file", "SOURCE --gt FILE, both json")
    from bcnet_core.engine.run_dir import open_run

    data = open_run(source).recipe.data
    root = data_root or data.root or Path()
    annotations = root / data.val.annotations
    if not annotations.is_file():
        raise data_error(
            f"the validation set of `{source}` is not at `{annotations}`",
            "say where the data is: --data-root",
        )
    return Place(annotations, _folder(images or root / data.val.images), source)


def choose_images(
    coco: CocoFile, *, ids: Sequence[int] | None = None, limit: int = 20, most_occluded: int | None = None
) -> list[Record]:
    """Choose the image records to show.

    Args:
        coco: the file.
        ids: image ids, shown in this order; None means all.
        limit: how many are shown of all; ids that were asked for are all shown.
        most_occluded: show this many instead, those first whose boxes are covered most by occluders (the sum
            of the covered shares over the image's instances).

    Raises:
        BCNetError: if an id is not in the file, or the file lists no image.
    """
    if not coco.images:
        raise data_error(f"`{coco.path}` lists no image to show")
    by_id = {image["id"]: image for image in coco.images}
    unknown = [image_id for image_id in ids or () if image_id not in by_id]
    if unknown:
        raise usage_error(
            f"`{coco.path}` has no image with the id {unknown[0]}",
            f"ids there: {', '.join(str(image_id) for image_id in list(by_id)[:5])}, ...",
        )
    records = list(coco.images) if ids is None else [by_id[image_id] for image_id in dict.fromkeys(ids)]
    if most_occluded is not None:
        grouped, stored = coco.annotations_by_image(), has_occluders(coco)
        scores = {image["id"]: _occlusion(image, grouped[image["id"]], stored=stored) for image in records}
        return sorted(records, key=lambda image: -scores[image["id"]])[:most_occluded]
    return records if ids is not None else records[:limit]


def ground_truth_pictures(coco: CocoFile, records: Sequence[Record], images: Path) -> Iterator[Picture]:
    """The annotated instances of each image; occluders are read where the file has them, else derived.

    Args:
        coco: plain COCO or bilayer annotations; a test-dev list gives pictures without instances.
        records: the images to show.
        images: the folder that their file names are relative to.
    """
    names = {category["id"]: str(category["name"]) for category in coco.categories}
    grouped, stored = coco.annotations_by_image(), has_occluders(coco)
    for record in records:
        pixels, fault = read_picture(images, record)
        annotations = grouped[record["id"]] if fault is None else []
        regions = _occluders(record, annotations, stored=stored)
        layers = tuple(
            _annotated(annotation, record, region, names[annotation["category_id"]])
            for annotation, region in zip(annotations, regions, strict=True)
        )
        yield Picture(
            name=record["file_name"],
            image=draw.resize_image(pixels, display_size(record)),
            instances=layers,
            note="" if layers or fault else "no instance is annotated here",
            fault=fault,
        )


def detected_pictures(
    detector: Predictor, records: Sequence[Record], images: Path, *, score: float = 0.5
) -> Iterator[Picture]:
    """What a detector finds in each image.

    Args:
        detector: predicts one image at a time.
        records: the images to show.
        images: the folder that their file names are relative to.
        score: detections below it are left out, but never the best five of an image, so that an early run
            shows what it has learned.
    """
    for record in records:
        pixels, fault = read_picture(images, record)
        picture = Picture(record["file_name"], draw.resize_image(pixels, display_size(record)), fault=fault)
        if fault is None:
            found = detector.predict([pixels])[0]
            found = found.to("cpu")
            sure = int((found.scores >= score).sum())
            shown = min(max(sure, AT_LEAST), len(found.scores))
            layers = tuple(_detected(detector, found, index, record) for index in range(shown))
            picture = replace(picture, instances=layers, note=detected_note(sure, shown, score))
        yield picture


def _implied_images(annotations: Path) -> Path:
    """The image folder of the COCO layout: `annotations/instances_val2017.json` belongs to `val2017/`."""
    split = annotations.name.split(".")[0].rsplit("_", 1)[-1].replace("-dev", "")
    folder = annotations.absolute().parent
    places = [folder.parent / split, folder / split]
    for place in places:
        if place.is_dir():
            return place
    raise usage_error(f"the images of `{annotations}` are not in `{places[0]}`", "say where they are: --images FOLDER")


def _folder(images: Path) -> Path:
    if not images.is_dir():
        raise data_error(f"the folder of images `{images}` does not exist", "say where they are: --images FOLDER")
    return images


def read_picture(images: Path, record: Record) -> tuple[Image, str | None]:
    """The image of a record, or a blank of its size and why it cannot be read."""
    size = (record["height"], record["width"])
    try:
        return read_image(images / record["file_name"], expect_size=size), None
    except BCNetError as error:
        return np.full((*size, 3), 226, np.uint8), error.message


def _occluders(record: Record, annotations: Sequence[Record], *, stored: bool) -> list[RLE | None]:
    """The occluder region of each annotation of an image."""
    if stored:
        return [segmentation_rle(annotation, record, key=OCCLUDER_KEY) for annotation in annotations]
    rles = [segmentation_rle(annotation, record) for annotation in annotations]
    return derive_from_records(annotations, rles, record["height"], record["width"])


def _occlusion(record: Record, annotations: Sequence[Record], *, stored: bool) -> float:
    """How much of its instances' boxes occluders cover, summed over the instances of an image."""
    regions = _occluders(record, annotations, stored=stored)
    shares = (
        masks.area(region) / max(annotation["bbox"][2] * annotation["bbox"][3], 1.0)
        for annotation, region in zip(annotations, regions, strict=True)
        if region is not None
    )
    return float(sum(shares))


def _annotated(annotation: Record, record: Record, region: RLE | None, name: str) -> Layers:
    x, y, width, height = annotation["bbox"]
    mask = segmentation_rle(annotation, record)
    return Layers(
        category=f"{name} (crowd)" if annotation.get("iscrowd", 0) else name,
        box=display_box((x, y, x + width, y + height), record),
        occludee=display_mask(mask, record),
        occluder=None if region is None else display_mask(region, record),
    )


def _detected(detector: Predictor, found: Detections, index: int, record: Record) -> Layers:
    x0, y0, x1, y1 = found.boxes[index].tolist()
    box, size = display_box((x0, y0, x1, y1), record), display_size(record)
    maps = Maps(
        *(
            None if part is None else part[index].numpy()
            for part in (
                found.occluder_boundary, found.occluder_mask, found.occludee_boundary, found.occludee_mask
            )
        )
    )  # fmt: skip
    occluder = found.occluder_mask
    one = slice(index, index + 1)
    mask = paste_masks(found.occludee_mask[one], found.boxes[one], *found.image_size)[0]
    return Layers(
        category=str(detector.categories[int(found.labels[index])]["name"]),
        box=box,
        occludee=draw.resize_mask(mask.numpy(), size),
        occluder=None if occluder is None else paste_masks(occluder[one], torch.tensor([box]), *size)[0].numpy(),
        score=float(found.scores[index]),
        maps=maps,
    )


def detected_note(sure: int, shown: int, score: float) -> str:
    """A sentence for an image of which weaker detections are shown than asked for, or none."""
    if shown == 0:
        return "nothing was found here"
    if shown > sure:
        return f"{sure} of these score {score:.2f} or more; the best {AT_LEAST} are shown in any case"
    return ""


def display_size(record: Record) -> tuple[int, int]:
    """(height, width) in which an image is shown."""
    longest = max(record["height"], record["width"])
    scale = max(round(SMALL / longest), 1) if longest <= LONGEST else LONGEST / longest
    return max(round(record["height"] * scale), 1), max(round(record["width"] * scale), 1)


def display_box(box: Box, record: Record) -> Box:
    """A box of an image where it is shown."""
    height, width = display_size(record)
    across, down = width / record["width"], height / record["height"]
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def display_mask(rle: RLE | None, record: Record) -> Mask:
    """A mask of an image as large as it is shown; an empty one of None."""
    size = display_size(record)
    return np.zeros(size, np.bool_) if rle is None else draw.resize_mask(masks.decode(rle), size)
