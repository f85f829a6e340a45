"""The whole (amodal) masks of annotations: the visible part of an instance and what others hide of it."""

from __future__ import annotations

from collections.abc import Sequence

from bcnet_core import masks
from bcnet_core.annotations.coco import AMODAL_KEY, Record, segmentation_rle
from bcnet_core.masks import RLE


def whole_masks(annotations: Sequence[Record], rles: Sequence[RLE | None], image: Record) -> list[RLE | None]:
    """Return the whole mask of each of the N annotations of one image; None where it is unknown.

    It ends at the border of the image, like every mask, and holds the visible one: a stored mask that does not is
    united with it.

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
