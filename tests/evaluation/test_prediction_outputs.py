"""Disjoint masks as results, label images and COCO's panoptic format: complete or absent, and equal to each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bcnet_core import BCNetError, ExitCode, masks
from bcnet_core.evaluation import label_outputs
from bcnet_core.evaluation.label_outputs import colors
from bcnet_core.evaluation.parts import Part
from bcnet_core.evaluation.photo_results import photo_names
from bcnet_core.evaluation.prediction_file import PredictionFile
from bcnet_core.evaluation.prediction_job import PredictionJob
from bcnet_core.evaluation.prediction_outputs import output_paths, without_covered, write_predictions
from bcnet_core.files.images import read_values
from bcnet_core.masks.order import FrontPair
from bcnet_core.structures import Instances

SIZE = (6, 9)
NOTHING = masks.from_box(0, 0, 0, 0, *SIZE)
CATEGORIES = [{"id": 3, "name": "leaf"}, {"id": 8, "name": "stem"}]


def result(image_id: int, mask: masks.RLE, *hides: int, category: int = 3) -> dict[str, Any]:
    box = masks.bounding_box(mask).tolist()
    values = {"image_id": image_id, "category_id": category, "bbox": box, "score": 0.75, "segmentation": mask}
    return values | {"hides": list(hides)}


def job(folder: Path, *predicted: int) -> PredictionJob:
    """Return a job of two images, of which these are predicted; in the first, the second of three is covered."""
    names = {5: "plates/a/1.jpg", 3: "plates/b/1.jpg"}
    images = [
        {"id": number, "file_name": str(folder / name), "height": 6, "width": 9} for number, name in names.items()
    ]
    file = PredictionFile(folder / "out_predictions.jsonl")
    file.open({})
    left, right = masks.from_box(0, 0, 4, 6, *SIZE), masks.from_box(4, 2, 9, 5, *SIZE)
    of_image = {5: ([left, NOTHING, right], [(0, 1), (0, 2), (2, 1)], [0, 0, 1]), 3: ([], [], [])}
    for number in predicted:
        rles, pairs, labels = of_image[number]
        found = Instances(
            np.zeros((len(rles), 4), np.float32), np.full(len(rles), 0.75, np.float32), np.array(labels, np.int64),
            SIZE, {"occludee_mask": rles, "amodal_mask": rles}, [FrontPair(*pair) for pair in pairs],
        )  # fmt: skip
        file.append(Part({"id": number}, 0), found)
    return PredictionJob(folder / "model.pt", "cpu", images, None, file, disjoint=True)


def rgb_to_id(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the ids of segments as COCO defines them: R + 256 G + 256^2 B."""
    red, green, blue = np.moveaxis(pixels.astype(np.int64), 2, 0)
    return red + 256 * green + 256**2 * blue


def test_every_output_shows_the_same_instances(tmp_path: Path) -> None:
    written = write_predictions(
        job(tmp_path, 3, 5), CATEGORIES, output_paths(tmp_path / "out.json", ["panoptic", "labels", "coco", "labels"])
    )
    assert (written.images, written.detections, written.covered) == (2, 2, 1)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        "out.json", "out_images.json", "out_panoptic.json",
        "out_labels/a/1.png", "out_labels/b/1.png", "out_panoptic/a/1.png", "out_panoptic/b/1.png",
    }  # fmt: skip
    expected = np.zeros(SIZE, int)
    expected[:, :4], expected[2:5, 4:] = 1, 2
    with Image.open(tmp_path / "out_labels/a/1.png") as stored:
        assert stored.mode.startswith("I")
    assert np.array_equal(read_values(tmp_path / "out_labels/a/1.png"), expected)
    assert read_values(tmp_path / "out_labels/b/1.png").tolist() == np.zeros(SIZE, int).tolist()
    results = json.loads((tmp_path / "out.json").read_text())
    assert [one["hides"] for one in results] == [[1], []], "positions among the results that are written"
    panoptic = json.loads((tmp_path / "out_panoptic.json").read_text())
    assert [image["id"] for image in panoptic["images"]] == [5, 3]
    assert panoptic["categories"] == [{**one, "isthing": 1} for one in CATEGORIES]
    first, second = panoptic["annotations"]
    assert (first["image_id"], first["file_name"], second["segments_info"]) == (5, "a/1.png", [])
    assert np.array_equal(rgb_to_id(read_values(tmp_path / "out_panoptic" / first["file_name"])), expected)
    assert first["segments_info"] == [
        {"id": 1, "category_id": 3, "area": 24, "bbox": [0, 0, 4, 6], "iscrowd": 0, "score": 0.75},
        {"id": 2, "category_id": 8, "area": 15, "bbox": [4, 2, 5, 3], "iscrowd": 0, "score": 0.75},
    ]


def test_ids_of_segments_take_three_bytes() -> None:
    ids = np.array([[0, 255, 256], [65_536, 70_000, 2**24 - 1]], np.int32)
    assert np.array_equal(rgb_to_id(colors(ids)[..., ::-1]), ids)


def test_more_instances_than_a_png_can_count_are_a_tiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_outputs, "DEEPEST_PNG", 1)
    write_predictions(job(tmp_path, 3, 5), CATEGORIES, output_paths(tmp_path / "out.json", ["labels"]))
    assert sorted(path.name for path in (tmp_path / "out_labels").rglob("*.*")) == ["1.png", "1.tif"]
    labels = read_values(tmp_path / "out_labels/a/1.tif")
    assert labels.dtype == np.int32 and np.unique(labels).tolist() == [0, 1, 2]


def test_an_image_with_more_segments_than_colors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_outputs, "MOST_SEGMENTS", 1)
    with pytest.raises(BCNetError, match=r"a/1.jpg` has 2 results, COCO's panoptic format holds 1 in an image"):
        write_predictions(job(tmp_path, 3, 5), CATEGORIES, output_paths(tmp_path / "out.json", ["panoptic"]))
    assert [path.name for path in tmp_path.iterdir()] == ["out_predictions.jsonl"]


def test_a_format_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(BCNetError, match="`yolo8` is no format of predictions") as refused:
        output_paths(tmp_path / "out.json", ["labels", "yolo8"])
    assert refused.value.exit_code == ExitCode.USAGE and "coco, labels, panoptic" in refused.value.hints[0]


def test_an_error_leaves_no_output_and_what_to_resume_from(tmp_path: Path) -> None:
    paths = output_paths(tmp_path / "out.json", ["labels", "panoptic"])
    with pytest.raises(BCNetError, match="image 3 was not predicted"):
        write_predictions(job(tmp_path, 5), CATEGORIES, paths)
    assert [path.name for path in tmp_path.iterdir()] == ["out_predictions.jsonl"]


def test_instances_in_front_of_what_is_covered_hide_it_no_longer() -> None:
    one, other = masks.from_box(0, 0, 2, 2, *SIZE), masks.from_box(3, 0, 5, 2, *SIZE)
    kept = without_covered([result(1, NOTHING), result(1, one, 0, 3), result(1, NOTHING, 1), result(1, other, 1, 2)])
    assert [(part["segmentation"], part["hides"]) for part in kept] == [(one, [1]), (other, [0])]


def test_files_about_photos_keep_their_place_in_the_common_folder() -> None:
    def names(*files: str) -> list[str]:
        return list(photo_names([{"id": n, "file_name": file} for n, file in enumerate(files)]).values())

    assert names("/data/day1/x.jpg", "/data/day2/x.v2.jpg") == ["day1/x", "day2/x.v2"]
    assert names("photos/x.jpg") == ["x"] and names("x.jpg", "../y.jpg")[1] == "y"
    with pytest.raises(BCNetError, match=r"`x.jpg` and `x.png` would both be written to a file named `x`"):
        names("/data/x.jpg", "/data/x.png")


def test_folders_of_frames_keep_all_of_their_names(tmp_path: Path) -> None:
    clips = [tmp_path / "cam.v1", tmp_path / "cam.v2"]
    for clip in clips:
        clip.mkdir()
    names = photo_names([{"id": number, "file_name": str(clip)} for number, clip in enumerate(clips)])
    assert list(names.values()) == ["cam.v1", "cam.v2"]
