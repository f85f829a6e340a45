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
        visible: N visible masks; None is unknown.
        whole: N whole masks; None is unknown, and such an instance is in no pair.

    Returns:
        The pairs, by the position of the one in front and then of the other; equal cover gives none.
    """
    known = [i for i, pair in enumerate(zip(visible, whole, strict=True)) if None not in pair]
    seen = {i: rle for i in known if (rle := visible[i]) is not None}
    hidden = {i: masks.intersection(rle, masks.complement(seen[i])) for i in known if (rle := whole[i]) is not None}
    touching = masks.boxes_touch([seen[i] for i in known], [hidden[i] for i in known])
    cover = np.zeros((len(known), len(known)), np.int64)  # pixels of the column's hidden part under the row
    for row, column in np.argwhere(touching).tolist():
        if row != column:
            cover[row, column] = masks.area(masks.intersection(seen[known[row]], hidden[known[column]]))
    return [FrontPair(known[row], known[column]) for row, column in np.argwhere(cover > cover.T).tolist()]
