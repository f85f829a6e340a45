"""The images of an occluded split, its manifest, lists of ids, and errors."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bcnet_core import __version__
from bcnet_core.annotations.coco import CocoFile, read_coco
from bcnet_core.annotations.split import SplitRule, measure_images, occluded_image_ids, read_ids, split_occluded
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.files.json_files import write_json

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
def test_each_rule_takes_its_images(coco: CocoFile, options: dict[str, Any], expected: list[int]) -> None:
    content, manifest = split_occluded(coco, rule=SplitRule(**options))
    assert [image["id"] for image in content["images"]] == manifest["image_ids"] == expected
    kept = [one for one in coco.annotations if one["image_id"] in expected]
    assert content["annotations"] == kept
    assert {**content, "images": 0, "annotations": 0} == {**coco.content, "images": 0, "annotations": 0}
    rule = SplitRule(**options)
    rates = measure_images(coco, measure=rule.measure, same_class=rule.same_class, crowd=rule.crowd)
    assert occluded_image_ids(rates, rule=rule) == expected


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
    assert histogram["edges"] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
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


def test_ids_override_the_rule(coco: CocoFile) -> None:
    content, manifest = split_occluded(coco, rule=SplitRule(), ids=[3, 5, 3])
    assert [image["id"] for image in content["images"]] == manifest["image_ids"] == [5, 3]
    assert manifest["chosen_by"] == "ids"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([99, 3, 77], "2 of the 3 image ids are not in `{}`: 77, 99"),
        (range(1, 12), "5 of the 11 image ids are not in `{}`: 7, 8, 9, 10, 11"),
        (range(1, 13), "6 of the 12 image ids are not in `{}`: 7, 8, 9, 10, 11, ..."),
        (range(6, 1507), "1,500 of the 1,501 image ids are not in `{}`: 7, 8, 9, 10, 11, ..."),
    ],
)
def test_unknown_ids_are_listed(coco: CocoFile, ids: list[int], message: str) -> None:
    with pytest.raises(BCNetError) as caught:
        split_occluded(coco, rule=SplitRule(), ids=ids)
    assert caught.value.message == message.format(coco.path)
    assert caught.value.hints == ("is this the list of another file (train2017, val2017)?",)
    assert caught.value.exit_code == ExitCode.BAD_DATA


def test_the_same_input_gives_the_same_bytes(coco: CocoFile, tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        write_json(tmp_path / name, split_occluded(read_coco(coco.path), rule=SplitRule())._asdict())
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("wrong", "message", "hints"),
    [
        ({"threshold": 0}, "the occlusion threshold is above 0 and at most 1, not 0", ()),
        ({"threshold": 1.1}, "the occlusion threshold is above 0 and at most 1, not 1.1", ()),
        ({"threshold": float("nan")}, "the occlusion threshold is above 0 and at most 1, not nan", ()),
        ({"measure": "giou"}, "no measure is called `giou`", ("measures: iou · min · mask",)),
        ({"pairs": "some"}, "pairs cannot be `some`", ("pairs: any · all",)),
    ],
)
def test_invalid_rules_are_errors(wrong: dict[str, Any], message: str, hints: tuple[str, ...]) -> None:
    with pytest.raises(BCNetError) as caught:
        SplitRule(**wrong)
    assert (caught.value.message, caught.value.hints) == (message, hints)
    assert caught.value.exit_code == ExitCode.USAGE


def test_an_instance_at_the_threshold_is_occluded(coco: CocoFile) -> None:
    for threshold, occluded in ((0.1, 6), (0.2, 4), (1 / 3, 4), (0.34, 0)):
        counts = split_occluded(coco, rule=SplitRule(threshold=threshold)).manifest["counts"]
        assert counts["source"]["occluded"] == counts["split"]["occluded"] == occluded


def test_the_largest_threshold_is_one(coco: CocoFile) -> None:
    assert split_occluded(coco, rule=SplitRule(threshold=1, measure="min")).manifest["image_ids"] == [6]


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


def test_ids_are_read_from_gzip_and_after_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "ids.json.gz").write_bytes(gzip.compress(b"[3, 1]"))
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbf3 1")
    assert read_ids(tmp_path / "ids.json.gz") == read_ids(tmp_path / "ids.txt") == [3, 1]


NUMBERS = ("one whole number a line",)
LISTS = ("it can be a list of numbers, a manifest, or a COCO file with `images`",)


@pytest.mark.parametrize(
    ("name", "data", "message", "hints"),
    [
        ("ids.txt", b"", "`{}` holds no image ids", NUMBERS),
        ("ids.txt", b"1\ntwo three", "`{}` holds 'two' where an image id should be", NUMBERS),
        ("ids.txt", b"1\n--2", "`{}` holds '--2' where an image id should be", NUMBERS),
        ("ids.txt", "3\n²".encode(), "`{}` holds '²' where an image id should be", NUMBERS),
        ("ids.txt", b"9" * 20, "`{}` holds '" + "9" * 20 + "' where an image id should be", NUMBERS),
        ("ids.txt", b"\xff", "cannot read the image ids in `{}`: it is not UTF-8 text", NUMBERS),
        ("none.txt", None, "`{}` does not exist or is not a file", ("give a list of image ids: --ids FILE",)),
        ("ids.json", b"{}", "`{}` holds no image ids", LISTS),
        ("ids.json", b"[]", "`{}` holds no image ids", LISTS),
        ("ids.json", b'[1, "2"]', "`{}` holds no image ids", LISTS),
        ("ids.json", b"[true]", "`{}` holds no image ids", LISTS),
        ("ids.json", b'{"images": [{"id": 1}, 2]}', "`{}` holds no image ids", LISTS),
        ("ids.json", b'{"images": 7}', "`{}` holds no image ids", LISTS),
    ],
)
def test_a_file_without_ids_is_an_error(
    tmp_path: Path, name: str, data: bytes | None, message: str, hints: tuple[str, ...]
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(BCNetError) as caught:
        read_ids(tmp_path / name)
    assert (caught.value.message, caught.value.hints) == (message.format(tmp_path / name), hints)
    assert caught.value.exit_code == ExitCode.BAD_DATA


def test_an_unreadable_list_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "ids.txt").write_text("3")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BCNetError) as caught:
        read_ids(tmp_path / "ids.txt")
    assert caught.value.message == f"cannot read the image ids in `{tmp_path / 'ids.txt'}`: Permission denied"


def test_ids_are_integers_with_an_optional_sign(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("-7\n3 " + "9" * 19)
    assert read_ids(tmp_path / "ids.txt") == [-7, 3, 10**19 - 1]


def test_crowds_and_classes_count_only_on_request(coco: CocoFile) -> None:
    """Check which instances have rates, and that the classes of neighbors matter."""
    assert {image: len(rates) for image, rates in measure_images(coco, measure="iou").items()} == {
        1: 2, 2: 3, 3: 2, 4: 0, 5: 1, 6: 2,
    }  # fmt: skip
    with_crowds = measure_images(coco, measure="iou", crowd=True)
    assert with_crowds[5].tolist() == [1, 1]
    assert measure_images(coco, measure="iou")[1].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert measure_images(coco, measure="iou", same_class=True)[1].tolist() == [0, 0]


def test_iscrowd_defaults_to_zero(coco: CocoFile) -> None:
    for annotation in coco.annotations:
        if annotation["iscrowd"] == 0:
            del annotation["iscrowd"]
    assert split_occluded(coco, rule=SplitRule()).manifest["counts"]["source"]["instances"] == 10


def test_unreadable_masks_matter_only_to_the_mask_measure(coco: CocoFile) -> None:
    coco.annotations[0]["segmentation"] = "no mask"
    assert split_occluded(coco, rule=SplitRule()).manifest["image_ids"] == [2, 1]
    with pytest.raises(BCNetError, match=r"annotation 100 \(image 1\)"):
        split_occluded(coco, rule=SplitRule(measure="mask"))


def test_real_images(coco_mini: Path) -> None:
    coco = read_coco(coco_mini / "annotations" / "instances_val2017.json")
    sizes = {measure: len(split_occluded(coco, rule=SplitRule(measure=measure)).content["images"])
             for measure in ("iou", "min", "mask")}  # fmt: skip
    assert sizes == {"iou": 34, "min": 67, "mask": 65}
