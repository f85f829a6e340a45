"""The study of whole masks: variants train what their titles say, and measures are those of the whole masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bcnet_core import masks
from bcnet_core.annotations.coco import AMODAL_KEY, CocoFile, Record, read_coco, segmentation_rle
from bcnet_core.evaluation.amodal import read_amodal_truth
from benchmarks.amodal.measures import SCORES, WHOLE_MASKS, measure, with_hidden_shares
from benchmarks.amodal.variants import VARIANTS
from benchmarks.study.training import Step, Training
from benchmarks.study.trials import Plan, Study, Trial
from tests.benchmarks.conftest import SMALL, Bench

SIZE = {"height": 128, "width": 128}
"""Of the scenes' images."""


@pytest.fixture
def study(scenes: Path, tmp_path: Path) -> Study:
    plan = Plan("own_amodal", steps=2, overrides=SMALL)
    return Study(VARIANTS, {"shapes": scenes}, tmp_path, plan, "cpu", WHOLE_MASKS)


def start(study: Study, variant: str) -> Training:
    return Training(study.recipe(Trial("shapes", variant, 0), 2), VARIANTS[variant], "cpu")


def first_step(training: Training) -> Step:
    return next(iter(training.run()))


def test_a_variant_trains_the_masks_of_its_title(study: Study) -> None:
    losses = {name: first_step(start(study, name)).losses for name in VARIANTS}
    layers = {
        name: {key for key, value in found.items() if key.endswith(("mask", "boundary")) and float(value) > 0}
        for name, found in losses.items()
    }
    own = {"occludee_mask", "occludee_boundary", "amodal_mask"}
    occluder = {"occluder_mask", "occluder_boundary"}
    assert layers == {
        "ours": own | occluder, "plain": {"occludee_mask", "amodal_mask"}, "plain_only": {"amodal_mask"},
        "mask_rcnn": {"amodal_mask"}, "visible": own - {"amodal_mask"} | occluder, "no_occluder": own,
    }  # fmt: skip


def test_a_head_with_the_whole_mask_alone_gives_it_for_both(study: Study) -> None:
    training = start(study, "plain_only")
    first_step(training)
    detector = training.state.best_detector.eval()
    head = detector.heads.masks.head
    features = torch.randn(3, 32, head.roi_size, head.roi_size)
    maps = head(features)
    assert torch.equal(maps["occludee_mask"], maps["amodal_mask"]) and bool(maps["amodal_mask"].any())
    both = start(study, "plain").state.detector.eval().heads.masks.head(features)
    assert not torch.equal(both["occludee_mask"], both["amodal_mask"])


def test_every_variant_is_a_recipe_of_its_own(study: Study) -> None:
    recipes = {name: study.recipe(Trial("shapes", name, 0), 2) for name in VARIANTS}
    assert all(recipes[first] != recipes[second] for first in recipes for second in recipes if first < second)
    assert [recipes[name].model.mask_size for name in ("plain_only", "mask_rcnn")] == ["auto", 28]
    assert not any(recipes[name].model.boundary or recipes[name].model.attention for name in ("plain", "plain_only"))


def annotations_of(scenes: Path) -> list[Record]:
    content = json.loads((scenes / "annotations/instances_val.json").read_text())
    return list(content["annotations"])


def perfect_result(annotation: Record, *, whole: bool) -> Record:
    kept = {key: annotation[key] for key in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 1.0}
    mask = segmentation_rle(annotation, SIZE, key=AMODAL_KEY)
    assert mask is not None
    return {**kept, AMODAL_KEY: mask, "amodal_bbox": masks.bounding_box(mask).tolist()} if whole else kept


@pytest.mark.parametrize("whole", [True, False])
def test_perfect_results_have_perfect_scores_of_what_they_hold(
    study: Study, scenes: Path, monkeypatch: pytest.MonkeyPatch, *, whole: bool
) -> None:
    perfect = [perfect_result(one, whole=whole) for one in annotations_of(scenes)]
    monkeypatch.setattr("benchmarks.amodal.measures.predict_images", lambda *_, **__: perfect)
    training = start(study, "ours" if whole else "visible")
    scores = measure(training.state.detector.eval(), training.recipe).scores
    assert scores.keys() == SCORES.keys()
    assert scores["mask_AP"] > 0.99 and scores["box_AP"] > 0.99
    if whole:
        assert scores["whole_AP"] > 0.99 and scores["whole_box_AP"] > 0.99
        assert min(scores.values()) >= 0
    else:
        assert scores["whole_AP"] < 0.9 and scores["iou_hidden"] == 0 and scores["iou_whole"] == scores["order"] == -1


def test_hidden_shares_are_those_of_the_masks(study: Study, scenes: Path) -> None:
    training = start(study, "ours")
    coco = read_coco(scenes / "annotations/instances_val.json")
    stored = {one["id"]: one["occlusion_rate"] for one in coco.annotations}
    unknown = coco.annotations[0]["id"]
    known = [one for one in coco.annotations if one["id"] != unknown]
    bare = {key: value for key, value in coco.annotations[0].items() if key != AMODAL_KEY}
    changed = CocoFile(coco.path, {**coco.content, "annotations": [bare, *known]})
    shares = with_hidden_shares(changed, read_amodal_truth(changed))
    rates = {one["id"]: one["occlusion_rate"] for one in shares.annotations}
    assert np.isnan(rates.pop(unknown))
    assert rates == pytest.approx({key: rate for key, rate in stored.items() if key != unknown}, abs=1e-4)
    hidden = [rate for rate in stored.values() if rate >= 0.1]
    assert hidden
    found = measure(training.state.detector.eval(), training.recipe).scores
    assert found["iou_of_visible"] == pytest.approx(1 - np.mean(hidden), abs=1e-4)


def test_a_set_without_whole_masks_is_refused_before_a_training(bench: Bench, scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "plain"
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        content = json.loads((scenes / f"annotations/instances_{split}.json").read_text())
        for one in content["annotations"]:
            del one[AMODAL_KEY]
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
        (root / split).symlink_to(scenes / split)
    done = bench("amodal", root, *SMALL, "-o", tmp_path / "out", "--steps", "2", "--device", "cpu")
    assert done.returncode == 3 and "has a whole mask" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_comparison_is_one_command(bench: Bench, scenes: Path, tmp_path: Path) -> None:
    asked = ("amodal", scenes, *SMALL, "-o", tmp_path, "--steps", "2", "--seeds", "2", "--device", "cpu", "--json")
    done = bench(*asked, "--variant", "ours", "--variant", "plain_only")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert [(one["variant"], one["seed"]) for one in content["results"]] == [
        ("ours", 0), ("ours", 1), ("plain_only", 0), ("plain_only", 1)
    ]  # fmt: skip
    assert all(one["scores"].keys() == SCORES.keys() for one in content["results"])
    own, theirs = ([one["scores"]["iou_hidden"] for one in content["results"] if one["variant"] == name]
                   for name in ("ours", "plain_only"))  # fmt: skip
    mean, low, high = content["differences"]["shapes"]["ours"]["plain_only"]["iou_hidden"]
    assert mean == pytest.approx((own[0] - theirs[0] + own[1] - theirs[1]) / 2) and low < mean < high
    assert "hidden, 10 % and more" in (tmp_path / "report.md").read_text()
