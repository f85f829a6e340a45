"""Composed scenes: objects in their true layer order, their COCO records, and the data set they are written as.

A split NAME has its images in the folder NAME and its annotations in annotations/instances_NAME.json. Scene i of a
split depends only on the seed, the composer and i, not on the number of workers or scenes.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bcnet_core import __version__, masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, Record
from bcnet_core.annotations.occluder import derive_occluders
from bcnet_core.files.json_files import write_json
from bcnet_core.files.workers import map_with_progress
from bcnet_core.reporting import Reporter

Image = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Window = tuple[slice, slice]
"""Rows and columns of a part of an image."""


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene of H x W pixels.

    Attributes:
        label: index into the scene's class names.
        layer: 0 at the bottom; where two objects overlap, the higher layer is visible.
        amodal: (H, W) bool, the whole object inside the image, hidden parts included.
        visible: (H, W) bool, its visible part.
        source: id of the annotation that it was cut along; None for a drawn object.
    """

    label: int
    layer: int
    amodal: Mask
    visible: Mask
    source: int | None = None

    @property
    def occlusion_rate(self) -> float:
        """The hidden share of the amodal area, in [0, 1)."""
        return 1.0 - float(np.count_nonzero(self.visible) / np.count_nonzero(self.amodal))


@dataclass(frozen=True)
class Scene:
    """A picture and all objects in it.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        objects: objects from the bottom layer to the top one; none is completely hidden.
    """

    image: Image
    objects: tuple[SceneObject, ...]


def annotate_scene(scene: Scene, categories: list[Record], *, image_id: int) -> list[Record]:
    """Return the annotation records of a scene, bottom layer first, without the `id`.

    Boxes and areas describe the visible masks. Occluder regions are those of `derive_occluders` on the exact visible
    masks, [] where there is none.
    """
    visible = [masks.encode(item.visible) for item in scene.objects]
    boxes = [{"bbox": masks.bounding_box(rle).tolist()} for rle in visible]
    occluders = derive_occluders(boxes, visible, *scene.image.shape[:2])
    return [
        {
            "image_id": image_id,
            "category_id": categories[item.label]["id"],
            **box,
            "area": masks.area(rle),
            "iscrowd": 0,
            "segmentation": masks.to_json(rle),
            "amodal_segmentation": masks.to_json(masks.encode(item.amodal)),
            OCCLUDER_KEY: [] if occluder is None else masks.to_json(occluder),
            "occlusion_rate": round(item.occlusion_rate, 6),
            "layer": item.layer,
            **({} if item.source is None else {"source_annotation_id": item.source}),
        }
        for item, rle, box, occluder in zip(scene.objects, visible, boxes, occluders, strict=True)
    ]


CHUNK = 32
"""Scenes per task of a worker process."""

OCCLUDED_FROM = 0.1
"""Occlusion rate from which on the summary counts an instance as occluded."""


@dataclass(frozen=True)
class Split:
    """One part of a set.

    Attributes:
        name: name of the image folder, and part of the name of the json.
        scenes: number of scenes, at least 1.
        compose: function that composes a scene; it can be pickled, and its argument is its only source of randomness.
    """

    name: str
    scenes: int
    compose: Callable[[Generator], Scene]


@dataclass(frozen=True)
class SceneSet:
    """A set to write.

    Attributes:
        splits: the parts; the seed of a scene depends on the position of its split.
        categories: COCO categories; a `SceneObject.label` is an index into this list.
        info: COCO info, including `generator` and options.
        seed: non-negative seed.
        suffix: image format, ".jpg" for photographs.
        licenses: COCO licenses.
    """

    splits: tuple[Split, ...]
    categories: list[Record]
    info: Record
    seed: int
    suffix: Literal[".png", ".jpg"]
    licenses: Sequence[Record] = ()


class SplitSummary(NamedTuple):
    """Counts of a split, the share of its instances of which 10 % or more is hidden, and their mean hidden share."""

    split: str
    images: int
    instances: int
    occluded: float
    mean_occlusion_rate: float


def write_scenes(folder: Path, scenes: SceneSet, *, workers: int, reporter: Reporter | None) -> list[SplitSummary]:
    """Write a set into an existing folder and return a summary of each split.

    The same set and library versions give the same bytes, whatever the number of workers.

    Raises:
        BCNetError: if a worker process dies. Errors of a composer are passed on.
    """
    for name in ("annotations", *(split.name for split in scenes.splits)):
        (folder / name).mkdir()
    numbers = [(split, index) for split, part in enumerate(scenes.splits) for index in range(part.scenes)]
    images: list[list[Record]] = [[] for _ in scenes.splits]
    annotations: list[list[Record]] = [[] for _ in scenes.splits]
    with map_with_progress(
        partial(_write_scene, scenes, folder), numbers, title="scenes", count=len(numbers), chunk=CHUNK,
        workers=workers, most=math.ceil(len(numbers) / CHUNK), reporter=reporter,
    ) as written:  # fmt: skip
        for (split, _), (image, records) in zip(numbers, written, strict=True):
            images[split].append(image)
            annotations[split] += records
    return [
        _write_annotations(folder, scenes, split.name, *records)
        for split, *records in zip(scenes.splits, images, annotations, strict=True)
    ]


def _write_scene(scenes: SceneSet, folder: Path, number: tuple[int, int]) -> tuple[Record, list[Record]]:
    """Compose a scene, given the numbers of its split and of itself, write its image and return its records."""
    if multiprocessing.parent_process() is not None:
        cv2.setNumThreads(1)  # the workers share the cores already
    split, index = number
    seeds = np.random.SeedSequence(scenes.seed, spawn_key=number)
    scene = scenes.splits[split].compose(np.random.default_rng(seeds))
    name = f"{index + 1:06d}{scenes.suffix}"
    write_picture(folder / scenes.splits[split].name / name, scene.image)
    height, width = scene.image.shape[:2]
    image = {"id": index + 1, "file_name": name, "width": width, "height": height}
    return image, annotate_scene(scene, scenes.categories, image_id=index + 1)


def _write_annotations(
    folder: Path, scenes: SceneSet, split: str, images: list[Record], annotations: list[Record]
) -> SplitSummary:
    content = {
        "info": {**scenes.info, "version": __version__, "seed": scenes.seed, "split": split},
        "licenses": list(scenes.licenses),
        "images": images,
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
        "categories": scenes.categories,
    }
    write_json(folder / "annotations" / f"instances_{split}.json", content)
    rates = np.array([annotation["occlusion_rate"] for annotation in annotations])
    return SplitSummary(split, len(images), len(rates), float((rates >= OCCLUDED_FROM).mean()), float(rates.mean()))


def write_picture(path: Path, picture: Image) -> None:
    """Write an (H, W, 3) RGB or (H, W, 4) RGBA picture as .png, or as .jpg of quality 95, by the suffix of `path`."""
    code = cv2.COLOR_RGB2BGR if picture.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else []
    _, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, code), quality)
    path.write_bytes(data.tobytes())
