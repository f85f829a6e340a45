"""The instances of a COCO file that a training takes, and why it leaves out the others.

Training with either backend, `bcnet train --dry-run` and `bcnet data check` all take the answer from here.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from bcnet_core import masks
from bcnet_core.annotations.build import ImageRecords, map_images
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, Record, RecordFlaw, read_mask, record_flaw
from bcnet_core.files.json_files import paused_collector
from bcnet_core.reporting import Reporter

Omission = RecordFlaw | Literal["bad_mask", "bad_occluder", "crowd", "no_mask", "no_extent", "empty_mask"]
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
    "crowd": "flagged as crowds",
    "no_mask": "without a mask",
    "no_extent": "whose box has no extent in the image",
    "empty_mask": "whose mask has no pixel",
}
"""Each completes the sentence "12 instances ...". Where several hold, the first is the reason."""

READABLE: frozenset[Omission] = frozenset({"crowd", "no_mask", "no_extent", "empty_mask"})
"""Reasons of annotations that can be read: their masks, if they have any, still overlap those of others."""


def omission(
    annotation: Any,  # noqa: ANN401  (as read from json)
    images: Mapping[int, Record],
    categories: Container[int],
    *,
    reads_occluders: bool = True,
) -> Omission | None:
    """Return why a training leaves out an annotation, or None if it is trained.

    Args:
        annotation: an entry of `annotations`, in any state.
        images: the image records of the file by id, all of them valid.
        categories: the ids of its categories, all of them valid.
        reads_occluders: whether stored occluder regions are read, as with `data.occluders` auto and file.
    """
    flaw = record_flaw(annotation, images, categories)
    if flaw is not None:
        return flaw
    image = images[annotation["image_id"]]
    return mask_omission(annotation, image["height"], image["width"], reads_occluders=reads_occluders)


def mask_omission(annotation: Record, height: int, width: int, *, reads_occluders: bool = True) -> Omission | None:
    """Return why a training leaves out an annotation without a `record_flaw`, in an image of this size in pixels."""
    _, flaw = read_mask(annotation, height, width) if annotation.get("segmentation") else (None, "missing")
    if flaw == "unreadable":
        return "bad_mask"
    if reads_occluders and not _occluder_readable(annotation, height, width):
        return "bad_occluder"
    if annotation.get("iscrowd", 0):
        return "crowd"
    if flaw == "missing":
        return "no_mask"
    if not _has_extent(annotation, height, width):
        return "no_extent"
    return None if flaw is None else "empty_mask"


def _occluder_readable(annotation: Record, height: int, width: int) -> bool:
    try:
        masks.from_segmentation(annotation.get(OCCLUDER_KEY), height, width)
    except (ValueError, TypeError):
        return False
    return True


def _has_extent(annotation: Record, height: int, width: int) -> bool:
    """Return whether the part of a box inside the image has an extent."""
    x, y, across, down = annotation["bbox"]
    left, right = (min(max(value, 0), width) for value in (x, x + across))
    top, bottom = (min(max(value, 0), height) for value in (y, y + down))
    return bool(right > left and bottom > top)


@dataclass(frozen=True)
class Survey:
    """The instances of a COCO file, sorted into those that a training takes and those that it leaves out.

    Attributes:
        coco: the file with the annotations that can be read, see `READABLE`, in file order.
        trained: whether each of those annotations is trained.
        omitted: ids, or "annotations[3]" where there is none, of the others by reason, in the order of `OMISSIONS`.
    """

    coco: CocoFile
    trained: list[bool]
    omitted: dict[Omission, list[Any]]

    @property
    def total(self) -> int:
        """The number of annotations of the file."""
        return sum(self.trained) + sum(map(len, self.omitted.values()))


def survey_instances(
    coco: CocoFile, *, reads_occluders: bool = True, workers: int = 1, reporter: Reporter | None = None
) -> Survey:
    """Read every annotation of a file, and find out which of them a training takes.

    Args:
        coco: the file; its annotations may be invalid.
        reads_occluders: whether stored occluder regions are read.
        workers: maximum number of processes, 0 for one per CPU core; 1 works in this process, others are spawned.
        reporter: receiver of the progress in images.

    Raises:
        BCNetError: if a worker process dies.
    """
    reasons = find_omissions(coco, reads_occluders=reads_occluders, workers=workers, reporter=reporter)
    return sort_instances(coco, reasons)


def find_omissions(
    coco: CocoFile, *, reads_occluders: bool = True, workers: int = 1, reporter: Reporter | None = None
) -> list[Omission | None]:
    """Return the `omission` of every annotation of a file, in file order; see `survey_instances`."""
    images, categories = {one["id"] for one in coco.images}, {one["id"] for one in coco.categories}
    reasons: list[Omission | None] = [record_flaw(one, images, categories) for one in coco.annotations]
    kept = [position for position, reason in enumerate(reasons) if reason is None]
    sound = replace(coco, content={**coco.content, "annotations": [coco.annotations[position] for position in kept]})
    keys = ("bbox", "iscrowd", "segmentation", *([OCCLUDER_KEY] if reads_occluders else []))
    with paused_collector(), map_images(sound, keys, _omissions_of, workers=workers, reporter=reporter) as results:
        for positions, found in results:
            for position, reason in zip(positions, found, strict=True):
                reasons[kept[position]] = reason
    return reasons


def _omissions_of(image: ImageRecords) -> list[Omission | None]:
    return [mask_omission(record, image.height, image.width) for record in image.annotations]


def sort_instances(coco: CocoFile, reasons: list[Omission | None]) -> Survey:
    """Return the `Survey` of a file, given the omission of each of its annotations."""
    readable, trained = [], []
    omitted: dict[Omission, list[Any]] = {reason: [] for reason in OMISSIONS}
    for position, (annotation, reason) in enumerate(zip(coco.annotations, reasons, strict=True)):
        if reason is None or reason in READABLE:
            readable.append(annotation)
            trained.append(reason is None)
        if reason is not None:
            named = isinstance(annotation, dict) and "id" in annotation
            omitted[reason].append(annotation["id"] if named else f"annotations[{position}]")
    content = {**coco.content, "annotations": readable}
    return Survey(replace(coco, content=content), trained, {one: names for one, names in omitted.items() if names})
