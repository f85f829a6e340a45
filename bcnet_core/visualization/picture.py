"""What one picture shows: an image, its instances with both layers of each, and the truth beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.rates import Level, occlusion_level
from bcnet_core.masks import RLE
from bcnet_core.visualization.drawing import Image

Box = tuple[float, float, float, float]

LEAST_IOU = 0.1
"""A detection and a true instance of its category belong together from this mask IoU on: a poor one is to be seen
beside what it missed, where COCO's 0.5 would call it a false one."""


@dataclass(frozen=True)
class Instance:
    """One instance and the two layers of its box.

    Attributes:
        category: its class name.
        box: xyxy in pixels of the image.
        occludee: the visible mask of the instance; None where there is none.
        occluder: what else overlaps it inside its box; None where nothing does.
        crowd: whether it stands for many that nobody told apart.
        score: of a detection, in [0, 1]; None for ground truth.
        maps: the maps that were predicted, (S, S) floating point in [0, 1] by name; None draws those of the two masks,
            as training sees them.
        color: the number of its color in the picture; a true instance has that of the detection that found it.
        truth: the true instance that a detection found.
        iou: of the masks of a detection and of what it found; 0 of one that found nothing; None without ground truth.
    """

    category: str
    box: Box
    occludee: RLE | None
    occluder: RLE | None = None
    crowd: bool = False
    score: float | None = None
    maps: dict[str, NDArray[np.floating]] | None = None
    color: int = 0
    truth: Instance | None = None
    iou: float | None = None

    @property
    def label(self) -> str:
        """What is written beside the instance."""
        if self.score is not None:
            return f"{self.category} {self.score:.2f}"
        return f"{self.category} (crowd)" if self.crowd else self.category

    @cached_property
    def occlusion(self) -> float:
        """The share of the box that the occluder, which lies inside of it, covers, in [0, 1]."""
        if self.occluder is None:
            return 0.0
        x0, y0, x1, y1 = pixel_box(self.box, *self.occluder["size"])
        return min(masks.area(self.occluder) / ((x1 - x0) * (y1 - y0)), 1.0)

    @property
    def level(self) -> Level:
        """How occluded the instance is: truly, where that is known, else as it was predicted."""
        return occlusion_level((self.truth or self).occlusion)


@dataclass(frozen=True)
class Picture:
    """One picture to show.

    Attributes:
        name: for people, usually the file name.
        image: (H, W, 3) uint8 RGB; a blank of the right size where the file could not be read.
        instances: what was annotated or found in it.
        truth: beside detections, all true instances of the image; None where no ground truth is known.
        note: a sentence about this picture, or nothing.
        fault: why the image could not be read; None where all is well.
    """

    name: str
    image: Image
    instances: tuple[Instance, ...] = ()
    truth: tuple[Instance, ...] | None = None
    note: str = ""
    fault: str | None = None

    @property
    def missed(self) -> tuple[Instance, ...]:
        """The true instances that no detection found."""
        found = {id(layers.truth) for layers in self.instances}
        return tuple(layers for layers in self.truth or () if id(layers) not in found and not layers.crowd)


def pixel_box(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """The whole pixels x0, y0, x1, y1 (half-open) that a box touches, at least one pixel of the image."""
    x0, y0 = min(max(int(box[0]), 0), width - 1), min(max(int(box[1]), 0), height - 1)
    x1, y1 = min(max(int(np.ceil(box[2])), x0 + 1), width), min(max(int(np.ceil(box[3])), y0 + 1), height)
    return x0, y0, x1, y1


def numbered(instances: Sequence[Instance]) -> tuple[Instance, ...]:
    """The instances with the colors of their positions."""
    return tuple(replace(layers, color=index) for index, layers in enumerate(instances))


def matched(found: Sequence[Instance], true: Sequence[Instance]) -> tuple[tuple[Instance, ...], tuple[Instance, ...]]:
    """Tell which detection found which true instance: the best first, each the one of its category that it fits best.

    Args:
        found: detections.
        true: all true instances of the image; crowds are found by nobody.

    Returns:
        The detections, with colors, IoU and what they found; the true instances, in the colors of their finders.
    """
    ious = mask_ious(found, true)
    finders: dict[int, int] = {}
    fits = [0.0] * len(found)
    for index in sorted(range(len(found)), key=lambda index: -(found[index].score or 0.0)):
        best = int(ious[index].argmax()) if true else -1
        if true and ious[index, best] >= LEAST_IOU:
            finders[best], fits[index] = index, float(ious[index, best])
            ious[:, best] = 0
    rest = iter(range(len(found), len(found) + len(true)))
    colored = tuple(
        replace(layers, color=finders[index] if index in finders else next(rest)) for index, layers in enumerate(true)
    )
    truths = {finder: colored[index] for index, finder in finders.items()}
    detections = (
        replace(layers, color=index, truth=truths.get(index), iou=fits[index]) for index, layers in enumerate(found)
    )
    return tuple(detections), colored


def mask_ious(found: Sequence[Instance], true: Sequence[Instance]) -> NDArray[np.float64]:
    """(N, M): the mask IoU of each of N instances with each of M others of its category, else 0; that of a crowd is 0.

    Args:
        found: N instances.
        true: M instances.
    """
    table = np.zeros((len(found), len(true)))
    rows = [i for i, layers in enumerate(found) if layers.occludee is not None and masks.area(layers.occludee)]
    columns = [j for j, layers in enumerate(true) if layers.occludee is not None and not layers.crowd]
    if rows and columns:
        rles = [
            [part for i in chosen if (part := side[i].occludee)] for side, chosen in ((found, rows), (true, columns))
        ]
        same = np.array([[found[i].category == true[j].category for j in columns] for i in rows])
        table[np.ix_(rows, columns)] = masks.ious(*rles) * same
    return table
