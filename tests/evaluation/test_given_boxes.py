"""Boxes from elsewhere: which of a file are used, what is said of the others, and what their results keep."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcnet_core import BCNetError, ExitCode, load_detector, masks
from bcnet_core.annotations.coco import CocoFile, Record, read_coco
from bcnet_core.engine.elastic import Cluster
from bcnet_core.evaluation.given_boxes import GivenBoxes, read_box_file
from bcnet_core.evaluation.parts import Part
from bcnet_core.evaluation.predict import predictions, to_results
from bcnet_core.evaluation.prediction_file import PredictionFile
from bcnet_core.evaluation.prediction_job import PredictionJob, predict_to_disk
from bcnet_core.evaluation.results import to_json
from bcnet_core.evaluation.true_boxes import score_true_boxes
from bcnet_core.reporting import SilentReporter
from bcnet_core.structures import Instances
from tests.conftest import Heard
from tests.model.test_detectors import build

IMAGES = [{"id": number, "file_name": f"{number}.png", "width": 40, "height": 30} for number in (1, 2, 3)]
LLAMAS = [{"id": 70, "name": "llama"}, {"id": 71, "name": "alpaca"}]


def listing(tmp_path: Path, **content: Any) -> Path:
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"images": IMAGES, "annotations": [], "categories": LLAMAS} | content))
    return path


def result(box: list[float], **keys: Any) -> Record:
    return {"image_id": 1, "category_id": 71, "bbox": box, "score": 0.5} | keys


def chosen(
    tmp_path: Path, records: list[Record], *, images: list[Record] = IMAGES, **options: Any
) -> tuple[dict[int, GivenBoxes], str]:
    heard, path = Heard(), tmp_path / "boxes.json.gz"
    path.write_bytes(gzip.compress(json.dumps(records).encode()))
    file = read_box_file(path, read_coco(listing(tmp_path)), reporter=heard)
    found = file.choose(images, reporter=heard, **{"amodal": False, "least_score": None} | options)
    assert not heard.warnings and len(heard.infos) == 1
    return found, heard.infos[0].split("json.gz`: ")[1]


def test_boxes_keep_their_order_and_become_corners(tmp_path: Path) -> None:
    records = [result([1, 2, 10, 5], score=0.25), result([0, 0, 40, 30], score=7.5, category_id=70)]
    found, told = chosen(tmp_path, [*records, result([3, 3, 4, 4], image_id=3)])
    assert told == "3 boxes in 2 of 3 photos" and list(found) == [1, 3]
    assert found[1].corners.tolist() == [[1, 2, 11, 7], [0, 0, 40, 30]]
    assert found[1].scores.tolist() == [0.25, 7.5] and found[1].labels.tolist() == [1, 0]


def test_boxes_that_do_not_fit_their_photo_are_counted(tmp_path: Path) -> None:
    records = [
        result([-5, 2, 10, 50]), result([40, 0, 9, 9]), result([3, 3, 0, 4]), result([30, 20, 10.005, 5]),
        result([3, 3, 4, 4], image_id=2), result([5, 5, 5, 5], score=-3.0),
    ]  # fmt: skip
    found, told = chosen(tmp_path, records, images=[IMAGES[0], IMAGES[2]])
    assert found[1].corners.tolist() == [[0, 2, 5, 30], [30, 20, 40, 25], [5, 5, 10, 10]] and list(found) == [1]
    assert told == (
        "3 boxes in 1 of 2 photos; left out: 1 of other photos, 2 without an extent in their photo; "
        "1 reach beyond their photo and are cut off there"
    )
    sure, told = chosen(tmp_path, records, least_score=0.5)
    assert len(sure[1].records) == 2 and "1 with a score below 0.5" in told


@pytest.mark.parametrize(
    ("content", "said"), [(None, "does not exist"), ("", "not json"), ("boxes", "not json"), ("5", "not a COCO")]
)
def test_what_is_no_file_of_boxes_is_told_whatever_lists_its_photos(
    tmp_path: Path, content: str | None, said: str
) -> None:
    path, listed = tmp_path / "boxes.json", read_coco(listing(tmp_path))
    if content is not None:
        path.write_text(content)
    for ids_from in (None, listed):
        with pytest.raises(BCNetError) as error:
            read_box_file(path, ids_from, reporter=Heard())
        assert said in error.value.message and error.value.exit_code == ExitCode.BAD_DATA


def test_ground_truth_has_scores_of_one_and_no_crowds(tmp_path: Path) -> None:
    whole = masks.to_json(masks.from_box(2, 2, 20, 22, 30, 40))
    one = {"id": 9, "image_id": 1, "category_id": 70, "bbox": [2, 2, 5, 6], "score": 0.1, "track_id": 4}
    one |= {"segmentation": [[2, 2, 7, 2, 7, 8, 2, 8]], "amodal_segmentation": whole}
    path = listing(tmp_path, annotations=[one, one | {"id": 10, "iscrowd": 1}, one | {"id": 11, "bbox": [1, 1, -2, 3]}])
    heard = Heard()
    file = read_box_file(path, None, reporter=heard)
    found = file.choose(IMAGES, amodal=False, least_score=None, reporter=heard)[1]
    assert found.corners.tolist() == [[2, 2, 7, 8]] and found.scores.tolist() == [1] and found.labels.tolist() == [0]
    assert heard.infos[0].endswith("left out: 1 crowds, 1 without an extent in their photo")
    around = file.choose(IMAGES, amodal=True, least_score=None, reporter=heard)[1]
    assert around.corners.tolist()[0] == [2, 2, 20, 22], "an amodal detector expects the box of the whole mask"
    (kept,) = found.keep_in([{"score": 0.9, "category_id": 1}])
    assert kept == {"score": 1, "category_id": 70, "id": 9, "track_id": 4}


def test_an_amodal_detector_takes_the_boxes_of_whole_objects_from_results(tmp_path: Path) -> None:
    records = [result([2, 2, 5, 6], amodal_bbox=[2, 2, 18, 20]), result([2, 2, 5, 6])]
    whole, seen = (chosen(tmp_path, records, amodal=amodal)[0][1].corners.tolist() for amodal in (True, False))
    assert whole == [[2, 2, 20, 22], [2, 2, 7, 8]] and seen == [[2, 2, 7, 8]] * 2


def test_results_of_an_amodal_detector_give_its_visible_and_whole_masks_again(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    detector = build("faster_rcnn", amodal=True, detections_per_image=20).eval()
    before = list(to_results(detector.predict([picture])[0].instances(), 1, LLAMAS))
    given = chosen(tmp_path, [to_json(one) for one in before], amodal=True)[0][1]
    (inside,) = detector.predict_inside([picture], [given.corners], scores=[given.scores], labels=[given.labels])
    after = given.keep_in(list(to_results(inside.instances(), 1, LLAMAS)))
    assert len(after) == len(before) == 20 and any(one["bbox"] != one["amodal_bbox"] for one in before)
    for one, other in zip(before, after, strict=True):
        assert [one[key] for key in ("score", "amodal_bbox")] == [other[key] for key in ("score", "amodal_bbox")]
        for key in ("segmentation", "amodal_segmentation"):
            assert one[key] == other[key] or masks.iou(one[key], other[key]) > 0.97


def test_results_keep_what_their_boxes_say(tmp_path: Path) -> None:
    score = 0.123456789012
    records = [
        result([1, 2, 10, 5], score=score, track_id="a", id=8, area=50),
        result([1, 2, 3, 4], track_id=[1], id=float("nan")),
    ]
    first, second = chosen(tmp_path, records)[0][1].keep_in([{"score": 0.1235, "bbox": [1, 2, 3, 4]}] * 2)
    assert first == {"score": score, "bbox": [1, 2, 3, 4], "category_id": 71, "track_id": "a", "id": 8}
    assert second == {"score": 0.5, "bbox": [1, 2, 3, 4], "category_id": 71}


@pytest.mark.parametrize(
    ("content", "ids", "message", "code"),
    [
        ([result([1, 1, 2, 2])], False, "does not say which photos and classes its ids stand for", ExitCode.USAGE),
        ([result([1, 1, float("nan"), 2])], True, "result 0: its `bbox` is [1, 1, nan, 2]", ExitCode.BAD_DATA),
        ([result([1, 1, -2, 2])] * 3, True, "(and 2 more such faults)", ExitCode.BAD_DATA),
        ([result([1, 1, 2, 2], category_id=5)], True, "category 5 is not in", ExitCode.BAD_DATA),
        ({"images": [], "annotations": [], "categories": []}, True, "lists its images", ExitCode.USAGE),
        ({"images": []}, False, "has no `annotations` list", ExitCode.BAD_DATA),
    ],
)
def test_files_that_are_not_understood_are_refused(
    tmp_path: Path, content: Any, ids: bool, message: str, code: ExitCode
) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    with pytest.raises(BCNetError) as caught:
        read_box_file(path, read_coco(listing(tmp_path)) if ids else None, reporter=SilentReporter())
    assert message in caught.value.message and caught.value.exit_code == code


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BCNetError, match=r"none.json` does not exist"):
        read_box_file(tmp_path / "none.json", None, reporter=SilentReporter())


def job(
    checkpoint: Path, coco: CocoFile, images: Path, file: Path, *, scale: float = 1.0, only: int = 99
) -> PredictionJob:
    """Make a job of the true boxes of a file's first images, about their upper left corners so large."""
    records = [
        {**one, "bbox": [*one["bbox"][:2], *(scale * side for side in one["bbox"][2:])]} for one in coco.annotations
    ]
    file_like = CocoFile(coco.path, coco.content | {"annotations": records})
    boxes = read_boxes(file_like, coco.images[:only])
    return PredictionJob(checkpoint, "cpu", coco.images, images, PredictionFile(file), boxes=boxes)


def read_boxes(coco: CocoFile, images: list[Record]) -> dict[int, GivenBoxes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bcnet_core.evaluation.given_boxes.read_coco", lambda path: coco)
        file = read_box_file(coco.path, None, reporter=SilentReporter())
    return file.choose(images, amodal=False, least_score=None, reporter=SilentReporter())


@pytest.fixture
def truth(scenes: Path) -> CocoFile:
    return read_coco(scenes / "annotations/instances_val.json")


def test_masks_in_true_boxes_are_those_that_the_evaluation_scores(
    untrained: Path, truth: CocoFile, scenes: Path, tmp_path: Path
) -> None:
    asked = job(untrained, truth, scenes / "val", tmp_path / "parts")
    predict_to_disk(asked, Cluster(), reporter=SilentReporter())
    found = [one for results in asked.results(asked.images, truth.categories) for one in results]
    scores = score_true_boxes(load_detector(untrained, device="cpu"), truth, scenes / "val", reporter=SilentReporter())
    assert len(found) == len(scores.images) == len(truth.annotations)
    true = {one["id"]: masks.from_segmentation(one["segmentation"], 128, 128) for one in truth.annotations}
    own = [masks.iou(one["segmentation"], rle) for one in found if (rle := true[one["id"]]) is not None]
    assert own == pytest.approx(scores.scores["occludee"].tolist(), abs=1e-9) and max(own) > 0.1


def test_photos_without_a_box_are_not_run_and_another_choice_of_boxes_is_another_job(
    untrained: Path, truth: CocoFile, scenes: Path, tmp_path: Path
) -> None:
    few = job(untrained, truth, scenes / "val", tmp_path / "parts", only=2)
    predict_to_disk(few, Cluster(), reporter=SilentReporter())
    assert len(few.file.done()) == 2
    counts = [len(results) for results in few.results(few.images, truth.categories)]
    assert counts[2:] == [0] * 4 and sum(counts) == sum(len(given.records) for given in few.boxes.values()) > 2
    assert len(few.file.open(few.identity())) == 2, "the same job resumes"
    larger = job(untrained, truth, scenes / "val", tmp_path / "parts", only=2, scale=1.1)
    assert larger.file.open(larger.identity()) == set()


@pytest.mark.slow
def test_two_processes_predict_inside_boxes_what_one_does(
    untrained: Path, truth: CocoFile, scenes: Path, tmp_path: Path
) -> None:
    found = []
    for processes in (1, 2):
        asked = job(untrained, truth, scenes / "val", tmp_path / str(processes), only=4)
        predict_to_disk(asked, Cluster(processes), reporter=SilentReporter())
        found.append(list(asked.results(asked.images, truth.categories)))
    assert found[0] == found[1] and sum(map(len, found[0])) > 4


def test_a_detector_that_takes_no_boxes_says_so(truth: CocoFile, scenes: Path) -> None:
    class FindsItsOwn:
        categories = truth.categories

        def predict(self, images: Any) -> Any:
            raise AssertionError

    boxes = read_boxes(truth, truth.images)
    parts = [Part(truth.images[0], 0, boxes=boxes[truth.images[0]["id"]])]
    with pytest.raises(BCNetError, match="only predicts inside boxes that it finds itself") as caught:
        list(predictions(FindsItsOwn(), parts, scenes / "val", reporter=SilentReporter()))
    assert caught.value.exit_code == ExitCode.USAGE


def test_of_given_boxes_in_any_order_the_better_one_gets_a_shared_pixel() -> None:
    rles = [masks.from_box(0, 0, 6, 4, 8, 10), masks.from_box(4, 0, 10, 4, 8, 10), masks.from_box(0, 2, 10, 8, 8, 10)]
    scores = np.array([0.5, 0.9, 0.7], np.float32)
    found = Instances(np.zeros((3, 4), np.float32), scores, np.zeros(3, np.int64), (8, 10), {"occludee_mask": rles}, [])
    results = list(to_results(found, 1, LLAMAS, disjoint=True))
    assert [one["score"] for one in results] == scores.tolist()
    assert [masks.area(one["segmentation"]) for one in results] == [4 * 2, 6 * 4, 10 * 6 - 6 * 2]
