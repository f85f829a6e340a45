"""Which annotations a training takes, and the reasons for which it leaves out the others."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bcnet_core.annotations import build
from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.annotations.instances import OMISSIONS, Omission, describe_omissions, find_omissions, survey_instances

IMAGE = {"id": 7, "file_name": "a.png", "width": 20, "height": 10}
SQUARE = [[2, 2, 8, 2, 8, 8, 2, 8]]
FULL = {"size": [10, 20], "counts": [0, 200]}


def annotation(**changes: Any) -> Record:
    record = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 2, 6, 6], "segmentation": SQUARE, **changes}
    return {key: value for key, value in record.items() if value is not ...}


CASES: list[tuple[Omission | None, Any]] = [
    (None, annotation()),
    (None, annotation(segmentation=FULL, iscrowd=0)),
    (None, annotation(bbox=[-5, -5, 5.1, 5.1])),
    (None, annotation(segmentation=[[2, 2, 3, 3], *SQUARE])),
    (None, annotation(bg_object_segmentation=[])),
    ("no_object", None),
    ("no_object", [1, 7]),
    ("no_id", annotation(id=...)),
    ("no_id", annotation(id="1", image_id="7")),
    ("no_id", annotation(id=True)),
    ("unlisted_image", annotation(image_id=8)),
    ("unlisted_image", annotation(image_id=7.0)),
    ("unlisted_image", annotation(image_id=[7])),
    ("unlisted_category", annotation(category_id=...)),
    ("unlisted_category", annotation(category_id="3")),
    ("no_box", annotation(bbox=...)),
    ("no_box", annotation(bbox=[])),
    ("no_box", annotation(bbox=[0, 0, math.nan, 4])),
    ("no_box", annotation(bbox="2268")),
    ("odd_flag", annotation(iscrowd=None)),
    ("odd_flag", annotation(iscrowd="0")),
    ("bad_mask", annotation(segmentation=[SQUARE])),
    ("bad_mask", annotation(segmentation=[[2, 2, 8, 2, 8, 8, 2]])),
    ("bad_mask", annotation(segmentation=[2, 2, 8, 2, 8, 8, 2, 8])),
    ("bad_mask", annotation(segmentation={"size": [20, 10], "counts": [0, 200]})),
    ("bad_mask", annotation(segmentation={"size": [10, 20], "counts": "?"}, iscrowd=1)),
    ("bad_occluder", annotation(bg_object_segmentation="?")),
    ("crowd", annotation(segmentation=FULL, iscrowd=1)),
    ("crowd", annotation(segmentation=[], iscrowd=True)),
    ("no_mask", annotation(segmentation=...)),
    ("no_mask", annotation(segmentation=[])),
    ("no_mask", annotation(segmentation={})),
    ("no_extent", annotation(bbox=[2, 2, 0, 6])),
    ("no_extent", annotation(bbox=[20, 2, 6, 6])),
    ("no_extent", annotation(bbox=[8, 8, -6, -6])),
    ("no_extent", annotation(bbox=[2, 2, 1e-9, 6])),
    ("no_extent", annotation(bbox=[19.999999, 2, 6, 6])),
    ("empty_mask", annotation(segmentation=[[2, 2, 8, 8]])),
    ("empty_mask", annotation(segmentation=[[30, 2, 38, 2, 38, 8, 30, 8]])),
    ("empty_mask", annotation(segmentation={"size": [10, 20], "counts": [200]})),
]


def coco_of(*records: Any, images: Sequence[Record] = (IMAGE,)) -> CocoFile:
    content = {"images": list(images), "categories": [{"id": 3, "name": "x"}], "annotations": list(records)}
    return CocoFile(Path("a.json"), content)


def write_cases(folder: Path) -> Path:
    """Write the image and a file with all cases, `coco.json`; return the folder."""
    Image.new("RGB", (20, 10)).save(folder / "a.png")
    (folder / "coco.json").write_text(json.dumps(coco_of(*(record for _, record in CASES)).content))
    return folder


@pytest.mark.parametrize(("reason", "record"), CASES, ids=range(len(CASES)))
def test_each_annotation_has_its_reason(reason: Omission | None, record: Any) -> None:
    assert find_omissions(coco_of(record)) == [reason]


def test_every_reason_is_among_the_cases() -> None:
    assert {reason for reason, _ in CASES} | {"bad_whole"} == {None, *OMISSIONS}


def test_a_stored_occluder_matters_only_if_it_is_read() -> None:
    assert find_omissions(coco_of(annotation(bg_object_segmentation="?")), reads_occluders=False) == [None]


@pytest.mark.parametrize(
    ("whole", "reason"),
    [
        (SQUARE, None),
        ([], None),
        (None, None),
        ([[2, 2, 8, 8]], None),
        ({"size": [10, 20], "counts": [200]}, None),
        ([[-50, 2, 300, 2, 300, 8, -50, 8]], None),
        ("?", "bad_whole"),
        ({"size": [20, 10], "counts": [0, 200]}, "bad_whole"),
        ([[2, 2, 8, 2, 8, 8, 2]], "bad_whole"),
    ],
)
def test_a_whole_mask_matters_only_if_it_is_read(whole: Any, reason: Omission | None) -> None:
    coco = coco_of(annotation(amodal_segmentation=whole))
    assert find_omissions(coco) == [None]
    assert find_omissions(coco, reads_wholes=True) == [reason]
    assert len(survey_instances(coco, reads_wholes=True).coco.annotations) == (reason is None)


def test_a_survey_sorts_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "CHUNK", 1)
    monkeypatch.setattr(build, "WORTH_A_WORKER", 1)
    images = [{**IMAGE, "id": number} for number in (7, 8, 9)]
    records = [
        annotation(id=1, image_id=9), None, annotation(id=2), annotation(id=3, bbox=[0, 0, 0, 0]),
        annotation(id="4"), annotation(id=5, segmentation="?"), annotation(id=6, image_id=9, iscrowd=1), {"id": None},
    ]  # fmt: skip
    coco = coco_of(*records, images=images)
    reasons = [None, "no_object", None, "no_extent", "no_id", "bad_mask", "crowd", "no_id"]
    assert find_omissions(coco) == find_omissions(coco, workers=2) == reasons
    survey = survey_instances(coco)
    assert [one["id"] for one in survey.coco.annotations] == [1, 2] and survey.coco.images == images
    assert list(survey.omitted.items()) == [
        ("no_object", ["annotations[1]"]), ("no_id", ["4", "annotations[7]"]), ("bad_mask", [5]), ("crowd", [6]),
        ("no_extent", [3]),
    ]  # fmt: skip
    assert survey.describe_unused() == ["not trained on: 1 of 3 images, which have no instance"]
    kept = survey_instances(coco, keep=["crowd", "no_extent"])
    assert [one["id"] for one in kept.coco.annotations] == [1, 2, 3, 6]
    assert kept.omitted.keys() == {"no_object", "no_id", "bad_mask"} and coco.annotations == records


def test_categories_without_an_instance_are_named() -> None:
    coco = coco_of(annotation())
    assert survey_instances(coco).describe_unused() == []
    coco.content["categories"] += [{"id": number, "name": f"c{number}"} for number in range(10, 17)]
    assert survey_instances(coco).describe_unused() == [
        "7 of 8 categories have no instance: c10, c11, c12, c13, c14, ..."
    ]


def test_a_description_counts_by_reason_and_shows_the_first_ids() -> None:
    omitted: dict[Omission, list[Any]] = {"crowd": [1] * 1200, "no_mask": [4, 2**70, [1] * 99, 5]}
    assert describe_omissions(omitted) == (
        f"1,200 flagged as crowds, 4 without a mask (ids 4, {2**70}, [1, 1, 1, 1, 1, 1, ...], ...)"
    )
    assert describe_omissions({"no_id": ["x" * 99]}) == f"1 without a whole number as `id` (id {'x' * 30})"
    everything: dict[Omission, list[Any]] = {one: [1] * (3 + i) for i, one in enumerate(OMISSIONS)}
    assert describe_omissions(everything) == (
        "12 flagged as crowds, 13 without a mask, 14 whose box has no extent in the image, 15 whose mask has no pixel, "
        "63 for other reasons"
    )
