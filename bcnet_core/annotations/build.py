"""Turn a whole COCO file into bilayer annotations, image by image in a pool of processes.

Only the occluder key is added or replaced. Annotations without a readable mask occlude nobody, keep their own entry
and are counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, MaskFlaw, Record, read_mask
from bcnet_core.annotations.occluder import OccluderRule, derive_occluders, pixel_corners, record_boxes
from bcnet_core.annotations.polygons import DEFAULT_TOLERANCE, to_polygons
from bcnet_core.config.choices import RegionFormat
from bcnet_core.errors import usage_error
from bcnet_core.files.json_files import paused_collector
from bcnet_core.files.workers import Result, map_with_progress
from bcnet_core.masks import RLE
from bcnet_core.reporting import Reporter

CHUNK = 64
"""Images per task of a worker process."""
WORTH_A_WORKER = 8
"""Tasks from which on a worker process saves more time than it takes to start."""


class ImageRecords(NamedTuple):
    """The part of one image's records that a worker process needs."""

    height: int
    width: int
    annotations: list[Record]  # reduced to the requested keys


@contextmanager
def map_images(
    coco: CocoFile,
    keys: tuple[str, ...],
    work: Callable[[ImageRecords], Result],
    *,
    workers: int,
    reporter: Reporter | None,
) -> Iterator[Iterator[tuple[list[int], Result]]]:
    """Call `work` for every image of a file and report the progress in images.

    `work` can be pickled and gets annotations reduced to `keys`. `workers` are the most processes, 0 for one per CPU
    core; 1 works in this process.

    Yields:
        For every image in file order: the positions of its annotations in the file, and the result.

    Raises:
        BCNetError: if a worker process dies.
    """
    positions: dict[int, list[int]] = {image["id"]: [] for image in coco.images}
    for position, annotation in enumerate(coco.annotations):
        positions[annotation["image_id"]].append(position)

    def pack(image: Record) -> ImageRecords:
        records = [coco.annotations[position] for position in positions[image["id"]]]
        packed = [{key: record[key] for key in keys if key in record} for record in records]
        return ImageRecords(image["height"], image["width"], packed)

    count = len(coco.images)
    with map_with_progress(
        work, map(pack, coco.images), title="images", count=count, chunk=CHUNK, workers=workers,
        most=count // (CHUNK * WORTH_A_WORKER), reporter=reporter,
    ) as results:  # fmt: skip
        yield zip(positions.values(), results, strict=True)


Reason = MaskFlaw | Literal["crowd", "outside", "small"]
"""Reason why an annotation is skipped, see `REASONS`."""

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
"""Reasons that are faults of the file; the others are choices of the rule."""

MOST_SHARED = 20_000
"""Largest coordinate for which all polygons share one Python integer: a quarter of the memory on COCO's train2017."""

_Entry = list[bytes] | dict[str, Any]
"""An occluder region on its way between processes: a json RLE, or polygons as bytes of int32 coordinates."""


class AnnotationId(NamedTuple):
    """An annotation's id and that of its image, because annotation ids can repeat."""

    annotation: int
    image: int


@dataclass(frozen=True)
class AnnotateSummary:
    """Counts of a file that `annotate_coco` made; crowds are instances too.

    `skipped` holds annotations by reason, in image order; `repeated_ids` those ids that several annotations share.
    """

    images: int
    instances: int
    with_occluder: int
    skipped: dict[Reason, list[AnnotationId]]
    repeated_ids: list[int]

    def as_json(self) -> Record:
        """Return the summary as written to reports and printed by `--json`."""
        return {
            "images": self.images, "instances": self.instances, "with_occluder": self.with_occluder,
            "skipped": describe_groups(self.skipped, REASONS), "repeated_ids": self.repeated_ids,
        }  # fmt: skip


def describe_groups(groups: Mapping[Any, list[AnnotationId]], meanings: Mapping[Any, str]) -> Record:
    """Return groups of annotations as json: the meaning of each group, its size and its members."""
    return {
        name: {
            "meaning": meanings[name],
            "count": len(members),
            "annotations": [{"id": member.annotation, "image_id": member.image} for member in members],
        }
        for name, members in groups.items()
    }


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
        rule: the occluder rule.
        output_format: "polygon", or "rle", which is pixel-exact.
        tolerance: tolerance of polygons in pixels (`polygons.to_polygons`); 0 is pixel-exact.
        workers: maximum number of processes, 0 for one per CPU core; does not affect the result. 1 works in this
            process, others are spawned: a script calls this below `if __name__ == "__main__":`.
        reporter: receiver of the progress in images.

    Returns:
        The same content with the occluder key in every annotation ([] if there is no occluder), and a summary.

    Raises:
        BCNetError: if the tolerance is not a number of pixels, or a worker process dies.
    """
    if not 0 <= tolerance < float("inf"):
        raise usage_error(f"the tolerance is 0 pixels or more, not {tolerance}")
    work = partial(_annotate_image, rule=rule, output_format=output_format, tolerance=tolerance)
    annotated: list[Record] = list(coco.annotations)
    skipped: dict[Reason, list[AnnotationId]] = {reason: [] for reason in REASONS}
    largest = max((max(image["width"], image["height"]) for image in coco.images), default=0)
    shared = np.arange(min(largest, MOST_SHARED) + 1).astype(object)
    keys = ("bbox", "iscrowd", "segmentation")
    with paused_collector(), map_images(coco, keys, work, workers=workers, reporter=reporter) as results:
        for positions, found in results:
            for position, (entry, reasons) in zip(positions, found, strict=True):
                annotation = annotated[position]
                annotated[position] = {**annotation, OCCLUDER_KEY: _unpack(entry, shared)}
                for reason in reasons:
                    skipped[reason].append(AnnotationId(annotation["id"], annotation["image_id"]))
    ids = Counter(annotation["id"] for annotation in annotated)
    summary = AnnotateSummary(
        images=len(coco.images),
        instances=len(annotated),
        with_occluder=sum(annotation[OCCLUDER_KEY] != [] for annotation in annotated),
        skipped={reason: those for reason, those in skipped.items() if those},
        repeated_ids=[number for number, count in ids.items() if count > 1],
    )
    return {**coco.content, "annotations": annotated}, summary


def _annotate_image(
    image: ImageRecords, *, rule: OccluderRule, output_format: RegionFormat, tolerance: float
) -> list[tuple[_Entry, list[Reason]]]:
    """Return, for each annotation of an image, its packed region and the reasons why it was skipped."""
    height, width, records = image
    own = [read_mask(record, height, width) for record in records]
    regions = derive_occluders(records, [rle for rle, _ in own], height, width, rule=replace(rule, min_area=0))
    boxes = pixel_corners(record_boxes(records), height, width)
    found = []
    for record, region, (_, flaw), (x0, y0, x1, y1) in zip(records, regions, own, boxes, strict=True):
        reasons: list[Reason] = [] if flaw is None else [flaw]
        if flaw is None and record.get("iscrowd", 0) and not rule.crowd:
            reasons.append("crowd")
        if x0 >= x1 or y0 >= y1:
            reasons.append("outside")
        small = region is not None and masks.area(region) <= rule.min_area
        if small:
            reasons.append("small")
        found.append((_pack(None if small else region, output_format, tolerance), reasons))
    return found


def _pack(region: RLE | None, output_format: RegionFormat, tolerance: float) -> _Entry:
    if region is None:
        return []
    if output_format == "rle":
        return masks.to_json(region)
    return [np.array(polygon, dtype=np.int32).tobytes() for polygon in to_polygons(region, tolerance=tolerance)]


def _unpack(entry: _Entry, shared: NDArray[np.object_]) -> Any:  # noqa: ANN401  (as json holds it)
    if isinstance(entry, dict):
        return entry
    polygons = (np.frombuffer(polygon, dtype=np.int32) for polygon in entry)
    return [(shared[values] if values.max() < len(shared) else values).tolist() for values in polygons]
