"""Results that name images and categories otherwise than COCO does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bcnet_core import BCNetError, ExitCode
from bcnet_core.annotations.coco import CocoFile
from bcnet_core.evaluation.result_ids import match_ids
from tests.annotations.test_crowding import Heard

PATH = Path("predictions.json")


def truth(files: dict[int, str] | None = None, categories: Sequence[int] = (1, 2, 3)) -> CocoFile:
    files = files or {11: "a.jpg", 12: "b.jpg"}
    images = [{"id": number, "file_name": name, "width": 8, "height": 6} for number, name in files.items()]
    names = [{"id": number, "name": f"class {number}"} for number in categories]
    return CocoFile(Path("gt.json"), {"images": images, "annotations": [], "categories": names})


def images(coco: CocoFile, *results: dict[str, Any], heard: Heard | None = None) -> list[int | None]:
    """The image ids that results are read to have."""
    ids = match_ids(results, coco, PATH, reporter=heard or Heard())
    return [ids.image(one) for one in results]


def categories(coco: CocoFile, *values: Any, heard: Heard | None = None) -> list[int | None]:
    """The category ids that results are read to have."""
    results = [{"image_id": 11, "category_id": value} for value in values]
    ids = match_ids(results, coco, PATH, reporter=heard or Heard())
    return [ids.category(one) for one in results]


@pytest.mark.parametrize("value", [12, 12.0, "12", "12.0", "+12"])
def test_ids_may_be_text_or_floats(value: Any) -> None:
    heard = Heard()
    assert images(truth(), {"image_id": value}, heard=heard) == [12]
    assert categories(truth(categories=(3, 12)), value, heard=heard) == [12]
    assert not heard.infos and not heard.warnings


@pytest.mark.parametrize("value", [12.5, "1_2", "12.5", "c", True, None, [12], float("nan"), float("inf"), "9" * 5000])
def test_what_is_no_id_is_not_read_as_one(value: Any) -> None:
    assert images(truth({1: "x.jpg", 12: "b.jpg"}), {"image_id": value}) == [None]
    assert categories(truth(categories=(1, 12)), value) == [None]


@pytest.mark.parametrize(
    ("file", "value"),
    [
        ("IMG_0007.png", "IMG_0007"),
        ("IMG_0007.png", "IMG_0007.png"),
        ("IMG_0007.png", "/data/val/IMG_0007"),
        ("val2017/IMG_0007.png", "IMG_0007"),
        ("scan.v2.png", "scan.v2"),
        ("000000000139.jpg", 139),
        ("000000000139.jpg", "139"),
        ("000000000139.jpg", "000000000139"),
        ("cam1/000139.jpg", "cam1/000139"),
    ],
)
def test_an_image_id_may_be_the_name_of_a_file(file: str, value: Any) -> None:
    heard = Heard()
    coco = truth({1: "other.png", 2: file, 3: "cam2/000140.jpg"})
    assert images(coco, {"image_id": value}, heard=heard) == [2]
    (told,) = heard.infos
    assert "`predictions.json` names images by their files" in told


def test_equal_names_in_several_folders_are_told_apart_or_refused() -> None:
    coco = truth({1: "cam1/0.png", 2: "cam2/0.png"})
    assert images(coco, {"image_id": "cam2/0"}) == [2]
    assert images(coco, {"image_id": "x", "file_name": "/data/cam1/0.png"}) == [1]
    assert images(coco, {"image_id": "0"}) == [None]


def test_numbers_are_names_only_where_they_do_not_all_fit_as_ids() -> None:
    coco = truth({1: "2.jpg", 2: "1.jpg", 7: "9.jpg"})
    heard = Heard()
    assert images(coco, {"image_id": 1}, {"image_id": 2}, heard=heard) == [1, 2] and not heard.infos
    assert images(coco, {"image_id": 1}, {"image_id": 9}, heard=heard) == [2, 7] and len(heard.infos) == 1


def test_names_that_match_in_part_do_not_mix_with_ids() -> None:
    coco = truth({1: "2.jpg", 2: "1.jpg", 7: "9.jpg"})
    assert images(coco, {"image_id": 2}, {"image_id": 9}, {"image_id": 7}, {"image_id": "1.jpg"}) == [1, 7, None, 2]


def test_text_that_is_both_an_id_and_another_image_is_refused() -> None:
    with pytest.raises(BCNetError, match=r"the image id '2' is an id of `gt.json`, and the name of another") as caught:
        images(truth({1: "2.jpg", 2: "1.jpg"}), {"image_id": "2"})
    assert caught.value.exit_code == ExitCode.BAD_DATA and caught.value.hints
    assert images(truth({1: "1.jpg", 2: "2.jpg"}), {"image_id": "2"}) == [2]


@pytest.mark.parametrize("first", ["0", "0000"])
def test_text_of_ids_is_no_file_name_though_files_are_numbered_too(first: str) -> None:
    """Ids from 1 and names from 0, padded or not, as many tools write them."""
    files = {number: f"{number - 1:0{len(first)}}.png" for number in (1, 2, 3)}
    heard = Heard()
    assert images(truth(files), *[{"image_id": str(number)} for number in files], heard=heard) == [1, 2, 3]
    assert not heard.infos
    assert images(truth(files), *[{"image_id": name[:-4]} for name in files.values()]) == [1, 2, 3]


def test_a_padded_number_is_a_file_name() -> None:
    assert images(truth({1: "0002.png", 2: "0001.png"}), {"image_id": "0001"}) == [2]


def test_the_file_name_beside_an_id_decides() -> None:
    heard, coco = Heard(), truth({1: "2.jpg", 2: "1.jpg"})
    results = [{"image_id": number, "file_name": f"{number}.jpg"} for number in (1, 2)]
    assert images(coco, *results, heard=heard) == [2, 1]
    (told,) = heard.warnings
    assert "2 of 2 ids are those of other images in `gt.json`; the file names are used" in told
    heard = Heard()
    same = [{"image_id": 3 - number, "file_name": f"{number}.jpg"} for number in (1, 2)]
    assert images(coco, *same, heard=heard) == [2, 1] and not heard.warnings and not heard.infos


def test_a_file_name_that_is_not_listed_leaves_the_id() -> None:
    assert images(truth(), {"image_id": 12, "file_name": "renamed.jpg"}) == [12]


@pytest.mark.parametrize(
    ("known", "values", "expected"),
    [
        ((1, 2, 3), (0, 2), [1, 3]),
        ((1, 2, 3), ("0", 1.0), [1, 2]),
        ((0, 1, 2), (3, 1), [2, 0]),
        ((5, 8, 13), (0, 2), [5, 13]),
    ],
)
def test_categories_that_only_fit_when_counted_are_shifted_with_a_warning(
    known: tuple[int, ...], values: tuple[Any, ...], expected: list[int]
) -> None:
    heard = Heard()
    assert categories(truth(categories=known), *values, heard=heard) == expected
    (told,) = heard.warnings
    assert f"counted from {0 if 0 not in known else 1}" in told
    number = min(int(value) for value in values)
    assert f"{number} as {min(expected)} (class {min(expected)})" in told


@pytest.mark.parametrize(
    ("known", "values", "expected"),
    [
        ((1, 2, 3), (1, 2), [1, 2]),
        ((0, 1, 2), (0, 2), [0, 2]),
        ((1, 2, 3), (0, 3), [None, 3]),
        ((1, 9), (2,), [None]),
        ((0, 1, 2), (0, 3), [0, None]),
        ((1, 2, 3), (4,), [None]),
        ((1, 2, 3), (0, "leaf"), [None, None]),
        ((3, 1, 2), (0, 1), [None, 1]),
    ],
)
def test_other_categories_are_left_as_they_are(
    known: tuple[int, ...], values: tuple[Any, ...], expected: list[int | None]
) -> None:
    heard = Heard()
    assert categories(truth(categories=known), *values, heard=heard) == expected and not heard.warnings
