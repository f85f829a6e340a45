"""Levels of occlusion, hidden objects, and their recall: on drawn boxes, and against pycocotools."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bcnet_core import BCNetError, ExitCode, masks
from bcnet_core.annotations.coco import CocoFile, read_coco
from bcnet_core.evaluation.coco import evaluate, ground_truth
from bcnet_core.evaluation.occluded import (
    IGNORED_AREA,
    HiddenObject,
    annotation_levels,
    count_recall,
    hidden_objects,
    read_objects,
    truth_of_level,
)
from bcnet_core.evaluation.report import ScoreOptions, score_results
from tests.evaluation.test_coco import perturbed

HEIGHT, WIDTH = 60, 100


def rectangle(number: int, box: tuple[int, int, int, int], *, minus: tuple[int, int, int, int] | None = None) -> Any:
    """An annotation whose mask is a box less another."""
    x, y, width, height = box
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + height, x : x + width] = True
    if minus is not None:
        left, top, across, down = minus
        mask[top : top + down, left : left + across] = False
    return {
        "id": number, "image_id": 1, "category_id": 1, "bbox": list(box), "iscrowd": 0, "area": int(mask.sum()),
        "segmentation": masks.to_json(masks.encode(mask)),
    }  # fmt: skip


def file_of(*annotations: Any) -> CocoFile:
    image = {"id": 1, "file_name": "1.jpg", "width": WIDTH, "height": HEIGHT}
    content = {"images": [image], "categories": [{"id": 1, "name": "box"}], "annotations": list(annotations)}
    return CocoFile(Path("gt.json"), content)


BAR = (30, 0, 10, 60)
CUT = file_of(
    rectangle(1, BAR),  # a bar in front of ...
    rectangle(2, (10, 10, 50, 15), minus=BAR),  # ... a beam that it cuts in two
    rectangle(3, (60, 30, 20, 20), minus=(70, 30, 10, 20)),  # half of a box is hidden by the next one
    rectangle(4, (70, 30, 20, 20)),
    rectangle(5, (2, 50, 8, 8)),  # alone
    {**rectangle(6, (0, 0, 100, 60)), "iscrowd": 1},
)


def derived(coco: CocoFile) -> tuple[list[HiddenObject], list[HiddenObject]]:
    return hidden_objects(coco, annotation_levels(coco))


def test_levels_of_annotations() -> None:
    assert annotation_levels(CUT) == ["light", "light", "heavy", "heavy", "none", None]
    assert annotation_levels(file_of()) == []


def test_a_beam_behind_a_bar_is_separated_and_a_covered_box_is_occluded() -> None:
    occluded, separated = derived(CUT)
    assert [masks.bounding_box(one.mask).tolist()[:2] for one in separated] == [[10, 10]]
    assert [masks.bounding_box(one.mask).tolist()[:2] for one in occluded] == [[60, 30], [70, 30]]


def test_an_object_in_two_parts_with_nothing_between_them_is_not_separated() -> None:
    two_parts = rectangle(1, (10, 10, 50, 15), minus=BAR)
    assert derived(file_of(two_parts, rectangle(2, (80, 5, 10, 10)))) == ([], [])


def test_small_specks_are_not_pieces() -> None:
    speckled = rectangle(2, (10, 10, 50, 15), minus=(12, 10, 48, 15))  # 30 pixels in one piece
    assert derived(file_of(rectangle(1, BAR), speckled)) == ([], [])


def test_recall_needs_the_right_class_score_and_overlap() -> None:
    one = HiddenObject(1, 1, masks.from_box(10, 10, 30, 30, HEIGHT, WIDTH))

    def hit(**changes: Any) -> int:
        result = {"image_id": 1, "category_id": 1, "score": 0.3, "segmentation": one.mask} | changes
        return count_recall([one, one], [result]).found

    assert hit() == 2
    assert hit(score=0.29) == hit(category_id=2) == hit(image_id=2) == 0
    assert hit(segmentation=masks.from_box(10, 10, 30, 25, HEIGHT, WIDTH)) == 2  # IoU of exactly 0.75
    assert hit(segmentation=masks.from_box(10, 10, 30, 24, HEIGHT, WIDTH)) == 0
    assert count_recall([], []).share == -1


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_levels_equal_the_reference_with_the_others_ignored(scenes: Path, kind: Any) -> None:
    """In the reference, instances of other levels have an area outside of its only range."""
    coco = read_coco(scenes / "annotations/instances_train.json")
    results, levels, truth = perturbed(coco), annotation_levels(coco), ground_truth(coco)
    for level in ("none", "light", "heavy"):
        reference = COCO()
        reference.dataset = {**truth, "annotations": [dict(one) for one in truth["annotations"]]}
        for one, own in zip(reference.dataset["annotations"], levels, strict=True):
            one["area"] = 50 if own == level else 1e12
        reference.createIndex()
        dropped = "bbox" if kind == "segm" else "segmentation"
        found = reference.loadRes([{key: value for key, value in one.items() if key != dropped} for one in results])
        for one in found.dataset["annotations"]:
            one["area"] = 50
        evaluation = COCOeval(reference, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        scores = evaluate(truth_of_level(truth, levels, level), results, kind).scores
        expected = [*evaluation.stats[:3], *evaluation.stats[6:9]]
        assert [*scores[:3], *scores[6:9]] == pytest.approx(expected, abs=1e-9)
        assert scores.AP > 0.1 or levels.count(level) == 0


def test_a_detection_of_another_level_is_no_false_positive() -> None:
    truth = ground_truth(CUT)
    levels = annotation_levels(CUT)
    results = [
        {"image_id": 1, "category_id": 1, "score": 0.9 - 0.1 * index, "bbox": one["bbox"],
         "segmentation": one["segmentation"]}
        for index, one in enumerate(CUT.annotations[:5])
    ]  # fmt: skip
    assert pytest.approx(1) == evaluate(truth_of_level(truth, levels, "none"), results, "segm").scores.AP
    assert truth["annotations"][0]["area"] < IGNORED_AREA, "the ground truth itself was changed"
    everywhere = masks.from_box(90, 0, 99, 9, HEIGHT, WIDTH)
    nonsense = {**results[0], "score": 1.0, "segmentation": everywhere}
    no_crowd = ground_truth(file_of(*CUT.annotations[:5]))
    score = evaluate(truth_of_level(no_crowd, levels[:5], "none"), [nonsense, *results], "segm").scores.AP
    assert score == pytest.approx(0.5, abs=0.01)


def test_a_report_has_what_was_asked_for() -> None:
    results = [
        {"image_id": 1, "category_id": 1, "score": 0.9, "bbox": one["bbox"], "segmentation": one["segmentation"]}
        for one in CUT.annotations[:5]
    ]
    plain = score_results(CUT, results, ScoreOptions())
    assert list(plain.rows) == ["boxes", "masks"] and plain.recall == {} and plain.detections == 5
    assert plain.categories["masks"]["box"] == plain.rows["masks"]
    options = ScoreOptions(boundary=True, occlusion=True, occluded_ids=[1])
    full = score_results(CUT, results, options)
    assert list(full.rows) == [
        "boxes", "masks", "boundaries", "boxes, occluded split", "masks, occluded split", "boundaries, occluded split",
        "masks, occlusion none", "masks, occlusion light", "masks, occlusion heavy",
    ]  # fmt: skip
    assert all(pytest.approx(1) == row.AP for row in full.rows.values())
    assert {name: tuple(one) for name, one in full.recall.items()} == {"occluded": (2, 2), "separated": (1, 1)}
    none = score_results(CUT, results, ScoreOptions(occlusion=True, occluded_ids=[]))
    assert none.rows["masks, occluded split"].AP == -1
    boxes = score_results(CUT, [{k: v for k, v in one.items() if k != "segmentation"} for one in results], options)
    assert list(boxes.rows)[-1] == "boxes, occlusion heavy" and boxes.recall == {}
    with pytest.raises(BCNetError, match="pycocotools has no boundary AP"):
        ScoreOptions(scorer="pycocotools", boundary=True)


def entry(**changes: Any) -> list[Any]:
    rle = masks.from_box(10, 10, 30, 30, HEIGHT, WIDTH)
    return list(
        ({"file": "1.jpg", "name": "box", "unused": np.int64(8), "bbox": [1, 2, 3, 4], "rle": rle} | changes).values()
    )


def test_published_lists_are_read(tmp_path: Path) -> None:
    path = tmp_path / "occluded_coco.pkl"
    path.write_bytes(pickle.dumps([entry(), entry(bbox=np.array([1.0, 2, 3, 4]))]))
    first, second = read_objects(path, CUT)
    assert first == second == HiddenObject(1, 1, masks.from_box(10, 10, 30, 30, HEIGHT, WIDTH))


class Evil:
    """A pickled object that makes a folder when it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.place,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a list of objects, or is cut off"),
        (b"\x80\x04garbage", "is not a list of objects, or is cut off"),
        (pickle.dumps({"a": 1}), "is not a list of objects"),
        (pickle.dumps([["1.jpg", "box"]]), "is not a list of objects"),
        (pickle.dumps([entry(file="2.jpg")]), r"names the image `2\.jpg`"),
        (pickle.dumps([entry(name="ball")]), "names the category `ball`"),
        (pickle.dumps([entry(rle={"size": [5, 5], "counts": b"i0"})]), "a mask in `1.jpg` cannot be read"),
    ],
)
def test_other_pickles_are_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.pkl").write_bytes(content)
    with pytest.raises(BCNetError, match=message) as caught:
        read_objects(tmp_path / "list.pkl", CUT)
    assert caught.value.exit_code == ExitCode.BAD_DATA


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([Evil(tmp_path / "made")]))
    with pytest.raises(BCNetError, match="is refused: reading it would call"):
        read_objects(tmp_path / "list.pkl", CUT)
    assert not (tmp_path / "made").exists()
    with pytest.raises(BCNetError, match="cannot read"):
        read_objects(tmp_path / "gone.pkl", CUT)
