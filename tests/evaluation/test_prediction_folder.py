"""Predictions on disk: complete, in order, kept over an interruption, and the same from any number of processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bcnet_core import BCNetError, ExitCode
from bcnet_core.annotations.coco import CocoFile, read_coco
from bcnet_core.engine.elastic import Cluster
from bcnet_core.evaluation import predict
from bcnet_core.evaluation.image_list import find_images, image_records
from bcnet_core.evaluation.predict import PredictionJob, predict_images, predict_to_disk
from bcnet_core.evaluation.prediction_folder import PredictionFolder
from bcnet_core.reporting import SilentReporter
from bcnet_core.weights.checkpoint import read_checkpoint, save_checkpoint

IMAGES = [{"id": number} for number in (5, 3, 9)]


def fill(folder: PredictionFolder, *numbers: int) -> None:
    with folder.writer() as writer:
        for number in numbers:
            writer.add(number, [{"image_id": number, "score": number / 10}])


def test_results_come_back_in_the_order_of_the_images(tmp_path: Path) -> None:
    folder = PredictionFolder(tmp_path / "parts")
    assert folder.open({"checkpoint": "a"}) == set()
    fill(folder, 9)
    fill(folder, 3, 5)
    assert folder.open({"checkpoint": "a"}) == {3, 5, 9}
    assert [[one["image_id"] for one in results] for results in folder.read(IMAGES)] == [[5], [3], [9]]
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_was_cut_off_is_not_done(tmp_path: Path) -> None:
    folder = PredictionFolder(tmp_path / "parts")
    folder.open({})
    fill(folder, 5, 3)
    (part,) = folder.path.glob("*.jsonl")
    part.write_bytes(part.read_bytes()[:-1])
    assert folder.open({}) == {5}
    with pytest.raises(BCNetError, match="image 3 was not predicted"):
        list(folder.read(IMAGES))


@pytest.mark.parametrize("damage", ["other", "damaged", "gone"])
def test_another_job_begins_anew(tmp_path: Path, damage: str) -> None:
    folder = PredictionFolder(tmp_path / "parts")
    folder.open({"checkpoint": "a"})
    fill(folder, 5)
    if damage == "damaged":
        (folder.path / "job.json").write_text("{")
    elif damage == "gone":
        (folder.path / "job.json").unlink()
    assert folder.open({"checkpoint": "b" if damage == "other" else "a"}) == set()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    folder = PredictionFolder(tmp_path / "parts")
    folder.path.mkdir()
    (folder.path / "thesis.txt").write_text("years")
    with pytest.raises(BCNetError, match="holds something else"):
        folder.open({})
    assert (folder.path / "thesis.txt").read_text() == "years"
    (tmp_path / "file").write_text("")
    with pytest.raises(BCNetError, match="is a file"):
        PredictionFolder(tmp_path / "file").open({})


def job(untrained: Path, scenes: Path, folder: Path, **changes: Any) -> PredictionJob:
    images = read_coco(scenes / "annotations/instances_val.json").images
    return PredictionJob(untrained, "cpu", images, scenes / "val", folder, **changes)


def results_of(folder: PredictionFolder, asked: PredictionJob) -> list[Any]:
    return json.loads(json.dumps(list(folder.read(asked.images))))


@pytest.mark.slow
def test_two_processes_predict_what_one_does(untrained: Path, scenes: Path, tmp_path: Path) -> None:
    asked = job(untrained, scenes, tmp_path / "one")
    one = results_of(predict_to_disk(asked, Cluster(), reporter=SilentReporter()), asked)
    assert len(one) == 6 and all(len(results) == 5 for results in one)
    asked = job(untrained, scenes, tmp_path / "two")
    two = predict_to_disk(asked, Cluster(2), reporter=SilentReporter())
    assert results_of(two, asked) == one and len(list(two.path.glob("*.jsonl"))) == 2


def test_layers_are_masks_of_the_image(untrained: Path, scenes: Path, tmp_path: Path) -> None:
    asked = job(untrained, scenes, tmp_path / "layers", layers=True)
    first = results_of(predict_to_disk(asked, Cluster(), reporter=SilentReporter()), asked)[0][0]
    for key in ("segmentation", "occludee_boundary", "occluder", "occluder_boundary"):
        assert first[key]["size"] == [128, 128]


@pytest.mark.parametrize("there_before", [False, True])
def test_a_checkpoint_that_fits_nothing_leaves_no_folder(
    untrained: Path, scenes: Path, tmp_path: Path, there_before: bool
) -> None:
    if there_before:
        predict_to_disk(job(untrained, scenes, tmp_path / "folder"), Cluster(), reporter=SilentReporter())
    checkpoint = read_checkpoint(untrained)
    del checkpoint.model["heads.masks.head.occludee.convs.0.weight"]
    save_checkpoint(tmp_path / "misfit.pt", checkpoint)
    with pytest.raises(BCNetError, match="misfit"):
        predict_to_disk(job(tmp_path / "misfit.pt", scenes, tmp_path / "folder"), Cluster(), reporter=SilentReporter())
    assert [path.name for path in tmp_path.iterdir()] == ["misfit.pt"]


def test_an_interrupted_prediction_goes_on(
    untrained: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job(untrained, scenes, tmp_path / "parts")
    whole = job(untrained, scenes, tmp_path / "whole")
    expected = results_of(predict_to_disk(whole, Cluster(), reporter=SilentReporter()), whole)
    seen: list[int] = []
    original = predict.to_results

    def stop_at_two(found: Any, image_id: int, *rest: Any, **options: Any) -> Any:
        seen.append(image_id)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(found, image_id, *rest, **options)

    monkeypatch.setattr(predict, "to_results", stop_at_two)
    with pytest.raises(BCNetError, match="interrupted; 2 of 6 images are predicted and kept") as caught:
        predict_to_disk(asked, Cluster(), reporter=SilentReporter())
    assert caught.value.exit_code == ExitCode.INTERRUPTED
    seen.clear()
    seen.extend([0, 0])  # no more interruptions
    folder = predict_to_disk(asked, Cluster(), reporter=SilentReporter())
    assert len(seen) == 2 + 4 and results_of(folder, asked) == expected


def test_reading_ahead_keeps_images_and_results_together(untrained: Path, scenes: Path) -> None:
    asked = job(untrained, scenes, Path("unused"))
    detector = predict.load_detector(untrained, device="cpu")
    every = predict_images(detector, asked.images, asked.image_dir, reporter=SilentReporter())
    for image in asked.images:
        alone = predict_images(detector, [image], asked.image_dir, reporter=SilentReporter())
        assert alone == [one for one in every if one["image_id"] == image["id"]]


def test_images_are_files_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "deep/c.jpeg", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 4)).save(path, "PNG")
    found = find_images([str(tmp_path / "b.png"), str(tmp_path), str(tmp_path / "*.png")])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["b.png", "a.JPG", "deep/c.jpeg"]
    assert [one["id"] for one in image_records(found, None)] == [1, 2, 3]
    (tmp_path / "empty").mkdir()
    for name, word in (("empty", "holds no image"), ("gone.jpg", "names no file"), ("*.gif", "names no file")):
        with pytest.raises(BCNetError, match=word):
            find_images([str(tmp_path / name)])


def test_ids_may_come_from_a_file(tmp_path: Path, scenes: Path) -> None:
    coco = read_coco(scenes / "annotations/instances_val.json")
    paths = sorted((scenes / "val").iterdir(), reverse=True)
    records = image_records(paths, coco)
    assert {one["id"]: Path(one["file_name"]).name for one in records} == {
        one["id"]: one["file_name"] for one in coco.images
    }
    assert all((one["height"], one["width"]) == (128, 128) for one in records)
    other = tmp_path / "other.png"
    Image.new("RGB", (6, 4)).save(other)
    with pytest.raises(BCNetError, match=r"other\.png` is not among the 6 images"):
        image_records([other], coco)
    twin = tmp_path / paths[0].name
    twin.write_bytes(paths[0].read_bytes())
    with pytest.raises(BCNetError, match="two of the images are called"):
        image_records([paths[0], twin], coco)
    first = {**coco.images[0], "file_name": f"deep/{coco.images[1]['file_name']}"}
    doubled = CocoFile(coco.path, {**coco.content, "images": [first, *coco.images[1:]]})
    with pytest.raises(BCNetError, match="lists several images called"):
        image_records(paths, doubled)


def test_sizes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    turned = Image.new("RGB", (8, 6))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    (record,) = image_records([tmp_path / "turned.jpg"], None)
    assert (record["height"], record["width"]) == (8, 6)
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(BCNetError, match="cannot be read"):
        image_records([tmp_path / "text.jpg"], None)


@pytest.mark.parametrize(
    "line", [b"garbage", b"", b"[x,[]]", b"\0\0", b"[5]", b"[5,5]", b"[5,[1]]", b"[5,[", b'[5,[{"score":NaN}]]']
)
def test_a_damaged_line_is_told(tmp_path: Path, line: bytes) -> None:
    folder = PredictionFolder(tmp_path / "parts")
    folder.open({})
    (folder.path / "a.jsonl").write_bytes(line + b"\n")

    def go_on() -> None:
        folder.open({})
        list(folder.read([{"id": 5}]))

    with pytest.raises(BCNetError, match=r"a\.jsonl` is damaged") as caught:
        go_on()
    assert caught.value.exit_code == ExitCode.BAD_DATA and "predicted again" in caught.value.hints[0]
