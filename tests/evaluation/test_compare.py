"""Comparison of two models: AP is the library's, and the interval covers chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bcnet_core.annotations.coco import CocoFile, read_coco
from bcnet_core.evaluation.coco import ScoreKind, evaluate, ground_truth
from bcnet_core.evaluation.compare import MatchedResults, compare_results
from bcnet_core.reporting import SilentReporter
from tests.conftest import Heard
from tests.evaluation.test_coco import perturbed


@pytest.fixture(scope="module")
def coco(scenes: Path) -> CocoFile:
    return read_coco(scenes / "annotations/instances_train.json")


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_a_draw_scores_like_a_file_with_the_drawn_images(coco: CocoFile, kind: ScoreKind) -> None:
    """An image that is drawn twice counts as two images."""
    results = perturbed(coco)
    matched = MatchedResults(ground_truth(coco), results, kind)
    assert matched.precision(np.arange(len(coco.images))) == pytest.approx(
        evaluate(ground_truth(coco), results, kind).scores.AP, abs=1e-12
    )
    drawn = np.array([3, 1, 1, 7, 7, 7, 0, 2, 5, 5, 3, 9])
    images, annotations, copies = [], [], []
    for number, place in enumerate(sorted(drawn.tolist()), start=1000):
        source = coco.images[place]
        images.append({**source, "id": number})
        annotations += [{**one, "image_id": number} for one in coco.annotations if one["image_id"] == source["id"]]
        copies += [{**one, "image_id": number} for one in results if one["image_id"] == source["id"]]
    drawn_file = CocoFile(coco.path, {**coco.content, "images": images, "annotations": annotations})
    expected = evaluate(ground_truth(drawn_file), copies, kind).scores.AP
    assert matched.precision(drawn) == pytest.approx(expected, abs=1e-12)
    assert matched.precision(np.zeros(0, np.int64)) == -1


def test_a_better_model_is_certain_and_an_equal_one_is_not(coco: CocoFile) -> None:
    good = perturbed(coco)
    rng = np.random.default_rng(1)
    worse = [one for one in good if rng.random() < 0.6]
    rows = compare_results(coco, worse, good, resamples=60, seed=0, reporter=SilentReporter())
    assert list(rows) == ["masks, all", "masks, occlusion none", "masks, occlusion light", "masks, occlusion heavy"]
    found = rows["masks, all"]
    assert found.low <= found.difference <= found.high and found.low > 0 and found.is_certain
    back = compare_results(coco, good, worse, resamples=60, seed=0, reporter=SilentReporter())["masks, all"]
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low), abs=1e-12)
    assert found.is_measured and not found._replace(first=-1.0, second=-1.0).is_measured
    same = compare_results(coco, good, good, resamples=5, seed=0, reporter=SilentReporter())["masks, all"]
    assert same.low == same.difference == same.high == 0 and not same.is_certain


def test_a_comparison_on_few_images_is_warned_of(coco: CocoFile) -> None:
    first = {one["id"] for one in coco.images[:3]}
    few = CocoFile(coco.path, {
        **coco.content, "images": [one for one in coco.images if one["id"] in first],
        "annotations": [one for one in coco.annotations if one["image_id"] in first],
    })  # fmt: skip
    heard = Heard()
    compare_results(few, perturbed(few), perturbed(few), resamples=2, seed=0, reporter=heard)
    assert heard.warnings == ["draws of 3 images say little: intervals of so few are too narrow"]


def test_one_model_without_masks_is_compared_by_boxes(coco: CocoFile) -> None:
    results = perturbed(coco)
    boxes = [{key: value for key, value in one.items() if key != "segmentation"} for one in results]
    rows = compare_results(coco, boxes, results, resamples=3, seed=0, reporter=SilentReporter())
    assert rows["boxes, all"].difference == 0


def test_the_interval_covers_chance(coco: CocoFile) -> None:
    """For two models with equally frequent faults, nearly every interval includes no difference."""
    certain = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        one, two = ([r for r in perturbed(coco) if rng.random() < 0.8] for _ in range(2))
        rows = compare_results(coco, one, two, resamples=40, seed=seed, reporter=SilentReporter())
        certain += rows["masks, all"].is_certain
    assert certain <= 4
