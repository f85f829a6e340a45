"""Writes composed scenes as a COCO data set with visible, amodal and occluder masks.

A split NAME has its images in the folder NAME and its annotations in annotations/instances_NAME.json. Scene i of a
split depends on the seed, the composer and i alone, not on the number of workers or of scenes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bcnet_core import __version__, masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, Record
from bcnet_core.annotations.occluder import derive_occluders
from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.files.json_files import read_json, write_json
from bcnet_core.files.outputs import refuse_existing_folder
from bcnet_core.files.workers import mapped
from bcnet_core.reporting import Reporter, SilentReporter
from bcnet_core.synth.scene import Scene

GENERATOR = "bcnet synth"
"""How the generator of every set that is written here begins; `info.generator` holds it."""

BANK_INDEX = "index.json"
"""The file of a bank that says what the others are."""

CHUNK = 32
"""Scenes per task of a worker."""

OCCLUDED_FROM = 0.1
"""Occlusion rate from which the summary calls an instance occluded."""

Composer = Callable[[Generator], Scene]
"""What composes one scene; it can be pickled, and the generator is its only source of randomness."""


@dataclass(frozen=True)
class Split:
    """One part of a set.

    Attributes:
        name: of the folder of images, and part of the name of the json.
        scenes: how many, at least 1.
        compose: what composes each of them.
    """

    name: str
    scenes: int
    compose: Composer


@dataclass(frozen=True)
class SceneSet:
    """A set to write.

    Attributes:
        splits: its parts; the seed of a scene depends on the position of its split.
        categories: as they stand in the json; a `SceneObject.label` is a position in this list.
        info: what the json says of itself, `generator` and options among it.
        seed: not negative.
        suffix: of the images: ".png", or ".jpg" for photographs.
        licenses: as they stand in the json.
    """

    splits: tuple[Split, ...]
    categories: list[Record]
    info: Record
    seed: int
    suffix: Literal[".png", ".jpg"]
    licenses: tuple[Record, ...] = ()


class SplitSummary(NamedTuple):
    """What a split holds.

    Attributes:
        split: its name.
        images: number of scenes.
        instances: number of annotations.
        occluded: share of the instances that are hidden to 10 % or more, in [0, 1].
        mean_occlusion_rate: mean hidden share of the amodal area over all instances, in [0, 1].
    """

    split: str
    images: int
    instances: int
    occluded: float
    mean_occlusion_rate: float


class _SceneRecords(NamedTuple):
    """The json records of one scene; its annotations have no id yet."""

    image: Record
    annotations: list[Record]


class _Chunk(NamedTuple):
    """The scenes `start` to `stop` of a split: what a worker needs to write them."""

    split: int
    start: int
    stop: int


def write_scenes(folder: Path, scenes: SceneSet, *, workers: int, reporter: Reporter | None) -> list[SplitSummary]:
    """Write a set into a folder that exists.

    The same set and library versions give the same bytes, whatever the number of workers.

    Args:
        folder: an atomic one (`outputs.atomic_directory`), so that the set is whole or absent.
        scenes: what to write.
        workers: processes; 0 means one per CPU core, 1 stays in this process.
        reporter: hears the progress in scenes.

    Returns:
        A summary of each split.

    Raises:
        BCNetError: if a worker process dies. What a composer raises is passed on.
    """
    for name in ("annotations", *(split.name for split in scenes.splits)):
        (folder / name).mkdir()
    chunks = [
        _Chunk(number, start, min(start + CHUNK, split.scenes))
        for number, split in enumerate(scenes.splits)
        for start in range(0, split.scenes, CHUNK)
    ]
    records: list[list[_SceneRecords]] = [[] for _ in scenes.splits]
    total = sum(split.scenes for split in scenes.splits)
    with (
        (reporter or SilentReporter()).progress("scenes", total) as progress,
        mapped(partial(_write_chunk, scenes, folder), chunks, workers=workers, most=len(chunks)) as written,
    ):
        for chunk, found in zip(chunks, written, strict=True):
            records[chunk.split] += found
            progress.advance(len(found))
    for split, found in zip(scenes.splits, records, strict=True):
        write_json(folder / "annotations" / f"instances_{split.name}.json", _coco_content(scenes, split, found))
    return [_summarise(split.name, found) for split, found in zip(scenes.splits, records, strict=True)]


def refuse_foreign_set(root: Path, *, overwrite: bool) -> None:
    """Refuse to write a set over anything but an earlier one; changes nothing.

    Args:
        root: the folder to make.
        overwrite: whether an earlier set may be replaced.

    Raises:
        BCNetError: if `root` exists and may not be replaced, or cannot be made anew.
    """
    if not root.name:
        raise usage_error(f"`{root}` cannot be made anew", "name a new folder: -o scenes")
    refuse_existing_folder(root, overwrite=overwrite)
    if root.is_dir() and any(root.iterdir()) and not _is_own_set(root):
        raise usage_error(
            f"`{root}` holds something else than a set that `{GENERATOR}` wrote, so it is not replaced",
            "remove it yourself, or choose another output",
        )


def _is_own_set(root: Path) -> bool:
    """Whether this folder holds what `write_scenes` and `bank.cut_bank` write, and no file of another origin.

    What `bcnet annotate` derives from the set counts as its own: it keeps the `info`.
    """
    own: set[Path] = set()
    try:
        for path in (root / "annotations").glob("*.json"):
            content = read_json(path)
            if not content["info"]["generator"].startswith(GENERATOR):
                return False
            own.add(path)
            images = root / path.stem.removeprefix("instances_")
            if path.stem.startswith("instances_"):
                own |= {images / image["file_name"] for image in content["images"]}
        for path in (root / "bank").glob(f"*/{BANK_INDEX}"):
            content = read_json(path)
            own |= {path, *(path.with_name(one["file"]) for kind in content.values() for one in kind)}
    except (BCNetError, KeyError, TypeError, AttributeError, ValueError):
        return False
    return bool(own) and own == {path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}


def _write_chunk(scenes: SceneSet, folder: Path, chunk: _Chunk) -> list[_SceneRecords]:
    if multiprocessing.parent_process() is not None:
        cv2.setNumThreads(1)  # the workers share the cores already
    return [_write_scene(scenes, folder, chunk.split, index) for index in range(chunk.start, chunk.stop)]


def _write_scene(scenes: SceneSet, folder: Path, split: int, index: int) -> _SceneRecords:
    """Compose scene `index` of a split, write its image, and return its records."""
    seeds = np.random.SeedSequence(scenes.seed, spawn_key=(split, index))
    scene = scenes.splits[split].compose(np.random.default_rng(seeds))
    name = f"{index + 1:06d}{scenes.suffix}"
    write_picture(folder / scenes.splits[split].name / name, scene.image)
    height, width = scene.image.shape[:2]
    image = {"id": index + 1, "file_name": name, "width": width, "height": height}
    return _SceneRecords(image, annotate_scene(scene, scenes.categories, image_id=index + 1))


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write an (H, W, 3) RGB picture, or an (H, W, 4) one with alpha, as its name says: .png, or .jpg of quality 95."""
    code = cv2.COLOR_RGB2BGR if picture.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else []
    _, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, code), quality)
    path.write_bytes(data.tobytes())


def annotate_scene(scene: Scene, categories: list[Record], *, image_id: int) -> list[Record]:
    """The annotation records of a scene, bottom layer first; they lack only the `id`.

    Boxes and areas belong to the visible masks. The occluder regions follow the rule of `derive_occluders` on the
    exact visible masks; an instance without an occluder has an empty list there.
    """
    height, width = scene.image.shape[:2]
    visible = [masks.encode(item.visible) for item in scene.objects]
    boxes = [{"bbox": masks.bounding_box(rle).tolist()} for rle in visible]
    occluders = derive_occluders(boxes, visible, height, width)
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


def _coco_content(scenes: SceneSet, split: Split, records: list[_SceneRecords]) -> Record:
    annotations = (annotation for scene in records for annotation in scene.annotations)
    return {
        "info": {**scenes.info, "version": __version__, "seed": scenes.seed, "split": split.name},
        "licenses": list(scenes.licenses),
        "images": [scene.image for scene in records],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
        "categories": scenes.categories,
    }


def _summarise(split: str, records: list[_SceneRecords]) -> SplitSummary:
    rates = np.array([annotation["occlusion_rate"] for scene in records for annotation in scene.annotations])
    occluded = float((rates >= OCCLUDED_FROM).mean())
    return SplitSummary(split, len(records), len(rates), occluded, float(rates.mean()))
