"""Who is in front: the order of overlapping instances as their masks tell it, and masks that share no pixel."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from graphlib import TopologicalSorter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bcnet_core import masks
from bcnet_core.masks import RLE

MOST_PAIRS = 2**20
"""Pairs of masks compared at once, so that an image of 20,000 instances (cells, say) fits in memory."""

NOISE = 0.01
"""Share of an instance up to which cover is a ragged border: a band of one pixel along a quarter of the outline of an
object of 100 x 100 pixels."""


class FrontPair(NamedTuple):
    """Two of N instances of an image, one of which hides a part of the other.

    Attributes:
        front: position of the instance in front.
        back: position of the one behind it.
    """

    front: int
    back: int


def front_pairs(visible: Sequence[RLE | None], whole: Sequence[RLE | None], *, least: float = NOISE) -> list[FrontPair]:
    """Find the pairs of instances of one image whose order the masks tell.

    Of two instances, the one whose visible mask covers more of the other's hidden part (its whole mask without the
    visible one) is in front. Where a third instance lies over all that two of them share, nothing tells their order.

    Args:
        visible: N visible masks; None is unknown, and such an instance is in no pair.
        whole: N whole masks; None is unknown: such an instance may be in front, and never behind.
        least: share of the whole mask that must be covered for more than a ragged border; 0 where masks are exact.

    Returns:
        The pairs, by the position of the one in front and then of the other; equal cover gives none.
    """
    known = [index for index, rle in enumerate(visible) if rle is not None]
    seen, wholes = ([rle for i in known if (rle := part[i] or visible[i]) is not None] for part in (visible, whole))
    hidden = [masks.difference(one, rest) for one, rest in zip(wholes, seen, strict=True)]
    cover = _shared_pixels(seen, hidden)
    enough = [least * masks.area(one) for one in wholes]
    return [
        FrontPair(known[front], known[back])
        for (front, back), pixels in cover.items()
        if front != back and pixels > max(enough[back], cover.get((back, front), 0))
    ]


def _shared_pixels(first: Sequence[RLE], second: Sequence[RLE]) -> dict[tuple[int, int], int]:
    """Count the pixels that masks share with others, by both positions, in rising order; pairs without any are left."""
    found: dict[tuple[int, int], int] = {}
    step = max(1, MOST_PAIRS // max(1, len(second)))
    for start in range(0, len(first), step):
        shared = masks.overlaps(first[start : start + step], second)
        for row, column in np.argwhere(shared).tolist():
            found[start + row, column] = int(shared[row, column])
    return found


def hidden_by(count: int, pairs: Iterable[FrontPair]) -> list[list[int]]:
    """Return, of each of so many instances, the positions of those of which it hides a part."""
    hides: list[list[int]] = [[] for _ in range(count)]
    for front, back in pairs:
        hides[front].append(back)
    return hides


def disjoint_masks(rles: Sequence[RLE], pairs: Iterable[FrontPair]) -> list[RLE]:
    """Give every pixel to one of the instances that claim it: the one that comes first in `front_to_back`.

    Args:
        rles: N masks of one size, the best first.
        pairs: which of them is in front of which, see `front_pairs`.

    Returns:
        N masks that share no pixel; one may have none left.
    """
    rank = np.empty(len(rles), np.int64)
    rank[front_to_back(len(rles), pairs)] = np.arange(len(rles))
    over: list[list[RLE]] = [[] for _ in rles]
    for one, other in _shared_pixels(rles, rles):
        if rank[other] < rank[one]:
            over[one].append(rles[other])
    return [masks.difference(rle, masks.union(above)) if above else rle for rle, above in zip(rles, over, strict=True)]


def front_to_back(count: int, pairs: Iterable[FrontPair]) -> list[int]:
    """Sort instances so that each comes before those behind it, and otherwise the better one first.

    Predictions may lie over one another in a circle. Of all instances that can be reached from one another that way,
    the best is no longer behind any of the others, and so on with the rest of them.

    Args:
        count: number of instances, the best first.
        pairs: which of them is in front of which.
    """
    in_front = _without_cycles(count, np.array([*pairs], np.int64).reshape(-1, 2))
    sorter = TopologicalSorter({one: fronts.tolist() for one, fronts in enumerate(in_front)})
    sorter.prepare()
    ready: list[int] = []
    order: list[int] = []
    while sorter:
        for one in sorter.get_ready():
            heapq.heappush(ready, one)
        order.append(heapq.heappop(ready))
        sorter.done(order[-1])
    return order


def _without_cycles(count: int, pairs: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the instances in front of each, given (M, 2) pairs of front and back, such that there is no cycle."""
    front, back = pairs.T
    by_back = front[np.argsort(back, kind="stable")]
    in_front = np.split(by_back, np.cumsum(np.bincount(back, minlength=count)))[:count]
    groups = [(np.arange(count), coo_array((np.ones(len(pairs)), (front, back)), (count, count)).tocsr())]
    while groups:
        members, graph = groups.pop()
        _, labels = connected_components(graph, connection="strong")
        for label in np.flatnonzero(np.bincount(labels) > 1):
            cycle = np.flatnonzero(labels == label)
            best, rest = members[cycle[0]], cycle[1:]
            in_front[best] = np.setdiff1d(in_front[best], members[rest])
            groups.append((members[rest], graph[rest][:, rest]))
    return in_front
