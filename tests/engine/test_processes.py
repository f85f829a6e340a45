"""Several processes, killed processes and several machines, with the program as a user starts it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bcnet_core.weights.checkpoint import checkpoint_path, checkpoint_step, latest_checkpoint, read_checkpoint

pytestmark = pytest.mark.slow

SMALL = (
    "model.channels=32", "model.tower_convs=1", "data.min_size=64", "data.max_size=64", "data.workers=0",
    "solver.batch_size=4", "solver.log_every=1", "solver.warmup_steps=0", "solver.checkpoint_every=1",
)  # fmt: skip
TWO = ("--gpus", "2")
KILLS = int(os.environ.get("BCNET_KILLS", "2"))
"""Kills of each kind; docs/performance.md has a run with 7, which takes ten minutes."""


def start(scenes: Path, run_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from bcnet_cli.app import main; main()", "train", "shapes", *SMALL]
    command += ["--data-root", str(scenes), "--device", "cpu", "--run-dir", str(run_dir), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def finish(process: subprocess.Popen[str], timeout: float = 400) -> str:
    _, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return errors


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """Return the complete rows of metrics.jsonl without their speeds."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{name: value for name, value in row.items() if name != "speed"} for row in found]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.005)


def wait_for_row(run_dir: Path, step: int, process: subprocess.Popen[str]) -> None:
    wait_for(lambda: any(row["step"] >= step for row in rows(run_dir)), process)


def worker_ids(process: subprocess.Popen[str]) -> list[int]:
    """Return the ids of the training processes of a launcher."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            spawned = b"spawn_main" in (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == process.pid and spawned:
            found.append(int(folder.name))
    return sorted(found)


def assert_same_end(run: Path, other: Path) -> None:
    """Compare weights, optimizer state and metrics bit for bit."""
    first, second = (read_checkpoint(latest_checkpoint(path)) for path in (run, other))  # type: ignore[arg-type]
    assert first.step == second.step
    assert all(torch.equal(value, second.model[name]) for name, value in first.model.items())
    for index, state in first.optimizer["state"].items():
        assert all(torch.equal(value, second.optimizer["state"][index][name]) for name, value in state.items())
    assert rows(run) == rows(other)


SIZES = ("data.scale_jitter=[0.5,1.5]", "data.min_size=128", "data.max_size=128", "solver.batch_size=2")
"""Images of several sizes, so that the largest of each process differ."""


@pytest.mark.parametrize(("sizes", "bound"), [((), 1e-5), (SIZES, 5e-5)])
@pytest.mark.parametrize(("detector", "attention"), [("fcos", "true"), ("faster_rcnn", "false")])
def test_the_number_of_processes_does_not_change_what_is_trained(
    scenes: Path, tmp_path: Path, detector: str, attention: str, sizes: tuple[str, ...], bound: float
) -> None:
    """Losses of four steps, and gradients: the momentum of SGD after its first step is the gradient.

    With attention the mask head has BatchNorm, whose statistics the processes share.
    """
    settings = (
        f"model.detector={detector}", f"model.attention={attention}", "model.mask_proposals=decoded",
        "model.proposals_per_image=64", "model.box_rois_per_image=32", "solver.steps=4", "solver.keep_checkpoints=4",
        "solver.optimizer=sgd", "solver.lr=0.01", "solver.clip_norm=0", "solver.weight_decay=0", "loss.mask_dice=1",
        *sizes,
    )  # fmt: skip
    for name, gpus in (("one", "1"), ("two", "2")):
        finish(start(scenes, tmp_path / name, *settings, "--gpus", gpus))
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert one.keys() == two.keys()
        assert list(one.values()) == pytest.approx(list(two.values()), rel=1e-5)
    one, two = (read_checkpoint(checkpoint_path(tmp_path / name, 1)) for name in ("one", "two"))
    gradients = [
        torch.cat([state["momentum_buffer"].flatten() for state in checkpoint.optimizer["state"].values()]).double()
        for checkpoint in (one, two)
    ]
    assert (gradients[0] - gradients[1]).norm() < bound * gradients[0].norm()
    for name, value in one.model.items():
        torch.testing.assert_close(two.model[name], value, rtol=1e-4, atol=1e-5)


def test_eight_steps_equal_some_a_resume_and_the_rest(scenes: Path, tmp_path: Path) -> None:
    """The same for one process is in tests/engine/test_loop.py."""
    arguments = ("solver.steps=8", "solver.precision=bf16", "solver.ema=0.9", *TWO)
    finish(start(scenes, tmp_path / "whole", *arguments))
    process = start(scenes, tmp_path / "parts", *arguments)
    wait_for_row(tmp_path / "parts", 3, process)
    seen = len(rows(tmp_path / "parts"))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 130, errors
    saved = checkpoint_step(latest_checkpoint(tmp_path / "parts"))  # type: ignore[arg-type]
    assert seen <= saved <= seen + 2, "it continued for more than a step"
    assert f"interrupted; saved step {saved} of 8" in errors and "--resume" in errors and "Traceback" not in errors
    finish(start(scenes, tmp_path / "parts", *arguments, "--resume"))
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(("victim", "processes"), [("only", ()), ("launcher", TWO), ("worker", TWO)])
def test_a_run_that_is_killed_repeatedly_ends_like_an_undisturbed_one(
    scenes: Path, tmp_path: Path, victim: str, processes: tuple[str, ...]
) -> None:
    """Every step saves, so most moments are in the middle of a checkpoint."""
    steps = 12 * KILLS
    arguments = (f"solver.steps={steps}", *processes)
    finish(start(scenes, tmp_path / "whole", *arguments))
    run, rng, resume = tmp_path / "killed", random.Random(KILLS), ()
    for kill in range(KILLS):
        before = max((row["step"] for row in rows(run)), default=0)
        process = start(scenes, run, *arguments, *resume)
        wait_for_row(run, before + 1, process)
        wait_for(lambda: latest_checkpoint(run) is not None, process)  # a row is written before its checkpoint
        time.sleep(rng.uniform(0, 0.5))
        assert process.poll() is None, (kill, process.communicate()[1])
        os.kill(rng.choice(worker_ids(process)) if victim == "worker" else process.pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=180)
        if victim == "worker":
            assert process.returncode == 1 and "the process of rank" in errors and "Traceback" not in errors, errors
        latest = latest_checkpoint(run)
        assert latest is not None and read_checkpoint(latest).step == checkpoint_step(latest)
        resume = ("--resume",)
    finish(start(scenes, run, *arguments, "--resume"))
    assert_same_end(tmp_path / "whole", run)
    assert not list((run / "checkpoints").glob(".*"))


def test_elastic_restarts_a_killed_worker(scenes: Path, tmp_path: Path) -> None:
    arguments = ("solver.steps=40", *TWO)
    finish(start(scenes, tmp_path / "whole", *arguments))
    process = start(scenes, tmp_path / "run", *arguments, "--max-restarts", "2")
    for victim, step in ((1, 3), (0, 13)):
        wait_for_row(tmp_path / "run", step, process)
        os.kill(worker_ids(process)[victim], signal.SIGKILL)
    finish(process)
    assert_same_end(tmp_path / "whole", tmp_path / "run")


def test_two_launchers_train_together(scenes: Path, tmp_path: Path) -> None:
    finish(start(scenes, tmp_path / "whole", "solver.steps=4", *TWO))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    machines = ("solver.steps=4", "--nnodes", "2", "--rdzv-endpoint", f"localhost:{port}")
    both = [start(scenes, tmp_path / "run", *machines) for _ in range(2)]
    errors = [finish(process) for process in both]
    assert sorted("processes: 2" in text for text in errors) == [False, True]
    assert all("wrote" in text for text in errors)
    for one, two in zip(rows(tmp_path / "whole"), rows(tmp_path / "run"), strict=True):
        assert list(one.values()) == pytest.approx(list(two.values()), rel=1e-4)


def test_an_error_of_one_process_is_one_message(scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "annotations/instances_train.json").read_text())
    (tmp_path / "images").mkdir()
    for image in content["images"]:
        (tmp_path / "images" / image["file_name"]).symlink_to(scenes / "train" / image["file_name"])
    broken = tmp_path / "images" / content["images"][0]["file_name"]
    data = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(data[: len(data) // 2])
    (tmp_path / "coco.json").write_text(json.dumps(content))
    process = start(
        tmp_path, tmp_path / "run", "data.train.annotations=coco.json", "data.train.images=images", "solver.steps=9",
        *TWO,
    )  # fmt: skip
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 3, errors
    assert f"the image `{broken}` cannot be read" in errors
    assert errors.count("error:") == 1 and "Traceback" not in errors and "ChildFailedError" not in errors


def test_processes_count_epochs_and_run_out_of_patience_together(scenes: Path, tmp_path: Path) -> None:
    nothing_found = ("model.score_threshold=1", "solver.epochs=3", "solver.eval_epochs=1", "solver.patience=1")
    ended = finish(start(scenes, tmp_path / "run", *nothing_found, *TWO))
    assert "9 steps of 4 images: 3.0 epochs" in ended
    assert "stopped after step 6 of 9: the mask AP was no better in the last 1 evaluation (solver.patience)" in ended
    assert [row["step"] for row in rows(tmp_path / "run") if "validation" in row] == [3, 6]
    again = finish(start(scenes, tmp_path / "run", *nothing_found, *TWO, "--resume"))
    assert "stopped after step 6 of 9" in again and len(rows(tmp_path / "run")) == 8
