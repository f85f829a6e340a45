"""The rows of a score report, and how many detections of an image they count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile
from bcnet_core.config.choices import Scorer
from bcnet_core.config.load import load_recipe
from bcnet_core.evaluation import validation
from bcnet_core.evaluation.coco import evaluate, ground_truth
from bcnet_core.evaluation.compare import compare_results, image_precisions
from bcnet_core.evaluation.report import ScoreOptions, score_results
from bcnet_core.reporting import SilentReporter

SIDE = 160


def grid(count: int, *, names: tuple[str, ...] = ("leaf",), with_masks: bool = True) -> CocoFile:
    """Two images, the first with a grid of boxes whose categories take turns."""
    annotations = []
    for index in range(count):
        x, y = index % 16 * 10, index // 16 * 10
        size = 6 + index % 3
        polygon = [[x, y, x + size, y, x + size, y + size, x, y + size]]
        one = {"id": index, "image_id": 1, "category_id": index % len(names), "bbox": [x, y, size, size]}
        annotations.append({**one, "segmentation": polygon} if with_masks else one)
    images = [{"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE} for number in (1, 2)]
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    return CocoFile(Path("gt.json"), {"images": images, "annotations": annotations, "categories": categories})


def true_results(coco: CocoFile) -> list[dict[str, Any]]:
    return [
        {key: one[key] for key in ("image_id", "category_id", "bbox")}
        | {"score": 1 - number / 1000, "segmentation": masks.from_segmentation(one["segmentation"], SIDE, SIDE)}
        for number, one in enumerate(coco.annotations)
    ]


@pytest.mark.parametrize("scorer", get_args(Scorer))
def test_the_truth_of_a_crowded_image_scores_full_marks_if_all_detections_count(scorer: Scorer) -> None:
    coco = grid(250)
    results = true_results(coco)
    few = score_results(coco, results, ScoreOptions(scorer=scorer, occlusion=True))
    assert few.rows["boxes"].AP < 0.45 and few.rows["masks"].ARmost == pytest.approx(0.4)
    all_ = score_results(coco, results, ScoreOptions(scorer=scorer, occlusion=True, max_dets=250))
    found = {name: row for name, row in all_.rows.items() if row.AP >= 0}
    assert found.keys() >= {"boxes", "masks", "masks, occlusion none"}
    assert all(row.AP == row.ARmost == pytest.approx(1) for row in found.values())
    assert pytest.approx(0.04) == found["masks"].AR10 and pytest.approx(0.004) == found["masks"].AR1


@pytest.mark.parametrize("max_dets", [11, 50, 100, 300])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_both_libraries_count_the_same_detections(kind: Any, max_dets: int) -> None:
    coco = grid(250, names=("leaf", "fruit"))
    results = [one for index, one in enumerate(true_results(coco)) if index % 7]
    for index, one in enumerate(results):
        one["score"] = (index * 37 % 101) / 101  # others than those in front, with ties
        one["category_id"] = (one["category_id"] + (index % 5 == 0)) % 2
    ours, theirs = (
        evaluate(ground_truth(coco), results, kind, scorer=scorer, max_dets=max_dets) for scorer in get_args(Scorer)
    )
    assert list(ours.scores) == pytest.approx(list(theirs.scores), abs=1e-9) and 0 < ours.scores.AP < 1
    for category, scores in ours.categories.items():
        assert list(scores) == pytest.approx(list(theirs.categories[category]), abs=1e-9)


def test_a_recall_is_named_by_the_detections_that_count() -> None:
    coco = grid(3)
    content = score_results(coco, true_results(coco), ScoreOptions(max_dets=300)).content()
    assert list(content["scores"]["masks"])[6:9] == ["AR1", "AR10", "AR300"] and content["max_dets"] == 300
    assert list(content["categories"]["boxes"]["leaf"])[8] == "AR300"
    standard = score_results(coco, true_results(coco), ScoreOptions()).content()
    assert list(standard["scores"]["masks"])[8] == "AR100"


def test_a_comparison_counts_as_many_detections() -> None:
    coco = grid(250)
    results = true_results(coco)
    for max_dets, expected in ((100, 0.4), (250, 1)):
        rows = compare_results(
            coco, results, results, resamples=2, seed=0, max_dets=max_dets, reporter=SilentReporter()
        )
        assert rows["masks, all"].first == pytest.approx(expected, abs=0.05)


def test_the_ap_of_an_image_alone_counts_all_detections() -> None:
    coco = grid(250)
    assert image_precisions(coco, true_results(coco)) == {1: pytest.approx(1)}
    assert image_precisions(coco, []) == {1: 0}


def test_no_results_score_zero() -> None:
    coco = grid(20)
    report = score_results(coco, [], ScoreOptions(occlusion=True))
    assert report.rows["boxes"].AP == report.rows["masks"].AP == 0
    assert list(score_results(grid(20, with_masks=False), [], ScoreOptions()).rows) == ["boxes"]
    rows = compare_results(coco, [], true_results(coco), resamples=3, seed=0, reporter=SilentReporter())
    assert (rows["masks, all"].first, rows["masks, all"].second) == (0, pytest.approx(1))


def test_categories_of_one_name_have_a_row_each() -> None:
    coco = grid(20, names=("leaf", "fruit", "leaf"))
    report = score_results(coco, [one for one in true_results(coco) if one["category_id"]], ScoreOptions())
    rows = report.categories["masks"]
    assert {name: round(row.AP) for name, row in rows.items()} == {"leaf (id 0)": 0, "fruit": 1, "leaf (id 2)": 1}
    assert json.loads(json.dumps(report.content()))["categories"]["masks"].keys() == rows.keys()


def test_a_run_that_keeps_more_detections_counts_them_in_training() -> None:
    coco = grid(250)
    for kept, expected in ((50, 0.4), (250, 1)):
        scores = validation._score(
            coco, true_results(coco), load_recipe("tiny", [f"model.detections_per_image={kept}"])
        )
        assert scores["mask_AP"] == pytest.approx(expected, abs=0.05)
        assert scores["box_AP"] == pytest.approx(expected, abs=0.05)
