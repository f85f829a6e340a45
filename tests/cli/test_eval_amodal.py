"""`bcnet eval --amodal`: whole masks of a run and of a results file, and what has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bcnet_core.annotations.coco import AMODAL_KEY, read_coco
from bcnet_core.config.load import load_recipe
from bcnet_core.errors import ExitCode
from bcnet_core.files.json_files import write_json
from bcnet_core.model.detectors import build_detector
from bcnet_core.weights.checkpoint import Checkpoint, save_checkpoint
from tests.cli.test_eval_and_predict import good, refused

INSIDE = {"occludee", "occluder", "amodal", "hidden", "occludee_boundary", "occluder_boundary", "order"}


@pytest.fixture(scope="module")
def amodal(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an untrained detector of whole masks."""
    settings = ["model.channels=32", "model.tower_convs=1", "data.min_size=64", "data.max_size=64"]
    settings += ["model.detector=fcos", "model.score_threshold=0", "model.detections_per_image=5", "model.amodal=true"]
    recipe = load_recipe("shapes", settings, data_root=scenes)
    categories = read_coco(scenes / "annotations/instances_val.json").categories
    path = tmp_path_factory.mktemp("amodal") / "model.pt"
    save_checkpoint(
        path,
        Checkpoint(1, recipe.model_dump(mode="json"), categories, build_detector(recipe, categories).state_dict(), {}),
    )
    return path


def test_a_run_is_scored_with_its_whole_masks_and_its_file_alike(amodal: Path, scenes: Path, tmp_path: Path) -> None:
    arguments = ("eval", amodal, "--data-root", scenes, "-o", tmp_path, "--device", "cpu", "--amodal", "--json")
    content = json.loads(good(*arguments).stdout)
    truth = scenes / "annotations/instances_val.json"
    assert (
        content["amodal"]["instances"] == content["amodal"]["whole"]["instances"] == len(read_coco(truth).annotations)
    )
    assert content["layers"].keys() == INSIDE
    assert {"whole boxes", "whole masks", "whole masks, visible 85-100", "whole boxes, visible 0-10"} < set(
        content["scores"]
    )
    again = good("eval", "--results", tmp_path / "instances_val_results.json", "--gt", truth, "--amodal", "--json")
    read = json.loads(again.stdout)
    assert read["amodal"] == content["amodal"] and read["scores"] == content["scores"]


def test_tables_tell_which_instances_whole_scores_are_about(amodal: Path, scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "annotations/instances_val.json").read_text())
    instances = len(content["annotations"])
    del content["annotations"][0][AMODAL_KEY]
    write_json(tmp_path / "gt.json", content)
    results = [
        {key: one[key] for key in ("image_id", "category_id", "bbox", "segmentation", AMODAL_KEY)} | {"score": 0.5}
        for one in content["annotations"][1:]
    ]
    write_json(tmp_path / "found.json", results)
    arguments = ("eval", "--results", tmp_path / "found.json", "--gt", tmp_path / "gt.json", "--amodal")
    shown = good(*arguments).stdout
    known = instances - 1
    assert f"whole masks are known of {known} of {instances} instances; the others are ignored" in shown
    assert f"IoU of whole masks: 100.0 % ({known} of {known} found; the others count 0)" in shown
    assert "IoU of hidden parts: 100.0 %" in shown and "order accuracy: 100.0 % of" in shown
    rows = {line.split(",")[0].strip('"') for line in good(*arguments, "--csv").stdout.splitlines()}
    assert "whole masks" in rows


def test_what_has_no_whole_masks_is_refused(amodal: Path, untrained: Path, scenes: Path, tmp_path: Path) -> None:
    truth = scenes / "annotations/instances_val.json"
    error = refused("eval", untrained, "--data-root", scenes, "-o", tmp_path / "a", "--device", "cpu", "--amodal")
    assert "predicts no whole masks" in error.message and error.exit_code == ExitCode.USAGE and error.hints
    content = json.loads(truth.read_text())
    results = [
        {key: one[key] for key in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 0.5}
        for one in content["annotations"]
    ]
    write_json(tmp_path / "found.json", results)
    error = refused("eval", "--results", tmp_path / "found.json", "--gt", truth, "--amodal", "-o", tmp_path / "a")
    assert f"{len(results)} of {len(results)} results have no `amodal_segmentation`" in error.message
    for one in content["annotations"]:
        del one[AMODAL_KEY]
    for name in ("train", "val"):
        write_json(tmp_path / f"root/annotations/instances_{name}.json", content)
    error = refused(
        "eval", amodal, "--data-root", tmp_path / "root", "-o", tmp_path / "a", "--device", "cpu", "--amodal"
    )
    assert "has an `amodal_segmentation`" in error.message and error.exit_code == ExitCode.BAD_DATA
    assert not (tmp_path / "a").exists()
