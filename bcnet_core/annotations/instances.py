"""The instances of a COCO file that a training takes, and why it leaves out the others.

Training with either backend, `bcnet train --dry-run` and `bcnet data check` all take the answer from here.
"""

from __future__ import annotations

import reprlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from bcnet_core import masks
from bcnet_core.annotations.build import ImageRecords, map_images
from bcnet_core.annotations.coco import AMODAL_KEY, OCCLUDER_KEY, CocoFile, Record, read_mask
from bcnet_core.annotations.faults import RecordFlaw, record_flaw
from bcnet_core.files.json_files import paused_collector

Omission = RecordFlaw | Literal["bad_mask", "bad_occluder", "bad_whole", "crowd", "no_mask", "no_extent", "empty_mask"]
"""Reason why a training leaves out an annotation, see `OMISSIONS`."""

OMISSIONS: dict[Omission, str] = {
    "no_object": "that are no json objects",
    "no_id": "without a whole number as `id`",
    "unlisted_image": "of an image that the file does not list",
    "unlisted_category": "of a category that the file does not list",
    "no_box": "without a `bbox` of four finite numbers",
    "odd_flag": "whose `iscrowd` is neither 0 nor 1",
    "bad_mask": "whose mask cannot be read",
    "bad_occluder": f"whose `{OCCLUDER_KEY}` cannot be read",
    "bad_whole": f"whose `{AMODAL_KEY}` cannot be read",
    "crowd": "flagged as crowds",
    "no_mask": "without a mask",
    "no_extent": "whose box has no extent in the image",
    "empty_mask": "whose mask has no pixel",
}
"""Each completes the sentence "12 instances ...". Where several hold, the first is the reason."""

REGIONS: tuple[tuple[str, Omission], ...] = ((OCCLUDER_KEY, "bad_occluder"), (AMODAL_KEY, "bad_whole"))
"""Masks of an instance beside its own, and the reason if one cannot be read."""

LEAST_EXTENT = 0.01
"""Least side of a box, in pixels; boxes are float32, whose numbers are up to 0.001 apart in images of 16,384 pixels."""
FIRST_NAMES = 5
"""Names of categories without an instance that are reported."""
MOST_FAULTY, MOST_CROWDS = 0.01, 0.1
"""Shares of a file that may be left out without a warning; 1.2 % of COCO's own annotations are crowds."""

REASONS_SHOWN, IDS_SHOWN = 4, 3
"""Most reasons that a message names, and most ids for each."""


def mask_omission(annotation: Record, height: int, width: int) -> Omission | None:
    """Return why a training leaves out an annotation without a `record_flaw`, in an image of this size in pixels.

    Leave the keys of an occluder region or a whole mask that is not read out of the annotation.
    """
    _, flaw = read_mask(annotation, height, width) if annotation.get("segmentation") else (None, "missing")
    if flaw == "unreadable":
        return "bad_mask"
    for key, reason in REGIONS:
        if not region_readable(annotation, height, width, key=key):
            return reason
    if annotation.get("iscrowd", 0):
        return "crowd"
    if flaw == "missing":
        return "no_mask"
    if not _has_extent(annotation, height, width):
        return "no_extent"
    return None if flaw is None else "empty_mask"


def region_readable(annotation: Record, height: int, width: int, *, key: str) -> bool:
    """Return whether an annotation has nothing under a key, or a mask that fits an image of this size in pixels."""
    try:
        masks.from_segmentation(annotation.get(key), height, width)
    except (ValueError, TypeError):
        return False
    return True


def _has_extent(annotation: Record, height: int, width: int) -> bool:
    """Return whether the part of a box inside the image has an extent that float32 coordinates can hold."""
    _, _, across, down = clip_box(annotation["bbox"], height, width)
    return bool(across >= LEAST_EXTENT and down >= LEAST_EXTENT)


def clip_box(box: Sequence[float], height: int, width: int) -> tuple[float, float, float, float]:
    """Return the part of a box [x, y, width, height] inside an image of this size, in pixels; its sides may be 0."""
    x, y, across, down = box
    left, right = (min(max(value, 0), width) for value in (x, x + across))
    top, bottom = (min(max(value, 0), height) for value in (y, y + down))
    return left, top, right - left, bottom - top


class Survey(NamedTuple):
    """The instances of a COCO file, sorted into those that a training takes and those that it leaves out.

    Attributes:
        coco: the file with only the annotations that are trained; a left-out one does not occlude others either.
        omitted: the others by reason, in the order of `OMISSIONS`: their ids, or "annotations[3]" where there is none.
    """

    coco: CocoFile
    omitted: dict[Omission, list[Any]]

    @property
    def total(self) -> int:
        """The number of annotations, those left out included."""
        return len(self.coco.annotations) + sum(map(len, self.omitted.values()))

    @property
    def is_complete(self) -> bool:
        """Whether so little is left out that it needs no warning: 1 %, and 10 % of crowds."""
        crowds = len(self.omitted.get("crowd", ()))
        faulty = self.total - len(self.coco.annotations) - crowds
        return faulty <= MOST_FAULTY * self.total and crowds <= MOST_CROWDS * self.total

    def describe(self, purpose: str) -> str:
        """Return a sentence such as "21 of 28 instances train; left out: 7 without a mask (ids 2, 6, 10, ...)".

        Args:
            purpose: the verb of the sentence.
        """
        if not self.omitted:
            return f"all {self.total:,} instances {purpose}"
        left_out = describe_omissions(self.omitted)
        return f"{len(self.coco.annotations):,} of {self.total:,} instances {purpose}; left out: {left_out}"

    def describe_unused(self) -> list[str]:
        """Return a sentence on the images without an instance, and one on the categories without; none if all have."""
        sentences = []
        empty = len(self.coco.images) - len({annotation["image_id"] for annotation in self.coco.annotations})
        if empty:
            sentences.append(f"not trained on: {empty:,} of {len(self.coco.images):,} images, which have no instance")
        used = {annotation["category_id"] for annotation in self.coco.annotations}
        unused = [str(one["name"]) for one in self.coco.categories if one["id"] not in used]
        if unused:
            names = ", ".join(unused[:FIRST_NAMES]) + (", ..." if len(unused) > FIRST_NAMES else "")
            sentences.append(f"{len(unused):,} of {len(self.coco.categories):,} categories have no instance: {names}")
        return sentences


def survey_instances(
    coco: CocoFile, *, keep: Container[Omission] = (), reads_occluders: bool = True, reads_wholes: bool = False
) -> Survey:
    """Read every annotation of a file, and find out which of them a training takes.

    Args:
        coco: the file; its annotations may be invalid.
        keep: reasons for which annotations are not left out after all.
        reads_occluders: whether stored occluder regions are read, as with `data.occluders` auto and file.
        reads_wholes: whether whole masks are read, see `Recipe.reads_wholes`.
    """
    reasons = find_omissions(coco, reads_occluders=reads_occluders, reads_wholes=reads_wholes)
    kept: list[Record] = []
    omitted: dict[Omission, list[Any]] = {reason: [] for reason in OMISSIONS}
    for position, (annotation, reason) in enumerate(zip(coco.annotations, reasons, strict=True)):
        if reason is None or reason in keep:
            kept.append(annotation)
        else:
            name = annotation.get("id") if isinstance(annotation, dict) else None
            omitted[reason].append(f"annotations[{position}]" if name is None else name)
    return Survey(_with_annotations(coco, kept), {reason: names for reason, names in omitted.items() if names})


def find_omissions(
    coco: CocoFile, *, reads_occluders: bool = True, reads_wholes: bool = False, workers: int = 1
) -> list[Omission | None]:
    """Return why a training leaves out each annotation of a file, None for those that it takes, in file order.

    Args:
        coco: the file; its annotations may be invalid.
        reads_occluders: whether stored occluder regions are read.
        reads_wholes: whether whole masks are read.
        workers: maximum number of processes, 0 for one per CPU core; 1 works in this process, others are spawned.

    Raises:
        BCNetError: if a worker process dies.
    """
    images, categories = {one["id"] for one in coco.images}, {one["id"] for one in coco.categories}
    reasons: list[Omission | None] = [record_flaw(one, images, categories) for one in coco.annotations]
    sound = [position for position, reason in enumerate(reasons) if reason is None]
    readable = _with_annotations(coco, [coco.annotations[position] for position in sound])
    regions = [key for key, read in ((OCCLUDER_KEY, reads_occluders), (AMODAL_KEY, reads_wholes)) if read]
    keys = ("bbox", "iscrowd", "segmentation", *regions)
    with paused_collector(), map_images(readable, keys, _omissions_of, workers=workers, reporter=None) as results:
        for positions, found in results:
            for position, reason in zip(positions, found, strict=True):
                reasons[sound[position]] = reason
    return reasons


def _omissions_of(image: ImageRecords) -> list[Omission | None]:
    return [mask_omission(record, image.height, image.width) for record in image.annotations]


def _with_annotations(coco: CocoFile, annotations: list[Record]) -> CocoFile:
    return replace(coco, content={**coco.content, "annotations": annotations})


def describe_omissions(omitted: Mapping[Omission, Sequence[Any]]) -> str:
    """Return the number of annotations by reason, as in "7 without a mask (ids 3, 9, 12, ...)", on one short line.

    The first ids are shown where there are few reasons, but not those of crowds, which are no fault.
    """
    shown = dict(sorted(omitted.items(), key=lambda item: -len(item[1]))[:REASONS_SHOWN])
    parts = []
    for reason in (one for one in omitted if one in shown):
        names = omitted[reason]
        first = [name[:30] if isinstance(name, str) else reprlib.repr(name) for name in names[:IDS_SHOWN]]
        ids = f" (id{'s' * (len(names) > 1)} {', '.join(first)}{', ...' if len(names) > IDS_SHOWN else ''})"
        parts.append(f"{len(names):,} {OMISSIONS[reason]}{ids if reason != 'crowd' and len(omitted) < 3 else ''}")
    others = sum(len(names) for reason, names in omitted.items() if reason not in shown)
    return ", ".join(parts + ([f"{others:,} for other reasons"] if others else []))
