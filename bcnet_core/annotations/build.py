"""Turning a whole COCO file into bilayer annotations, image by image, in a pool of processes.

Nothing but the occluder key is added or replaced. What has no readable mask occludes nobody, keeps its own
entry and is counted by reason.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, Record
from bcnet_core.annotations.occluder import OccluderRule, derive_from_records
from bcnet_core.annotations.polygons import to_polygons
from bcnet_core.errors import BCNetError
from bcnet_core.masks import RLE
from bcnet_core.reporting import Reporter, SilentReporter

OutputFormat = Literal["polygon", "rle"]
"""How an occluder region is stored: polygons, or a compressed RLE."""

Reason = Literal["missing", "empty", "degenerate", "unreadable"]
"""Why there is no mask: no segmentation, one without pixels, polygons without area, none of COCO's kinds."""

CHUNK = 64
"""Images per task of a worker."""
WORTH_A_WORKER = 8
"""Tasks from which on a worker saves more time than its start takes."""
PENDING = 4
"""Tasks per worker that are under way at most; it bounds the memory."""


@dataclass(frozen=True)
class AnnotateSummary:
    """What `annotate_coco` found.

    Attributes:
        images: in the file.
        instances: annotations in the file, crowds included.
        with_occluder: annotations that have an occluder.
        skipped: reason -> ids of the annotations that occlude nobody because they have no mask.
    """

    images: int
    instances: int
    with_occluder: int
    skipped: dict[Reason, list[int]]


class _Image(NamedTuple):
    """What a worker needs of one image."""

    height: int
    width: int
    annotations: list[Record]  # only `bbox`, `iscrowd` and `segmentation`


_Entry = list[bytes] | dict[str, Any]
"""An occluder region between processes: an RLE as json holds it, or polygons as bytes of int32 coordinates."""


class _Found(NamedTuple):
    """What a worker found in one image: an entry and a reason (or None) for each annotation."""

    entries: list[_Entry]
    reasons: list[Reason | None]


def annotate_coco(
    coco: CocoFile,
    *,
    rule: OccluderRule,
    output_format: OutputFormat = "polygon",
    workers: int = 1,
    reporter: Reporter | None = None,
) -> tuple[Record, AnnotateSummary]:
    """Add the occluder region of every annotation of a COCO file.

    Args:
        coco: the file; it is not changed.
        rule: what counts as an occluder.
        output_format: "polygon" (pixel-exact) or "rle".
        workers: most processes to use, 0 for one per CPU core; the result does not depend on it. 1 works in
            this process, others are spawned: a script calls this below `if __name__ == "__main__":`.
        reporter: hears the progress in images.

    Returns:
        The same content where every annotation has the occluder key ([] where there is no occluder), and what
        was found.

    Raises:
        BCNetError: if a worker process dies.
    """
    positions: dict[int, list[int]] = {image["id"]: [] for image in coco.images}
    for position, annotation in enumerate(coco.annotations):
        positions[annotation["image_id"]].append(position)
    annotated: list[Record] = list(coco.annotations)
    skipped: dict[Reason, list[int]] = {}
    numbers = _shared_numbers(coco.images)
    with (reporter or SilentReporter()).progress("annotate", len(coco.images)) as progress:
        found = _find(coco, positions, partial(_occluders_of_chunk, rule=rule, output_format=output_format), workers)
        for image, (entries, reasons) in zip(coco.images, found, strict=True):
            for position, entry, reason in zip(positions[image["id"]], entries, reasons, strict=True):
                annotated[position] = {**annotated[position], OCCLUDER_KEY: _unpack(entry, numbers)}
                if reason is not None:
                    skipped.setdefault(reason, []).append(annotated[position]["id"])
            progress.advance()
    with_occluder = sum(annotation[OCCLUDER_KEY] != [] for annotation in annotated)
    summary = AnnotateSummary(len(coco.images), len(annotated), with_occluder, dict(sorted(skipped.items())))
    return {**coco.content, "annotations": annotated}, summary


def _find(
    coco: CocoFile, positions: dict[int, list[int]], work: partial[list[_Found]], workers: int
) -> Iterator[_Found]:
    """Yield what is found in every image, in the order of the file."""
    chunks = [coco.images[start : start + CHUNK] for start in range(0, len(coco.images), CHUNK)]
    tasks = ([_pack(image, coco, positions[image["id"]]) for image in chunk] for chunk in chunks)
    workers = min(workers or os.cpu_count() or 1, len(chunks) // WORTH_A_WORKER)
    if workers <= 1:
        for task in tasks:
            yield from work(task)
        return
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    )
    try:
        yield from _in_order(pool, work, tasks, PENDING * workers)
    except BrokenProcessPool:
        raise BCNetError(
            "a worker process died; the machine may be out of memory", "work in one process: --workers 1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, work: partial[list[_Found]], tasks: Iterable[list[_Image]], pending: int
) -> Iterator[_Found]:
    futures: deque[Future[list[_Found]]] = deque()
    for task in tasks:
        futures.append(pool.submit(work, task))
        if len(futures) > pending:
            yield from futures.popleft().result()
    while futures:
        yield from futures.popleft().result()


def _pack(image: Record, coco: CocoFile, positions: list[int]) -> _Image:
    keys = ("bbox", "iscrowd", "segmentation")
    annotations = [coco.annotations[position] for position in positions]
    packed = [{key: annotation[key] for key in keys if key in annotation} for annotation in annotations]
    return _Image(image["height"], image["width"], packed)


def _occluders_of_chunk(images: list[_Image], *, rule: OccluderRule, output_format: OutputFormat) -> list[_Found]:
    return [_occluders_of(image, rule, output_format) for image in images]


def _occluders_of(image: _Image, rule: OccluderRule, output_format: OutputFormat) -> _Found:
    seen = [_read_mask(annotation, image.height, image.width) for annotation in image.annotations]
    rles = [rle for rle, _ in seen]
    regions = derive_from_records(image.annotations, rles, image.height, image.width, rule=rule)
    return _Found([_entry(region, output_format) for region in regions], [reason for _, reason in seen])


def _entry(region: RLE | None, output_format: OutputFormat) -> _Entry:
    if region is None:
        return []
    if output_format == "rle":
        return masks.to_json(region)
    return [np.array(polygon, dtype=np.int32).tobytes() for polygon in to_polygons(region)]


def _unpack(entry: _Entry, numbers: NDArray[np.object_]) -> Any:  # noqa: ANN401  (what json holds)
    if isinstance(entry, dict):
        return entry
    return [numbers[np.frombuffer(polygon, dtype=np.int32)].tolist() for polygon in entry]


def _shared_numbers(images: list[Record]) -> NDArray[np.object_]:
    """Every whole coordinate once: all polygons share these objects, which takes a quarter of the memory."""
    largest = max((max(image["width"], image["height"]) for image in images), default=0)
    return np.arange(largest + 1).astype(object)


def _read_mask(annotation: Record, height: int, width: int) -> tuple[RLE | None, Reason | None]:
    """The mask of an annotation, or why there is none."""
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        return None, "missing"
    try:
        rle = masks.from_segmentation(segmentation, height, width)
    except (ValueError, TypeError):
        return None, "unreadable"
    if rle is not None and masks.area(rle) > 0:
        return rle, None
    return None, "degenerate" if isinstance(segmentation, list) and segmentation else "empty"
