"""The survey of complete objects, and the reasons against others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile
from bcnet_core.synth.plan import FLAWS, Survey, survey

SIZE = (100, 120)
Mask = NDArray[np.bool_]


def block(y: int, x: int, height: int = 30, width: int = 30) -> Mask:
    mask = np.zeros(SIZE, dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def survey_of(*shown: Mask | None, crowd: tuple[int, ...] = (), min_area: int = 400) -> Survey:
    """Survey one image with these masks; the boxes are wrong on purpose, since masks decide."""
    annotations: list[dict[str, Any]] = [
        {
            "id": number, "image_id": 5, "category_id": 1, "bbox": [0, 0, 1, 1], "iscrowd": int(number in crowd),
            "segmentation": None if mask is None else masks.to_json(masks.encode(mask)),
        }
        for number, mask in enumerate(shown)
    ]  # fmt: skip
    content = {
        "images": [{"id": 5, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": annotations, "categories": [{"id": 1, "name": "x"}],
    }  # fmt: skip
    return survey(CocoFile(Path("memory.json"), content), min_area=min_area)


def flaws(found: Survey) -> dict[str, int]:
    return {flaw: count for flaw, count in found.flaws.items() if count}


def test_an_object_alone_is_complete() -> None:
    found = survey_of(block(20, 20))
    assert (found.complete, flaws(found)) == ([0], {})
    assert found.covered == [900 / 12_000]


@pytest.mark.parametrize(("gap", "complete"), [(0, []), (1, []), (2, [0, 1])])
def test_objects_that_touch_are_both_left_out(gap: int, complete: list[int]) -> None:
    found = survey_of(block(20, 20), block(20, 50 + gap))
    assert found.complete == complete
    assert flaws(found) == ({} if complete else {"touched": 2})


def test_a_crowd_or_a_small_object_can_hide_others() -> None:
    found = survey_of(block(20, 20), block(10, 51, 50, 10), block(60, 25, 4, 4), crowd=(1,))
    assert (found.complete, flaws(found)) == ([], {"touched": 1, "crowd": 1, "small": 1})
    below = survey_of(block(20, 20), block(50, 25, 4, 4))
    assert (below.complete, flaws(below)) == ([], {"touched": 1, "small": 1})


def test_boxes_may_overlap_if_the_masks_are_apart() -> None:
    corner = block(10, 10, 60, 60) & ~block(10, 30, 40, 40)
    found = survey_of(corner, block(12, 45, 30, 30))
    assert found.complete == [0, 1]


@pytest.mark.parametrize(("y", "x"), [(0, 20), (1, 20), (20, 1), (69, 20), (20, 89)])
def test_objects_at_the_border_are_left_out(y: int, x: int) -> None:
    assert flaws(survey_of(block(y, x))) == {"cropped": 1}
    inside = (min(max(y, 2), 68), min(max(x, 2), 88))
    assert survey_of(block(*inside)).complete == [0]


def test_objects_in_pieces_are_left_out_except_for_specks() -> None:
    assert flaws(survey_of(block(20, 20) | block(20, 60, 30, 4))) == {"pieces": 1}
    assert survey_of(block(20, 20) | block(20, 60, 2, 2)).complete == [0]
    ring = block(20, 20, 40, 40) & ~block(30, 30, 10, 10)
    assert survey_of(ring).complete == [0], "a hole is no cut"


def test_other_objects_are_counted_by_reason() -> None:
    found = survey_of(block(20, 20), None, block(60, 60, 19, 21), block(60, 60, 20, 20), np.zeros(SIZE, bool))
    assert (found.complete, flaws(found)) == ([0], {"unmasked": 2, "small": 1, "touched": 1})
    assert set(found.flaws) == set(FLAWS)
