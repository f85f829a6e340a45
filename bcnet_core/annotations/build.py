"""Turning a whole COCO file into bilayer annotations, image by image, in a pool of processes.

Nothing but the occluder key is added or replaced. What has no readable mask occludes nobody, keeps its own
entry and is counted by reason.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, Record
from bcnet_core.annotations.occluder import OccluderRule, derive_from_records, pixel_corners, record_boxes
from bcnet_core.annotations.polygons import DEFAULT_TOLERANCE, to_polygons
from bcnet_core.annotations.scan import AnnotationId, ImageRecords, MaskFlaw, every_image, read_mask
from bcnet_core.config.choices import RegionFormat
from bcnet_core.errors import usage_error
from bcnet_core.files.json_files import paused_collector
from bcnet_core.masks import RLE
from bcnet_core.reporting import Reporter

Reason = MaskFlaw | Literal["crowd", "outside", "small"]
"""Why an annotation is skipped: see `REASONS`."""

REASONS: dict[Reason, str] = {
    "missing": "occludes nobody: no segmentation",
    "empty": "occludes nobody: a segmentation without a pixel",
    "degenerate": "occludes nobody: polygons without an area",
    "unreadable": "occludes nobody: a segmentation that cannot be read",
    "crowd": "occludes nobody: a crowd",
    "outside": "has no occluder: no pixel in its box",
    "small": "has no occluder: too few pixels",
}

FLAWS: tuple[Reason, ...] = ("missing", "empty", "degenerate", "unreadable", "outside")
"""The reasons that are a fault of the file; the others are choices of the rule."""


MOST_SHARED = 20_000
"""The largest coordinate that is kept as a shared number."""


@dataclass(frozen=True)
class AnnotateSummary:
    """What `annotate_coco` found.

    Attributes:
        images: in the file.
        instances: annotations in the file, crowds included.
        with_occluder: annotations that have an occluder.
        skipped: reason -> the annotations, in the order of the file.
        repeated_ids: annotation ids that several annotations share; all of them are kept.
    """

    images: int
    instances: int
    with_occluder: int
    skipped: dict[Reason, list[AnnotationId]]
    repeated_ids: list[int]


_Entry = list[bytes] | dict[str, Any]
"""An occluder region between processes: an RLE as json holds it, or polygons as bytes of int32 coordinates."""


class _Found(NamedTuple):
    """What a worker found in one image: for each annotation an entry, and why it was skipped."""

    entries: list[_Entry]
    reasons: list[tuple[Reason, ...]]


def annotate_coco(
    coco: CocoFile,
    *,
    rule: OccluderRule,
    output_format: RegionFormat = "polygon",
    tolerance: float = DEFAULT_TOLERANCE,
    workers: int = 1,
    reporter: Reporter | None = None,
) -> tuple[Record, AnnotateSummary]:
    """Add the occluder region of every annotation of a COCO file.

    Args:
        coco: the file; it is not changed.
        rule: what counts as an occluder.
        output_format: "polygon", or "rle", which is pixel-exact.
        tolerance: of polygons, in pixels (`polygons.to_polygons`); 0 is pixel-exact.
        workers: most processes to use, 0 for one per CPU core; the result does not depend on it. 1 works in
            this process, others are spawned: a script calls this below `if __name__ == "__main__":`.
        reporter: hears the progress in images.

    Returns:
        The same content where every annotation has the occluder key ([] where there is no occluder), and what
        was found.

    Raises:
        BCNetError: if the tolerance is no number of pixels, or a worker process dies.
    """
    if not 0 <= tolerance < float("inf"):
        raise usage_error(f"the tolerance is 0 pixels or more, not {tolerance}")
    work = partial(_occluders_of, rule=rule, output_format=output_format, tolerance=tolerance)
    annotated: list[Record] = list(coco.annotations)
    skipped: dict[Reason, list[AnnotationId]] = {}
    numbers = _shared_numbers(coco.images)
    keys = ("bbox", "iscrowd", "segmentation")
    with paused_collector(), every_image(coco, keys, work, workers, reporter) as found:
        for positions, (entries, reasons) in found:
            for position, entry, why in zip(positions, entries, reasons, strict=True):
                annotation = annotated[position]
                annotated[position] = {**annotation, OCCLUDER_KEY: _unpack(entry, numbers)}
                for reason in why:
                    skipped.setdefault(reason, []).append(AnnotationId(annotation["id"], annotation["image_id"]))
    with_occluder = sum(annotation[OCCLUDER_KEY] != [] for annotation in annotated)
    in_order = {reason: skipped[reason] for reason in REASONS if reason in skipped}
    ids = Counter(annotation["id"] for annotation in annotated)
    repeated = [number for number, count in ids.items() if count > 1]
    summary = AnnotateSummary(len(coco.images), len(annotated), with_occluder, in_order, repeated)
    return {**coco.content, "annotations": annotated}, summary


def _occluders_of(image: ImageRecords, *, rule: OccluderRule, output_format: RegionFormat, tolerance: float) -> _Found:
    height, width, records = image
    seen = [read_mask(record, height, width) for record in records]
    every = replace(rule, min_area=0)
    regions = derive_from_records(records, [rle for rle, _ in seen], height, width, rule=every)
    entries: list[_Entry] = []
    reasons: list[tuple[Reason, ...]] = []
    for record, region, (_, flaw), corners in zip(
        records, regions, seen, pixel_corners(record_boxes(records), height, width), strict=True
    ):
        small = region is not None and masks.area(region) <= rule.min_area
        entries.append(_entry(None if small else region, output_format, tolerance))
        why: dict[Reason, bool] = {
            "crowd": flaw is None and not rule.crowd and bool(record.get("iscrowd", 0)),
            "outside": corners[0] >= corners[2] or corners[1] >= corners[3],
            "small": small,
        }
        reasons.append((*([] if flaw is None else [flaw]), *(reason for reason, true in why.items() if true)))
    return _Found(entries, reasons)


def _entry(region: RLE | None, output_format: RegionFormat, tolerance: float) -> _Entry:
    if region is None:
        return []
    if output_format == "rle":
        return masks.to_json(region)
    return [np.array(polygon, dtype=np.int32).tobytes() for polygon in to_polygons(region, tolerance=tolerance)]


def _unpack(entry: _Entry, numbers: NDArray[np.object_]) -> Any:  # noqa: ANN401  (what json holds)
    if isinstance(entry, dict):
        return entry
    return [
        (numbers[values] if values.max() < len(numbers) else values).tolist()
        for values in (np.frombuffer(polygon, dtype=np.int32) for polygon in entry)
    ]


def _shared_numbers(images: list[Record]) -> NDArray[np.object_]:
    """The whole coordinates of usual images: all polygons share these objects, which takes a quarter of the memory."""
    largest = max((max(image["width"], image["height"]) for image in images), default=0)
    return np.arange(min(largest, MOST_SHARED) + 1).astype(object)
