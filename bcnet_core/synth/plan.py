"""Which objects and backgrounds of a COCO set a pasted set is made of; known before its scenes are composed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.images import missing_images
from bcnet_core.reporting import Reporter
from bcnet_core.synth.survey import FLAWS, Survey, survey

PASTE_SPLITS = ("train2017", "val2017")
"""The names that COCO's own folders have, so that every recipe for COCO finds the set."""

VAL_SHARE = 0.2
"""The share of the source images that only the val scenes are made of."""

MOST_COVERED = 0.5
"""The share of an image that annotated objects may cover if it is to be a background, where there are such images."""

MOST_BACKGROUNDS = 1000


class PasteSources(NamedTuple):
    """What the scenes of a split are made of: positions of annotations and of images in the source."""

    objects: list[int]
    backgrounds: list[int]


class PastePlan(NamedTuple):
    """Everything that is known of a pasted set before an image is opened.

    Attributes:
        coco: the source.
        images: the folder of its images.
        found: what the source offers.
        sources: of each split; they share no image.
        options: that they were chosen by; json.
    """

    coco: CocoFile
    images: Path
    found: Survey
    sources: dict[str, PasteSources]
    options: Record


def plan_pasted(
    coco: CocoFile,
    images: Path,
    *,
    min_area: int,
    most_objects: int,
    seed: int,
    workers: int = 0,
    reporter: Reporter | None = None,
) -> PastePlan:
    """Choose the objects and backgrounds that a pasted set is made of.

    Args:
        coco: the source.
        images: the folder that its file names are relative to.
        min_area: pixels that an object has at least in its own image.
        most_objects: objects to choose at most, at random; a fifth of them for the val split.
        seed: not negative.
        workers: processes, 0 for one per CPU core.
        reporter: hears the progress in images.

    Raises:
        BCNetError: if a split would have less than two objects or no background, or an image that it needs is missing.
    """
    found = survey(coco, min_area=min_area, workers=workers, reporter=reporter)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(len(PASTE_SPLITS),)))
    complete = [coco.annotations[position]["image_id"] for position in found.complete]
    limit = max(MOST_COVERED, float(np.median(found.covered or [0.0])))
    sources = {}
    divided = _divide(coco, set(complete), rng)
    for name, positions, share in zip(PASTE_SPLITS, divided, (1 - VAL_SHARE, VAL_SHARE), strict=True):
        ids = {coco.images[position]["id"] for position in positions}
        objects = [position for position, image in zip(found.complete, complete, strict=True) if image in ids]
        objects = rng.permutation(objects).tolist()[: round(most_objects * share)]
        usable = [position for position in positions if found.covered[position] <= limit]
        backgrounds = rng.permutation(usable).tolist()[:MOST_BACKGROUNDS]
        if len(objects) < 2 or not backgrounds:
            raise _too_little(coco, found, name, PasteSources(objects, backgrounds))
        sources[name] = PasteSources(sorted(objects), sorted(backgrounds))
    plan = PastePlan(coco, images, found, sources, {"min_area": min_area, "bank": most_objects})
    _refuse_missing(plan)
    return plan


def _divide(coco: CocoFile, with_objects: set[int], rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """The positions of the images for train and for val; both have their share of the images with complete objects."""
    order = rng.permutation(len(coco.images)).tolist()
    bearing = [position for position in order if coco.images[position]["id"] in with_objects]
    bare = [position for position in order if coco.images[position]["id"] not in with_objects]
    train: list[int] = []
    val: list[int] = []
    for part in (bearing, bare):
        cut = round(len(part) * VAL_SHARE) or min(len(part) // 2, 1)
        train += part[cut:]
        val += part[:cut]
    return train, val


def _too_little(coco: CocoFile, found: Survey, split: str, sources: PasteSources) -> BCNetError:
    reasons = ", ".join(f"{count:,} {FLAWS[flaw]}" for flaw, count in found.flaws.items() if count)
    return data_error(
        f"`{coco.path}` is too small to paste from: the split {split} would have {len(sources.objects)} complete "
        f"objects and {len(sources.backgrounds)} backgrounds, it needs 2 and 1; of all {len(coco.annotations):,} "
        f"objects {len(found.complete):,} are complete" + (f" (left out: {reasons})" if reasons else ""),
        "take a larger set, smaller objects (--min-area), or another --seed",
    )


def _refuse_missing(plan: PastePlan) -> None:
    positions = {image["id"]: position for position, image in enumerate(plan.coco.images)}
    needed: set[int] = set()
    for objects, backgrounds in plan.sources.values():
        needed |= {positions[plan.coco.annotations[position]["image_id"]] for position in objects} | set(backgrounds)
    names = [plan.coco.images[position]["file_name"] for position in sorted(needed)]
    missing = missing_images(plan.images, names)
    if missing:
        some = ", ".join(name[:100] for name in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise data_error(
            f"{len(missing):,} of the {len(names):,} images to cut from are not in `{plan.images}`: {some}",
            "is the folder right? (--images)",
        )
