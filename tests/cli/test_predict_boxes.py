"""`bcnet predict --boxes` as a user runs it."""

import json
from pathlib import Path
from typing import Any

import pytest

from bcnet_core import ExitCode, masks
from bcnet_core.files.json_files import write_json
from tests.cli.test_eval_and_predict import good, refused


@pytest.fixture(scope="module")
def truth(scenes: Path) -> Path:
    return scenes / "annotations/instances_val.json"


@pytest.fixture(scope="module")
def own(untrained: Path, scenes: Path, truth: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return results of the untrained detector, beside their list of images."""
    output = tmp_path_factory.mktemp("own") / "own.json"
    good("predict", untrained, scenes / "val", "--ids-from", truth, "-o", output, "--device", "cpu", "--layers")
    return output


def read(path: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(path.read_text())
    return content


def test_own_boxes_give_the_own_masks(untrained: Path, scenes: Path, truth: Path, own: Path, tmp_path: Path) -> None:
    output = tmp_path / "again.json"
    asked = ("predict", untrained, scenes / "val", "--boxes", own, "-o", output, "--device", "cpu", "--layers")
    before = [one for one in read(own) if min(one["bbox"][2:]) > 0]  # an untrained detector also finds some outside
    assert f"{len(before)} boxes in 6 of 6 photos" in good(*asked, "--dry-run").stderr.replace("\n", "")
    good(*asked)
    after = read(output)
    assert len(after) == len(before) > 15 and after[0].keys() == before[0].keys()
    for key in ("image_id", "category_id", "score", "bbox"):
        assert [one[key] for one in after] == [one[key] for one in before]
    inner = [min(*one["bbox"][:2], *(128 - one["bbox"][side] - one["bbox"][side + 2] for side in (0, 1))) > 0
             for one in before]  # fmt: skip
    assert sum(inner) > 3
    for key in ("segmentation", "occluder"):
        rles = [[masks.from_segmentation(one[key], 128, 128) for one in results] for results in (before, after)]
        pairs = [pair for pair, is_inner in zip(zip(*rles, strict=True), inner, strict=True) if is_inner]
        assert all(one == other or masks.iou(one, other) > 0.97 for one, other in pairs if one and other)
    good("eval", "--results", output, "--gt", truth)  # its ids and list of images are those of the ground truth


def test_boxes_of_another_detector_keep_their_classes_and_tracks(
    untrained: Path, scenes: Path, truth: Path, tmp_path: Path
) -> None:
    names = [image["file_name"] for image in json.loads(truth.read_text())["images"]]
    listed = [{"id": 7 + place, "file_name": name, "width": 128, "height": 128} for place, name in enumerate(names)]
    write_json(tmp_path / "list.json", {"images": listed, "categories": [{"id": 70, "name": "a llama, drawn"}]})
    keys = {"image_id": "8", "category_id": 70}
    boxes = [
        keys | {"bbox": [20, 30, 40, 40], "score": 0.3, "track_id": 12},
        keys | {"bbox": [25, 30, 60, 50], "score": 0.9, "track_id": 4},
        keys | {"bbox": [-9, 60, 40, 40], "score": 0.6, "track_id": 5},
    ]
    write_json(tmp_path / "rf_detr.json", boxes)
    output = tmp_path / "masks.json"
    asked = ("predict", untrained, scenes / "val", "--boxes", tmp_path / "rf_detr.json", "--device", "cpu")
    assert "say which photos" in refused(*asked, "-o", output).message
    done = good(*asked, "--ids-from", tmp_path / "list.json", "-o", output, "--format", "labels", "--score", "0.2")
    told = done.stderr.replace("\n", "")
    assert "3 boxes in 1 of 6 photos" in told and "1 reach beyond their photo and are cut off there" in told
    found = read(output)
    assert [(one["image_id"], one["category_id"], one["track_id"]) for one in found] == [
        (8, 70, track) for track in (12, 4, 5)
    ]
    assert [one["score"] for one in found] == [0.3, 0.9, 0.6]
    assert len(list((tmp_path / "masks_labels").iterdir())) == 6
    listing = json.loads((tmp_path / "masks_images.json").read_text())
    assert listing["categories"] == [{"id": 70, "name": "a llama, drawn"}]
    good("viz", output, "--gt", tmp_path / "masks_images.json", "--images", "/", "-o", tmp_path / "viz", "--limit", "2")


def test_a_photo_that_the_boxes_do_not_list_is_refused(
    untrained: Path, scenes: Path, truth: Path, tmp_path: Path
) -> None:
    options = ("--boxes", truth, "-o", tmp_path / "out.json", "--device", "cpu")
    error = refused("predict", untrained, scenes / "train", *options)
    assert error.exit_code == ExitCode.BAD_DATA and "are not among the 6 images" in error.message
    assert "predict without --boxes" in error.hints[0]
    assert "leave --ids-from out" in refused("predict", untrained, scenes / "val", "--ids-from", truth, *options).hints
    assert "is the input itself" in refused("predict", untrained, scenes / "val", "--boxes", truth, "-o", truth).message
