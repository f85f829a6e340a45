import gzip
import json
import reprlib
from pathlib import Path
from typing import Any

import pytest

from bcnet_core import BCNetError, masks
from bcnet_core.annotations.coco import (
    OCCLUDER_KEY,
    CocoFile,
    category_difference,
    category_names,
    checksum,
    coco_categories,
    has_occluders,
    read_coco,
    segmentation_rle,
    ways_out,
)
from bcnet_core.files.json_files import read_json, write_json

IMAGE = {"id": 1, "file_name": "a.jpg", "width": 9, "height": 8}
CATEGORY = {"id": 3, "name": "cat"}
ANNOTATION = {"id": 5, "image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4], "segmentation": [[0, 0, 4, 0, 4, 4]]}


def content(**changes: Any) -> dict[str, Any]:
    return {"images": [IMAGE], "categories": [CATEGORY], "annotations": [ANNOTATION], "mine": {"x": 1}, **changes}


def test_content_is_kept_unchanged(tmp_path: Path) -> None:
    for name in ("a.json", "a.json.gz"):
        write_json(tmp_path / name, content())
        coco = read_coco(tmp_path / name)
        assert coco.content == content() and category_names(coco.categories) == ["cat"] and not has_occluders(coco)
        assert coco.annotations_by_image() == {1: [ANNOTATION]}
    assert gzip.decompress((tmp_path / "a.json.gz").read_bytes()) == (tmp_path / "a.json").read_bytes()


FORMAT = "the format: https://cocodataset.org/#format-data"
LARGE = {**IMAGE, "width": 40_000, "height": 30_000}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"images": None}, "`images` is of type NoneType, not a list"),
        ({"categories": {}}, "`categories` is of type dict, not a list"),
        ({"annotations": "x"}, "`annotations` is of type str, not a list"),
        ({"images": [7]}, "images[0]: is not an object"),
        ({"images": [{**IMAGE, "id": "1"}]}, "images[0]: needs an integer `id`, has '1'"),
        ({"images": [{**IMAGE, "id": True}]}, "images[0]: needs an integer `id`, has True"),
        ({"images": [{**IMAGE, "id": 2**63}]}, f"images[0]: needs an integer `id`, has {2**63}"),
        ({"images": [IMAGE, IMAGE]}, "images[1]: the image id 1 appears twice"),
        (
            {"images": [IMAGE, {**IMAGE, "id": 2, "width": 0}]},
            "images[1]: image 2 needs a positive integer `width` and `height`",
        ),
        ({"images": [{**IMAGE, "height": 8.0}]}, "images[0]: image 1 needs a positive integer `width` and `height`"),
        ({"images": [LARGE]}, "images[0]: image 1 has 40000 x 30000 pixels, more than 1,073,741,824"),
        ({"images": [{"id": 1}]}, "images[0]: image 1 has no `file_name`"),
        ({"categories": [{"id": 3}]}, "categories[0]: needs an integer `id` and a `name`"),
        ({"categories": [CATEGORY, {"name": "x"}]}, "categories[1]: needs an integer `id` and a `name`"),
        ({"categories": [CATEGORY, 5]}, "categories[1]: needs an integer `id` and a `name`"),
        ({"categories": [CATEGORY, CATEGORY]}, "categories[1]: the category id 3 appears twice"),
        ({"annotations": [3]}, "annotations[0]: is not an object"),
        ({"annotations": [{**ANNOTATION, "id": 0.5}]}, "annotations[0]: needs an integer `id`, has 0.5"),
        (
            {"annotations": [{**ANNOTATION, "image_id": 2}]},
            "annotations[0]: annotation 5 belongs to image 2, which is not in the file",
        ),
        (
            {"annotations": [{**ANNOTATION, "image_id": True}]},
            "annotations[0]: annotation 5 belongs to image True, which is not in the file",
        ),
        (
            {"annotations": [ANNOTATION, {**ANNOTATION, "category_id": 4}]},
            "annotations[1]: annotation 5 has category 4, which is not in the file",
        ),
        (
            {"annotations": [{**ANNOTATION, "iscrowd": "0"}]},
            "annotations[0]: annotation 5 has an `iscrowd` of '0', which is neither 0 nor 1",
        ),
        (
            {"annotations": [{**ANNOTATION, "iscrowd": 2}]},
            "annotations[0]: annotation 5 has an `iscrowd` of 2, which is neither 0 nor 1",
        ),
        ({"annotations": [{}, {}]}, "annotations[0]: needs an integer `id`, has None (and 1 more such fault)"),
        ({"annotations": [{}] * 1501}, "annotations[0]: needs an integer `id`, has None (and 1,500 more such faults)"),
    ],
)
def test_each_fault_has_its_message(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content(**{"annotations": [], **changes})))
    with pytest.raises(BCNetError) as caught:
        read_coco(path)
    assert caught.value.message == f"`{path}` is not a COCO instances file: {fault}"
    assert (caught.value.hints, caught.value.exit_code) == ((*ways_out(path), FORMAT), 3)


@pytest.mark.parametrize(
    "box",
    [
        [0, 0, 1],
        [0, 0, 1, 1, 1],
        "0011",
        [0, 0, 1, float("nan")],
        [0, 0, 1, 10**400],
        [0, 0, 1e9, 1],
        [0, 0, True, 1],
        None,
    ],
)
def test_a_box_that_is_not_four_finite_numbers_is_an_error(tmp_path: Path, box: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content(annotations=[{**ANNOTATION, "bbox": box}])))
    fault = r"annotation 5 needs a `bbox` of four finite numbers \[x, y, width, height\], has "
    with pytest.raises(BCNetError, match=fault) as caught:
        read_coco(tmp_path / "a.json")
    assert caught.value.message.endswith(f"has {reprlib.repr(box)}")


def test_the_largest_allowed_numbers(tmp_path: Path) -> None:
    images = [{**IMAGE, "id": 2**63 - 1, "width": 2**20, "height": 2**10}, {**IMAGE, "id": -1, "width": 1, "height": 1}]
    annotation = {**ANNOTATION, "id": 1 - 2**63, "image_id": -1, "bbox": [-999999999, 0.5, 999999999, 0]}
    crowd = {**annotation, "iscrowd": 1, "image_id": 2**63 - 1}
    write_json(tmp_path / "a.json", content(images=images, annotations=[annotation, crowd]))
    assert read_coco(tmp_path / "a.json").annotations_by_image() == {2**63 - 1: [crowd], -1: [annotation]}


ODD_IMAGES = [{**IMAGE, "id": "1"}, {**IMAGE, "id": "2"}, {**IMAGE, "width": "9"}]
UNLISTED = [{**ANNOTATION, "image_id": 2}, {**ANNOTATION, "category_id": 4}, {**ANNOTATION, "image_id": 3}]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"images": ODD_IMAGES}, "images[0]: needs an integer `id`, has '1' (and 1 more such fault)"),
        ({"images": [7, IMAGE, IMAGE], "categories": [{}]}, "images[0]: is not an object"),
        ({"categories": [{}, CATEGORY, CATEGORY]}, "categories[0]: needs an integer `id` and a `name`"),
        ({"annotations": UNLISTED},
         "annotations[0]: annotation 5 belongs to image 2, which is not in the file (and 1 more such fault)"),
    ],
)  # fmt: skip
def test_faults_are_counted_by_kind_without_those_that_follow_from_others(
    tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content(**changes)))
    with pytest.raises(BCNetError) as caught:
        read_coco(tmp_path / "a.json")
    assert caught.value.message == f"`{tmp_path / 'a.json'}` is not a COCO instances file: {fault}"


def test_invalid_annotations_are_read_for_those_who_can_leave_them_out(tmp_path: Path) -> None:
    annotations = [7, {}, *UNLISTED]
    (tmp_path / "a.json").write_text(json.dumps(content(annotations=annotations)))
    coco = read_coco(tmp_path / "a.json", check_annotations=False)
    assert coco.annotations == annotations and not has_occluders(coco)
    (tmp_path / "a.json").write_text(json.dumps(content(images=ODD_IMAGES)))
    with pytest.raises(BCNetError, match="needs an integer `id`"):
        read_coco(tmp_path / "a.json", check_annotations=False)


def test_a_test_dev_list_needs_no_annotations(tmp_path: Path) -> None:
    listed = {key: value for key, value in content().items() if key != "annotations"}
    write_json(tmp_path / "a.json", listed)
    assert read_coco(tmp_path / "a.json", need_annotations=False).annotations == []
    with pytest.raises(BCNetError, match="it has no `annotations` list"):
        read_coco(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "`{}` is not json: Expecting value in line 1, column 1"),
        (b"{\n 7}", "`{}` is not json: Expecting property name enclosed in double quotes in line 2, column 2"),
        (b'"' + b"x" * 2000 + b"\xff", "`{}` is not json: byte 2,001 is not UTF-8 text"),
        (b"[" * 200_000, "`{}` is nested too deeply"),
        (b'{"x": ' + b"1" * 5000 + b"}", "`{}` has a number that is too long to be one"),
        (b"7", "`{}` is not a COCO instances file: its top level is of type int, not an object"),
    ],
)
def test_invalid_json_is_an_error(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(BCNetError) as caught:
        read_coco(tmp_path / "a.json")
    assert caught.value.message == words.format(tmp_path / "a.json")
    assert caught.value.exit_code == 3
    assert caught.value.hints == ((FORMAT,) if data == b"7" else ())


def test_a_results_file_gets_a_hint(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[]")
    with pytest.raises(BCNetError, match=r"its top level is of type list, not an object$") as caught:
        read_coco(tmp_path / "a.json")
    scored, shown = (f"bcnet {command} --gt GROUND_TRUTH" for command in ("eval --results FILE", "viz FILE"))
    assert caught.value.hints == (f"if it is a results file: {scored}, {shown}", FORMAT)


@pytest.mark.parametrize("name", ["images", "categories", "annotations"])
def test_a_list_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "a.json", {key: value for key, value in content().items() if key != name})
    with pytest.raises(BCNetError) as caught:
        read_coco(tmp_path / "a.json")
    assert caught.value.message == f"`{tmp_path / 'a.json'}` is not a COCO instances file: it has no `{name}` list"
    assert caught.value.hints == (*ways_out(tmp_path / "a.json"), FORMAT)


def test_the_error_of_a_missing_file_lists_its_neighbors(tmp_path: Path) -> None:
    def refusal(path: Path) -> tuple[str, tuple[str, ...]]:
        with pytest.raises(BCNetError) as caught:
            read_json(path)
        assert caught.value.exit_code == 3
        return caught.value.message, caught.value.hints

    missing = tmp_path / "none.json"
    assert refusal(missing) == (f"`{missing}` does not exist", ())
    for number in range(7):
        (tmp_path / f"{number}.json").touch()
    assert refusal(missing)[1] == ("json files there: 0.json · 1.json · 2.json · 3.json · 4.json · 5.json",)
    nowhere = tmp_path / "no" / "a.json"
    assert refusal(nowhere)[1] == (f"its folder `{nowhere.parent}` does not exist either",)
    assert refusal(tmp_path) == (f"`{tmp_path}` is a directory, not a json file", ())


def test_the_checksum_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert checksum(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(BCNetError) as caught:
        checksum(tmp_path / "b")
    assert caught.value.message == f"cannot read `{tmp_path / 'b'}`: No such file or directory"
    assert caught.value.exit_code == 3


def test_damaged_gzip_missing_files_and_folders_are_errors(tmp_path: Path) -> None:
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


def test_lone_surrogates_survive_a_round_trip(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content(mine="\ud800 [/] :car:")))
    write_json(tmp_path / "b.json", read_coco(tmp_path / "a.json").content)
    assert read_coco(tmp_path / "b.json").content["mine"] == "\ud800 [/] :car:"


def test_a_segmentation_that_cannot_be_read_names_its_annotation() -> None:
    with pytest.raises(BCNetError, match=r"^annotation 5 \(image 1\): its `segmentation` cannot be read: .") as caught:
        segmentation_rle({**ANNOTATION, "segmentation": "x"}, IMAGE)
    assert caught.value.exit_code == 3
    with pytest.raises(BCNetError, match="its `other` cannot be read"):
        segmentation_rle({**ANNOTATION, "other": "x"}, IMAGE, key="other")
    assert segmentation_rle({**ANNOTATION, "segmentation": []}, IMAGE) is None
    assert segmentation_rle({"id": 5}, IMAGE) is None


def test_a_segmentation_becomes_a_mask_of_the_size_of_its_image() -> None:
    square = [[1, 2, 4, 2, 4, 6, 1, 6]]
    rle = segmentation_rle({**ANNOTATION, "other": square}, IMAGE, key="other")
    assert rle == masks.from_box(1, 2, 4, 6, 8, 9)


def test_one_annotation_with_the_key_makes_a_bilayer_file(tmp_path: Path) -> None:
    plain = CocoFile(tmp_path, content())
    assert not has_occluders(plain)
    assert has_occluders(CocoFile(tmp_path, content(annotations=[ANNOTATION, {**ANNOTATION, OCCLUDER_KEY: []}])))


def test_coco_has_eighty_categories_ordered_by_id() -> None:
    categories = coco_categories()
    assert len(categories) == 80
    assert categories[0] == {"id": 1, "name": "person"} and categories[-1] == {"id": 90, "name": "toothbrush"}
    assert [one["id"] for one in categories] == sorted({one["id"] for one in categories})


def test_categories_are_compared_by_id_or_by_label() -> None:
    cat, dog, cow = {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 2, "name": "cow"}
    assert category_difference([cat, dog], [dog, cat]) is None
    assert category_difference([cat, dog], [cow, cat]) == ([(2, "dog")], [(2, "cow")])
    assert category_difference([cat, dog], [dog, cat], by_label=True) == (
        [(0, "cat"), (1, "dog")],
        [(0, "dog"), (1, "cat")],
    )
    assert category_difference([dog], [{**dog, "id": 7}], by_label=True) is None
    assert category_difference([cat], [cat, dog], by_label=True) == ([], [(1, "dog")])
