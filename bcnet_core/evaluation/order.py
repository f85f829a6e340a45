"""Order accuracy: of overlapping instances whose true order is known, how often the right one is found in front."""

from __future__ import annotations

import reprlib
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bcnet_core import masks
from bcnet_core.annotations.coco import AMODAL_KEY, FRONT_OF, Record
from bcnet_core.annotations.occluder import row_blocks
from bcnet_core.errors import data_error
from bcnet_core.masks import RLE
from bcnet_core.masks.order import FrontPair, front_pairs

LEAST_OVERLAP = 0.1
"""Two instances overlap if their whole masks share more than this part of the smaller one."""


class Order(NamedTuple):
    """Number of true pairs, of those of which both instances were found, and of those found in the true order."""

    pairs: int
    found: int
    right: int

    @property
    def accuracy(self) -> float:
        """Share of right pairs among all, in [0, 1]; -1 where there are none."""
        return self.right / self.pairs if self.pairs else -1.0

    @property
    def accuracy_found(self) -> float:
        """Share of right pairs among those found, in [0, 1]; -1 where there are none."""
        return self.right / self.found if self.found else -1.0


def true_pairs(
    annotations: Sequence[Record], visible: Sequence[RLE | None], wholes: Sequence[RLE | None]
) -> list[FrontPair]:
    """Return the pairs of instances of one image that overlap and whose order is known.

    The order of two instances is what `front_of` says of them; where it says nothing, what `front_pairs` finds in the
    masks.

    Args:
        annotations: N records.
        visible: N visible masks.
        wholes: N whole masks; an instance without one is in no pair.

    Raises:
        BCNetError: if a `front_of` is not a list of ids.
    """
    overlapping = list(_overlapping(wholes))
    if not overlapping:
        return []
    by_masks = set(front_pairs(visible, wholes))
    hides = [hidden_ids(one) for one in annotations]
    pairs = []
    for one, other in overlapping:
        both = FrontPair(one, other), FrontPair(other, one)
        listed = [pair for pair in both if annotations[pair.back]["id"] in hides[pair.front]]
        known = listed or [pair for pair in both if pair in by_masks]
        if len(known) == 1:
            pairs += known
    return pairs


def right_pairs(true: Sequence[FrontPair], predicted: Sequence[FrontPair]) -> list[bool]:
    """Return of each true pair whether it is predicted, and its reverse is not."""
    found = set(predicted)
    return [pair in found and FrontPair(pair.back, pair.front) not in found for pair in true]


def score_order(true: Sequence[FrontPair], matches: Mapping[int, int], detections: Sequence[Record]) -> Order:
    """Compare the true order of instances of one image with that of the detections that they are matched to.

    Args:
        true: pairs of positions of annotations.
        matches: position of the detection of each annotation that has one.
        detections: results of the image in the order of the file. Their order is what `hides` says; where a result
            lacks the key, what `front_pairs` finds in their masks.
    """
    found = [FrontPair(*map(matches.__getitem__, pair)) for pair in true if matches.keys() >= set(pair)]
    positions = sorted({position for pair in found for position in pair})
    chosen = [detections[position] for position in positions]
    if all("hides" in one for one in chosen):
        predicted = [FrontPair(front, back) for front in positions for back in detections[front]["hides"]]
    else:
        pairs = front_pairs([one.get("segmentation") for one in chosen], [one[AMODAL_KEY] for one in chosen])
        predicted = [FrontPair(positions[front], positions[back]) for front, back in pairs]
    return Order(len(true), len(found), sum(right_pairs(found, predicted)))


def keep_categories(results: Sequence[Record], categories: Container[int]) -> list[Record]:
    """Return the results of some categories; the positions in `hides` become those among the results that are kept."""
    places, counts = defaultdict[int, list[int | None]](list), Counter[int]()
    for one in results:
        image, keeps = one["image_id"], one["category_id"] in categories
        places[image].append(counts[image] if keeps else None)
        counts[image] += keeps
    kept = []
    for one in results:
        if one["category_id"] in categories:
            moved = [places[one["image_id"]][place] for place in one.get("hides", [])]
            hides = {"hides": [place for place in moved if place is not None]} if "hides" in one else {}
            kept.append({**one, **hides})
    return kept


def _overlapping(wholes: Sequence[RLE | None]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of positions whose masks share more than `LEAST_OVERLAP` of the smaller one."""
    places, rles = [], []
    for place, whole in enumerate(wholes):
        if whole is not None:
            places.append(place)
            rles.append(whole)
    areas = np.array([masks.area(rle) for rle in rles])
    for rows in row_blocks(len(rles)):
        enough = masks.overlaps(rles[rows], rles) > LEAST_OVERLAP * np.minimum(areas[rows, None], areas)
        for row, column in np.argwhere(np.triu(enough, 1 + rows.start)).tolist():
            yield places[rows.start + row], places[column]


def hidden_ids(annotation: Record) -> set[int]:
    """Return the ids of the instances that an annotation says to hide a part of.

    Raises:
        BCNetError: if its `front_of` is not a list of ids.
    """
    ids = annotation.get(FRONT_OF, [])
    if not isinstance(ids, list) or any(type(one) is not int for one in ids):
        raise data_error(
            f"annotation {annotation['id']}: its `{FRONT_OF}` is {reprlib.repr(ids)}, not a list of annotation ids",
            "without the key the order follows from the masks",
        )
    return set(ids)
