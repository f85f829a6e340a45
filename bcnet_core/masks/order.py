"""Who is in front: the order of overlapping instances, as their visible and whole masks tell it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bcnet_core import masks
from bcnet_core.masks import RLE


class FrontPair(NamedTuple):
    """Two of N instances of an image, one of which hides a part of the other.

    Attributes:
        front: position of the instance in front.
        back: position of the one behind it.
    """

    front: int
    back: int


def front_pairs(visible: Sequence[RLE | None], whole: Sequence[RLE | None]) -> list[FrontPair]:
    """Find the pairs of instances of one image whose order the masks tell.

    The hidden part of an instance is its whole mask without its visible one. Of two instances, the one whose visible
    mask covers more of the other's hidden part is in front.

    Args:
        visible: N visible masks; None is unknown, and such an instance is in no pair.
        whole: N whole masks; None is unknown: such an instance can hide others, but nothing is known to hide it.

    Returns:
        The pairs, by the position of the one in front and then of the other; equal cover gives none.
    """
    seen = {index: rle for index, rle in enumerate(visible) if rle is not None}
    fulls = ((index, rle) for index, rle in enumerate(whole) if rle is not None and index in seen)
    hidden = {index: masks.intersection(rle, masks.complement(seen[index])) for index, rle in fulls}
    fronts, backs = list(seen), list(hidden)
    cover = np.zeros((len(visible), len(visible)), np.int64)  # pixels of the column's hidden part under the row
    for row, column in np.argwhere(masks.boxes_touch(list(seen.values()), list(hidden.values()))).tolist():
        front, back = fronts[row], backs[column]
        if front != back:
            cover[front, back] = masks.area(masks.intersection(seen[front], hidden[back]))
    return [FrontPair(front, back) for front, back in np.argwhere(cover > cover.T).tolist()]
