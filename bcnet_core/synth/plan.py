"""Plan a pasted set: find the complete objects of a COCO file and choose objects and backgrounds; opens no image.

COCO does not say what hides what. So an object counts as complete only if nothing can hide it: it keeps away from the
border and from every other annotated mask, and is in one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.build import ImageRecords, map_images
from bcnet_core.annotations.coco import CocoFile, Record, read_mask
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.images import check_images
from bcnet_core.masks import RLE
from bcnet_core.reporting import Reporter

Flaw = Literal["unmasked", "crowd", "small", "cropped", "pieces", "touched"]
"""Reason why an object is not used, see `FLAWS`."""

FLAWS: dict[Flaw, str] = {
    "unmasked": "no readable mask",
    "crowd": "a crowd",
    "small": "too small",
    "cropped": "at the border of its image",
    "pieces": "in several pieces: something hides a part",
    "touched": "touches another object, which may hide it",
}

BORDER = 2
"""Distance to the border in pixels below which an object may be cropped by it."""

GAP = 2
"""Distance in pixels below which two masks touch: annotators leave such seams."""

MAIN_PIECE = 0.98
"""Share of its pixels that an object must have in one piece; the rest are slips of the annotator."""

PASTE_SPLITS = ("train2017", "val2017")
"""Names of COCO's own folders, so that every recipe for COCO finds the set."""

VAL_SHARE = 0.2
"""Share of the source images reserved for the val scenes."""

MOST_COVERED = 0.5
"""Share of a background that annotated objects may cover, if there are images with less."""

MOST_BACKGROUNDS = 1000


class Survey(NamedTuple):
    """The objects and backgrounds that a COCO file offers.

    Attributes:
        complete: positions of the annotations whose objects are complete.
        touched: positions of those that would be, but touch another object.
        flaws: number of annotations that are not complete by reason.
        covered: share of every image that annotated masks cover, in file order.
    """

    complete: list[int]
    touched: list[int]
    flaws: dict[Flaw, int]
    covered: list[float]

    @property
    def reasons(self) -> str:
        """Why objects are not complete, as in "12 a crowd, 3 too small"."""
        return ", ".join(f"{count:,} {FLAWS[flaw]}" for flaw, count in self.flaws.items() if count)


class PasteSources(NamedTuple):
    """The source of a split's scenes: positions of annotations and of images."""

    objects: list[int]
    backgrounds: list[int]


class PastePlan(NamedTuple):
    """A pasted set before any image is opened: what its source offers, and what each split takes of it.

    No two splits share an image. `options` are those that the sources were chosen by, as json.
    """

    coco: CocoFile
    images: Path
    found: Survey
    sources: dict[str, PasteSources]
    options: Record

    def as_json(self) -> Record:
        """Return the counts that `bcnet synth paste --dry-run --json` prints."""
        return {
            "images": len(self.coco.images),
            "annotations": len(self.coco.annotations),
            "complete": len(self.found.complete),
            "left_out": self.found.flaws,
            "splits": {
                name: {"objects": len(objects), "backgrounds": len(backgrounds)}
                for name, (objects, backgrounds) in self.sources.items()
            },
        }


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
    """Choose the objects and backgrounds of a pasted set.

    Of the complete objects with `min_area` pixels or more, at most `most_objects` are chosen at random, a fifth of them
    for the val split. `images` is the folder that the file names of the source are relative to.

    Raises:
        BCNetError: if a split would have fewer than two objects or no background, or a needed image is missing.
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
    needed = {coco.annotations[position]["image_id"] for part in sources.values() for position in part.objects}
    needed |= {coco.images[position]["id"] for part in sources.values() for position in part.backgrounds}
    check_images([image for image in coco.images if image["id"] in needed], images, options="--images")
    return PastePlan(coco, images, found, sources, {"min_area": min_area, "bank": most_objects})


def survey(coco: CocoFile, *, min_area: int, workers: int = 1, reporter: Reporter | None = None) -> Survey:
    """Find the complete objects of a COCO file from its masks; `min_area` is in pixels."""
    complete: list[int] = []
    touched: list[int] = []
    flaws = dict.fromkeys(FLAWS, 0)
    covered = []
    work = partial(_survey_image, min_area=min_area)
    with map_images(coco, ("iscrowd", "segmentation"), work, workers=workers, reporter=reporter) as found:
        for positions, (seen, share) in found:
            covered.append(share)
            for position, flaw in zip(positions, seen, strict=True):
                if flaw is None:
                    complete.append(position)
                else:
                    flaws[flaw] += 1
                    if flaw == "touched":
                        touched.append(position)
    return Survey(complete, touched, flaws, covered)


def _survey_image(image: ImageRecords, *, min_area: int) -> tuple[list[Flaw | None], float]:
    height, width, records = image
    rles = [read_mask(record, height, width)[0] for record in records]
    present = [rle for rle in rles if rle is not None]
    share = masks.area(masks.union(present)) / (height * width) if present else 0.0
    return object_flaws(rles, [bool(record.get("iscrowd", 0)) for record in records], min_area=min_area), share


def object_flaws(rles: Sequence[RLE | None], crowds: Sequence[bool], *, min_area: int) -> list[Flaw | None]:
    """Return why each of the N objects of an image is not complete; None for those that are.

    Args:
        rles: their masks; None is unknown.
        crowds: whether each is a crowd.
        min_area: of an object, pixels.
    """
    boxes = np.array([[0.0] * 4 if rle is None else masks.bounding_box(rle) for rle in rles]).reshape(-1, 4)
    return [_flaw(number, rles, boxes, crowd=crowd, min_area=min_area) for number, crowd in enumerate(crowds)]


def _flaw(
    number: int, rles: Sequence[RLE | None], boxes: NDArray[np.float64], *, crowd: bool, min_area: int
) -> Flaw | None:
    """Return why an object is not complete, or None; the cheap tests come first."""
    rle = rles[number]
    if rle is None:
        return "unmasked"
    if crowd:
        return "crowd"
    if masks.area(rle) < min_area:
        return "small"
    height, width = rle["size"]
    x, y, across, down = boxes[number].astype(int).tolist()
    if min(x, y) < BORDER or x + across > width - BORDER or y + down > height - BORDER:
        return "cropped"
    window = max(x - GAP, 0), max(y - GAP, 0), min(x + across + GAP, width), min(y + down + GAP, height)
    mask = masks.decode_window(rle, *window).view(np.uint8)
    areas = cv2.connectedComponentsWithStats(mask)[2][1:, cv2.CC_STAT_AREA]
    if areas.max() < MAIN_PIECE * areas.sum():
        return "pieces"
    start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    beside = (start < (x + across + GAP, y + down + GAP)) & (end > (x - GAP, y - GAP))
    near = beside[:, 0] & beside[:, 1]
    near[number] = False
    wide = cv2.dilate(mask, np.ones((2 * GAP + 1, 2 * GAP + 1), np.uint8)).astype(bool)
    others = (rles[other] for other in near.nonzero()[0].tolist())
    touched = any((masks.decode_window(other, *window) & wide).any() for other in others if other is not None)
    return "touched" if touched else None


def _divide(coco: CocoFile, with_objects: set[int], rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Divide the positions of the images into train and val, so that both get images with complete objects."""
    order = rng.permutation(len(coco.images)).tolist()
    train: list[int] = []
    val: list[int] = []
    for bearing in (True, False):
        part = [position for position in order if (coco.images[position]["id"] in with_objects) == bearing]
        cut = round(len(part) * VAL_SHARE) or min(len(part) // 2, 1)
        train += part[cut:]
        val += part[:cut]
    return train, val


def _too_little(coco: CocoFile, found: Survey, split: str, sources: PasteSources) -> BCNetError:
    reasons = found.reasons
    return data_error(
        f"`{coco.path}` is too small to paste from: the split {split} would have {len(sources.objects)} complete "
        f"objects and {len(sources.backgrounds)} backgrounds, it needs 2 and 1; {len(found.complete):,} of all "
        f"{len(coco.annotations):,} objects are complete" + (f" (left out: {reasons})" if reasons else ""),
        "take a larger set, smaller objects (--min-area), or another --seed",
    )
