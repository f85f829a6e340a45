import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from bcnet_core import BCNetError
from bcnet_core.annotations.coco import category_names, has_occluders, read_coco, read_json, segmentation_rle
from bcnet_core.outputs import write_json

IMAGE = {"id": 1, "file_name": "a.jpg", "width": 9, "height": 8}
CATEGORY = {"id": 3, "name": "cat"}
ANNOTATION = {"id": 5, "image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4], "segmentation": [[0, 0, 4, 0, 4, 4]]}


def content(**changes: Any) -> dict[str, Any]:
    return {"images": [IMAGE], "categories": [CATEGORY], "annotations": [ANNOTATION], "mine": {"x": 1}, **changes}


def test_a_file_is_kept_as_it_is(tmp_path: Path) -> None:
    for name in ("a.json", "a.json.gz"):
        write_json(tmp_path / name, content())
        coco = read_coco(tmp_path / name)
        assert coco.content == content() and category_names(coco.categories) == ["cat"] and not has_occluders(coco)
        assert coco.annotations_by_image() == {1: [ANNOTATION]}
    assert gzip.decompress((tmp_path / "a.json.gz").read_bytes()) == (tmp_path / "a.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": None}, "`images` is a NoneType"),
        ({"images": [7]}, r"images\[0\]: is not an object"),
        ({"images": [{**IMAGE, "id": "1"}]}, "integer `id`"),
        ({"images": [{**IMAGE, "id": 2**70}]}, "integer `id`"),
        ({"images": [IMAGE, IMAGE]}, "image id 1 is there twice"),
        ({"images": [{**IMAGE, "width": 0}]}, "positive integer `width`"),
        ({"images": [{**IMAGE, "width": 10**12}]}, "pixels, more than"),
        ({"images": [{"id": 1}]}, "no `file_name`"),
        ({"categories": [{"id": 3}]}, "needs an integer `id` and a `name`"),
        ({"categories": [CATEGORY, CATEGORY]}, "category id 3 is there twice"),
        ({"annotations": [{**ANNOTATION, "image_id": 2}]}, "belongs to image 2, which is not in the file"),
        ({"annotations": [{**ANNOTATION, "category_id": 4}]}, "has category 4, which is not in the file"),
        ({"annotations": [{**ANNOTATION, "bbox": [0, 0, 1]}]}, "four finite numbers"),
        ({"annotations": [{**ANNOTATION, "bbox": [0, 0, 1, float("nan")]}]}, "four finite numbers"),
        ({"annotations": [{**ANNOTATION, "bbox": [0, 0, 1, 10**400]}]}, "four finite numbers"),
        ({"annotations": [{**ANNOTATION, "iscrowd": "0"}]}, "neither 0 nor 1"),
        ({"annotations": [{}, {}, {}]}, "and 2 more such faults"),
    ],
)
def test_faults_are_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content(**changes)))
    with pytest.raises(BCNetError, match=words) as caught:
        read_coco(tmp_path / "a.json")
    assert caught.value.exit_code == 3 and caught.value.message.startswith(f"`{tmp_path / 'a.json'}` is not a COCO")


def test_a_test_dev_list_needs_no_annotations(tmp_path: Path) -> None:
    listed = {key: value for key, value in content().items() if key != "annotations"}
    write_json(tmp_path / "a.json", listed)
    assert read_coco(tmp_path / "a.json", need_annotations=False).annotations == []
    with pytest.raises(BCNetError, match="it has no `annotations` list"):
        read_coco(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not json"),
        (b"{", "is not json: .* in line 1, column 2"),
        (b"\xff\xfe{", "is not json"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"x": ' + b"1" * 5000 + b"}", "too long"),
        (b"[]", "its top level is a list"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(BCNetError, match=words) as caught:
        read_coco(tmp_path / "a.json")
    assert caught.value.exit_code == 3


def test_damaged_gzip_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    whole = gzip.compress(json.dumps(content()).encode())
    for data in (whole[:-20], whole[:15] + b"????" + whole[19:], b"plain"):
        (tmp_path / "a.json.gz").write_bytes(data)
        with pytest.raises(BCNetError, match="cannot read"):
            read_json(tmp_path / "a.json.gz")
    with pytest.raises(BCNetError, match="does not exist") as caught:
        read_json(tmp_path / "b.json")
    assert caught.value.hints == ("json files there: a.json.gz",)
    with pytest.raises(BCNetError, match="is a directory"):
        read_json(tmp_path)


def test_text_that_utf8_cannot_hold_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content(mine="\ud800 [/] :car:")))
    write_json(tmp_path / "b.json", read_coco(tmp_path / "a.json").content)
    assert read_coco(tmp_path / "b.json").content["mine"] == "\ud800 [/] :car:"


def test_a_segmentation_that_cannot_be_read_names_its_annotation() -> None:
    with pytest.raises(BCNetError, match=r"annotation 5 \(image 1\): its `segmentation` cannot be read"):
        segmentation_rle({**ANNOTATION, "segmentation": "x"}, IMAGE)
    assert segmentation_rle({**ANNOTATION, "segmentation": []}, IMAGE) is None
