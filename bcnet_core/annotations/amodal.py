"""The whole (amodal) masks of annotations: the visible part of an instance and what others hide of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bcnet_core import masks
from bcnet_core.annotations.coco import AMODAL_KEY, Record, segmentation_rle
from bcnet_core.masks import RLE
from bcnet_core.masks.order import front_pairs

SEAM = 0.02
"""Share of a mask that another may lack where both mean the same pixels: two rasterizers leave such seams."""


def whole_masks(annotations: Sequence[Record], rles: Sequence[RLE | None], image: Record) -> list[RLE | None]:
    """Return the whole mask of each of the N annotations of one image; None where it is unknown.

    It ends at the border of the image, like every mask, and holds the visible one: a stored mask that does not is
    united with it. One without a pixel is unknown.

    Args:
        annotations: of the image.
        rles: their visible masks; an instance without one has no whole one either.
        image: entry of `images`.

    Raises:
        BCNetError: if a stored mask cannot be read.
    """
    wholes: list[RLE | None] = []
    for annotation, visible in zip(annotations, rles, strict=True):
        stored = None if visible is None else segmentation_rle(annotation, image, key=AMODAL_KEY)
        known = stored is not None and masks.area(stored) > 0
        wholes.append(masks.union([stored, visible]) if known and stored and visible else None)
    return wholes


def enclosing_boxes(
    annotations: Sequence[Record], wholes: Sequence[RLE | None], *, amodal: bool
) -> list[Sequence[float]]:
    """Return the boxes [x, y, width, height] of the N annotations of one image, in pixels.

    Args:
        annotations: of the image.
        wholes: their whole masks; None where unknown.
        amodal: whether boxes enclose the whole masks, where these are known; otherwise they are those of the file.
    """
    return [
        masks.bounding_box(whole).tolist() if amodal and whole is not None else one["bbox"]
        for one, whole in zip(annotations, wholes, strict=True)
    ]


def lacks(rle: RLE, other: RLE) -> bool:
    """Return whether a mask lacks more of another one of its size than a seam."""
    return masks.area(masks.intersection(rle, other)) < (1 - SEAM) * masks.area(other)


class WholeCounts(NamedTuple):
    """The numbers of instances of which the whole mask is known, and of what is odd about it.

    Attributes:
        instances: all instances.
        stored: those with a stored whole mask.
        complete: those without, whose visible mask is the whole one because nothing hides them.
        empty: those with a stored mask that has no pixel, so that it is unknown.
        united: those with a stored mask that lacks a part of the visible one, and is united with it.
        hiding: those that hide a part of another.
    """

    instances: int = 0
    stored: int = 0
    complete: int = 0
    empty: int = 0
    united: int = 0
    hiding: int = 0

    @property
    def known(self) -> int:
        """The number of instances whose whole mask is known."""
        return self.stored + self.complete

    def describe(self) -> str:
        """Return a sentence: "whole masks: 812 of 1,000 instances; the others train their visible part alone; ..."."""
        every = self.known == self.instances
        parts = [f"whole masks: {'all' if every else f'{self.known:,} of'} {self.instances:,} instances"]
        if self.complete:
            parts.append(f"{self.complete:,} of them are visible masks that only pasted objects hide")
        if not every:
            parts.append("the others train their visible part alone")
        if self.empty:
            parts.append(f"{self.empty:,} have no pixel and count as unknown")
        if self.united:
            parts.append(f"{self.united:,} lack a part of the visible mask and are united with it")
        if self.stored:
            parts.append(f"{self.hiding:,} instances hide a part of another")
        return "; ".join(parts)


def count_wholes(
    annotations: Sequence[Record], rles: Sequence[RLE | None], wholes: Sequence[RLE | None], image: Record
) -> WholeCounts:
    """Count the whole masks of one image.

    Args:
        annotations: of the image.
        rles: their N visible masks.
        wholes: their N whole masks, None where unknown.
        image: entry of `images`.
    """
    stored = [segmentation_rle(one, image, key=AMODAL_KEY) for one in annotations]
    given = [rle is not None and masks.area(rle) > 0 for rle in stored]
    pairs = zip(stored, rles, given, strict=True)
    return WholeCounts(
        instances=len(annotations),
        stored=sum(given),
        complete=sum(whole is not None for whole in wholes) - sum(given),
        empty=sum(AMODAL_KEY in one and not known for one, known in zip(annotations, given, strict=True)),
        united=sum(known and lacks(rle, seen) for rle, seen, known in pairs if rle and seen),
        hiding=len({pair.front for pair in front_pairs(rles, wholes)}),
    )


def add_counts(counts: Iterable[WholeCounts]) -> WholeCounts:
    """Add the counts of several images."""
    return WholeCounts(*map(sum, zip(*counts, strict=True)))
