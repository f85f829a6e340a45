"""The comparison on real crowds: every detector is trained and measured alike, and the bounds of ours are right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, read_coco
from bcnet_core.config.load import load_recipe
from bcnet_core.evaluation.coco import ground_truth
from bcnet_core.model.detectors import Detector, build_detector
from benchmarks.crowds.peers import own_settings, usual_settings
from benchmarks.crowds.variants import VARIANTS, has_detectron2
from benchmarks.study.measures import SCORES
from benchmarks.study.oracles import ORACLES, score_oracles, true_masks
from benchmarks.study.training import Training
from benchmarks.study.trials import Plan, Study, Trial
from tests.benchmarks.conftest import SMALL, Bench

PEERS = [
    pytest.param(
        name,
        marks=[
            pytest.mark.skipif(name.startswith("detectron2") and not has_detectron2(), reason=name),
            pytest.mark.filterwarnings("ignore:torch.meshgrid"),  # of detectron2
        ],
    )
    for name in VARIANTS
    if VARIANTS[name].change is not None
]


@pytest.fixture
def study(scenes: Path, tmp_path: Path) -> Study:
    return Study(VARIANTS, {"shapes": scenes}, tmp_path, Plan("own_light", steps=2, overrides=SMALL), "cpu")


def test_a_comparison_is_one_command_that_is_continued(bench: Bench, scenes: Path, tmp_path: Path) -> None:
    asked = ("crowds", scenes, *SMALL, "-o", tmp_path, "--steps", "2", "--seeds", "2", "--device", "cpu")
    first = bench(*asked, "--variant", "ours", "--variant", "plain", "--json")
    assert first.returncode == 0, first.stderr
    content = json.loads(first.stdout)
    assert [(one["variant"], one["seed"]) for one in content["results"]] == [
        ("ours", 0), ("ours", 1), ("plain", 0), ("plain", 1)
    ]  # fmt: skip
    assert all(one["scores"].keys() == SCORES.keys() and one["steps"] == 2 for one in content["results"])
    assert [bool(one["oracles"]) for one in content["results"]] == [True, True, False, False]
    own, plain = ([one["scores"]["iou"] for one in content["results"] if one["variant"] == name] for name in VARIANTS
                  if name in {"ours", "plain"})  # fmt: skip
    mean, low, high = content["differences"]["shapes"]["ours"]["plain"]["iou"]
    assert mean == pytest.approx((own[0] - plain[0] + own[1] - plain[1]) / 2) and low < mean < high
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("results/shapes/*.json")}
    assert {path.name for path in tmp_path.rglob("detections/shapes/*.json")} == {path.name for path in files}
    again = bench(*asked, "--variant", "torchvision")
    assert again.returncode == 0 and "recommended recipe to torchvision, usual settings" in again.stdout, again.stderr
    assert len(files) == 4 and {path: path.stat().st_mtime_ns for path in files} == files
    other = bench(*asked[:-6], "--minutes", "1")
    assert other.returncode == 2 and "begun with another plan" in other.stderr


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_learns_behind_the_same_backbone(study: Study, name: str) -> None:
    own, peer = (Training(study.recipe(Trial("shapes", one, 0), 2), VARIANTS[one], "cpu") for one in ("ours", name))
    theirs = peer.state.detector
    for one, other in zip(own.state.detector.backbone.parameters(), theirs.backbone.parameters(), strict=True):
        assert torch.equal(one, other)
    before = {key: value.clone() for key, value in theirs.named_parameters()}
    first, _ = peer.run()
    assert first.losses.keys() == {
        "proposal_objectness", "proposal_box", "classification", "box", "occludee_mask"
    }  # fmt: skip
    moved = {key for key, value in theirs.named_parameters() if not torch.equal(value, before[key])}
    parts = {key.split(".")[0] + "." + key.split(".")[1] for key in moved}
    assert {"heads.rpn", "heads.roi_heads"} < parts and any(one.startswith("backbone") for one in parts)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_finds_masks_in_given_boxes_as_in_its_own(study: Study, name: str) -> None:
    recipe = study.recipe(Trial("shapes", name, 0), 2)
    detector = Training(recipe, VARIANTS[name], "cpu").state.detector.eval()
    if name.startswith("detectron2"):
        detector.heads.roi_heads.box_predictor.test_score_thresh = 0.0
    else:
        detector.heads.roi_heads.score_thresh = 0.0
    batch = detector.prepare(torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8).numpy())
    with torch.no_grad():
        features = detector.backbone(batch.tensors)
        (found,) = detector.heads.detect(features, batch)
        first = torch.zeros(len(found.proposals.boxes), dtype=torch.int64)
        again = detector.heads.masks(features, found.proposals.boxes, first)["occludee_mask"]
    same = (again - found.logits["occludee_mask"]).abs().flatten(1).amax(1) < 1e-3
    assert len(same) > 0 and same.any()  # those whose class is the most probable one


def test_settings_of_a_peer_are_the_usual_ones_or_the_recipes(scenes: Path) -> None:
    full = load_recipe("faster_rcnn_r50", ["model.backbone=r18"], data_root=scenes)
    detector = build_detector(full, [{"id": 1, "name": "disk"}])
    usual = usual_settings(detector, full, proposals=(2000, 1000))
    assert usual == (((32,), (64,), (128,), (256,), (512,)), (2000, 1000), (2000, 1000), 512, 1024, 256, 0.05, 0.5, 100)
    quarter = full.model_copy(update={"model": full.model.model_copy(update={"channels": 64, "anchor_scale": (4, 8)})})
    assert usual_settings(detector, quarter, proposals=(2000, 1000))[1:6] == ((500, 250), (500, 250), 128, 256, 64)
    own = own_settings(detector, quarter)
    model = quarter.model
    assert own.anchors[0] == (16, 32) and own.proposals == (model.proposals_per_image,) * 2
    assert (own.box_rois, own.box_channels) == (model.box_rois_per_image, model.box_head_channels)


def result(annotation: dict[str, Any], box: list[float], score: float) -> dict[str, Any]:
    return {**{key: annotation[key] for key in ("image_id", "category_id")}, "bbox": box, "score": score}


def square(number: int, x: int, *, side: int = 20, category: int = 1) -> dict[str, Any]:
    mask = masks.to_json(masks.from_box(x, 10, x + side, 10 + side, 50, 100))
    return {
        "id": number, "image_id": 1, "category_id": category, "bbox": [x, 10, side, side], "area": side**2,
        "iscrowd": 0, "segmentation": mask,
    }  # fmt: skip


def test_true_masks_are_those_of_the_best_box_of_a_class_cut_at_the_detected_one() -> None:
    annotations = [square(1, 10), square(2, 26), square(3, 60, category=2)]
    image = {"id": 1, "file_name": "a.png", "height": 50, "width": 100}
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    coco = CocoFile(Path("a.json"), {"images": [image], "annotations": annotations, "categories": categories})
    found = true_masks(
        coco,
        [
            result(annotations[0], [13.5, 10, 30, 20], 0.9),  # between the first and the second: more of the second
            result(annotations[2], [10, 10, 20, 20], 0.8),  # where nothing of its class is
            result(annotations[2], [60, 10, 20, 8.5], 0.7),
        ],
    )
    areas = [masks.area(one["segmentation"]) for one in found]
    assert areas == [18 * 20, 0, 20 * 9]
    assert masks.iou(found[0]["segmentation"], masks.from_box(26, 10, 44, 30, 50, 100)) == 1
    assert [one["score"] for one in found] == [0.9, 0.8, 0.7]


@pytest.mark.parametrize(("size", "least"), [(28, 0.95), (56, 0.99)])  # 56 cells in boxes of fewer pixels
def test_bounds_of_a_detector_that_is_perfect_but_for_its_resolution(
    study: Study, scenes: Path, size: int, least: float
) -> None:
    variant = VARIANTS["ours"]._replace(overrides=(f"model.mask_size={size}",))
    recipe = replace(study, variants={"ours": variant}).recipe(Trial("shapes", "ours", 0), 2)
    detector = Training(recipe, variant, "cpu").state.detector.eval()
    coco = read_coco(scenes / "annotations/instances_val.json")
    results = [{**one, "score": 1.0} for one in coco.annotations]
    found = score_oracles(detector, coco, scenes / "val", results, truth=ground_truth(coco), max_dets=100)
    assert found.keys() == ORACLES.keys()
    assert found["masks"] > 0.99 and found["boxes"] < 0.5
    assert found["resolution"] > least
    assert isinstance(detector, Detector)
