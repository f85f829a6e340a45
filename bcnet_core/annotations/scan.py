"""Going through a COCO file image by image, in a pool of processes: for whatever looks at all masks of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, NamedTuple

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.files.workers import Result, parallel_map
from bcnet_core.masks import RLE
from bcnet_core.reporting import Reporter, SilentReporter

MaskFlaw = Literal["missing", "empty", "degenerate", "unreadable"]
"""Why an annotation has no mask: no segmentation, one without a pixel, polygons without an area, or no known kind."""

CHUNK = 64
"""Images per task of a worker."""
WORTH_A_WORKER = 8
"""Tasks from which on a worker saves more time than its start takes."""


class AnnotationId(NamedTuple):
    """Which annotation: its own id, and that of its image, because annotation ids can repeat."""

    annotation: int
    image: int


class ImageRecords(NamedTuple):
    """What a worker needs of one image."""

    height: int
    width: int
    annotations: list[Record]  # only the keys that it reads


@contextmanager
def every_image(
    coco: CocoFile,
    keys: tuple[str, ...],
    work: Callable[[ImageRecords], Result],
    workers: int,
    reporter: Reporter | None,
) -> Iterator[Iterator[tuple[list[int], Result]]]:
    """Do `work` for every image of a file, in a pool of processes, with a bar of progress.

    Args:
        coco: the file.
        keys: of the annotations that `work` reads.
        work: a function that can be pickled.
        workers: as in `annotate_coco`.
        reporter: hears the progress in images.

    Yields:
        For every image in the order of the file, the positions of its annotations in the file, and the result.
    """
    positions: dict[int, list[int]] = {image["id"]: [] for image in coco.images}
    for position, annotation in enumerate(coco.annotations):
        positions[annotation["image_id"]].append(position)
    chunks = [coco.images[start : start + CHUNK] for start in range(0, len(coco.images), CHUNK)]
    tasks = ([_pack(image, coco, positions[image["id"]], keys) for image in chunk] for chunk in chunks)
    with (
        (reporter or SilentReporter()).progress("images", len(coco.images)) as progress,
        parallel_map(partial(_of_chunk, work), tasks, workers=workers, most=len(chunks) // WORTH_A_WORKER) as results,
    ):

        def one_by_one() -> Iterator[tuple[list[int], Result]]:
            for chunk, found in zip(chunks, results, strict=True):
                for image, result in zip(chunk, found, strict=True):
                    yield positions[image["id"]], result
                progress.advance(len(chunk))

        yield one_by_one()


def read_mask(annotation: Record, height: int, width: int) -> tuple[RLE | None, MaskFlaw | None]:
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


def _pack(image: Record, coco: CocoFile, positions: list[int], keys: tuple[str, ...]) -> ImageRecords:
    annotations = [coco.annotations[position] for position in positions]
    packed = [{key: annotation[key] for key in keys if key in annotation} for annotation in annotations]
    return ImageRecords(image["height"], image["width"], packed)


def _of_chunk(work: Callable[[ImageRecords], Result], images: list[ImageRecords]) -> list[Result]:
    return [work(image) for image in images]
