"""Join what a detector found in the tiles of an image, and in the image as a whole, to the instances of the image.

Tiles that overlap show the same pixels: there the masks of one object agree, and those of two that touch do not, while
their boxes tell neither. The view of the whole image finds what is larger than a tile, and links the visible pieces of
an object whose middle is hidden.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from bcnet_core.evaluation.pieces import AGREE, Group, Piece, View
from bcnet_core.masks.order import FrontPair
from bcnet_core.structures import Instances

INSIDE = 0.7
"""Share of a fragment's pixels in another instance from which it is a part of that one."""
SURE = 0.5
"""Score that an instance needs to replace another, in scores of that one."""
CHUNK = 1024
"""Instances whose neighbours are looked up at once."""


def join(views: Sequence[View], *, stride: int) -> Instances:
    """Join the instances of the views of one image, of which one may be all of it.

    1. Pieces of a class in overlapping tiles are one object if their masks agree in the pixels that both tiles show:
       an IoU of `AGREE` or more, best pairs first, at most one piece of each tile.
    2. An instance of the whole image is the object that the groups in it are together, if its mask agrees with theirs
       and no two of them contradict each other: pieces on both sides of an occluder.
    3. Otherwise it is left out if the tiles found most of what it covers, unless it is larger than the stride.
    4. Duplicates are left out: instances that agree with a better one of other tiles, and fragments that lie in one.

    Args:
        views: of one image; their instances have the same maps.
        stride: distance of tiles, pixels; what is larger is cut by every tile.

    Returns:
        The instances, best first. The order of two is what the views say, weighted by the scores.
    """
    if len(views) == 1:
        return views[0].instances
    pieces = [
        Piece(view, number, index) for number, view in enumerate(views) for index in range(len(view.instances.scores))
    ]
    groups = [Group(members, stride) for members in _same([one for one in pieces if not one.is_overview])]
    groups = _with_overview(groups, [one for one in pieces if one.is_overview], stride)
    stands_for = _distinct(groups)
    kept = sorted(set(stands_for.values()), key=lambda group: -groups[group].score)
    places = {group: place for place, group in enumerate(kept)}
    position = {
        (piece.view, piece.index): places[stands_for[number]]
        for number, group in enumerate(groups)
        for piece in group.pieces
    }
    found, first = [groups[group] for group in kept], views[0].instances
    return Instances(
        np.array([group.box for group in found], np.float32).reshape(-1, 4),
        np.array([group.score for group in found], np.float32),
        np.array([group.label for group in found], np.int64),
        first.image_size,
        {name: [group.masks[name] for group in found] for name in first.masks},
        _pairs(views, position),
    )


def _same(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Group pieces of tiles that are of one object."""
    agreeing = []
    for first, second in _neighbours(pieces):
        one, other = pieces[first], pieces[second]
        agreement = one.agreement(other) if one.view != other.view else None
        if agreement is not None and agreement >= AGREE:
            agreeing.append((agreement * min(one.score, other.score), first, second))
    groups = {number: [number] for number in range(len(pieces))}
    group_of = list(range(len(pieces)))
    views = [{piece.view} for piece in pieces]
    for _, first, second in sorted(agreeing, key=lambda pair: -pair[0]):
        one_group, other_group = group_of[first], group_of[second]
        if one_group != other_group and views[one_group].isdisjoint(views[other_group]):
            views[one_group] |= views[other_group]
            for member in groups[other_group]:
                group_of[member] = one_group
            groups[one_group] += groups.pop(other_group)
    return [[pieces[member] for member in members] for members in groups.values()]


def _with_overview(groups: Sequence[Group], overview: Sequence[Piece], stride: int) -> list[Group]:
    """Return the groups of tiles with the instances of the whole image: merged with theirs, added, or left out."""
    meeting: dict[int, list[int]] = defaultdict(list)
    for group, number in _neighbours(groups, overview):
        meeting[number].append(group)
    merged: set[int] = set()
    added: list[Group] = []
    for number in sorted(range(len(overview)), key=lambda one: -overview[one].score):
        piece = overview[number]
        shared = {group: piece.visible.shared(groups[group].visible) for group in meeting[number]}
        same = _linked(piece, {group: pixels for group, pixels in shared.items() if group not in merged}, groups)
        if same:
            merged |= set(same)
            added.append(Group([piece, *(member for group in same for member in groups[group].pieces)], stride))
            continue
        found = sum(pixels for group, pixels in shared.items() if groups[group].score >= SURE * piece.score)
        if not found or found < AGREE * piece.visible.area or piece.longer_side > stride:
            added.append(Group([piece], stride))
    return [*(group for number, group in enumerate(groups) if number not in merged), *added]


def _linked(piece: Piece, shared: dict[int, int], groups: Sequence[Group]) -> list[int]:
    """Return the groups that are together what a piece of the whole image shows; none if its mask is another one."""
    inside = [
        group
        for group, pixels in sorted(shared.items(), key=lambda one: -one[1])
        if pixels and pixels >= INSIDE * groups[group].visible.area and piece.score >= SURE * groups[group].score
    ]
    chosen: list[int] = []
    for group in inside:
        if not any(groups[group].contradicts(groups[other]) for other in chosen):
            chosen.append(group)
    both = sum(shared[group] for group in chosen)
    either = piece.visible.area + sum(groups[group].visible.area for group in chosen) - both
    return chosen if both >= AGREE * either else []


def _distinct(groups: Sequence[Group]) -> dict[int, int]:
    """Return, for every group, the one that stands for it: itself, or the one of which it is a duplicate or a part."""
    sharing: dict[int, dict[int, int]] = defaultdict(dict)
    for one, other in _neighbours(groups):
        if groups[one].views.isdisjoint(groups[other].views):
            sharing[one][other] = sharing[other][one] = groups[one].visible.shared(groups[other].visible)
    areas, scores = [group.visible.area for group in groups], [group.score for group in groups]
    stands_for: dict[int, int] = {}
    for one in sorted(range(len(groups)), key=lambda one: -scores[one]):
        stands_for[one] = one
        for other, pixels in sharing[one].items():
            if stands_for.get(other) == other and pixels >= AGREE * (areas[one] + areas[other] - pixels):
                stands_for[one] = other
                break
    for one in sorted(range(len(groups)), key=lambda one: -areas[one]):
        if stands_for[one] == one and groups[one].is_fragment:
            for other, pixels in sharing[one].items():
                larger = stands_for[other] == other and areas[other] > areas[one]
                sure = groups[other].best_score >= SURE * groups[one].best_score
                if larger and sure and pixels >= INSIDE * areas[one]:
                    stands_for[one] = other
                    break
    return {one: stands_for[other] for one, other in stands_for.items()}  # a duplicate's best may be a fragment


def _pairs(views: Sequence[View], position: dict[tuple[int, int], int]) -> list[FrontPair] | None:
    """Return the order of the joined instances from those of the views; None if the views have none.

    Args:
        views: of the image.
        position: of the joined instance, by the position of the view and of its own instance.
    """
    votes: dict[tuple[int, int], float] = defaultdict(float)
    for number, (_, found) in enumerate(views):
        if found.order is None:
            return None
        for pair in found.order:
            front, back = (position.get((number, one), -1) for one in pair)
            if front != back and min(front, back) >= 0:
                votes[front, back] += float(found.scores[pair.front] * found.scores[pair.back])
    return sorted(
        FrontPair(front, back) for (front, back), weight in votes.items() if weight > votes.get((back, front), 0.0)
    )


def _neighbours(
    ones: Sequence[Piece] | Sequence[Group], others: Sequence[Piece] | None = None
) -> Iterator[tuple[int, int]]:
    """Yield the positions of two of one class whose extents meet: of one list, the lower first, or of one of each.

    Those without a pixel meet nothing.
    """
    known, labels, boxes = _extents(ones)
    tree = shapely.STRtree(boxes)
    known_others, other_labels, other_boxes = (known, labels, boxes) if others is None else _extents(others)
    for start in range(0, len(other_boxes), CHUNK):
        second, first = tree.query(other_boxes[start : start + CHUNK])
        second = second + start
        near = labels[first] == other_labels[second]
        if others is None:
            near &= first < second
        yield from zip(known[first[near]].tolist(), known_others[second[near]].tolist(), strict=True)


def _extents(
    ones: Sequence[Piece] | Sequence[Group],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.object_]]:
    """Return positions, labels and extents, as shapely's boxes, of those that have a pixel."""
    corners = np.array([one.extent for one in ones], np.float64).reshape(-1, 4)
    known = np.flatnonzero(corners[:, 2] > corners[:, 0])
    labels = np.array([one.label for one in ones], np.int64)[known]
    return known, labels, shapely.box(*corners[known].T)
