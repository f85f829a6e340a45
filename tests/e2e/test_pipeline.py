"""The full pipeline: the demo on synthetic scenes, and the commands of the README on real images."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import Bcnet


def test_a_small_demo_runs_the_full_pipeline(bcnet: Bcnet, tmp_path: Path) -> None:
    """An earlier demo is only replaced with --overwrite; other files in the folder stay."""
    arguments = ("demo", "-o", tmp_path / "demo", "--images", "8", "--val-images", "4", "--steps", "2")
    earlier = tmp_path / "demo/run/checkpoints/step_00000009.pt"
    earlier.parent.mkdir(parents=True)
    for file in (earlier, tmp_path / "demo/occ_val.json", tmp_path / "demo/mine.txt"):
        file.write_text("keep")
    assert bcnet(*arguments).returncode == 2 and earlier.exists()
    done = bcnet(*arguments, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower()
    for line in ("synth shapes", "annotate", "split-occ", "train demo", "eval", "viz"):
        assert f"$ bcnet {line}" in done.stderr
    for path in ("viz/index.html", "viz_truth/index.html", "run/eval/instances_val_scores.json"):
        assert (tmp_path / "demo" / path).is_file() and path in done.stdout
    assert not earlier.exists() and json.loads((tmp_path / "demo/occ_val.json").read_text())["images"]
    assert (tmp_path / "demo/mine.txt").read_text() == "keep"


@pytest.mark.slow
def test_the_demo_model_learns_and_predicts_in_batches_and_half_precision(bcnet: Bcnet, tmp_path: Path) -> None:
    """Trained on half of the scenes for less than half of the steps of `make demo`, whose mask AP is 41.1."""
    sizes = ("--images", "1000", "--val-images", "150", "--steps", "400")
    done = bcnet("demo", "-o", tmp_path / "demo", *sizes)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "demo/run/eval/instances_val_scores.json").read_text())["scores"]
    assert scores["masks"]["AP"] >= 0.15
    assert f"{100 * scores['masks']['AP']:.1f}" in done.stdout
    full = sure_boxes(tmp_path / "demo/run/eval")
    tolerances = (("--batch 8", 0.01, 0.01), ("--precision bf16", 0.5, 0.3), ("--precision fp16", 0.5, 0.1))
    for words, points, pixels in tolerances:
        folder = tmp_path / words.replace(" ", "_")
        done = bcnet("eval", tmp_path / "demo/run", *words.split(), "-o", folder, "--json")
        assert done.returncode == 0, done.stderr
        for kind, found in json.loads(done.stdout)["scores"].items():
            assert abs(found["AP"] - scores[kind]["AP"]) <= points / 100, (words, kind)
        found = sure_boxes(folder)
        distances = [
            np.abs(found[key] - box).max(axis=1).min() for key, boxes in full.items() if key in found for box in boxes
        ]
        assert len(distances) > 50 and np.median(distances) <= pixels, words


def sure_boxes(folder: Path) -> dict[tuple[int, int], NDArray[np.float64]]:
    """Return the (N, 4) boxes of results with a score of at least 0.5, by image and category."""
    boxes: dict[tuple[int, int], list[list[float]]] = defaultdict(list)
    for found in json.loads((folder / "instances_val_results.json").read_text()):
        if found["score"] >= 0.5:
            boxes[found["image_id"], found["category_id"]].append(found["bbox"])
    return {key: np.array(values) for key, values in boxes.items()}


@pytest.mark.slow
def test_every_command_of_the_pipeline_runs_on_real_images(bcnet: Bcnet, coco_mini: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in coco_mini.rglob("*")}
    for line in (
        f"annotate {coco_mini}/annotations/instances_train2017.json -o out/bilayer_train.json",
        f"split-occ {coco_mini}/annotations/instances_val2017.json -o out/occ_val.json",
        f"train tiny --data-root {coco_mini} --gpus 1 solver.steps=20 --run-dir out/run",
        f"train tiny --data-root {coco_mini} --gpus 2 --device cpu solver.steps=4 --run-dir out/run2",
        "eval out/run",
        "eval out/run --test-dev",
        "viz out/run -o out/viz",
        f"viz {coco_mini}/annotations/instances_val2017.json -o out/viz_gt",
    ):
        done = bcnet(*line.split(), cwd=tmp_path)
        assert done.returncode == 0, (line, done.stderr)
        assert "warning" not in done.stderr.lower(), (line, done.stderr)
    assert (tmp_path / "out/run/eval/detections_test-dev2017_bcnet_results.zip").is_file()
    assert (tmp_path / "out/viz/index.html").is_file() and (tmp_path / "out/viz_gt/index.html").is_file()
    assert before == {path: path.stat().st_mtime_ns for path in coco_mini.rglob("*")}
