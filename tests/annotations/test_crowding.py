"""Warnings of images with more objects than can be found."""

from __future__ import annotations

from pathlib import Path

import pytest

from bcnet_core.annotations.coco import CocoFile
from bcnet_core.annotations.crowding import report_crowding
from tests.conftest import Heard


def crowded(*counts: dict[int, int], crowds: int = 0) -> CocoFile:
    """An image for each table of counts by category id, the first with crowd regions too."""
    annotations = [
        {"image_id": image, "category_id": category}
        for image, table in enumerate(counts)
        for category, count in table.items()
        for _ in range(count)
    ]
    annotations += [{"image_id": 0, "category_id": 1, "iscrowd": 1}] * crowds
    return CocoFile(Path("gt.json"), {"images": [], "annotations": annotations, "categories": []})


def told(coco: CocoFile, *, kept: int | None = None, counted: int = 100) -> tuple[list[str], list[str]]:
    heard = Heard()
    said = report_crowding(coco, reporter=heard, kept=kept, counted=counted, way_out="set x={most}")
    assert said == bool(heard.infos or heard.warnings)
    return heard.warnings, heard.infos


def test_objects_beyond_what_scores_count_are_told() -> None:
    warnings, infos = told(crowded({1: 150}, {1: 120, 2: 30}, {2: 100}))
    assert not infos and warnings == [
        "`gt.json` has up to 150 objects in an image, but scores count the 100 best detections of each category in an "
        "image: 70 of 400 objects (17.5%) cannot be found; set x=150"
    ]


def test_objects_beyond_what_the_detector_keeps_are_told() -> None:
    warnings, infos = told(crowded({1: 60, 2: 60}, {1: 10}), kept=100)
    assert not infos and warnings == [
        "`gt.json` has up to 120 objects in an image, but the detector keeps 100 detections an image: 20 of 130 "
        "objects (15.4%) cannot be found; set x=120"
    ]
    assert "keeps 30" in told(crowded({1: 31}), kept=30)[0][0]
    assert "scores count the 100" in told(crowded({1: 150}), kept=200)[0][0]


def test_categories_that_share_an_image_but_no_limit_are_noted() -> None:
    warnings, infos = told(crowded({1: 60, 2: 60}))
    assert not warnings and infos == [
        "`gt.json` has up to 120 objects in an image, at most 60 of one category: scores count the 100 best detections "
        "of each category in an image, which is enough"
    ]


@pytest.mark.parametrize(
    ("coco", "kept", "counted"),
    [(crowded({1: 100}), 100, 100), (crowded({1: 150}), 150, 150), (crowded(), None, 100)],
)
def test_nothing_is_told_where_all_can_be_found(coco: CocoFile, kept: int | None, counted: int) -> None:
    assert told(coco, kept=kept, counted=counted) == ([], [])


def test_crowd_regions_are_no_objects() -> None:
    assert told(crowded({1: 100}, crowds=50)) == ([], [])
