"""The sets of `bcnet synth`: procedural shapes, and objects pasted from a COCO set."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bcnet_core.annotations.coco import checksum
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.files.json_files import read_json
from bcnet_core.files.outputs import atomic_directory, check_apart, check_output_folder
from bcnet_core.reporting import Reporter
from bcnet_core.synth.bank import BANK_INDEX, cut_bank
from bcnet_core.synth.composition import PasteRule, compose_from_bank
from bcnet_core.synth.outlines import CLASSES
from bcnet_core.synth.plan import PASTE_SPLITS, PastePlan
from bcnet_core.synth.scenes import SceneSet, Split, SplitSummary, write_scenes
from bcnet_core.synth.shapes import MIN_SIDE, compose_scene

GENERATOR = "bcnet synth"
"""Beginning of `info.generator` in every set written here."""

SHAPES_SPLITS = ("train", "val")
MOST_SIDE = 4096
"""Longest side of a pasted scene in pixels."""


def write_shapes(
    root: Path,
    *,
    images: int,
    val_images: int,
    size: int = 128,
    hard: bool = False,
    seed: int = 0,
    workers: int = 0,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> list[SplitSummary]:
    """Write a data set of procedural scenes, completely or not at all, and return a summary of each split.

    The same options, seed and library versions give the same bytes, whatever the number of workers.

    Args:
        root: the folder to create.
        images: number of scenes in the split "train", at least 1.
        val_images: number of scenes in the split "val", at least 1.
        size: side of the square images in pixels.
        hard: compose hard scenes: heaps of one class in one look, see `compose_scene`.
        seed: non-negative seed.
        workers: number of processes; 0 for one per CPU core, 1 stays in this process.
        overwrite: replace an earlier set; anything else in `root` is never replaced.
        reporter: receiver of the progress in scenes.

    Raises:
        BCNetError: if an option is out of range, or `root` exists or cannot be written.
    """
    check_shapes(root, images=images, val_images=val_images, size=size, seed=seed, overwrite=overwrite)
    compose = partial(compose_scene, height=size, width=size, hard=hard)
    counts = zip(SHAPES_SPLITS, (images, val_images), strict=True)
    scenes = SceneSet(
        splits=tuple(Split(name, count, compose) for name, count in counts),
        categories=[{"id": id_, "name": name, "supercategory": "shape"} for id_, name in enumerate(CLASSES, start=1)],
        info={
            "description": "Procedural scenes of shapes with visible, amodal and occluder masks",
            "generator": f"{GENERATOR} shapes",
            "options": {"size": size, "images": images, "val_images": val_images, **({"hard": True} if hard else {})},
        },
        seed=seed,
        suffix=".png",
    )
    with atomic_directory(root) as folder:
        return write_scenes(folder, scenes, workers=workers, reporter=reporter)


def check_shapes(root: Path, *, images: int, val_images: int, size: int, seed: int, overwrite: bool = False) -> None:
    """Check the options of a set of shapes before the first scene is composed.

    Raises:
        BCNetError: if an option is out of range, or `root` exists and may not be replaced.
    """
    if size < MIN_SIDE:
        raise usage_error(f"scenes of {size} x {size} pixels are too small for shapes", f"--size {MIN_SIDE} or more")
    _check_counts(images, val_images, seed)
    _check_replaceable(root, overwrite=overwrite)


class PasteRequest(NamedTuple):
    """Size of a pasted set: the numbers of scenes of its splits, (height, width) in pixels, and a non-negative seed."""

    scenes: int
    val_scenes: int
    size: tuple[int, int]
    seed: int


def write_pasted(
    root: Path,
    plan: PastePlan,
    request: PasteRequest,
    *,
    rule: PasteRule,
    workers: int = 0,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> list[SplitSummary]:
    """Write a data set of scenes pasted from a COCO set, with their bank, as `write_shapes` does.

    `plan` is the result of `plan_pasted` with the seed of the request.

    Raises:
        BCNetError: if an option is out of range, `root` exists or cannot be written, an image is missing or damaged, or
            the rule cannot be met with these objects.
    """
    check_pasted(root, plan.coco.path, plan.images, request, overwrite=overwrite)
    with atomic_directory(root) as folder:
        splits = []
        for name, count in zip(PASTE_SPLITS, (request.scenes, request.val_scenes), strict=True):
            bank = folder / "bank" / name
            cut_bank(
                bank, plan.coco, plan.images, plan.sources[name],
                scene=request.size, workers=workers, reporter=reporter,
            )  # fmt: skip
            splits.append(Split(name, count, partial(compose_from_bank, folder=bank, rule=rule, size=request.size)))
        scenes = SceneSet(
            splits=tuple(splits),
            categories=plan.coco.categories,
            info={
                "description": "Scenes of objects pasted over each other, with visible, amodal and occluder masks",
                "generator": f"{GENERATOR} paste",
                "source": {"file": plan.coco.path.name, "sha256": checksum(plan.coco.path)},
                "options": {"height": request.size[0], "width": request.size[1], **asdict(rule), **plan.options},
            },
            seed=request.seed,
            suffix=".jpg",
            licenses=licenses if isinstance(licenses := plan.coco.content.get("licenses"), list) else [],
        )
        return write_scenes(folder, scenes, workers=workers, reporter=reporter)


def check_pasted(root: Path, source: Path, images: Path, request: PasteRequest, *, overwrite: bool = False) -> None:
    """Check the options of a pasted set before the source is read.

    Raises:
        BCNetError: if an option is out of range, `root` exists and may not be replaced, or it contains an input.
    """
    height, width = request.size
    if min(request.size) < MIN_SIDE or max(request.size) > MOST_SIDE:
        sides = f"{MIN_SIDE} to {MOST_SIDE}"
        raise usage_error(f"scenes cannot have {height} x {width} pixels", f"sides of {sides} pixels: --size")
    _check_counts(request.scenes, request.val_scenes, request.seed)
    check_apart(root, source, images)
    if not images.is_dir():
        raise data_error(f"the folder of images `{images}` does not exist", "say where they are: --images DIR")
    _check_replaceable(root, overwrite=overwrite)


def _check_counts(first: int, second: int, seed: int) -> None:
    if min(first, second) < 1:
        raise usage_error("each split needs one scene or more")
    if seed < 0:
        raise usage_error(f"the seed must not be negative, it is {seed}")


def _check_replaceable(root: Path, *, overwrite: bool) -> None:
    """Check that a set may be written to `root`: `-o ~ --overwrite` must not remove a home folder."""
    if not root.name:
        raise usage_error(f"`{root}` cannot be created", "name a new folder: -o scenes")
    check_output_folder(root, overwrite=overwrite)
    if root.is_dir() and any(root.iterdir()) and not _is_own_set(root):
        raise usage_error(
            f"`{root}` holds something other than a set that `{GENERATOR}` wrote, so it is not replaced",
            "remove it yourself, or choose another output",
        )


def _is_own_set(root: Path) -> bool:
    """Return whether a folder holds what is written here, and no file of another origin.

    Files that `bcnet annotate` derived from the set count as own: it keeps the `info`.
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
