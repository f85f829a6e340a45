"""Whole masks as they are read, what is counted of them, and who is in front, against dense masks."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bcnet_core import BCNetError, masks
from bcnet_core.annotations.amodal import WholeCounts, add_counts, count_wholes, lacks, whole_masks
from bcnet_core.annotations.occluder import hiding_regions, occluder_regions
from bcnet_core.masks.order import NOISE, front_pairs

IMAGE = {"id": 7, "height": 20, "width": 30}
SEEN = (4, 4, 10, 10)


def box(x0: int, y0: int, x1: int, y1: int) -> masks.RLE:
    return masks.from_box(x0, y0, x1, y1, IMAGE["height"], IMAGE["width"])


def polygon(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def record(number: int, **extra: Any) -> dict[str, Any]:
    return {"id": number, "bbox": [4, 4, 6, 6], **extra}


KINDS: list[tuple[Any, tuple[int, int, int, int] | None]] = [
    (polygon(4, 4, 14, 10), (4, 4, 14, 10)),
    (masks.to_json(box(4, 4, 14, 10)), (4, 4, 14, 10)),
    (polygon(4, 4, 50, 10), (4, 4, 30, 10)),  # ends at the border
    (polygon(-20, -30, 10, 10), (0, 0, 10, 10)),
    (polygon(4, 4, 10, 8), SEEN),  # lacks the last two rows
    (None, None),
    ([], None),
    (polygon(4, 4, 4, 10), None),
    (polygon(40, 4, 50, 10), None),  # beside the image
    ({"size": [20, 30], "counts": [600]}, None),
]


@pytest.mark.parametrize(("stored", "expected"), KINDS)
def test_a_whole_mask_ends_at_the_border_and_holds_the_visible_one(stored: Any, expected: Any) -> None:
    (whole,) = whole_masks([record(1, amodal_segmentation=stored)], [box(*SEEN)], IMAGE)
    assert whole == (None if expected is None else box(*expected))


def test_a_whole_mask_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(BCNetError, match=r"annotation 3 .*`amodal_segmentation` cannot be read"):
        whole_masks([record(3, amodal_segmentation="?")], [box(*SEEN)], IMAGE)


def test_every_kind_is_counted() -> None:
    records = [record(n, amodal_segmentation=stored) for n, (stored, _) in enumerate(KINDS)] + [record(99)]
    visible: list[masks.RLE | None] = [box(*SEEN)] * len(records)
    counts = count_wholes(records, visible, whole_masks(records, visible, IMAGE), IMAGE)
    assert counts == WholeCounts(instances=11, stored=5, complete=0, empty=5, united=1, hiding=0)
    assert counts.describe() == (
        "whole masks: 5 of 11 instances; the others train their visible part alone; 5 have no pixel and count as "
        "unknown; 1 lack a part of the visible mask and are united with it; 0 instances hide a part of another"
    )
    assert add_counts([counts, counts]).united == 2
    assert add_counts([]) == WholeCounts()


def test_what_hides_others_and_what_is_complete_is_counted() -> None:
    records = [record(1, amodal_segmentation=polygon(4, 4, 14, 10)), record(2), record(3)]
    visible = [box(*SEEN), box(10, 2, 16, 12), box(20, 2, 24, 12)]
    wholes = whole_masks(records, visible, IMAGE)
    counts = count_wholes(records, visible, [*wholes[:2], visible[2]], IMAGE)
    assert counts == WholeCounts(instances=3, stored=1, complete=1, hiding=1) and counts.known == 2
    assert "2 of 3 instances; 1 of them are visible masks that only pasted objects hide" in counts.describe()
    assert counts.describe().endswith("1 instances hide a part of another")
    every = WholeCounts(instances=1200, stored=1200, hiding=3)
    assert every.describe() == "whole masks: all 1,200 instances; 3 instances hide a part of another"


def test_a_seam_is_no_lack() -> None:
    full = box(0, 0, 10, 10)
    assert not lacks(full, full) and not lacks(box(0, 0, 30, 20), full)
    assert not lacks(masks.intersection(full, masks.complement(box(0, 0, 2, 1))), full)
    assert lacks(box(0, 0, 10, 9), full)


def layered(rng: np.random.Generator, count: int = 6) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the visible and the whole (count, 40, 60) masks of ellipses, the last on top; each has a visible pixel."""
    rows, columns = np.mgrid[:40, :60]
    while True:
        centers, radii = rng.uniform((0, 0), (40, 60), (count, 2)), rng.uniform(5, 16, (count, 2))
        whole = np.stack([
            ((rows - y) / b) ** 2 + ((columns - x) / a) ** 2 <= 1 for (y, x), (b, a) in zip(centers, radii, strict=True)
        ])  # fmt: skip
        visible = np.stack([mask & ~whole[number + 1 :].any(0) for number, mask in enumerate(whole)])
        if visible.any((1, 2)).all():
            return visible, whole


@pytest.mark.parametrize("seed", range(12))
def test_who_is_in_front_is_what_dense_masks_say(seed: int) -> None:
    """Where a whole mask is unknown the instance still hides others, but nothing is known to hide it."""
    rng = np.random.default_rng(seed)
    visible, whole = layered(rng)
    known = rng.random(len(whole)) < 0.7
    rles = [masks.encode(mask) for mask in visible]
    wholes = [masks.encode(mask) if one else None for mask, one in zip(whole, known, strict=True)]
    hidden = whole & ~visible & known[:, None, None]
    expected = {
        (front, back) for front in range(6) for back in range(6) if (visible[front] & hidden[back]).any()
    }  # fmt: skip
    assert all(front > back for front, back in expected)
    assert {tuple(pair) for pair in front_pairs(rles, wholes, least=0)} == expected
    for index, region in enumerate(hiding_regions(rles, wholes, 40, 60)):
        least = NOISE * whole[index].sum()
        fronts = [
            front for front, back in expected if back == index and (visible[front] & hidden[back]).sum() > least
        ]  # fmt: skip
        rows, columns = whole[index].any(1).nonzero()[0], whole[index].any(0).nonzero()[0]
        inside = np.zeros((40, 60), bool)
        inside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        over = visible[fronts].any(0) & inside
        assert (region is not None) == (over.sum() > 20)
        assert region is None or (masks.decode(region) == over).all()


def test_an_instance_without_a_whole_mask_occludes_one_that_has_it() -> None:
    back, front = record(1), record(2, bbox=[10, 2, 6, 10])
    visible, wholes = [box(*SEEN), box(10, 2, 16, 12)], [box(4, 4, 14, 10), None]
    regions = occluder_regions([back, front], visible, IMAGE, wholes=wholes)
    assert regions[0] == box(10, 4, 14, 10)
