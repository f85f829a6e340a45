"""Writes a set of composed scenes as a COCO data set with visible, amodal and occluder masks.

The layout is `annotations/instances_{train,val}.json` beside the folders `train` and `val` of PNG files. Scene i
of a split depends on the seed, the size and i alone, not on the number of workers or of scenes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from bcnet_core import __version__, masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, Record, read_json
from bcnet_core.annotations.occluder import derive_occluders
from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.outputs import atomic_directory, refuse_existing_folder, write_json
from bcnet_core.reporting import Reporter, SilentReporter
from bcnet_core.synth.shapes import CLASSES, MIN_SIDE, Scene, compose_scene

GENERATOR = "bcnet synth shapes"
SPLITS = ("train", "val")
CHUNK = 32
OCCLUDED_FROM = 0.1
"""Occlusion rate from which the summary calls an instance occluded."""


class SplitSummary(NamedTuple):
    """What a split holds.

    Attributes:
        split: "train" or "val".
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


@dataclass(frozen=True)
class _Chunk:
    """The scenes `start` to `stop` of a split; what a worker needs to write them."""

    folder: Path
    split: str
    start: int
    stop: int
    size: int
    seed: int


def write_shapes(
    root: Path,
    *,
    images: int,
    val_images: int,
    size: int = 128,
    seed: int = 0,
    workers: int = 0,
    overwrite: bool = False,
    reporter: Reporter = SilentReporter(),  # noqa: B008  (it has no state)
) -> list[SplitSummary]:
    """Write a data set of procedural scenes, whole or not at all.

    The same options, seed and library versions give the same bytes, whatever the number of workers.

    Args:
        root: the folder to make.
        images: scenes in the train split, at least 1.
        val_images: scenes in the val split, at least 1.
        size: side of the square images in pixels.
        seed: not negative.
        workers: processes; 0 means one per CPU core, 1 stays in this process.
        overwrite: replace an earlier set of this kind; anything else in `root` is never replaced.
        reporter: is told the progress.

    Returns:
        A summary of each split.

    Raises:
        BCNetError: if an option is out of range, `root` is taken, or it cannot be written.
    """
    check_request(root, images=images, val_images=val_images, size=size, seed=seed, overwrite=overwrite)
    counts = dict(zip(SPLITS, (images, val_images), strict=True))
    with atomic_directory(root) as folder:
        for name in ("annotations", *SPLITS):
            (folder / name).mkdir()
        chunks = [
            _Chunk(folder, split, start, min(start + CHUNK, count), size, seed)
            for split, count in counts.items()
            for start in range(0, count, CHUNK)
        ]
        scenes: dict[str, list[_SceneRecords]] = {split: [] for split in SPLITS}
        with (
            reporter.progress("scenes", images + val_images) as progress,
            _mapped(chunks, workers) as written,
        ):
            for chunk, records in zip(chunks, written, strict=True):
                scenes[chunk.split] += records
                progress.advance(len(records))
        for split in SPLITS:
            options = {"size": size, "images": counts[split]}
            content = _coco_content(scenes[split], split=split, seed=seed, options=options)
            write_json(folder / "annotations" / f"instances_{split}.json", content)
    return [_summarise(split, scenes[split]) for split in SPLITS]


def check_request(root: Path, *, images: int, val_images: int, size: int, seed: int, overwrite: bool = False) -> None:
    """Check everything that can be known before the first scene is composed; changes nothing.

    Raises:
        BCNetError: if an option is out of range, or `root` exists and may not be replaced.
    """
    if size < MIN_SIDE:
        raise usage_error(f"scenes of {size} x {size} pixels are too small for shapes", f"--size {MIN_SIDE} or more")
    if min(images, val_images) < 1:
        raise usage_error("each split needs one image or more", "--images 2000 --val-images 300")
    if seed < 0:
        raise usage_error(f"the seed must not be negative, it is {seed}")
    if not root.name:
        raise usage_error(f"`{root}` cannot be made anew", "name a new folder: -o shapes")
    refuse_existing_folder(root, overwrite=overwrite)
    if root.is_dir() and any(root.iterdir()) and not _is_own_set(root):
        raise usage_error(
            f"`{root}` holds something else than a set that `{GENERATOR}` wrote, so it is not replaced",
            "remove it yourself, or choose another output: -o",
        )


def _is_own_set(root: Path) -> bool:
    """Whether this folder was written by `write_shapes`, and nothing was put beside it."""
    if {path.name for path in root.iterdir()} != {"annotations", *SPLITS}:
        return False
    try:
        content = read_json(root / "annotations" / "instances_train.json")
        return bool(content["info"]["generator"] == GENERATOR)
    except (BCNetError, KeyError, TypeError):
        return False


@contextmanager
def _mapped(chunks: list[_Chunk], workers: int) -> Iterator[Iterable[list[_SceneRecords]]]:
    """The records of every chunk in order; leaving the block stops the workers."""
    workers = min(workers or os.cpu_count() or 1, len(chunks))
    if workers == 1:
        yield map(_write_chunk, chunks)
        return
    context = multiprocessing.get_context("spawn")  # a fork could inherit locked locks from OpenCV's threads
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield pool.map(_write_chunk, chunks)
    except BrokenProcessPool as error:
        raise BCNetError(
            "a worker process died, perhaps for lack of memory", "use fewer processes: --workers 1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too and stops its workers
    cv2.setNumThreads(1)


def _write_chunk(chunk: _Chunk) -> list[_SceneRecords]:
    return [_write_scene(chunk, index) for index in range(chunk.start, chunk.stop)]


def _write_scene(chunk: _Chunk, index: int) -> _SceneRecords:
    """Compose scene `index`, write its image, and return its records."""
    seeds = np.random.SeedSequence(chunk.seed, spawn_key=(SPLITS.index(chunk.split), index))
    scene = compose_scene(np.random.default_rng(seeds), height=chunk.size, width=chunk.size)
    name = f"{index + 1:06d}.png"
    _, data = cv2.imencode(".png", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
    (chunk.folder / chunk.split / name).write_bytes(data.tobytes())
    height, width = scene.image.shape[:2]
    image = {"id": index + 1, "file_name": name, "width": width, "height": height}
    return _SceneRecords(image, annotate_scene(scene, image_id=index + 1))


def annotate_scene(scene: Scene, *, image_id: int) -> list[Record]:
    """The annotation records of a scene, bottom layer first; they lack only the `id`.

    Boxes and areas belong to the visible masks. The occluder regions follow the rule of `derive_occluders` on the
    exact visible masks; an instance without an occluder has an empty list there.
    """
    height, width = scene.image.shape[:2]
    visible = [masks.encode(item.visible) for item in scene.objects]
    boxes = np.stack([masks.bounding_box(rle) for rle in visible])
    occluders = derive_occluders(visible, boxes, np.zeros(len(visible), dtype=bool), height, width)
    return [
        {
            "image_id": image_id,
            "category_id": item.label + 1,
            "bbox": box.tolist(),
            "area": masks.area(rle),
            "iscrowd": 0,
            "segmentation": masks.to_json(rle),
            "amodal_segmentation": masks.to_json(masks.encode(item.amodal)),
            OCCLUDER_KEY: [] if occluder is None else masks.to_json(occluder),
            "occlusion_rate": round(item.occlusion_rate, 6),
            "layer": item.layer,
        }
        for item, rle, box, occluder in zip(scene.objects, visible, boxes, occluders, strict=True)
    ]


def _coco_content(scenes: list[_SceneRecords], *, split: str, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    annotations = (annotation for scene in scenes for annotation in scene.annotations)
    return {
        "info": {
            "description": "Procedural scenes of shapes with visible, amodal and occluder masks",
            "generator": GENERATOR,
            "version": __version__,
            "seed": seed,
            "options": {"split": split, **options},
        },
        "licenses": [],
        "images": [scene.image for scene in scenes],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
        "categories": [
            {"id": number, "name": name, "supercategory": "shape"} for number, name in enumerate(CLASSES, start=1)
        ],
    }


def _summarise(split: str, scenes: list[_SceneRecords]) -> SplitSummary:
    rates = np.array([record["occlusion_rate"] for scene in scenes for record in scene.annotations])
    occluded = float((rates >= OCCLUDED_FROM).mean())
    return SplitSummary(split, len(scenes), len(rates), occluded, float(rates.mean()))
