"""`bcnet train | eval | viz --backend detectron2`, from scenes to pictures, in one process and in two."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog

from bcnet_core import load_detector
from bcnet_core.backends import open_run
from bcnet_core.config.load import load_recipe
from bcnet_core.integrations.detectron2 import register_bilayer_coco
from bcnet_core.integrations.detectron2.stored import read_stored
from bcnet_core.model.detectors import build_detector
from bcnet_core.weights.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from tests.conftest import Bcnet

SETTINGS = [
    "model.detector=fcos",
    "model.attention=true",
    "model.channels=32",
    "model.tower_convs=1",
    "data.min_size=64",
    "data.max_size=64",
    "data.workers=0",
    "solver.batch_size=2",
    "solver.warmup_steps=0",
    "solver.log_every=1",
    "solver.checkpoint_every=2",
    "model.score_threshold=0",
    "model.detections_per_image=5",
]
D2 = ["--backend", "detectron2", "--device", "cpu"]


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(scenes: Path, bcnet: Bcnet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps; never write into it."""
    path = tmp_path_factory.mktemp("d2") / "run"
    ended = bcnet("train", "shapes", *SETTINGS, "solver.steps=3", *D2, "--data-root", scenes, "--run-dir", path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    assert f"wrote {path}/model_final.pth" in ended.stderr
    assert f"next  bcnet eval {path} --backend detectron2" in ended.stderr
    assert "12 training images" in ended.stderr
    return path


@pytest.mark.slow
def test_a_run_of_detectron2(run: Path, scenes: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {
        "config.yaml",
        "recipe.resolved.yaml",
        "env.json",
        "metrics.json",
        "log.txt",
        "model_final.pth",
        "last_checkpoint",
        "model_0000001.pth",
    } <= names
    logged = rows(run)
    assert [row["iteration"] for row in logged] == [0, 1, 2]
    assert {"loss_occluder_mask", "loss_occludee_boundary", "loss_centerness", "lr"} <= logged[0].keys()
    stored = read_stored(run)
    assert (stored.steps, stored.native) == (3, True)
    assert stored.recipe.data.root == scenes
    content = json.loads((scenes / "annotations/instances_train.json").read_text())
    assert stored.origin.categories == content["categories"]


@pytest.mark.slow
def test_logged_learning_rates_follow_the_recipe(run: Path) -> None:
    from bcnet_core.engine.optimizer import learning_rate

    solver = load_recipe("shapes", [*SETTINGS, "solver.steps=3"]).solver
    assert [row["lr"] for row in rows(run)] == pytest.approx([learning_rate(step, solver) for step in range(3)])


@pytest.mark.slow
def test_a_resumed_run_keeps_its_settings(run: Path, scenes: Path, bcnet_process: Bcnet, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    words = ["train", "shapes", *SETTINGS, *D2, "--data-root", scenes, "--run-dir", tmp_path / "run"]
    taken = bcnet_process(*words, "solver.steps=3")
    assert taken.returncode == 2
    assert "--backend detectron2 --run-dir" in taken.stderr  # how to go on
    other = bcnet_process(*words, "solver.steps=3", "solver.lr=0.5", "--resume")
    assert other.returncode == 2
    assert "solver.lr was 0.002, now 0.5" in other.stderr
    ended = bcnet_process(*words, "solver.steps=3", "--resume", "solver.schedule=cosine")
    assert ended.returncode == 0, ended.stderr  # nothing is left to do
    before = read_stored(run).tensors
    assert all(torch.equal(tensor, before[name]) for name, tensor in read_stored(tmp_path / "run").tensors.items())


@pytest.mark.slow
def test_evaluation_agrees_with_coco_evaluator(run: Path, scenes: Path, bcnet_process: Bcnet, tmp_path: Path) -> None:
    ended = bcnet_process("eval", run, *D2, "-o", tmp_path / "eval", "--json", "--occ")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    message = ended.stderr.split("detectron2's COCOEvaluator: ")[1].splitlines()[0]
    scores = {part.split()[0]: float(part.split()[2]) for part in message.split(", ")}
    assert scores["segm"] == pytest.approx(100 * report["scores"]["masks"]["AP"], abs=0.01)
    assert scores["bbox"] == pytest.approx(100 * report["scores"]["boxes"]["AP"], abs=0.01)
    results = json.loads((tmp_path / "eval/instances_val_results.json").read_text())
    assert 0 < len(results) <= 5 * 6
    more = bcnet_process("eval", run, *D2, "-o", tmp_path / "more", "--json", "--max-dets", "20")
    assert more.returncode == 0, more.stderr
    report = json.loads(more.stdout)
    assert len(results) < report["detections"] <= 20 * 6 and "AR20" in report["scores"]["masks"]
    message = more.stderr.split("detectron2's COCOEvaluator: ")[1].splitlines()[0]
    scores = {part.split()[0]: float(part.split()[2]) for part in message.split(", ")}
    assert scores["segm"] == pytest.approx(100 * report["scores"]["masks"]["AP"], abs=0.01)
    refused = bcnet_process("eval", run, *D2, "-o", tmp_path / "x", "--layers")
    assert refused.returncode == 2
    assert "bcnet weights convert" in refused.stderr
    wrong = bcnet_process("eval", run, "-o", tmp_path / "x", "--device", "cpu")
    assert wrong.returncode == 3
    assert "is a run of detectron2" in wrong.stderr
    assert "--backend detectron2" in wrong.stderr


@pytest.mark.slow
def test_a_submission_needs_no_ground_truth(run: Path, scenes: Path, bcnet_process: Bcnet, tmp_path: Path) -> None:
    content = json.loads((scenes / "annotations/instances_val.json").read_text())
    del content["annotations"]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/image_info_test-dev2017.json").write_text(json.dumps(content))
    (tmp_path / "test2017").symlink_to(scenes / "val")
    ended = bcnet_process("eval", run, *D2, "-o", tmp_path / "eval", "--test-dev", "--data-root", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert [path.suffix for path in (tmp_path / "eval").iterdir()] == [".zip"]


@pytest.mark.slow
def test_a_gallery_of_a_run(run: Path, bcnet_process: Bcnet, tmp_path: Path) -> None:
    ended = bcnet_process("viz", run, *D2, "-o", tmp_path / "viz", "--limit", "2", "--worst", "2")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "viz/index.html").is_file()


@pytest.mark.slow
def test_the_demos_recipe_trains_in_detectron2(scenes: Path, bcnet_process: Bcnet, tmp_path: Path) -> None:
    small = ("data.workers=0", "solver.steps=2", "solver.log_every=1", "data.min_size=64", "data.max_size=64")
    ended = bcnet_process("train", "demo", *small, *D2, "--data-root", scenes, "--run-dir", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    losses = ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_occludee_mask", "loss_occluder_mask")
    assert all(math.isfinite(row[name]) for row in rows(tmp_path / "run") for name in losses)


@pytest.mark.slow
def test_init_from_accepts_a_torchvision_checkpoint(
    untrained: Path, scenes: Path, bcnet_process: Bcnet, tmp_path: Path
) -> None:
    words = [*SETTINGS, "solver.steps=1", "solver.lr=1e-12", "solver.weight_decay=0"]
    ended = bcnet_process(
        "train", "shapes", *words, *D2, "--data-root", scenes, "--run-dir", tmp_path / "run", "--init-from", untrained
    )
    assert ended.returncode == 0, ended.stderr
    assert f"starts from {untrained}: " in " ".join(ended.stderr.split())
    before, after = read_checkpoint(untrained).model, read_stored(tmp_path / "run").tensors
    for name, tensor in before.items():
        ours = after[name if name.startswith("heads.") else name.replace("backbone.", "backbone.pyramid.", 1)]
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(ours, tensor, rtol=0, atol=1e-9)
    ended = bcnet_process(
        "train",
        "shapes",
        *words,
        "model.detector=faster_rcnn",
        "model.mask_proposals=decoded",
        *D2,
        "--data-root",
        scenes,
        "--run-dir",
        tmp_path / "other",
        "--init-from",
        untrained,
    )
    assert ended.returncode == 3
    assert "holds weights of fcos tiny, this model is faster_rcnn tiny" in ended.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_init_from_takes_the_classes_of_a_run_by_name(
    run: Path, scenes: Path, bcnet_process: Bcnet, tmp_path: Path
) -> None:
    """As many classes in another order: detectron2 alone would take every row, each for another class."""
    root = tmp_path / "root"
    (root / "annotations").mkdir(parents=True)
    for part in ("train", "val"):
        (root / part).symlink_to(scenes / part)
        content = json.loads((scenes / f"annotations/instances_{part}.json").read_text())
        names = [one["name"] for one in content["categories"]]
        new = [*names[1:-1], names[0], "dragon"]
        content["categories"] = [{**one, "name": name} for one, name in zip(content["categories"], new, strict=True)]
        (root / f"annotations/instances_{part}.json").write_text(json.dumps(content))
    words = [*SETTINGS, "solver.steps=1", "solver.lr=1e-12", "solver.weight_decay=0"]
    ended = bcnet_process(
        "train", "shapes", *words, *D2, "--data-root", root, "--run-dir", tmp_path / "run", "--init-from", run
    )
    assert ended.returncode == 0, ended.stderr
    assert f"classes taken by name: {', '.join(new[:-1])}; initialized: dragon" in " ".join(ended.stderr.split())
    before, after = (read_stored(path).tensors["heads.boxes.classes.weight"] for path in (run, tmp_path / "run"))
    rows = [names.index(name) for name in new[:-1]]
    torch.testing.assert_close(after[:-1], before[rows], rtol=0, atol=1e-9)


def test_dry_run_prints_the_config(scenes: Path, bcnet: Bcnet, tmp_path: Path) -> None:
    ended = bcnet(
        "train",
        "fcos_r50",
        "data.val.annotations=annotations/instances_val.json",
        "data.val.images=val",
        "data.train.annotations=annotations/instances_train.json",
        "data.train.images=train",
        *D2,
        "--data-root",
        scenes,
        "--run-dir",
        tmp_path / "run",
        "--dry-run",
    )
    assert ended.returncode == 0, ended.stderr
    assert "META_ARCHITECTURE: BilayerFCOS" in ended.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shapes", "--tensorboard"], "always writes TensorBoard"),
        (["shapes", "--smoke"], "rehearses the torchvision backend"),
        (["shapes", "--nnodes", "2", "--rdzv-endpoint", "localhost:1", "--run-dir", "x"], "trains on one machine"),
        (["shapes", "--resume", "--run-dir", "x"], "`x` does not exist"),
        (["shapes", "--gpus", "3"], "cannot be split evenly over 3"),
        (["shapes", "solver.ema=0.9"], "does not have solver.ema"),
        (["--d2-config", "missing.yaml"], "not a config of detectron2"),
    ],
)
def test_unsupported_options_are_rejected(
    bcnet: Bcnet, scenes: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    ended = bcnet("train", *words, *D2, "--data-root", scenes, cwd=tmp_path)
    assert ended.returncode in {2, 3}
    assert message in " ".join(ended.stderr.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_failed_run_leaves_no_files(bcnet_process: Bcnet, scenes: Path, tmp_path: Path) -> None:
    ended = bcnet_process(
        "train", "shapes", *SETTINGS, "solver.precision=fp16", *D2, "--data-root", scenes, "--run-dir", tmp_path / "run"
    )
    assert ended.returncode == 2
    assert "half precision on GPUs only" in ended.stderr
    assert not (tmp_path / "run").exists()
    ended = bcnet_process(
        "train",
        "shapes",
        *SETTINGS,
        "solver.lr=1e30",
        "solver.clip_norm=0",
        *D2,
        "--data-root",
        scenes,
        "--run-dir",
        tmp_path / "run",
        "solver.checkpoint_every=100",
    )
    assert ended.returncode == 1
    assert "the loss is not finite" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_registered_set_matches_its_file(scenes: Path) -> None:
    annotations = scenes / "annotations/instances_val.json"
    register_bilayer_coco("bcnet_test_scenes", annotations, scenes / "val")
    register_bilayer_coco("bcnet_test_scenes", annotations, scenes / "val")  # a notebook runs its cells twice
    content = json.loads(annotations.read_text())
    dicts, metadata = DatasetCatalog.get("bcnet_test_scenes"), MetadataCatalog.get("bcnet_test_scenes")
    assert len(dicts) == len(content["images"])
    assert sum(len(one["annotations"]) for one in dicts) == len(content["annotations"])
    ids = sorted(category["id"] for category in content["categories"])
    assert metadata.thing_dataset_id_to_contiguous_id == {number: label for label, number in enumerate(ids)}
    assert all(Path(one["file_name"]).is_file() for one in dicts)


ZOO_LIKE = """
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  BACKBONE: {NAME: build_tiny_pyramid_backbone}
  FPN: {OUT_CHANNELS: 32}
  PIXEL_MEAN: [123.675, 116.28, 103.53]
  PIXEL_STD: [58.395, 57.12, 57.375]
  ANCHOR_GENERATOR: {SIZES: [[16], [32], [64]]}
  RPN: {IN_FEATURES: [p3, p4, p5], POST_NMS_TOPK_TRAIN: 50, POST_NMS_TOPK_TEST: 20}
  ROI_HEADS: {NAME: BilayerROIHeads, IN_FEATURES: [p3, p4, p5], BATCH_SIZE_PER_IMAGE: 32, SCORE_THRESH_TEST: 0.0}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 2, POOLER_RESOLUTION: 7}
INPUT: {FORMAT: RGB, MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}
SOLVER: {IMS_PER_BATCH: 2, BASE_LR: 0.001, CHECKPOINT_PERIOD: 100}
DATALOADER: {NUM_WORKERS: 0}
TEST: {DETECTIONS_PER_IMAGE: 5}
"""


def coco_root(folder: Path, scenes: Path) -> Path:
    """The scenes where a COCO data root has its images."""
    (folder / "annotations").mkdir(parents=True)
    for ours, theirs in (("train", "train2017"), ("val", "val2017")):
        shutil.copy(scenes / f"annotations/instances_{ours}.json", folder / f"annotations/instances_{theirs}.json")
        (folder / theirs).symlink_to(scenes / ours)
    return folder


@pytest.mark.slow
def test_a_users_own_config_trains_evaluates_and_converts(scenes: Path, bcnet_process: Bcnet, tmp_path: Path) -> None:
    root = coco_root(tmp_path / "coco", scenes)
    (tmp_path / "rcnn.yaml").write_text(ZOO_LIKE)
    words = ["train", "--d2-config", tmp_path / "rcnn.yaml", *D2, "--data-root", root, "--run-dir", tmp_path / "run"]
    printed = bcnet_process(*words, "SOLVER.MAX_ITER=2", "--dry-run")
    assert printed.returncode == 0, printed.stderr
    assert "MAX_ITER: 2" in printed.stdout
    ended = bcnet_process(*words, "SOLVER.MAX_ITER=2")
    assert ended.returncode == 0, ended.stderr
    stored = read_stored(tmp_path / "run")
    assert stored.steps == 2
    assert not stored.origin.recipe
    evaluated = bcnet_process("eval", tmp_path / "run", *D2, "-o", tmp_path / "eval")
    assert evaluated.returncode == 0, evaluated.stderr
    converted = bcnet_process(
        "weights", "convert", tmp_path / "run", "--to", "torchvision", "-o", tmp_path / "bcnet.pt"
    )
    assert converted.returncode == 0, converted.stderr
    assert load_detector(tmp_path / "bcnet.pt", device="cpu").class_names == [
        one["name"] for one in stored.origin.categories
    ]


@pytest.mark.slow
@pytest.mark.parametrize("own", [True, False])
def test_a_set_with_faults_and_fewer_classes_trains_and_is_scored(
    scenes: Path, bcnet_process: Bcnet, tmp_path: Path, own: bool
) -> None:
    root = coco_root(tmp_path / "coco", scenes)
    for name in ("train", "val"):
        file = root / f"annotations/instances_{name}2017.json"
        content = json.loads(file.read_text())
        first, second, third = content["annotations"][:3]
        first["segmentation"], third["category_id"] = [[0, 0, 9, 0, 9]], 77
        second.pop("image_id")
        if name == "val":
            content["categories"] = [one for one in content["categories"] if one["id"] != first["category_id"]]
        file.write_text(json.dumps(content))
    (tmp_path / "rcnn.yaml").write_text(ZOO_LIKE)
    words = ["--d2-config", tmp_path / "rcnn.yaml", "SOLVER.MAX_ITER=2", "TEST.EVAL_PERIOD=2"] if own else [
        "shapes", *SETTINGS, "solver.steps=2", "solver.eval_every=2",
        *(f"data.{name}.{key}" for name in ("train", "val")
          for key in (f"annotations=annotations/instances_{name}2017.json", f"images={name}2017")),
    ]  # fmt: skip
    run = tmp_path / "run"
    planned = bcnet_process("train", *words, *D2, "--data-root", root, "--run-dir", run, "--dry-run")
    trained = bcnet_process("train", *words, *D2, "--data-root", root, "--run-dir", run)
    for done in (planned, trained):
        assert done.returncode == 0, done.stderr
        assert "55 of 58 instances train" in done.stderr.replace("\n", " ")
        assert "instances can be scored; left out:" in done.stderr.replace("\n", " ")
    scores = [row["segm/AP"] for row in rows(run) if "segm/AP" in row]
    assert len(scores) == 1 and scores[0] >= 0
    evaluated = bcnet_process("eval", run, *D2, "-o", tmp_path / "eval")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "lists 4 of the 5 classes" in evaluated.stderr.replace("\n", " ")


@pytest.mark.slow
def test_a_config_without_the_head_gives_a_warning(scenes: Path, bcnet_process: Bcnet, tmp_path: Path) -> None:
    root = coco_root(tmp_path / "coco", scenes)
    (tmp_path / "rcnn.yaml").write_text(ZOO_LIKE.replace("NAME: BilayerROIHeads", "NAME: StandardROIHeads"))
    ended = bcnet_process(
        "train",
        "--d2-config",
        tmp_path / "rcnn.yaml",
        *D2,
        "--data-root",
        root,
        "--run-dir",
        tmp_path / "run",
        "SOLVER.MAX_ITER=1",
        "MODEL.MASK_ON=True",
    )
    assert ended.returncode == 0, ended.stderr
    assert "this config has no bilayer head" in ended.stderr


@pytest.mark.slow
def test_two_processes_train_and_evaluate(scenes: Path, bcnet_process: Bcnet, tmp_path: Path) -> None:
    path = tmp_path / "run"
    ended = bcnet_process(
        "train",
        "shapes",
        *SETTINGS,
        "solver.steps=4",
        "solver.eval_every=2",
        *D2,
        "--gpus",
        "2",
        "--data-root",
        scenes,
        "--run-dir",
        path,
    )
    assert ended.returncode == 0, ended.stderr
    assert [row["iteration"] for row in rows(path) if "total_loss" in row] == [0, 1, 2, 3]
    assert (path / "model_best.pth").is_file()
    reports = []
    for processes in ("1", "2"):
        message = bcnet_process("eval", path, *D2, "--gpus", processes, "-o", tmp_path / processes, "--json")
        assert message.returncode == 0, message.stderr
        reports.append(json.loads(message.stdout))
    assert reports[0]["scores"]["masks"]["AP"] == pytest.approx(reports[1]["scores"]["masks"]["AP"], abs=1e-3)
    broken = bcnet_process(
        "train",
        "shapes",
        *SETTINGS,
        "solver.lr=1e30",
        "solver.clip_norm=0",
        *D2,
        "--gpus",
        "2",
        "--data-root",
        scenes,
        "--run-dir",
        tmp_path / "broken",
        "solver.checkpoint_every=100",
    )
    assert broken.returncode == 1
    assert "error: the loss is not finite" in broken.stderr
    assert not (tmp_path / "broken").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "number"), [("1", signal.SIGINT), ("2", signal.SIGTERM)])
def test_an_interrupted_run_saves_and_can_be_resumed(
    scenes: Path, bcnet_process: Bcnet, tmp_path: Path, processes: str, number: signal.Signals
) -> None:
    path = tmp_path / "run"
    words = [
        "train",
        "shapes",
        *SETTINGS,
        "solver.steps=400",
        "solver.checkpoint_every=1000",
        "data.workers=2",
        *D2,
        "--data-root",
        str(scenes),
        "--run-dir",
        str(path),
        "--gpus",
        processes,
    ]
    program = [sys.executable, "-c", "from bcnet_cli.app import main; main()", *words]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline, metrics = time.monotonic() + 180, path / "metrics.json"
        while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.2)
        os.killpg(process.pid, number)
        _, message = process.communicate(timeout=240)
    assert process.returncode == 130, message
    assert "interrupted; saved model_" in message
    assert "--resume" in message
    done = read_stored(path).steps
    assert 0 < done < 400
    ended = bcnet_process(*words, f"solver.steps={done + 2}", "solver.schedule=cosine", "--resume")
    assert ended.returncode == 2  # a cosine that ends elsewhere is another one
    ended = bcnet_process(
        "train",
        "shapes",
        *SETTINGS,
        *words[words.index("--backend") :],
        "solver.steps=400",
        "--resume",
        "--dry-run",
        "solver.checkpoint_every=1000",
        "data.workers=2",
    )
    assert ended.returncode == 0, ended.stderr


@pytest.fixture
def few(coco_mini: Path, tmp_path: Path) -> Path:
    """A COCO data root with two real images to learn by heart, and six others; they stay where they are."""
    for name in ("train2017", "val2017"):
        content = json.loads((coco_mini / f"annotations/instances_{name}.json").read_text())
        content["images"] = content["images"][: 2 if name == "train2017" else 6]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / f"annotations/instances_{name}.json").write_text(json.dumps(content))
        (tmp_path / name).symlink_to(coco_mini / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["faster_rcnn_r50", "fcos_r50"])
def test_twenty_steps_on_real_images(recipe: str, few: Path, bcnet_process: Bcnet, tmp_path: Path) -> None:
    """Train, evaluate, resume, convert to the other backend and back."""
    settings = [
        "model.backbone=r18",
        "model.channels=64",
        "model.mask_rois_per_image=16",
        "model.score_threshold=0.01",
        "data.min_size=128",
        "data.max_size=192",
        "data.train_sizes=[]",
        "data.workers=0",
        "data.flip=0",
        "solver.batch_size=2",
        "solver.optimizer=adamw",
        "solver.lr=0.0005",
        "solver.lr_batch_size=none",
        "solver.warmup_steps=0",
        "solver.milestones=[]",
        "solver.clip_norm=5",
        "solver.eval_every=0",
        "solver.log_every=1",
        "solver.checkpoint_every=10",
    ]
    if recipe == "faster_rcnn_r50":
        settings += ["model.box_rois_per_image=64", "model.proposals_per_image=100"]
    words = ["train", recipe, *settings, *D2, "--data-root", few, "--run-dir", tmp_path / "run"]
    for steps, more in (("20", []), ("22", ["--resume"])):
        ended = bcnet_process(*words, f"solver.steps={steps}", *more)
        assert ended.returncode == 0, ended.stderr
    logged = rows(tmp_path / "run")
    assert [row["iteration"] for row in logged] == list(range(22))
    for name in ("total_loss", "loss_occludee_mask"):
        losses = [row[name] for row in logged]
        assert sum(losses[-5:]) < sum(losses[:5]), losses
    message = bcnet_process("eval", tmp_path / "run", *D2, "-o", tmp_path / "eval", "--json")
    assert message.returncode == 0, message.stderr
    there, back = tmp_path / "there.pt", tmp_path / "back.pth"
    picture = next((few / "val2017").glob("*.jpg"))
    for source, to, target in ((tmp_path / "run", "torchvision", there), (there, "detectron2", back)):
        ended = bcnet_process("weights", "convert", source, "--to", to, "-o", target, "--image", picture)
        assert ended.returncode == 0, ended.stderr
        if "all match" not in ended.stderr:  # after 20 steps many scores are equal
            found = re.search(r"finds (\d+) instances, the other (\d+), and (\d+) of them", ended.stderr)
            assert found, ended.stderr
            assert int(found[3]) >= 0.9 * max(int(found[1]), int(found[2]))
    message = bcnet_process("eval", there, "-o", tmp_path / "ours", "--json", "--device", "cpu", "--data-root", few)
    assert message.returncode == 0, message.stderr


def test_a_run_keeps_the_recipe_of_its_checkpoint(scenes: Path, tmp_path: Path) -> None:
    """A model that comes back from a config is built by the recipe that the config was made of."""
    recipe = load_recipe("shapes", SETTINGS, data_root=scenes)
    categories = [{"id": 1, "name": "a"}]
    state = build_detector(recipe, categories).state_dict()
    save_checkpoint(tmp_path / "a.pt", Checkpoint(0, recipe.model_dump(mode="json"), categories, state, {}))
    assert open_run(tmp_path / "a.pt", "detectron2").recipe == recipe


def test_lengths_in_epochs_and_the_precision_are_resolved_before_detectron2_sees_them(
    bcnet: Bcnet, scenes: Path, tmp_path: Path
) -> None:
    settings = ("solver.epochs=2", "solver.eval_epochs=1", "solver.precision=auto", "solver.schedule=step")
    planned = bcnet("train", "shapes", *settings, "solver.milestones=[0.5]", "model.mask_proposals=decoded", *D2,
                    "--data-root", scenes, "--dry-run", cwd=tmp_path)  # fmt: skip
    assert planned.returncode == 0, planned.stderr
    assert "6 steps of 4 images: 2.0 epochs" in planned.stderr
    solver = yaml.safe_load(planned.stdout)["SOLVER"]
    assert (solver["MAX_ITER"], solver["STEPS"], solver["AMP"]["ENABLED"]) == (6, [3], False)
    assert yaml.safe_load(planned.stdout)["TEST"]["EVAL_PERIOD"] == 3
