"""The sets that `bcnet synth` makes: procedural shapes, and objects pasted from a COCO set."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from bcnet_core.annotations.coco import CocoFile, Record, checksum
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.files.outputs import atomic_directory, check_apart
from bcnet_core.reporting import Reporter
from bcnet_core.synth.bank import cut_bank, read_bank
from bcnet_core.synth.paste import PasteRule, compose_pasted, prepare
from bcnet_core.synth.plan import PASTE_SPLITS, PastePlan
from bcnet_core.synth.scene import Scene
from bcnet_core.synth.shapes import CLASSES, MIN_SIDE, compose_scene
from bcnet_core.synth.writer import GENERATOR, SceneSet, Split, SplitSummary, refuse_foreign_set, write_scenes

SHAPES_SPLITS = ("train", "val")
MOST_SIDE = 4096
"""The longest side of a pasted scene in pixels."""

SCENE_TRIES = 50
"""Compositions that are tried before a rule counts as impossible."""


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
    """Write a data set of procedural scenes, whole or not at all.

    The same options, seed and library versions give the same bytes, whatever the number of workers.

    Args:
        root: the folder to make.
        images: scenes in the split "train", at least 1.
        val_images: scenes in the split "val", at least 1.
        size: side of the square images in pixels.
        hard: compose hard scenes: heaps of one class in one look, see `compose_scene`.
        seed: not negative.
        workers: processes; 0 means one per CPU core, 1 stays in this process.
        overwrite: replace an earlier set of this kind; anything else in `root` is never replaced.
        reporter: is told the progress.

    Returns:
        A summary of each split.

    Raises:
        BCNetError: if an option is out of range, `root` is taken, or it cannot be written.
    """
    check_shapes(root, images=images, val_images=val_images, size=size, seed=seed, overwrite=overwrite)
    compose = partial(compose_scene, height=size, width=size, hard=hard)
    counts = zip(SHAPES_SPLITS, (images, val_images), strict=True)
    scenes = SceneSet(
        splits=tuple(Split(name, count, compose) for name, count in counts),
        categories=[
            {"id": number, "name": name, "supercategory": "shape"} for number, name in enumerate(CLASSES, start=1)
        ],
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
    """Check everything that can be known before the first scene is composed; changes nothing.

    Raises:
        BCNetError: if an option is out of range, or `root` exists and may not be replaced.
    """
    if size < MIN_SIDE:
        raise usage_error(f"scenes of {size} x {size} pixels are too small for shapes", f"--size {MIN_SIDE} or more")
    _check_counts(images, val_images, seed)
    refuse_foreign_set(root, overwrite=overwrite)


class PasteRequest(NamedTuple):
    """The size of a pasted set.

    Attributes:
        scenes: in the split "train2017", at least 1.
        val_scenes: in the split "val2017", at least 1.
        size: (height, width) of the scenes in pixels.
        seed: not negative.
    """

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
    """Write a data set of scenes pasted from a COCO set, with the bank they are made of, whole or not at all.

    The same source, options, seed and library versions give the same bytes, whatever the number of workers.

    Args:
        root: the folder to make.
        plan: of `plan_pasted`, with the same seed.
        request: how large the set is.
        rule: how scenes are composed.
        workers: processes; 0 means one per CPU core, 1 stays in this process.
        overwrite: replace an earlier set of this kind; anything else in `root` is never replaced.
        reporter: is told the progress.

    Returns:
        A summary of each split.

    Raises:
        BCNetError: if an option is out of range, `root` is taken, an image is missing or damaged, the rule cannot
            be met with these objects, or the set cannot be written.
    """
    check_pasted(root, plan.coco.path, plan.images, request, overwrite=overwrite)
    size = request.size
    with atomic_directory(root) as folder:
        for name, (objects, backgrounds) in plan.sources.items():
            cut_bank(
                folder / "bank" / name, plan.coco, plan.images, objects=objects, backgrounds=backgrounds, scene=size,
                workers=workers, reporter=reporter,
            )  # fmt: skip
        splits = tuple(
            Split(name, count, partial(_paste_scene, bank_folder=folder / "bank" / name, rule=rule, size=size))
            for name, count in zip(PASTE_SPLITS, (request.scenes, request.val_scenes), strict=True)
        )
        description = SceneSet(
            splits, plan.coco.categories, _paste_info(plan, rule, size), request.seed, ".jpg", _licenses(plan.coco)
        )
        return write_scenes(folder, description, workers=workers, reporter=reporter)


def check_pasted(root: Path, source: Path, images: Path, request: PasteRequest, *, overwrite: bool = False) -> None:
    """Check everything that can be known before the source is read; changes nothing.

    Raises:
        BCNetError: if an option is out of range, `root` exists and may not be replaced, or it holds an input.
    """
    height, width = request.size
    if min(request.size) < MIN_SIDE or max(request.size) > MOST_SIDE:
        sides = f"{MIN_SIDE} to {MOST_SIDE}"
        raise usage_error(f"scenes cannot have {height} x {width} pixels", f"sides of {sides} pixels: --size")
    _check_counts(request.scenes, request.val_scenes, request.seed)
    check_apart(root, source, images)
    if not images.is_dir():
        raise data_error(f"the folder of images `{images}` does not exist", "say where they are: --images DIR")
    refuse_foreign_set(root, overwrite=overwrite)


def _check_counts(first: int, second: int, seed: int) -> None:
    if min(first, second) < 1:
        raise usage_error("each split needs one scene or more")
    if seed < 0:
        raise usage_error(f"the seed must not be negative, it is {seed}")


def _paste_info(plan: PastePlan, rule: PasteRule, size: tuple[int, int]) -> Record:
    return {
        "description": "Scenes of objects pasted over each other, with visible, amodal and occluder masks",
        "generator": f"{GENERATOR} paste",
        "source": {"file": plan.coco.path.name, "sha256": checksum(plan.coco.path)},
        "options": {"height": size[0], "width": size[1], **asdict(rule), **plan.options},
    }


def _licenses(coco: CocoFile) -> tuple[Record, ...]:
    found = coco.content.get("licenses")
    return tuple(found) if isinstance(found, list) else ()


def _paste_scene(rng: Generator, *, bank_folder: Path, rule: PasteRule, size: tuple[int, int]) -> Scene:
    """Compose one scene of a bank, with other objects until they can be placed."""
    bank = read_bank(bank_folder)
    for _ in range(SCENE_TRIES):
        count = min(int(rng.integers(rule.objects[0], rule.objects[1] + 1)), len(bank.objects))
        cutouts = []
        for number in rng.choice(len(bank.objects), size=count, replace=False).tolist():
            factor = float(np.exp(rng.uniform(*np.log(rule.scale))))
            scale = bank.objects[number].scale * factor
            cutouts.append(prepare(rng, bank.cutout(number), scale=scale, side=min(size)))
        background = bank.background(int(rng.integers(len(bank.backgrounds))))
        y, x = (int(rng.integers(background.shape[axis] - size[axis] + 1)) for axis in (0, 1))
        background = background[y : y + size[0], x : x + size[1]]
        scene = compose_pasted(rng, cutouts, background, occlusion=rule.occlusion)
        if scene is not None:
            return scene
    least, most = rule.occlusion
    raise BCNetError(
        f"in {SCENE_TRIES} tries no object could be hidden to {least:g} to {most:g} by another one",
        "allow more: --occlusion 0.2..0.6 · --scale 0.5..1.5 · --objects 3..6",
    )
