"""Which images a split takes, what the manifest says, and what is refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bcnet_core import __version__
from bcnet_core.annotations.coco import CocoFile, read_coco
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.occlusion.split import SplitRule, read_ids, split_occluded
from bcnet_core.outputs import write_json

BOXES: dict[int, list[list[float]]] = {
    1: [[0, 0, 20, 20], [10, 0, 20, 20]],  # both overlap, IoU 1/3; of two classes
    2: [[0, 0, 20, 20], [10, 0, 20, 20], [40, 0, 10, 10]],  # the third is alone
    3: [[0, 0, 20, 20], [40, 0, 20, 20]],  # nobody overlaps
    4: [],
    5: [[0, 0, 20, 20]],
    6: [[0, 0, 20, 20], [0, 0, 10, 4]],  # IoU 0.1, but the second lies within the first
}


@pytest.fixture
def coco(tmp_path: Path) -> CocoFile:
    annotations: list[dict[str, Any]] = []
    for image, boxes in BOXES.items():
        for x, y, w, h in boxes:
            outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotations.append(
                {"id": 100 - len(annotations), "image_id": image, "bbox": [x, y, w, h]}
                | {"category_id": 2 if image == 1 and x else 1}
                | {"iscrowd": 0, "segmentation": outline}
            )
    crowd = {"id": 500, "image_id": 5, "category_id": 1, "bbox": [0, 0, 20, 20], "iscrowd": 1}
    annotations.append(crowd | {"segmentation": {"size": [50, 64], "counts": [0, 3200]}})
    images = [{"id": one, "file_name": f"{one}.jpg", "width": 64, "height": 50} for one in (6, 5, 4, 3, 2, 1)]
    content = {
        "info": {"a": 1}, "images": images, "annotations": annotations,
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}], "odd": 7,
    }  # fmt: skip
    path = tmp_path / "source.json"
    path.write_text(json.dumps(content))
    return read_coco(path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [2, 1]),
        ({"threshold": 1 / 3}, [2, 1]),
        ({"threshold": 0.34}, []),
        ({"threshold": 0.1}, [6, 2, 1]),
        ({"pairs": "all"}, [1]),
        ({"measure": "min"}, [6, 2, 1]),
        ({"measure": "min", "threshold": 0.6}, [6]),
        ({"measure": "mask", "threshold": 0.5}, [6, 2, 1]),
        ({"measure": "mask", "threshold": 0.6}, [6]),
        ({"measure": "mask", "threshold": 0.5, "pairs": "all"}, [1]),
        ({"crowd": True}, [5, 2, 1]),
        ({"crowd": True, "pairs": "all", "measure": "mask"}, [1]),  # the crowd is larger than what hides it
        ({"same_class": True}, [2]),
        ({"same_class": True, "measure": "mask"}, [6, 2]),
    ],
)
def test_which_images(coco: CocoFile, options: dict[str, Any], expected: list[int]) -> None:
    content, manifest = split_occluded(coco, rule=SplitRule(**options))
    assert [image["id"] for image in content["images"]] == manifest["image_ids"] == expected
    kept = [one for one in coco.annotations if one["image_id"] in expected]
    assert content["annotations"] == kept
    assert {**content, "images": 0, "annotations": 0} == {**coco.content, "images": 0, "annotations": 0}


def test_the_manifest(coco: CocoFile) -> None:
    manifest = split_occluded(coco, rule=SplitRule()).manifest
    assert manifest["bcnet"] == __version__
    assert manifest["source"] == {
        "file": "source.json",
        "sha256": hashlib.sha256(coco.path.read_bytes()).hexdigest(),
    }
    assert manifest["chosen_by"] == "rule"
    assert manifest["rule"] == {"threshold": 0.2, "measure": "iou", "pairs": "any", "same_class": False, "crowd": False}
    assert manifest["counts"] == {
        "split": {"images": 2, "annotations": 5, "instances": 5, "occluded": 4},
        "source": {"images": 6, "annotations": 11, "instances": 10, "occluded": 4},
    }
    histogram = manifest["histogram"]
    assert histogram["split"] == {
        "instances": [1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0], "images": [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0],
    }  # fmt: skip
    assert histogram["source"] == {
        "instances": [4, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0], "images": [3, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0],
    }  # fmt: skip
    assert manifest["levels"] == {
        "from": {"none": 0.0, "light": 0.05, "heavy": 0.2},
        "split": {
            "instances": {"none": 1, "light": 0, "heavy": 4}, "images": {"none": 0, "light": 0, "heavy": 2},
        },
        "source": {
            "instances": {"none": 4, "light": 2, "heavy": 4}, "images": {"none": 3, "light": 1, "heavy": 2},
        },
    }  # fmt: skip


def test_exactly_these_images(coco: CocoFile) -> None:
    content, manifest = split_occluded(coco, rule=SplitRule(), ids=[3, 5, 3])
    assert [image["id"] for image in content["images"]] == manifest["image_ids"] == [5, 3]
    assert manifest["chosen_by"] == "ids"
    with pytest.raises(BCNetError, match=r"2 of the 3 image ids are not in .*: 77, 99") as caught:
        split_occluded(coco, rule=SplitRule(), ids=[99, 3, 77])
    assert caught.value.exit_code == ExitCode.BAD_DATA


def test_same_input_same_bytes(coco: CocoFile, tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        write_json(tmp_path / name, split_occluded(read_coco(coco.path), rule=SplitRule())._asdict())
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    "wrong",
    [{"threshold": 0}, {"threshold": 1.1}, {"threshold": float("nan")}, {"measure": "giou"}, {"pairs": "some"}],
)
def test_senseless_rules_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BCNetError) as caught:
        SplitRule(**wrong)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ids.txt", "3\n1\n"),
        ("ids.txt", "3, 1"),
        ("ids.json", "[3, 1]"),
        ("m.manifest.json", '{"image_ids": [3, 1], "rule": {}}'),
        ("coco.json", '{"images": [{"id": 3}, {"id": 1}], "annotations": []}'),
    ],
)
def test_ids_are_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_ids(tmp_path / name) == [3, 1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ids.txt", ""),
        ("ids.txt", "1\ntwo"),
        ("ids.json", "{}"),
        ("ids.json", "[]"),
        ("ids.json", '[1, "2"]'),
        ("ids.json", "[true]"),
    ],
)
def test_other_files_are_no_ids(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BCNetError, match="id") as caught:
        read_ids(tmp_path / name)
    assert caught.value.exit_code == ExitCode.BAD_DATA


def test_negative_ids_are_ids(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("-7\n3")
    assert read_ids(tmp_path / "ids.txt") == [-7, 3]


def test_a_missing_list_of_ids(tmp_path: Path) -> None:
    with pytest.raises(BCNetError, match=r"none\.txt"):
        read_ids(tmp_path / "none.txt")


def test_real_images(coco_mini: Path) -> None:
    coco = read_coco(coco_mini / "annotations" / "instances_val2017.json")
    sizes = {measure: len(split_occluded(coco, rule=SplitRule(measure=measure)).content["images"])
             for measure in ("iou", "min", "mask")}  # fmt: skip
    assert sizes == {"iou": 34, "min": 67, "mask": 65}
