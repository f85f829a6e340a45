"""`bcnet train` and `bcnet eval` as a user types them, good input and bad."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from bcnet_core.files.json_files import write_json
from tests.conftest import Bcnet

SMALL = ("model.channels=32", "model.tower_convs=1", "data.min_size=64", "data.max_size=64", "data.workers=0")


@pytest.fixture(scope="module")
def run_dir(bcnet: Bcnet, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests that write into it use names of their own."""
    path = tmp_path_factory.mktemp("runs") / "run"
    done = bcnet(
        "train", "shapes", *SMALL, "solver.steps=2", "--data-root", scenes, "--run-dir", path, "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and "warning" not in done.stderr.lower()
    assert f"bcnet eval {path}" in done.stderr
    return path


@pytest.mark.slow
def test_two_gloo_processes_train_like_one(bcnet_process: Bcnet, scenes: Path, run_dir: Path, tmp_path: Path) -> None:
    done = bcnet_process(
        "train", "shapes", *SMALL, "solver.steps=2", "--data-root", scenes, "--run-dir", tmp_path / "two",
        "--device", "cpu", "--gpus", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower() and done.stderr.count("training images") == 1
    assert json.loads((tmp_path / "two/env.json").read_text())["processes"] == 2
    one, two = (json.loads((path / "metrics.jsonl").read_text()) for path in (run_dir, tmp_path / "two"))
    for term in ("proposal_objectness", "proposal_box", "classification", "box", "occludee_mask"):
        assert two[term] == pytest.approx(one[term], rel=1e-3)


@pytest.mark.slow
def test_an_error_in_a_worker_is_one_message(bcnet_process: Bcnet, scenes: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in (scenes / "train").iterdir():
        (images / path.name).write_bytes(path.read_bytes()[:100])
    done = bcnet_process(
        "train", "shapes", *SMALL, f"data.train.images={images}", "--data-root", scenes, "--run-dir", tmp_path / "run",
        "--device", "cpu", "--gpus", "2",
    )  # fmt: skip
    assert done.returncode == 3
    assert "cannot be read" in done.stderr and "Traceback" not in done.stderr and "ChildFailed" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_random_resnet_weights_are_warned_about(bcnet: Bcnet, scenes: Path, tmp_path: Path) -> None:
    common = ("train", "shapes", "--data-root", scenes, "--run-dir", tmp_path / "run", "--dry-run")
    assert "starts from random weights" not in bcnet(*common).stderr
    fresh = bcnet(*common, "model.backbone=r18")
    assert fresh.returncode == 0 and "warning: the backbone r18 starts from random weights" in fresh.stderr
    weights = tmp_path / "init.pt"
    assert "random weights" not in bcnet(*common, "model.backbone=r18", "--init-from", weights).stderr


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_damaged_image_is_one_message_from_the_data_loader(
    bcnet: Bcnet, scenes: Path, tmp_path: Path, workers: str
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in (scenes / "train").iterdir():
        (images / path.name).write_bytes(path.read_bytes()[:100])
    arguments = ["train", "shapes", *SMALL[:-1], f"data.workers={workers}", f"data.train.images={images}"]
    done = bcnet(*arguments, "--data-root", scenes, "--run-dir", tmp_path / "run", "--device", "cpu")
    assert done.returncode == 3, done.stderr
    assert "cannot be read" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_eval_prints_a_table_and_writes_results_and_scores(bcnet: Bcnet, scenes: Path, run_dir: Path) -> None:
    done = bcnet("eval", run_dir, "--device", "cpu", "--occ")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower()
    assert "faster-coco-eval" in done.stdout and "occluded split" in done.stdout
    scores = json.loads((run_dir / "eval/instances_val_scores.json").read_text())
    assert scores["images"] == 6 and len(scores["scores"]["masks"]) == 12
    assert isinstance(json.loads((run_dir / "eval/instances_val_results.json").read_text()), list)
    again = bcnet("eval", run_dir, "--device", "cpu")
    assert again.returncode == 2 and "exists already" in again.stderr and "--overwrite" in again.stderr


def test_eval_as_json(bcnet: Bcnet, run_dir: Path, tmp_path: Path) -> None:
    done = bcnet("eval", run_dir, "--device", "cpu", "--json", "-o", tmp_path / "out")
    assert json.loads(done.stdout)["scores"]["boxes"].keys() >= {"AP", "AP50", "AP75", "APs", "APm", "APl"}


def test_test_dev_reads_no_ground_truth(bcnet: Bcnet, scenes: Path, run_dir: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "annotations/instances_val.json").read_text())
    root = tmp_path / "root"
    (root / "annotations").mkdir(parents=True)
    (root / "test2017").symlink_to(scenes / "val")
    listed = {key: content[key] for key in ("images", "categories", "info")}
    (root / "annotations/image_info_test-dev2017.json").write_text(json.dumps(listed))
    done = bcnet("eval", run_dir, "--device", "cpu", "--test-dev", "--data-root", root, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "out/detections_test-dev2017_bcnet_results.zip") as archive:
        (name,) = archive.namelist()
        results = json.loads(archive.read(name))
    assert {result["image_id"] for result in results} <= {image["id"] for image in content["images"]}


def test_bad_requests_are_one_sentence_with_a_way_out(
    bcnet: Bcnet, scenes: Path, run_dir: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump({"base": "shapes", "solver": {"leaning_rate": 1}}))
    data = ("--data-root", scenes)
    for arguments, code, words in (
        (("train", recipe, *data), 2, ("unknown setting `solver.leaning_rate`", "solver.lr (0.01)")),
        (("train", "shape", *data), 2, ("shape", "shapes")),
        (("train", "shapes", "solver.steps=many", *data), 2, ("solver.steps",)),
        (("train", "shapes", "--data-root", tmp_path / "gone"), 3, ("does not exist",)),
        (("train", "shapes", *data, "--device", "toaster"), 2, ("`toaster` is not a device",)),
        (("train", "shapes", *data, "--device", "cpu", "--gpus", "3"), 2, ("cannot be split", "solver.batch_size=6")),
        (("train", "shapes", *data, "--run-dir", run_dir), 2, ("is not empty", "--resume", "--init-from")),
        (("train", "shapes", *data, "--run-dir", tmp_path / "new", "--resume"), 3, ("new", "does not exist")),
        (("train", "shapes", *data, "--resume"), 2, ("--resume needs the run", "--run-dir")),
        (
            ("train", "shapes", *data, "--run-dir", run_dir, "--resume", "--init-from", run_dir),
            2,
            ("exclude each other",),
        ),
        (("eval", tmp_path / "gone"), 3, ("does not exist",)),
        (("eval", tmp_path), 3, ("holds no checkpoint",)),
        (("eval", recipe), 3, ("is not a bcnet checkpoint",)),
        (("eval", run_dir, "--test-dev", *data), 3, ("image_info_test-dev2017.json",)),
    ):
        done = bcnet(*arguments, cwd=tmp_path)
        assert done.returncode == code, (arguments, done.stderr)
        assert all(word in done.stderr for word in words), (arguments, done.stderr)
        assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr and done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml"]


def test_a_dry_run_writes_nothing(bcnet: Bcnet, scenes: Path, run_dir: Path, tmp_path: Path) -> None:
    done = bcnet("train", "shapes", "--data-root", scenes, "--run-dir", tmp_path / "run", "--dry-run")
    assert done.returncode == 0 and yaml.safe_load(done.stdout)["data"]["min_size"] == 128
    assert "12 training images" in done.stderr
    done = bcnet("eval", run_dir, "-o", tmp_path / "out", "--dry-run")
    assert done.returncode == 0 and "would run" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gpus", "number"),
    [
        ("1", signal.SIGTERM),
        ("1", signal.SIGINT),
        ("2", signal.SIGTERM),
    ],
)
def test_an_interrupted_run_saves_and_prints_how_to_resume(
    scenes: Path, tmp_path: Path, gpus: str, number: signal.Signals
) -> None:
    program = [sys.executable, "-c", "from bcnet_cli.app import main; main()"]
    arguments = [
        "train",
        "shapes",
        *SMALL,
        "solver.steps=100000",
        "solver.log_every=1",
        "data.workers=2",
        "--device",
        "cpu",
        "--gpus",
        gpus,
    ]
    command = [*program, *arguments, "--data-root", str(scenes), "--run-dir", str(tmp_path / "run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        metrics = tmp_path / "run/metrics.jsonl"
        deadline = time.monotonic() + 300
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, number)  # as a terminal and a cluster's scheduler do: to the loader's processes, too
        _, errors = process.communicate(timeout=180)
    assert process.returncode == 130, errors
    assert "interrupted; saved step" in errors and "--resume" in errors and "Traceback" not in errors
    (saved,) = (tmp_path / "run/checkpoints").iterdir()
    assert json.loads(metrics.read_text().splitlines()[-1])["step"] == int(saved.stem.removeprefix("step_"))


def test_a_rehearsal_writes_nothing(bcnet: Bcnet, scenes: Path, tmp_path: Path) -> None:
    done = bcnet(
        "train", "shapes", *SMALL, "--data-root", scenes, "--run-dir", "run", "--device", "cpu", "--smoke", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "training 2/2" in done.stderr and "predicting 4/4" in done.stderr and "went well" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_reports_what_would_be_trained(bcnet: Bcnet, scenes: Path, tmp_path: Path) -> None:
    arguments = (*SMALL, "--data-root", scenes, "--run-dir", "run", "--dry-run", "--scan-images", "--workers", "1")
    done = bcnet("train", "shapes", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["model"]["channels"] == 32
    for words in (
        "12 training images",
        "2,000 steps of 4 images: 667 epochs",
        "GB of memory in each process",
        "5 classes; would write run",
        "12 images of annotations/instances_train.json can be read",
    ):
        assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_how_many_objects_it_pastes(bcnet: Bcnet, scenes: Path, tmp_path: Path) -> None:
    arguments = ("train", "shapes", *SMALL, "--data-root", scenes, "--run-dir", "run", "--dry-run")
    assert "copy-paste:" not in bcnet(*arguments, cwd=tmp_path).stderr
    done = bcnet(*arguments, "data.copy_paste.probability=0.5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"copy-paste: [1-9]\d* objects in one piece of \d+ images", done.stderr)


def test_a_dry_run_tells_what_would_be_taken_from_a_start(
    bcnet: Bcnet, scenes: Path, untrained: Path, tmp_path: Path
) -> None:
    arguments = ("train", "shapes", *SMALL, "model.detector=fcos", "model.attention=true",
                 "--data-root", scenes, "--run-dir", "run", "--dry-run", "--init-from")  # fmt: skip
    done = bcnet(*arguments, untrained, "model.layers=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert f"starts from {untrained}: 9" in said and "classes taken by name: disc, box, star" in said
    assert "do not fit this model and are left out: heads.masks.head.occluder" in said
    done = bcnet(*arguments, untrained, "model.detector=faster_rcnn", cwd=tmp_path)
    assert done.returncode == 3 and "holds weights of fcos tiny" in done.stderr
    done = bcnet(*arguments, "http://localhost:1/x.pth", cwd=tmp_path)
    assert done.returncode == 0 and "would fetch http://localhost:1/x.pth" in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tells_of_objects_that_the_detector_cannot_all_find(
    bcnet: Bcnet, scenes: Path, tmp_path: Path
) -> None:
    arguments = ("train", "shapes", *SMALL, "--data-root", scenes, "--run-dir", "run", "--dry-run")
    few = bcnet(*arguments, "model.detections_per_image=2", cwd=tmp_path)
    assert few.returncode == 0, few.stderr
    said = " ".join(few.stderr.split())
    assert said.count("the detector keeps 2 detections an image") == 1
    (most,) = re.findall(r"has up to (\d+) objects in an image", said)
    assert f"model.detections_per_image={most}" in said
    enough = bcnet(*arguments, f"model.detections_per_image={most}", cwd=tmp_path)
    assert "objects in an image" not in enough.stderr


def test_a_dry_run_counts_the_objects_of_the_validation_set_too(bcnet: Bcnet, scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "annotations/instances_val.json").read_text())
    first = content["annotations"][0]
    content["annotations"] += [{**first, "id": 10**6 + number} for number in range(101)]
    write_json(tmp_path / "crowded.json", content)
    crowded = ("model.detections_per_image=100", f"data.val.annotations={tmp_path / 'crowded.json'}")
    done = planned(bcnet, scenes, *crowded, "--dry-run")
    assert done.returncode == 0 and "the detector keeps 100 detections" in " ".join(done.stderr.split()), done.stderr


def planned(bcnet: Bcnet, root: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return bcnet("train", "shapes", *SMALL, "--data-root", root, "--run-dir", root / "new", *arguments)


def test_a_dry_run_checks_the_validation_set(bcnet: Bcnet, scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(scenes, root)
    held_out, scanning = root / "annotations/instances_val.json", ("--dry-run", "--scan-images", "--workers", "1")
    shown = planned(bcnet, root, *scanning).stderr
    assert "6 images of annotations/instances_val.json can be read" in shown and "warning" not in shown
    content = json.loads(held_out.read_text())
    content["categories"][0]["name"] = "cow"
    write_json(held_out, content)
    for options, more in product((("--dry-run",), scanning), ([], ["solver.eval_every=1"])):
        refused = planned(bcnet, root, *options, *more)
        assert refused.returncode == 3 and "warning" not in refused.stderr, refused.stderr
        assert str(held_out) in refused.stderr and "cow" in refused.stderr and "disc" in refused.stderr
        assert refused.stderr.count("train without a validation set: data.val.annotations=none") == (not more)
    without = planned(bcnet, root, "--dry-run", "data.val.annotations=none")
    assert without.returncode == 0 and "there is no validation set at" in without.stderr
    first = next((root / "val").iterdir())
    first.write_bytes(first.read_bytes()[:100])
    damaged = planned(bcnet, root, *scanning)
    assert damaged.returncode == 3 and "1 of the 6 images" in damaged.stderr


def test_a_dry_run_does_not_need_a_validation_set(bcnet: Bcnet, scenes: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(scenes, root)
    shutil.rmtree(root / "val")
    scanning = ("--dry-run", "--scan-images", "--workers", "1")
    done = planned(bcnet, root, *scanning)
    assert done.returncode == 0 and done.stderr.count("data.val.images=FOLDER") == 1, done.stderr
    assert planned(bcnet, root, *scanning, "solver.eval_every=1").returncode == 3
    (root / "annotations/instances_val.json").unlink()
    for options in (("--dry-run",), scanning):
        done = planned(bcnet, root, *options)
        assert done.returncode == 0 and done.stderr.count("there is no validation set at") == 1, done.stderr
        assert "data.val.annotations=FILE" in done.stderr and "warning" not in done.stderr
        assert planned(bcnet, root, *options, "solver.eval_every=1").returncode == 3


def test_a_real_start_checks_the_validation_set_like_a_dry_run(bcnet: Bcnet, scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "annotations/instances_val.json").read_text())
    content["categories"][0]["name"] = "cow"
    (tmp_path / "other.json").write_text(json.dumps(content))
    arguments = ("train", "shapes", *SMALL, "solver.steps=1", "--data-root", scenes, "--device", "cpu")
    for name, override, code, words in (
        ("a", f"data.val.annotations={tmp_path / 'other.json'}", 3, "and they differ"),
        ("b", "data.val.annotations=gone.json", 0, "there is no validation set at"),
        ("c", "data.val.images=gone", 0, "6 of 6 images are not in"),
    ):
        done = bcnet(*arguments, override, "--run-dir", tmp_path / name)
        assert done.returncode == code and done.stderr.count(words) == 1, done.stderr


def with_annotations(scenes: Path, root: Path, name: str, change: Callable[[int, dict[str, Any]], None]) -> int:
    """Copy the scenes, change every annotation of one of their files, given its position, and return their number."""
    shutil.copytree(scenes, root, dirs_exist_ok=True)
    content = json.loads((root / f"annotations/instances_{name}.json").read_text())
    for position, annotation in enumerate(content["annotations"]):
        change(position, annotation)
    write_json(root / f"annotations/instances_{name}.json", content)
    return len(content["annotations"])


def odd(position: int, annotation: dict[str, Any]) -> None:
    """Break one polygon, and take the mask or the category of two others."""
    if position == 0:
        annotation["segmentation"] = [[0, 0, 9, 0, 9]]
    if position in (1, 2):
        annotation |= {"segmentation": []} if position == 1 else {"category_id": 77}


@pytest.mark.parametrize("name", ["train", "val"])
def test_what_is_left_out_is_said_before_training_and_ends_no_run(
    bcnet: Bcnet, scenes: Path, tmp_path: Path, name: str
) -> None:
    count = with_annotations(scenes, tmp_path, name, odd)
    arguments = ("solver.steps=6", "solver.eval_every=6", "--device", "cpu")  # every image is seen
    planning, training = planned(bcnet, tmp_path, *arguments, "--dry-run"), planned(bcnet, tmp_path, *arguments)
    for done in (planning, training):
        assert done.returncode == 0, done.stderr
        assert f"{count - 3} of {count} instances {'train' if name == 'train' else 'can be scored'}; left out: 1 of a "\
            "category that the file does not list, 1 whose mask cannot be read, 1 without a mask; all of its faults"\
            in done.stderr.replace("\n", " ")  # fmt: skip
        assert done.stderr.count("warning: ") == 1 and f"instances_{name}.json" in done.stderr
        assert ("all 58 instances train" in done.stderr) == (name == "val")
    assert bcnet("eval", tmp_path / "new").returncode == 0
    drawn = bcnet("viz", tmp_path / "new", "-o", tmp_path / "viz")
    assert drawn.returncode == 0 and ("1 annotation cannot be drawn" in drawn.stderr) == (name == "val"), drawn.stderr


@pytest.mark.parametrize("layers", [1, 2])
def test_nothing_to_train_on_is_an_error_whatever_the_layers(
    bcnet: Bcnet, scenes: Path, tmp_path: Path, layers: int
) -> None:
    with_annotations(scenes, tmp_path, "train", lambda _, one: one.update(segmentation=[]))
    done = planned(bcnet, tmp_path, f"model.layers={layers}", "--dry-run")
    assert done.returncode == 3 and "has no instance to train on: all 58 are left out, 58 without a mask" in done.stderr
    assert "bcnet data check" in done.stderr and "bcnet data import" in done.stderr
    assert "model.layers" not in done.stderr


def test_a_layer_is_not_to_be_left_out_because_little_was_read(bcnet: Bcnet, scenes: Path, tmp_path: Path) -> None:
    with_annotations(
        scenes, tmp_path, "train", lambda i, one: one.update(segmentation=[] if i else one["segmentation"])
    )
    done = planned(bcnet, tmp_path, "data.occluders=derive", "--dry-run")
    assert done.returncode == 3 and "1 of 58 instances train" in done.stderr.replace("\n", " ")
    assert "bcnet data check" in done.stderr and "model.layers" not in done.stderr


def test_a_set_that_lists_fewer_classes_is_scored(bcnet: Bcnet, scenes: Path, tmp_path: Path) -> None:
    with_annotations(scenes, tmp_path, "val", lambda _, one: one.update(category_id=2))
    held_out = tmp_path / "annotations/instances_val.json"
    content = json.loads(held_out.read_text())
    content["categories"] = [one for one in content["categories"] if one["id"] == 2]
    write_json(held_out, content)
    options = ("solver.steps=1", "solver.eval_every=1", "model.score_threshold=0", "--device", "cpu")
    trained = planned(bcnet, tmp_path, *options)
    assert trained.returncode == 0 and "step 1: mask AP" in trained.stderr, trained.stderr
    done = bcnet("eval", tmp_path / "new", "--device", "cpu", "-o", tmp_path / "eval")
    assert done.returncode == 0, done.stderr
    assert "lists 1 of the 5 classes" in done.stderr.replace("\n", " ")
    results = tmp_path / "eval/instances_val_results.json"
    assert {one["category_id"] for one in json.loads(results.read_text())} == {2}
    again = bcnet("eval", "--results", results, "--gt", held_out)
    assert again.returncode == 0 and again.stdout == done.stdout
    drawn = bcnet("viz", tmp_path / "new", "-o", tmp_path / "viz", "--limit", "2", "--worst", "1")
    assert drawn.returncode == 0, drawn.stderr


@pytest.mark.parametrize("change", [{"iscrowd": 1}, None])
def test_nothing_to_score_is_an_error_where_a_training_would_score_it(
    bcnet: Bcnet, scenes: Path, tmp_path: Path, change: dict[str, Any] | None
) -> None:
    with_annotations(scenes, tmp_path, "val", lambda _, one: one.update(change or {}))
    if change is None:
        held_out = tmp_path / "annotations/instances_val.json"
        write_json(held_out, {**json.loads(held_out.read_text()), "annotations": []})
    refused = planned(bcnet, tmp_path, "solver.eval_every=1", "--dry-run")
    assert refused.returncode == 3 and "has no instance to score" in refused.stderr
    assert "solver.eval_every=0" in refused.stderr
    assert planned(bcnet, tmp_path, "--dry-run").returncode == 0


def test_a_run_is_evaluated_during_training(bcnet: Bcnet, scenes: Path, tmp_path: Path) -> None:
    arguments = ("train", "shapes", *SMALL, "solver.steps=2", "solver.eval_every=1", "--data-root", scenes,
                 "--run-dir", tmp_path / "run", "--device", "cpu")  # fmt: skip
    content = json.loads((scenes / "annotations/instances_val.json").read_text())
    content["categories"][0]["name"] = "cow"
    (tmp_path / "other.json").write_text(json.dumps(content))
    refused = bcnet(*arguments, f"data.val.annotations={tmp_path / 'other.json'}")
    assert refused.returncode == 3 and "cow" in refused.stderr and not (tmp_path / "run").exists()
    done = bcnet(*arguments)
    assert done.returncode == 0, done.stderr
    assert "step 1: mask AP" in done.stderr and "best: step" in done.stderr
    for name in ("step_00000002.pt", "best.pt"):
        assert str(tmp_path / "run/checkpoints" / name) in done.stderr
    assert f"bcnet eval {tmp_path / 'run/checkpoints/best.pt'}" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["validation"].keys() for row in rows if "validation" in row] == [
        {"mask_AP", "mask_AP50", "box_AP"}, {"mask_AP", "mask_AP50", "box_AP"},
    ]  # fmt: skip
    again = bcnet(*arguments, "--resume")
    assert again.returncode == 0 and "all 2 steps were done before" in again.stderr
    assert str(tmp_path / "run/checkpoints/best.pt") in again.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--nnodes", "2"), "--nnodes and --rdzv-endpoint belong together"),
        (("--nnodes", "2", "--rdzv-endpoint", "localhost:1"), "several machines need one run directory"),
        (("--nnodes", "2", "--rdzv-endpoint", "foo"), "--rdzv-endpoint is `foo`, not HOST:PORT"),
        (("--nnodes", "2", "--rdzv-endpoint", "localhost:99999"), "--rdzv-endpoint is `localhost:99999`, not"),
        (("solver.accumulate=3",), "a batch of 4 images cannot be split evenly over 1 process and 3 parts each"),
        (("data.scale_jitter=[0.1,2]", "data.train_sizes=[100]"), "exclude each other"),
        (("data.copy_paste.overlap=[0.4,0.3]",), "data.copy_paste.overlap is two rising shares from 0 to 0.9, not 0.4"),
        (("data.copy_paste.scale=[0,1]",), "data.copy_paste.scale is two factors above 0 and at most 10, not 0 and 1"),
    ],
)
def test_contradictions_are_usage_errors(
    bcnet: Bcnet, scenes: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = bcnet("train", "shapes", "--data-root", scenes, "--device", "cpu", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []
