"""Pictures to show: an image, its instances with both layers of each, and the ground truth beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.rates import Level, occlusion_level
from bcnet_core.masks import RLE
from bcnet_core.masks.order import FrontPair, front_pairs
from bcnet_core.visualization.drawing import Image

Box = tuple[float, float, float, float]
Maps = dict[str, NDArray[np.floating]]
"""Maps of one instance by their names in `MAPS`, each (S, S) in [0, 1] inside its box."""

MIN_IOU = 0.1
"""Mask IoU from which a detection matches a true instance of its category: a poor detection belongs beside what it
missed, where COCO's 0.5 would call it a false positive."""


BOX_PIXELS, BOX_SHARE = 2.0, 0.05
"""Pixels, and share of the longer side, by which a side of a box may be away from that of its mask."""


@dataclass(frozen=True)
class Instance:
    """One annotated or detected instance and the two layers of its box (xyxy in pixels of the image).

    Attributes:
        occludee: visible mask of the instance, if any.
        occluder: region inside the box where others overlap it; None where nothing does.
        whole: whole mask with the hidden part, which holds the visible one; None where it is unknown.
        hides: positions among the instances of those of which it hides a part, where something other than the masks
            says so.
        crowd: whether it stands for many instances that were not separated.
        score: score of a detection, in [0, 1]; None for ground truth.
        maps: predicted maps; None to draw those of the two masks, as training sees them.
        color: index of its color in the picture; a true instance shares that of the detection that matches it.
        truth: true instance that a detection matches.
        iou: mask IoU of a detection with its match; 0 without a match, None without ground truth.
    """

    category: str
    box: Box
    occludee: RLE | None
    occluder: RLE | None = None
    crowd: bool = False
    score: float | None = None
    maps: Maps | None = None
    color: int = 0
    truth: Instance | None = None
    iou: float | None = None
    whole: RLE | None = None
    hides: tuple[int, ...] | None = None

    @property
    def label(self) -> str:
        """Text beside the instance."""
        if self.score is not None:
            return f"{self.category} {self.score:.2f}"
        return f"{self.category} (crowd)" if self.crowd else self.category

    @cached_property
    def roi(self) -> Box:
        """Box of its maps: that of a prediction; of other instances, one that also encloses the whole mask."""
        if self.whole is None or self.maps is not None:
            return self.box
        x, y, width, height = masks.bounding_box(self.whole).tolist()
        x0, y0, x1, y1 = self.box
        return min(x0, x), min(y0, y), max(x1, x + width), max(y1, y + height)

    @cached_property
    def occlusion(self) -> float:
        """Fraction of `roi` that the occluder covers, in [0, 1]."""
        if self.occluder is None:
            return 0.0
        x0, y0, x1, y1 = pixel_box(self.roi, *self.occluder["size"])
        return min(masks.area(self.occluder) / ((x1 - x0) * (y1 - y0)), 1.0)

    @cached_property
    def occlusion_rate(self) -> float | None:
        """Hidden share of the whole mask, in [0, 1]; None where that is unknown or empty."""
        if self.whole is None or not (area := masks.area(self.whole)):
            return None
        return 1 - (0 if self.occludee is None else masks.area(self.occludee)) / area

    @cached_property
    def box_differs(self) -> bool:
        """Whether there is no mask, or the box is not that of the mask, by more than `BOX_PIXELS` and `BOX_SHARE`."""
        if self.occludee is None:
            return True
        x, y, width, height = masks.bounding_box(self.occludee).tolist()
        distance = np.abs(np.subtract(self.box, (x, y, x + width, y + height))).max()
        return bool(distance > max(BOX_PIXELS, BOX_SHARE * max(width, height)))

    @property
    def level(self) -> Level:
        """Level of occlusion of the true instance where it is known, else as predicted."""
        return occlusion_level((self.truth or self).occlusion)


@dataclass(frozen=True)
class Picture:
    """One picture to show.

    Attributes:
        image: (H, W, 3) uint8 RGB; a blank of the right size if the file could not be read.
        truth: all true instances, beside detections; None without ground truth.
        fault: why the image could not be read; None if it could.
    """

    name: str
    image: Image
    instances: tuple[Instance, ...] = ()
    truth: tuple[Instance, ...] | None = None
    note: str = ""
    fault: str | None = None

    @property
    def missed(self) -> tuple[Instance, ...]:
        """True instances that no detection matches, except crowds."""
        found = {id(instance.truth) for instance in self.instances}
        return tuple(instance for instance in self.truth or () if id(instance) not in found and not instance.crowd)


def pixel_box(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the whole pixels x0, y0, x1, y1 (half-open) that a box touches, at least one pixel of the image."""
    x0, y0 = min(max(int(box[0]), 0), width - 1), min(max(int(box[1]), 0), height - 1)
    x1, y1 = min(max(int(np.ceil(box[2])), x0 + 1), width), min(max(int(np.ceil(box[3])), y0 + 1), height)
    return x0, y0, x1, y1


def order_of(instances: Sequence[Instance]) -> list[FrontPair]:
    """Return the pairs of instances of which one hides a part of the other, by their positions.

    Where `hides` says nothing of two instances, their order is found in the masks.
    """
    told = [FrontPair(front, back) for front, one in enumerate(instances) for back in one.hides or ()]
    if all(one.hides is not None for one in instances):
        return told
    pairs = front_pairs([one.occludee for one in instances], [one.whole for one in instances])
    return told + [pair for pair in pairs if not {pair, pair[::-1]} & set(told)]


def numbered(instances: Sequence[Instance]) -> tuple[Instance, ...]:
    """Give each instance the color of its position."""
    return tuple(replace(instance, color=index) for index, instance in enumerate(instances))


def match_truth(
    found: Sequence[Instance], true: Sequence[Instance]
) -> tuple[tuple[Instance, ...], tuple[Instance, ...]]:
    """Match detections, best first, with the true instances of their category; crowds match nothing.

    Returns the detections with colors, IoU and matches, and the true instances in the colors of their matches.
    """
    ious = mask_ious(found, true)
    matches = match_greedily(ious, MIN_IOU)
    finders = {column: index for index, column in enumerate(matches) if column is not None}
    fresh = count(len(found))
    colored = tuple(
        replace(one, color=finders[index] if index in finders else next(fresh)) for index, one in enumerate(true)
    )
    detections = []
    for index, (one, column) in enumerate(zip(found, matches, strict=True)):
        match, iou = (None, 0.0) if column is None else (colored[column], float(ious[index, column]))
        detections.append(replace(one, color=index, truth=match, iou=iou))
    return tuple(detections), colored


def match_greedily(ious: NDArray[np.float64], least: float) -> list[int | None]:
    """Give each row of (N, M) IoUs in turn the free column of the highest IoU, or None if that is below `least` > 0."""
    free, matches = ious.copy(), list[int | None]()
    for row in free:
        best = int(row.argmax()) if row.size else None
        matches.append(None if best is None or row[best] < least else best)
        if matches[-1] is not None:
            free[:, best] = 0
    return matches


def mask_ious(found: Sequence[Instance], true: Sequence[Instance]) -> NDArray[np.float64]:
    """Return the (N, M) mask IoUs of N instances with M others; 0 across categories, for crowds and without masks."""
    table = np.zeros((len(found), len(true)))
    rows = [(i, one.occludee) for i, one in enumerate(found) if one.occludee is not None and masks.area(one.occludee)]
    columns = [(j, one.occludee) for j, one in enumerate(true) if one.occludee is not None and not one.crowd]
    if rows and columns:
        (left, first), (right, second) = zip(*rows, strict=True), zip(*columns, strict=True)
        same = np.array([[found[i].category == true[j].category for j in right] for i in left])
        table[np.ix_(left, right)] = masks.ious(first, second) * same
    return table
