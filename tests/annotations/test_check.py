"""What a check says of a bilayer file: of an exact one, of a damaged one, and of the official one."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcnet_core.annotations.build import annotate_coco
from bcnet_core.annotations.check import check_occluders
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, read_coco
from bcnet_core.annotations.occluder import OccluderRule

RULE = OccluderRule()
PARITY = Path(__file__).parents[1] / "parity"


def square(number: int, x: float) -> dict[str, Any]:
    outline = [[x, 0, x + 20, 0, x + 20, 20, x, 20]]
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": [x, 0, 20, 20], "segmentation": outline}


@pytest.fixture
def exact() -> CocoFile:
    """Two squares that share half of their pixels, and one alone."""
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


def test_an_exact_file_has_nothing_wrong(exact: CocoFile) -> None:
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
def test_what_is_wrong_is_named(exact: CocoFile, occluder: Any, expected: dict[str, list[int]], iou: float) -> None:
    coco = changed(exact, 0, occluder)
    assert findings(coco) == expected
    assert check_occluders(coco, rule=RULE).ious == pytest.approx([1.0] if iou is None else [iou, 1.0])


def test_other_rules_find_other_occluders(exact: CocoFile) -> None:
    assert findings(exact, min_area=300) == {"unexpected": [7, 8]}
    assert findings(changed(exact, 2, [[60, 0, 70, 0, 70, 9, 60, 9]])) == {"unexpected": [9]}
    del exact.annotations[1][OCCLUDER_KEY]
    assert findings(exact) == {"no key": [8]}


def test_the_official_file_is_as_far_off_as_was_measured(coco_mini: Path) -> None:
    """Its occluders, as the official script wrote them for val2017, have the IoU that tests/parity says."""
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
