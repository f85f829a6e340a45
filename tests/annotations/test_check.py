"""`check_occluders` on an exact file, on damaged ones, and on the official one."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcnet_core.annotations.build import annotate_coco
from bcnet_core.annotations.check import CheckSummary, check_occluders
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, read_coco
from bcnet_core.annotations.occluder import OccluderRule
from tests.annotations.conftest import CountingReporter

RULE = OccluderRule()
PARITY = Path(__file__).parents[1] / "parity"


def square(number: int, x: float) -> dict[str, Any]:
    outline = [[x, 0, x + 20, 0, x + 20, 20, x, 20]]
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": [x, 0, 20, 20], "segmentation": outline}


@pytest.fixture
def exact() -> CocoFile:
    """Two squares that share half of their pixels, and one apart."""
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}],
        "annotations": [square(7, 0), square(8, 10), square(9, 60)],
        "categories": [{"id": 1, "name": "x"}],
    }
    return CocoFile(Path("memory.json"), annotate_coco(CocoFile(Path("memory.json"), content), rule=RULE)[0])


def changed(coco: CocoFile, position: int, occluder: Any) -> CocoFile:
    content = copy.deepcopy(coco.content)
    content["annotations"][position][OCCLUDER_KEY] = occluder
    return CocoFile(coco.path, content)


def findings(coco: CocoFile, **rule: Any) -> dict[str, list[int]]:
    found = check_occluders(coco, rule=OccluderRule(**rule)).findings
    return {name: [one.annotation for one in those] for name, those in found.items()}


def test_an_exact_file_has_no_findings(exact: CocoFile) -> None:
    summary = check_occluders(exact, rule=RULE)
    assert (summary.images, summary.instances, summary.with_occluder) == (1, 3, 2)
    assert (summary.ious, summary.farthest, summary.findings) == ([1.0, 1.0], 0, {})
    assert summary.iou_figures() == {"mean": 1.0, "median": 1.0, "least": 1.0}


@pytest.mark.parametrize(
    ("occluder", "expected", "iou"),
    [
        ([], {"absent": [7]}, None),
        ([[10, 0, 10, 20]], {"absent": [7]}, None),
        ("text", {"unreadable": [7]}, None),
        ([[10, 0, 20, 20, float("nan"), 5]], {"unreadable": [7]}, None),
        ({"size": [3, 3], "counts": [0, 9]}, {"unreadable": [7]}, None),
        ([[10, 0, 21, 0, 21, 21, 10, 21]], {"inexact": [7]}, 200 / 231),  # a pixel too far, as official contours are
        ([[10, 0, 20, 0, 20, 22, 10, 22]], {"outside": [7]}, 200 / 220),
        ([[10, 0, 20, 0, 20, 10, 10, 10]], {"inexact": [7]}, 0.5),
    ],
)
def test_each_fault_is_found(exact: CocoFile, occluder: Any, expected: dict[str, list[int]], iou: float) -> None:
    coco = changed(exact, 0, occluder)
    assert findings(coco) == expected
    assert check_occluders(coco, rule=RULE).ious == pytest.approx([1.0] if iou is None else [iou, 1.0])


def test_other_rules_find_other_occluders(exact: CocoFile) -> None:
    assert findings(exact, min_area=300) == {"unexpected": [7, 8]}
    assert findings(changed(exact, 2, [[60, 0, 70, 0, 70, 9, 60, 9]])) == {"unexpected": [9]}
    del exact.annotations[1][OCCLUDER_KEY]
    assert findings(exact) == {"no key": [8]}


def rectangle(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


@pytest.fixture
def inside() -> CocoFile:
    """Two rectangles in the middle of an image that share the 400 pixels of (30, 20, 50, 40)."""
    boxes = [[30, 20, 30, 20], [20, 20, 30, 20]]
    annotations = [
        {
            "id": 7 + n,
            "image_id": 1,
            "category_id": 1,
            "bbox": [x, y, w, h],
            "segmentation": rectangle(x, y, x + w, y + h),
        }
        for n, (x, y, w, h) in enumerate(boxes)
    ]
    images = [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 70}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    return CocoFile(Path("memory.json"), annotate_coco(CocoFile(Path("memory.json"), content), rule=RULE)[0])


@pytest.mark.parametrize(
    ("corners", "beyond"),
    [
        ((30, 20, 50, 40), 0),
        ((29, 20, 50, 40), 1),
        ((28, 20, 50, 40), 2),
        ((30, 17, 50, 40), 3),
        ((30, 20, 64, 40), 4),
        ((30, 20, 50, 45), 5),
        ((25, 18, 66, 43), 6),
    ],
)
def test_the_distance_beyond_the_box_is_measured(inside: CocoFile, corners: tuple[int, ...], beyond: int) -> None:
    """The farthest of the four sides counts; one pixel is allowed."""
    x0, y0, x1, y1 = corners
    coco = changed(inside, 0, rectangle(*corners))
    summary = check_occluders(coco, rule=RULE)
    iou = 400 / ((x1 - x0) * (y1 - y0))
    assert summary.farthest == beyond and type(summary.farthest) is int
    assert summary.ious == pytest.approx([iou, 1.0])
    expected = ["outside"] * (beyond > 1) + ["inexact"] * (iou < 0.9)
    assert list(summary.findings) == expected


def test_an_occluder_can_have_two_findings(inside: CocoFile) -> None:
    coco = changed(inside, 0, rectangle(0, 0, 5, 5))
    assert findings(coco) == {"outside": [7], "inexact": [7]}
    summary = check_occluders(coco, rule=OccluderRule(min_iou=1))
    assert {name: [one.annotation for one in those] for name, those in summary.findings.items()} == {
        "outside": [7], "unexpected": [7, 8],
    }  # fmt: skip
    assert (summary.with_occluder, summary.ious, summary.farthest) == (2, [], 30)


def test_an_iou_of_nine_tenths_is_exact_enough(inside: CocoFile) -> None:
    assert findings(changed(inside, 0, rectangle(30, 20, 50, 38))) == {}
    assert findings(changed(inside, 0, rectangle(30, 20, 50, 37))) == {"inexact": [7]}


def test_without_an_occluder_there_are_no_figures(inside: CocoFile) -> None:
    summary = check_occluders(changed(changed(inside, 0, []), 1, []), rule=RULE)
    assert (summary.instances, summary.with_occluder, summary.ious, summary.farthest) == (2, 0, [], 0)
    assert summary.iou_figures() == {}
    assert findings(changed(changed(inside, 0, []), 1, []), min_iou=1) == {}


def test_a_file_without_annotations_has_no_findings(inside: CocoFile) -> None:
    summary = check_occluders(CocoFile(inside.path, {**inside.content, "annotations": []}), rule=RULE)
    assert summary == CheckSummary(1, 0, 0, [], 0, {})


def test_one_pixel_is_an_occluder(inside: CocoFile) -> None:
    summary = check_occluders(changed(inside, 0, rectangle(30, 20, 31, 21)), rule=RULE)
    assert (summary.with_occluder, summary.ious) == (2, [1 / 400, 1.0])


def test_occluders_deep_inside_their_boxes_have_distance_zero(inside: CocoFile) -> None:
    deep = rectangle(35, 25, 45, 35)
    assert check_occluders(changed(changed(inside, 0, deep), 1, deep), rule=RULE).farthest == 0


def test_iou_figures() -> None:
    figures = CheckSummary(1, 3, 3, [1.0, 0.5, 0.9], 0, {}).iou_figures()
    assert figures == {"mean": pytest.approx(0.8), "median": 0.9, "least": 0.5}


def test_findings_list_annotation_and_image_in_image_order(inside: CocoFile) -> None:
    """Also if the annotations of two images are interleaved and the images are in reverse order."""
    content = copy.deepcopy(inside.content)
    first, second = content["annotations"]
    third, fourth = (copy.deepcopy(one) | {"image_id": 2, "id": one["id"]} for one in (first, second))
    second[OCCLUDER_KEY], third[OCCLUDER_KEY] = "?", "?"
    del fourth[OCCLUDER_KEY]
    content["annotations"] = [third, first, fourth, second]
    content["images"].append({**content["images"][0], "id": 2})
    summary = check_occluders(CocoFile(inside.path, content), rule=RULE)
    assert summary.findings == {"no key": [(8, 2)], "unreadable": [(8, 1), (7, 2)]}
    assert list(summary.findings) == ["no key", "unreadable"]
    assert (summary.images, summary.instances, summary.with_occluder, summary.ious) == (2, 4, 1, [1.0])


def test_crowds_occlude_if_the_rule_says_so(inside: CocoFile) -> None:
    inside.annotations[1]["iscrowd"] = 1
    assert findings(inside) == {"unexpected": [7]}
    assert findings(inside, crowd=True) == {}


def test_progress_is_reported_in_images(inside: CocoFile) -> None:
    reporter = CountingReporter()
    check_occluders(inside, rule=RULE, reporter=reporter)
    assert (reporter.title, reporter.total, reporter.done) == ("images", 1, 1)


def test_the_official_file_has_the_measured_ious(coco_mini: Path) -> None:
    """The occluders that the official script wrote for val2017 have the IoUs recorded in tests/parity."""
    coco = read_coco(coco_mini / "annotations" / "instances_val2017.json")
    official = json.loads((PARITY / "official_annotate.json").read_text())["occluders"]
    content = copy.deepcopy(coco.content)
    for annotation in content["annotations"]:
        annotation[OCCLUDER_KEY] = official.get(str(annotation["id"]), [])
    summary = check_occluders(CocoFile(coco.path, content), rule=RULE)
    ious = np.array(summary.ious)
    assert len(ious) == summary.with_occluder == 326
    figures = (ious.mean(), np.median(ious), np.percentile(ious, 5), ious.min(), (ious < 0.9).mean())
    assert figures == pytest.approx((0.8627, 0.9137, 0.5942, 0.4364, 0.4601), abs=6e-5)
    assert {name: len(those) for name, those in summary.findings.items()} == {"inexact": 150}
    assert summary.farthest == 1
    everything = check_occluders(CocoFile(coco.path, content), rule=OccluderRule(min_area=0))
    assert len(everything.findings["absent"]) == 11
