"""Process the annotations of a COCO file image by image, in a pool of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.files.workers import Result, map_with_progress
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
