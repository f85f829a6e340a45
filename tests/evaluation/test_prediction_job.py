"""Predictions kept on disk: complete, in order, resumed after interruptions, equal from any number of processes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bcnet_core import BCNetError, ExitCode, masks
from bcnet_core.annotations.coco import read_coco
from bcnet_core.config.runtime import Runtime
from bcnet_core.engine.elastic import Cluster
from bcnet_core.evaluation.inputs import image_records
from bcnet_core.evaluation.parts import Part, parts_of
from bcnet_core.evaluation.prediction_file import PredictionFile
from bcnet_core.evaluation.prediction_job import PredictionJob, predict_to_disk
from bcnet_core.evaluation.prediction_outputs import output_paths, unreadable_error, write_predictions
from bcnet_core.reporting import SilentReporter
from bcnet_core.structures import Instances
from bcnet_core.weights.checkpoint import read_checkpoint, save_checkpoint

IMAGES = [{"id": number} for number in (5, 3, 9)]


def fill(file: PredictionFile, *numbers: int) -> None:
    for number in numbers:
        rle = masks.from_box(0, 0, number, 2, 4, 12)
        box, score, label = np.zeros((1, 4), np.float32), np.full(1, number / 10, np.float32), np.zeros(1, np.int64)
        file.append(Part({"id": number}, 0), Instances(box, score, label, (4, 12), {"occludee_mask": [rle]}, None))


def test_results_come_back_in_the_order_of_the_images(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "parts.jsonl")
    assert file.open({"checkpoint": "a"}) == set()
    fill(file, 9)
    fill(file, 3, 5)
    assert file.open({"checkpoint": "a"}) == {(3, 0), (5, 0), (9, 0)}
    found = list(file.read(parts_of(IMAGES)))
    assert [one.scores.tolist() for one in found] == [[np.float32(number / 10)] for number in (5, 3, 9)]
    assert found[0].masks == {"occludee_mask": [masks.from_box(0, 0, 5, 2, 4, 12)]}
    assert list(tmp_path.iterdir()) == [file.path]


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_an_incomplete_line_is_not_done_and_spoils_no_other(tmp_path: Path, cut: int) -> None:
    file = PredictionFile(tmp_path / "parts.jsonl")
    file.open({})
    fill(file, 5, 3)
    file.path.write_bytes(file.path.read_bytes()[: -cut - 1])
    assert file.open({}) == {(5, 0)}
    fill(file, 9)
    assert file.open({}) == {(5, 0), (9, 0)}
    with pytest.raises(BCNetError, match="image 3 was not predicted"):
        list(file.read(parts_of(IMAGES)))
    fill(file, 3)
    assert len(list(file.read(parts_of(IMAGES)))) == 3


def test_a_full_disk_names_the_file_and_spoils_nothing(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "parts.jsonl")
    file.open({})
    fill(file, 5)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.path.stat().st_size + 20, before[1]))
    try:
        with pytest.raises(BCNetError, match=r"cannot write `.*parts.jsonl`"):
            fill(file, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.open({}) == {(5, 0)}
    fill(file, 3, 9)
    assert len(list(file.read(parts_of(IMAGES)))) == 3


def test_another_job_starts_over(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "parts.jsonl")
    file.open({"checkpoint": "a"})
    fill(file, 5)
    assert file.open({"checkpoint": "b"}) == set()


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "parts.jsonl")
    file.path.write_text("years of work")
    with pytest.raises(BCNetError, match="which is something else"):
        file.open({})
    assert file.path.read_text() == "years of work"
    (tmp_path / "folder").mkdir()
    with pytest.raises(BCNetError, match="is a folder"):
        PredictionFile(tmp_path / "folder").open({})


def job(untrained: Path, scenes: Path, path: Path, **changes: Any) -> PredictionJob:
    images = read_coco(scenes / "annotations/instances_val.json").images
    return PredictionJob(untrained, "cpu", images, scenes / "val", PredictionFile(path), **changes)


@pytest.mark.parametrize("changes", [{"layers": True}, {"disjoint": True}, {"begin": 0.5}, {}])
def test_a_detector_has_the_maps_that_the_order_is_read_from_if_it_is_used(
    untrained: Path, scenes: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    detector = job(untrained, scenes, tmp_path / "parts", **changes).build()
    (found,) = detector.predict([np.zeros((64, 64, 3), np.uint8)])
    assert ("occluder_mask" in found.maps) == bool(changes)


def results_of(asked: PredictionJob, cluster: Cluster) -> list[Any]:
    predict_to_disk(asked, cluster, reporter=SilentReporter())
    return list(asked.results(asked.images, [{"id": label} for label in range(9)]))


@pytest.mark.slow
def test_two_processes_predict_what_one_does(untrained: Path, scenes: Path, tmp_path: Path) -> None:
    one = results_of(job(untrained, scenes, tmp_path / "one"), Cluster())
    assert len(one) == 6 and all(len(results) == 5 for results in one)
    assert results_of(job(untrained, scenes, tmp_path / "two"), Cluster(2)) == one


def test_other_maps_are_masks_of_the_image(untrained: Path, scenes: Path, tmp_path: Path) -> None:
    first = results_of(job(untrained, scenes, tmp_path / "layers", layers=True), Cluster())[0][0]
    for key in ("segmentation", "occludee_boundary", "occluder", "occluder_boundary"):
        assert first[key]["size"] == [128, 128] and isinstance(first[key]["counts"], bytes)


@pytest.mark.parametrize("exists", [False, True])
def test_a_checkpoint_that_does_not_fit_leaves_no_file(
    untrained: Path, scenes: Path, tmp_path: Path, exists: bool
) -> None:
    if exists:
        results_of(job(untrained, scenes, tmp_path / "parts"), Cluster())
    checkpoint = read_checkpoint(untrained)
    del checkpoint.model["heads.masks.head.occludee.convs.0.weight"]
    save_checkpoint(tmp_path / "broken.pt", checkpoint)
    with pytest.raises(BCNetError, match="broken"):
        results_of(job(tmp_path / "broken.pt", scenes, tmp_path / "parts"), Cluster())
    assert [path.name for path in tmp_path.iterdir()] == ["broken.pt"]


def test_an_interrupted_prediction_resumes(
    untrained: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job(untrained, scenes, tmp_path / "parts")
    expected = results_of(job(untrained, scenes, tmp_path / "whole"), Cluster())
    seen: list[int] = []
    original = PredictionFile.append

    def stop_at_two(file: PredictionFile, part: Part, found: Instances) -> None:
        seen.append(part.image["id"])
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        original(file, part, found)

    monkeypatch.setattr(PredictionFile, "append", stop_at_two)
    with pytest.raises(BCNetError, match="interrupted; 3 of 6 images are predicted and kept") as caught:
        results_of(asked, Cluster())
    assert caught.value.exit_code == ExitCode.INTERRUPTED
    seen.clear()
    seen.extend([0, 0])  # no more interruptions
    assert results_of(asked, Cluster()) == expected and len(seen) == 2 + 3


def test_a_job_resumes_only_with_the_same_checkpoint_images_and_maps(
    untrained: Path, scenes: Path, tmp_path: Path
) -> None:
    asked = job(untrained, scenes, tmp_path / "parts")
    copy = tmp_path / "copy.pt"
    copy.write_bytes(untrained.read_bytes())
    others = [
        job(copy, scenes, tmp_path / "parts"),
        job(untrained, scenes, tmp_path / "parts", layers=True),
        job(untrained, scenes, tmp_path / "parts", disjoint=True),
        job(untrained, scenes, tmp_path / "parts", score=0.1),
        job(untrained, scenes, tmp_path / "parts", runtime=Runtime(batch=2)),
        job(untrained, scenes, tmp_path / "parts", runtime=Runtime(precision="bf16")),
        PredictionJob(untrained, "cpu", asked.images[1:], scenes / "val", asked.file),
        PredictionJob(untrained, "cpu", asked.images, scenes / "train", asked.file),
    ]
    assert asked.identity() == job(untrained, scenes, tmp_path / "elsewhere").identity()
    assert all(other.identity() != asked.identity() for other in others)
    assert json.loads(json.dumps(asked.identity())) == asked.identity()


def test_a_job_does_not_resume_with_photos_that_were_replaced(untrained: Path, tmp_path: Path) -> None:
    images = damaged(tmp_path / "photos")
    asked = PredictionJob(untrained, "cpu", images, None, PredictionFile(tmp_path / "parts"))
    before = asked.identity()
    Image.new("RGB", (48, 40)).save(images[0]["file_name"])
    assert asked.identity() != before
    Path(images[1]["file_name"]).unlink()
    assert asked.identity() != before


def damaged(folder: Path, *cut: int) -> list[dict[str, Any]]:
    """Five photos, some of them cut off in the middle of their pixels."""
    folder.mkdir()
    for number in range(5):
        path = folder / f"{number}.jpg"
        Image.effect_noise((48, 40), 60).convert("RGB").save(path)
        if number in cut:
            path.write_bytes(path.read_bytes()[:-300])
    paths = sorted(folder.iterdir())
    return image_records(paths, None)


def done(asked: PredictionJob) -> set[int]:
    return {image_id for image_id, _ in asked.file.done()}


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_damaged_photos_are_passed_over_and_remembered(untrained: Path, tmp_path: Path, processes: int) -> None:
    images = damaged(tmp_path / "photos", 1, 4)
    asked = PredictionJob(untrained, "cpu", images, None, PredictionFile(tmp_path / "parts"), passes_over=True)
    predict_to_disk(asked, Cluster(processes), reporter=SilentReporter())
    assert done(asked) == {1, 3, 4}
    faults = asked.file.unreadable()
    assert faults.keys() == {2, 5} and "1.jpg` cannot be read: image file is truncated" in faults[2]
    shutil.copy(tmp_path / "photos/0.jpg", tmp_path / "photos/4.jpg")
    predict_to_disk(asked, Cluster(processes), reporter=SilentReporter())  # resumes, and tries them again
    assert done(asked) == {1, 3, 4, 5} and asked.file.unreadable().keys() == {2}
    written = write_predictions(
        asked, [{"id": label, "name": "a"} for label in range(9)], output_paths(tmp_path / "out.json")
    )
    assert (written.images, [image["id"] for image in written.unreadable]) == (4, [2])
    listing = json.loads((tmp_path / "out_images.json").read_text())
    assert [image["id"] for image in listing["images"]] == [1, 3, 4, 5]
    assert listing["unreadable"] == [{**images[1], "reason": faults[2]}]
    assert {one["image_id"] for one in json.loads((tmp_path / "out.json").read_text())} == {1, 3, 4, 5}
    assert not asked.file.path.exists()


def test_a_job_that_may_pass_over_nothing_ends_at_a_damaged_photo(untrained: Path, tmp_path: Path) -> None:
    asked = PredictionJob(untrained, "cpu", damaged(tmp_path / "photos", 2), None, PredictionFile(tmp_path / "parts"))
    with pytest.raises(BCNetError, match=r"2\.jpg` cannot be read"):
        predict_to_disk(asked, Cluster(), reporter=SilentReporter())
    assert done(asked) == {1, 2}


def test_a_photo_that_vanishes_is_not_damaged_but_ends_the_job(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = damaged(tmp_path / "photos")
    asked = PredictionJob(untrained, "cpu", images, None, PredictionFile(tmp_path / "parts"), passes_over=True)

    def unmounted(*_: Any) -> None:
        shutil.rmtree(tmp_path / "photos")

    monkeypatch.setattr("bcnet_core.evaluation.prediction_job.check_images", unmounted)
    with pytest.raises(BCNetError, match="does not exist"):
        predict_to_disk(asked, Cluster(), reporter=SilentReporter())


def test_a_photo_that_was_incomplete_when_its_size_was_read_has_no_results(untrained: Path, tmp_path: Path) -> None:
    images = damaged(tmp_path / "photos")
    images[3] |= {"height": 0, "width": 0}
    asked = PredictionJob(untrained, "cpu", images, None, PredictionFile(tmp_path / "parts"), passes_over=True)
    predict_to_disk(asked, Cluster(), reporter=SilentReporter())
    assert list(asked.file.unreadable()) == [4] and "incomplete when the command began" in asked.file.unreadable()[4]


def test_nothing_is_written_if_no_photo_can_be_read(untrained: Path, tmp_path: Path) -> None:
    images = damaged(tmp_path / "photos", *range(5))
    asked = PredictionJob(untrained, "cpu", images, None, PredictionFile(tmp_path / "parts"), passes_over=True)
    predict_to_disk(asked, Cluster(), reporter=SilentReporter())
    with pytest.raises(BCNetError, match="none of the 5 images can be read") as caught:
        write_predictions(asked, [], output_paths(tmp_path / "out.json"))
    assert caught.value.exit_code == ExitCode.BAD_DATA and len(caught.value.hints) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_an_error_names_the_first_damaged_photos_and_where_all_are_listed(tmp_path: Path) -> None:
    images = [{"reason": f"the image `{number}` cannot be read"} for number in range(23)]
    error = unreadable_error(images, of=500, listing=Path("out_images.json"))
    assert error.message == "23 of 500 images cannot be read and have no results" and error.exit_code == ExitCode.FAILED
    assert len(error.hints) == 21 and error.hints[0] == images[0]["reason"]
    assert error.hints[-1] == "and 3 more; all are listed in `out_images.json`, under `unreadable`"
