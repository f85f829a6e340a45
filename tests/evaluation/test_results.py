"""COCO results files of any model: what is accepted, what is rejected, and what is written."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcnet_core import BCNetError, ExitCode, masks
from bcnet_core.annotations.coco import CocoFile
from bcnet_core.evaluation import results as results_files
from bcnet_core.evaluation.results import (
    check_same_images,
    from_json,
    listing_path,
    write_results,
    write_submission,
)
from bcnet_core.files.json_files import write_json
from bcnet_core.reporting import SilentReporter

COCO = CocoFile(
    Path("gt.json"),
    {
        "images": [{"id": 4, "file_name": "4.jpg", "width": 8, "height": 6}],
        "categories": [{"id": 1, "name": "x"}, {"id": 9, "name": "y"}],
        "annotations": [],
    },
)
MASK = masks.to_json(masks.from_box(1, 1, 4, 5, 6, 8))


def result(**changes: Any) -> dict[str, Any]:
    return {"image_id": 4, "category_id": 9, "bbox": [1, 1, 3, 4], "score": 0.5, "segmentation": MASK} | changes


def read_results(path: Path, coco: CocoFile) -> list[dict[str, Any]]:
    return results_files.read_results(path, coco, reporter=SilentReporter())


def write(folder: Path, content: Any, name: str = "results.json") -> Path:
    path = folder / name
    text = json.dumps(content).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def test_results_are_converted_for_the_scorers(tmp_path: Path) -> None:
    polygon = result(segmentation=[[1, 1, 4, 1, 4, 5, 1, 5]], extra="is dropped")
    runs = result(segmentation={"size": [6, 8], "counts": [7, 4, 2, 4, 2, 4, 25]})
    only_mask = result()
    del only_mask["bbox"]
    first, second, third, fourth = read_results(
        write(tmp_path, [result(score=1), polygon, runs, only_mask], "results.json.gz"), COCO
    )
    expected = {**result(), "segmentation": {"size": [6, 8], "counts": MASK["counts"].encode()}}
    assert first == {**expected, "score": 1}
    assert second == third == fourth == expected
    assert fourth["bbox"] == [1, 1, 3, 4]


def test_other_maps_are_kept_and_checked(tmp_path: Path) -> None:
    other = masks.to_json(masks.from_box(0, 0, 2, 2, 6, 8))
    (found,) = read_results(write(tmp_path, [result(occluder=other)]), COCO)
    assert found["occluder"] == {"size": [6, 8], "counts": other["counts"].encode()}
    with pytest.raises(BCNetError, match=r"an RLE of size \[8, 6\]"):
        read_results(write(tmp_path, [result(occluder={"size": [8, 6], "counts": other["counts"]})]), COCO)


def test_the_keys_of_whole_masks_are_kept(tmp_path: Path) -> None:
    keys = {"amodal_bbox": [0, 1.5, 7, 4], "occlusion_rate": 0.25, "hides": [0]}
    whole = masks.to_json(masks.from_box(0, 1, 7, 5, 6, 8))
    mine = [result(amodal_segmentation=whole, **keys | {"hides": []}), result(amodal_segmentation=whole, **keys)]
    path = tmp_path / "results.json"
    write_results(path, [list(map(from_json, mine))])
    assert json.loads(path.read_text()) == mine
    read = read_results(path, COCO)
    assert read == list(map(from_json, mine)) and read[1]["hides"] == [0]
    assert read_results(write(tmp_path, [result(hides=None, occlusion_rate=None)]), COCO) == [from_json(result())]


def test_boxes_alone_are_results_too(tmp_path: Path) -> None:
    boxes = [result(segmentation=None), result(segmentation=None, score=0.1)]
    assert all("segmentation" not in one for one in read_results(write(tmp_path, boxes), COCO))


@pytest.mark.parametrize("nothing", [[], [[]], None])
def test_results_whose_masks_are_all_empty_lists_are_boxes(tmp_path: Path, nothing: Any) -> None:
    found = read_results(write(tmp_path, [result(segmentation=nothing), result(segmentation=[])]), COCO)
    assert len(found) == 2 and all("segmentation" not in one for one in found)


def test_among_masks_an_empty_list_is_a_mask_without_a_pixel(tmp_path: Path) -> None:
    _, found = read_results(write(tmp_path, [result(), result(segmentation=[])]), COCO)
    assert masks.area(found["segmentation"]) == 0


def test_an_empty_mask_and_no_box_is_no_result(tmp_path: Path) -> None:
    nothing = result(segmentation=[])
    del nothing["bbox"]
    with pytest.raises(BCNetError, match="its `bbox` is None"):
        read_results(write(tmp_path, [nothing]), COCO)


def test_an_empty_list_is_read(tmp_path: Path) -> None:
    assert read_results(write(tmp_path, []), COCO) == []


def test_ids_become_those_of_the_ground_truth(tmp_path: Path) -> None:
    (found,) = read_results(write(tmp_path, [result(image_id="4", category_id=9.0, file_name="/x/4.jpg")]), COCO)
    assert (found["image_id"], found["category_id"]) == (4, 9) and "file_name" not in found
    assert all(type(found[key]) is int for key in ("image_id", "category_id"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": []}, "is not a results file"),
        ([result(), 7], "result 1: a int where a detection should be"),
        ([result(image_id=5)], "result 0: image 5 is not in the ground truth"),
        ([result(image_id="5")], "image '5' is not in the ground truth"),
        ([result(category_id=2)], "category 2 is not in the ground truth"),
        ([result(category_id=True)], "category True is not in the ground truth"),
        ([result(score=float("nan"))], "its score is nan"),
        ([result(score=float("inf"))], "its score is inf"),
        ([result(score=10**400)], "its score is 1000"),
        ([result(bbox=[1, 1, 3, 10**400])], "its `bbox` is"),
        ([result(score="high")], "its score is 'high'"),
        ([result(bbox=[1, 1, -3, 4])], r"its `bbox` is \[1, 1, -3, 4\]"),
        ([result(bbox=[1, 1, 3])], r"its `bbox` is \[1, 1, 3\]"),
        ([result(bbox=[1, 1, 3, float("nan")])], "its `bbox` is"),
        ([result(segmentation=None, bbox=None)], "its `bbox` is None"),
        (
            [result(segmentation={"size": [8, 6], "counts": MASK["counts"]})],
            r"an RLE of size \[8, 6\] in an image of 6",
        ),
        ([result(segmentation={"size": [6, 8], "counts": "0k1"})], "do not add up to its size"),
        ([result(segmentation={"size": [6, 8], "counts": "~"})], "damaged"),
        ([result(segmentation={"size": [6, 8], "counts": "Ä1"})], "damaged"),
        ([result(segmentation="mask.png")], "neither polygons nor an RLE"),
        ([result(), result(segmentation=None)], "result 1: it has no mask, others have"),
        ([result(image_id=5)] * 3, "and 2 more such faults"),
        ([result(amodal_bbox=[1, 1, -3, 4])], r"its `amodal_bbox` is \[1, 1, -3, 4\]"),
        ([result(occlusion_rate=1.5)], "its `occlusion_rate` is 1.5"),
        ([result(occlusion_rate=True)], "its `occlusion_rate` is True"),
        ([result(hides=1)], "its `hides` is 1"),
        ([result(hides=[0.5])], r"its `hides` is \[0.5\]"),
        ([result(hides=[-1]), result()], r"its `hides` is \[-1\]"),
        ([result(), result(hides=[2])], r"result 1: its `hides` is \[2\], not positions of others of the 2 results"),
        ([result(), result(hides=[1])], r"result 1: its `hides` is \[1\], not positions of others"),
    ],
)
def test_bad_results_are_rejected_in_one_sentence(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(BCNetError, match=message) as caught:
        read_results(write(tmp_path, content), COCO)
    assert caught.value.exit_code == ExitCode.BAD_DATA


def test_ground_truth_given_as_results_is_recognized(tmp_path: Path) -> None:
    with pytest.raises(BCNetError) as caught:
        read_results(write(tmp_path, {"annotations": []}), COCO)
    assert "is this the ground truth?" in caught.value.hints[0]


def found(**changes: Any) -> dict[str, Any]:
    """A result as it is in memory."""
    return from_json(result()) | changes


def test_written_results_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    written = [found(), found(score=0.1, occluder=found()["segmentation"]), found(score=0.2)]
    assert write_results(path, [written[:2], [], written[2:]]) == 3
    assert json.loads(path.read_text())[::2] == [result(), result(score=0.2)]
    assert read_results(path, COCO) == written
    assert write_results(path, []) == 0 and json.loads(path.read_text()) == []


def test_a_submission_is_a_zip_with_one_file_and_reproducible_bytes(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write_submission(tmp_path / name, COCO, [[found()]])
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["detections_test-dev2017_bcnet_results.json"]
        assert json.loads(archive.read(archive.namelist()[0])) == [result()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 5}, "image 5 is not in"),
        ({"category_id": 2}, "category 2 is not in"),
        ({"segmentation": {"size": [8, 6], "counts": b"0k1"}}, r"an RLE of size \[8, 6\] in an image of 6 x 8"),
        ({"score": float("nan")}, "its score is nan"),
        ({"score": 1.5}, "its score is 1.5"),
        ({"segmentation": None}, "it has no mask"),
    ],
)
def test_a_result_that_the_server_would_reject_is_not_submitted(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BCNetError, match=message):
        write_submission(tmp_path / "a.zip", COCO, [[found()], [found(**changes)]])
    assert list(tmp_path.iterdir()) == []


def test_an_image_has_at_most_a_hundred_submitted_detections(tmp_path: Path) -> None:
    write_submission(tmp_path / "a.zip", COCO, [[found()]] * 100)
    with pytest.raises(BCNetError, match="image 4 has more than 100 detections"):
        write_submission(tmp_path / "b.zip", COCO, [[found()] * 101])


def test_damaged_runs_are_repaired_or_rejected() -> None:
    """Random masks, most of them with damaged text, some of the wrong size."""
    rng = np.random.default_rng(0)
    usable = 0
    for number in range(600):
        height, width = (int(side) for side in rng.integers(1, 40, 2))
        text = bytearray(masks.encode(rng.random((height, width)) < rng.random())["counts"])
        if number % 3:
            text[rng.integers(len(text))] = rng.integers(40, 120)
        size = height + (number % 11 == 0), width
        counts = b"" if number % 50 == 0 else bytes(text)
        try:
            rle = masks.from_segmentation({"size": list(size), "counts": counts}, *size)
        except ValueError:
            continue
        assert rle is not None and masks.decode(rle).shape == size and masks.runs(rle["counts"]).sum() == np.prod(size)
        usable += 1
    assert 150 < usable < 450


def listed(*names: str) -> dict[str, list[dict[str, object]]]:
    images = [{"id": number, "file_name": name, "width": 4, "height": 3} for number, name in enumerate(names, 1)]
    return {"images": list(images), "annotations": [], "categories": []}


@pytest.mark.parametrize(
    ("predicted", "true", "alike"),
    [
        ("a.png", "a.png", True),
        ("/data/val/a.png", "a.png", True),
        ("/data/val/a.png", "val/a.png", True),
        ("../val/a.png", "coco/val/a.png", True),
        ("b.png", "a.png", False),
        ("val/b.png", "val/a.png", False),
        ("train/a.png", "val/a.png", False),
    ],
)
def test_file_names_of_one_id_are_compared(tmp_path: Path, predicted: str, true: str, alike: bool) -> None:
    results = tmp_path / "found.json"
    write_json(listing_path(results), listed("same.png", predicted, "more.png"))
    truth = CocoFile(tmp_path / "truth.json", listed("same.png", true))
    if alike:
        check_same_images(results, truth)
        return
    with pytest.raises(BCNetError, match="1 of 2 ids") as caught:
        check_same_images(results, truth)
    assert f"the first, 2, is `{predicted}` there, not `{true}`" in caught.value.message
    assert caught.value.exit_code == ExitCode.BAD_DATA and "--ids-from" in caught.value.hints[0]


def test_an_image_is_what_the_file_that_gave_its_id_calls_it(tmp_path: Path) -> None:
    results, truth = tmp_path / "found.json", CocoFile(tmp_path / "truth.json", listed("D:\\upload\\a.png"))
    for name, same in (("D:\\upload\\a.png", True), ("D:\\other\\a.png", False), (5, False)):
        content = listed("/photos/a.png")
        content["images"][0]["listed_as"] = name
        write_json(listing_path(results), content)
        if same:
            check_same_images(results, truth)
        else:
            with pytest.raises(BCNetError, match="1 of 1 ids"):
                check_same_images(results, truth)


@pytest.mark.parametrize("name", ["found", "found.json", "found.json.gz"])
def test_the_list_of_images_is_named_after_the_results(name: str) -> None:
    assert listing_path(Path("out") / name) == Path("out/found_images.json")


def test_without_a_listing_nothing_is_checked(tmp_path: Path) -> None:
    results, truth = tmp_path / "found.json", CocoFile(tmp_path / "truth.json", listed("a.png"))
    check_same_images(results, truth)
    listing_path(results).write_text("[1, 2]")
    check_same_images(results, truth)
