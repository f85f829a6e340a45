"""Parts of images: what a detector gets at a time, and how the instances of an image are put together again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from bcnet_core.annotations.coco import Record
from bcnet_core.evaluation.given_boxes import GivenBoxes, gather
from bcnet_core.evaluation.tiles import Tiling, best_windows, join_parts, tile_windows
from bcnet_core.files.windows import Window
from bcnet_core.structures import Instances


class Part(NamedTuple):
    """A part of the work: an image, or a window of one.

    Attributes:
        image: entry of a COCO file's `images`.
        number: of the part in its image, from 0.
        window: what the detector sees of it; the whole image is reduced then. None is the image as it is.
        boxes: what to predict inside; None lets the detector find its own.
    """

    image: Record
    number: int
    window: Window | None = None
    boxes: GivenBoxes | None = None


def parts_of(
    images: Sequence[Record], tiling: Tiling | None = None, boxes: Mapping[int, GivenBoxes] | None = None
) -> list[Part]:
    """Return the parts of images, in their order.

    Args:
        images: entries of a COCO file's `images`.
        tiling: see `tile_windows`.
        boxes: boxes by image id, which have parts then, each with the boxes that it shows best; None gives all parts
            of every image.
    """
    return [part for image in images if boxes is None or image["id"] in boxes for part in _parts(image, tiling, boxes)]


def _parts(image: Record, tiling: Tiling | None, boxes: Mapping[int, GivenBoxes] | None) -> Iterator[Part]:
    windows = tile_windows(image.get("height", 0), image.get("width", 0), tiling)
    if boxes is None:
        for number, window in enumerate(windows):
            yield Part(image, number, window)
        return
    given = boxes[image["id"]]
    views = [window for window in windows if window is not None]
    if not views:
        yield Part(image, 0, None, given)
        return
    shown = best_windows(given.corners, views)
    for number in np.unique(shown).tolist():
        yield Part(image, number, windows[number], given.at(np.flatnonzero(shown == number)))


def most_parts(images: Sequence[Record], tiling: Tiling | None) -> int:
    """Return the largest number of parts of an image."""
    return max((part.number + 1 for part in parts_of(images, tiling)), default=1)


def joined(found: Iterable[tuple[Part, Instances]], tiling: Tiling | None) -> Iterator[tuple[Record, Instances]]:
    """Join the instances of the parts of each image, which follow one another, to those of the image."""
    for image, group in groupby(found, key=lambda one: one[0].image):
        parts = list(group)
        inside = [(part.boxes, instances) for part, instances in parts if part.boxes is not None]
        views = [(part.window, instances) for part, instances in parts]
        yield image, gather(inside) if inside else join_parts(views, tiling)
