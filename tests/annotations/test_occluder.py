"""The occluder rule against a dense reference, its symmetries, and the official numbers."""

import json
import tracemalloc
from collections.abc import Iterable
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations import occluder
from bcnet_core.annotations.coco import Record, read_coco, segmentation_rle
from bcnet_core.annotations.occluder import (
    OccluderRule,
    box_intersections,
    box_iou,
    derive_occluders,
    pixel_corners,
    record_boxes,
    row_blocks,
)
from bcnet_core.errors import BCNetError, ExitCode
from tests.annotations.conftest import DenseOccluders
from tests.conftest import examples

EXACT_AREAS = Path(__file__).parents[1] / "parity" / "exact_occluder_areas.json"
H, W = 13, 17


def records(boxes: NDArray[np.float64], crowd: Iterable[bool] = repeat(False)) -> list[Record]:
    return [{"bbox": box, "iscrowd": int(one)} for box, one in zip(boxes.tolist(), crowd, strict=False)]


class Scene(NamedTuple):
    dense: list[NDArray[np.bool_] | None]
    boxes: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    rule: OccluderRule

    def derive(self) -> list[NDArray[np.bool_] | None]:
        rles = [None if mask is None else masks.encode(mask) for mask in self.dense]
        found = derive_occluders(records(self.boxes, self.crowd), rles, H, W, rule=self.rule)
        return [None if rle is None else masks.decode(rle) for rle in found]


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    count = draw(st.integers(0, 6))
    quarters = st.integers(-12, 4 * W + 8).map(lambda value: value / 4)
    boxes, dense = [], []
    for _ in range(count):
        x, y = draw(quarters), draw(quarters)
        w, h = (draw(st.integers(0, 4 * H)) / 4 for _ in range(2))
        boxes.append([x, y, w, h])
        mask = np.zeros((H, W), dtype=bool)
        mask[max(int(y), 0) : max(int(y + h), 0), max(int(x), 0) : max(int(x + w), 0)] = True
        mask &= np.random.default_rng(draw(st.integers(0, 99))).random((H, W)) < 0.7
        dense.append(draw(st.sampled_from([mask, mask, mask, None])))
    crowd = np.array([draw(st.booleans()) and draw(st.booleans()) for _ in range(count)], dtype=bool)
    rule = OccluderRule(
        min_iou=draw(st.sampled_from([0, 0.05, 0.3])), min_area=draw(st.integers(0, 20)), crowd=draw(st.booleans())
    )
    return Scene(dense, np.array(boxes, dtype=np.float64).reshape(-1, 4), crowd, rule)


def same(left: NDArray[np.bool_] | None, right: NDArray[np.bool_] | None) -> bool:
    return left is right if left is None or right is None else bool((left == right).all())


@examples(300)
@given(scenes())
def test_equals_the_dense_reference(dense_occluders: DenseOccluders, scene: Scene) -> None:
    expected = dense_occluders(scene.dense, scene.boxes.tolist(), scene.crowd.tolist(), scene.rule, (H, W))
    assert all(map(same, scene.derive(), expected))


@examples(100)
@given(scenes(), st.randoms(use_true_random=False))
def test_the_order_of_instances_does_not_matter(scene: Scene, random: object) -> None:
    order = list(range(len(scene.dense)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = Scene([scene.dense[i] for i in order], scene.boxes[order], scene.crowd[order], scene.rule)
    found = scene.derive()
    assert all(map(same, shuffled.derive(), [found[i] for i in order]))


@examples(100)
@given(scenes())
def test_box_iou_is_symmetric(scene: Scene) -> None:
    iou = box_iou(scene.boxes, pixel=1.0)
    assert (iou == iou.T).all()
    assert ((iou >= 0) & (iou <= 1)).all()


def two_squares(**rule: object) -> Scene:
    """Two squares of 8 x 8 that share 4 x 8 pixels; the second one is a crowd."""
    left, right = np.zeros((H, W), dtype=bool), np.zeros((H, W), dtype=bool)
    left[2:10, 0:8] = right[2:10, 4:12] = True
    boxes = np.array([[0.0, 2, 8, 8], [4, 2, 8, 8]])
    return Scene([left, right], boxes, np.array([False, True]), OccluderRule(**rule))  # type: ignore[arg-type]


def test_a_crowd_is_occluded_but_occludes_only_if_the_rule_says_so() -> None:
    first, second = two_squares().derive()
    assert first is None
    assert second is not None
    assert second.sum() == 32
    first, second = two_squares(crowd=True).derive()
    assert first is not None
    assert (first == second).all()  # type: ignore[union-attr]


@pytest.mark.parametrize(("min_area", "kept"), [(31, True), (32, False)])
def test_a_region_must_exceed_min_area(min_area: int, kept: bool) -> None:
    assert (two_squares(min_area=min_area).derive()[1] is not None) == kept


def test_boxes_must_exceed_min_iou() -> None:
    scene = two_squares()
    iou = float(box_iou(scene.boxes, pixel=1.0)[0, 1])
    assert iou == 45 / (81 + 81 - 45)
    assert two_squares(min_iou=iou).derive()[1] is None
    assert two_squares(min_iou=iou - 1e-9).derive()[1] is not None


def test_negative_corners_are_clipped() -> None:
    scene = two_squares(crowd=True)
    boxes = np.add(scene.boxes, [[-0.5, 0, 0.5, 0], [0, 0, 0, 0]])
    assert scene._replace(boxes=boxes).derive()[0].sum() == 32  # type: ignore[union-attr]


def test_no_instances() -> None:
    assert derive_occluders([], [], H, W) == []


def test_boxes_without_area_overlap_nothing() -> None:
    boxes = np.array([[3.0, 3, 0, 0], [3, 3, -5, 4], [3, 3, -1, -1]])
    assert box_iou(boxes).tolist() == np.zeros((3, 3)).tolist()
    assert derive_occluders(records(boxes), [None] * 3, H, W) == [None] * 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_iou": -0.1}, "the smallest box IoU is a number from 0 to 1, not -0.1"),
        ({"min_iou": 1.5}, "the smallest box IoU is a number from 0 to 1, not 1.5"),
        ({"min_iou": float("nan")}, "the smallest box IoU is a number from 0 to 1, not nan"),
        ({"min_area": -1}, "the smallest area is 0 pixels or more, not -1"),
        ({"pixel": -1}, "boxes are counted larger by 0 to 1 pixel, not by -1"),
        ({"pixel": 2}, "boxes are counted larger by 0 to 1 pixel, not by 2"),
    ],
)
def test_invalid_rules_are_errors(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(BCNetError) as caught:
        OccluderRule(**wrong)  # type: ignore[arg-type]
    assert (caught.value.message, caught.value.exit_code) == (message, ExitCode.USAGE)


def test_the_limits_of_a_rule_are_allowed() -> None:
    assert OccluderRule(min_iou=0, min_area=0, pixel=0) != OccluderRule(min_iou=1, pixel=1)


def test_the_rule_is_the_official_one_by_default() -> None:
    assert OccluderRule() == OccluderRule(min_iou=0.05, min_area=20, crowd=False, pixel=1.0)
    scene = two_squares()
    rles = [None if mask is None else masks.encode(mask) for mask in scene.dense]
    pair = records(scene.boxes, scene.crowd)
    found = derive_occluders(pair, rles, H, W)
    assert [None if region is None else masks.area(region) for region in found] == [None, 32]
    del pair[1]["iscrowd"]
    assert [region is not None for region in derive_occluders(pair, rles, H, W)] == [True, True]
    assert derive_occluders(pair, rles, H, W, rule=OccluderRule(min_area=32)) == [None, None]


def test_integer_boxes_become_floats() -> None:
    for some in ([], [{"bbox": [1, 2, 3, 4]}], [{"bbox": [1, 2, 3, 4]}, {"bbox": [0.5, 2, 3, 4]}]):
        boxes = record_boxes(some)
        assert boxes.dtype == np.float64 and boxes.shape == (len(some), 4)
        assert boxes.tolist() == [record["bbox"] for record in some]


def test_touching_boxes_overlap_by_the_added_pixel() -> None:
    boxes = np.array([[0.0, 0, 4, 4], [4, 0, 4, 4], [5, 5, 4, 4]])
    assert box_intersections(boxes)[0].tolist() == [[16, 0, 0], [0, 16, 0], [0, 0, 16]]
    shared, areas = box_intersections(boxes, pixel=1.0)
    assert shared.tolist() == [[25, 5, 0], [5, 25, 0], [0, 0, 25]]
    assert areas.tolist() == [25, 25, 25]
    assert box_iou(boxes)[0].tolist() == [1, 0, 0]
    assert box_iou(boxes, pixel=1.0)[0].tolist() == [1, 5 / 45, 0]


def test_pixel_corners_are_truncated_and_clipped() -> None:
    boxes = np.array([[1.9, 2.9, 3.2, 4.0], [-3, -2, 5, 1], [10, 9, 99, 99]])
    assert pixel_corners(boxes, H, W) == [(1, 2, 5, 6), (0, 0, 2, 0), (10, 9, W, H)]


def test_every_region_of_real_images_has_the_official_area(coco_mini: Path) -> None:
    expected: dict[str, int] = json.loads(EXACT_AREAS.read_text())
    coco = read_coco(coco_mini / "annotations" / "instances_val2017.json")
    annotations = coco.annotations_by_image()
    found: dict[str, int] = {}
    for image in coco.images:
        instances = annotations[image["id"]]
        rles = [segmentation_rle(instance, image) for instance in instances]
        rule = OccluderRule(min_area=0)
        regions = derive_occluders(instances, rles, image["height"], image["width"], rule=rule)
        for instance, region in zip(instances, regions, strict=True):
            found[str(instance["id"])] = 0 if region is None else masks.area(region)
    assert len(expected) == 624
    assert found == expected


def crowd(count: int) -> NDArray[np.float64]:
    """Return boxes of one image that each overlap a few others."""
    corners = np.random.default_rng(1).integers(0, 40 * int(count**0.5), (count, 2))
    return np.concatenate([corners, np.full((count, 2), 50)], axis=1).astype(np.float64)


def test_blocks_of_pairs_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = crowd(60)
    rles = [masks.from_box(*corners, 400, 400) for corners in pixel_corners(boxes, 400, 400)]
    at_once = derive_occluders(records(boxes), rles, 400, 400)
    monkeypatch.setattr(occluder, "MOST_PAIRS", 7 * 60)
    assert [(rows.start, rows.stop) for rows in row_blocks(60)][:2] == [(0, 7), (7, 14)]
    assert [index for rows in row_blocks(60) for index in range(60)[rows]] == list(range(60))
    assert derive_occluders(records(boxes), rles, 400, 400) == at_once
    assert sum(rle is not None for rle in at_once) > 30
    assert list(row_blocks(0)) == []


def test_an_image_of_thousands_of_instances_fits_in_memory() -> None:
    """All pairs of 6,000 boxes at once would take 1.4 GB."""
    boxes = crowd(6000)
    tracemalloc.start()
    try:
        regions = derive_occluders(records(boxes), [None] * 6000, 4000, 4000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert regions == [None] * 6000
    assert peak < 100e6
