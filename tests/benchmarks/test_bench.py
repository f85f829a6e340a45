"""The benchmarks as they are typed: `python -m benchmarks ...`, in this process."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from benchmarks.__main__ import app
from benchmarks.speed.throughput import count_operations
from tests.benchmarks.conftest import Bench

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_model_benchmark_compares_both_heads(bench: Bench) -> None:
    small = ("--backbone", "tiny", "--size", "64x64", "--repeats", "1", "--detections", "20")
    done = bench("model", *small, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["detector"] for row in rows] == ["fcos", "faster_rcnn"]
    for row in rows:
        for plain, bilayer in (row["step"], row["inference"]):
            assert plain > 0 and bilayer > 0
        assert row["detections"] == [20, 20], "or the inference of masks would not be measured"
        assert row["memory"][0] > 1e8 and 0 < row["target_share"] < 1


@pytest.mark.slow
def test_the_throughput_benchmark_times_both_models_in_both_precisions(bench: Bench) -> None:
    done = bench("throughput", "--size", "64x96", "--images", "1", "--repeats", "1", "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    models = ("fcos_r50", "fcos_r50, folded", "fcos_r50, no layers", "maskrcnn_resnet50_fpn")
    assert [(row["model"], row["autocast"]) for row in rows] == [
        (model, precision) for precision in ("off", "bf16") for model in models
    ]
    for row in rows:
        assert min(row[name] for name in ("maps", "masks")) > 0
        assert row["step"] is None if "," in row["model"] else row["step"] > 0
        assert 500 < row["operations"] < 10_000


def test_operations_are_counted_as_they_are_dispatched() -> None:
    def call() -> object:
        return torch.ones(3) * 2 + 1

    assert count_operations(call) == 3


def test_invalid_options_are_rejected(bench: Bench) -> None:
    for arguments, word in ((["--size", "64"], "64"), (["--backbone", "vgg"], "vgg")):
        done = bench("model", *arguments)
        assert done.returncode == 2 and word in done.stderr and "Traceback" not in done.stderr


def test_the_annotate_benchmark_counts_images_and_memory(bench: Bench, scenes: Path) -> None:
    annotations = scenes / "annotations" / "instances_train.json"
    done = bench("annotate", annotations, "--images", "30", "--workers", "1", "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout)
    assert (one["workers"], two["workers"]) == (1, 2)
    assert one["images"] == two["images"] == 30
    assert one["instances"] == two["instances"] > 60
    for row in (one, two):
        seconds = row["read"] + row["annotate"] + row["write"]
        assert row["images_per_second"] == pytest.approx(30 / seconds)
        assert 1e7 < row["memory"] < 4e9  # pages that other programs share count by their share
    shown = bench("annotate", "--images", "2", "--workers", "1")
    assert "images/s, all of it" in shown.stdout and "peak memory" in shown.stdout


def test_an_empty_file_cannot_be_repeated(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text('{"images": [], "annotations": [], "categories": []}')
    done = bench("annotate", tmp_path / "none.json")
    assert done.returncode == 3 and "no images" in done.stderr


def test_the_eval_benchmark_scores_like_pycocotools(bench: Bench, scenes: Path) -> None:
    annotations = scenes / "annotations" / "instances_train.json"
    done = bench("eval", annotations, "--images", "24", "--detections", "5", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["scoring"]["detections"] == 120 and found["scoring"]["difference"] < 1e-9
    assert min(found[part][who] for part in ("scoring", "pasting") for who in ("ours", "reference")) > 0
    assert 0 < found["pasting"]["differing"] < 1e-3


QUICK = ("--seeds", "1", "--steps", "1", "--scenes", "3", "--held-out", "2", "--no-equal-time", "--workers", "1")


@pytest.mark.slow
def test_the_evidence_is_resumed_and_prints_its_tables(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    planned = bench("evidence", "-o", folder, *QUICK, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "14 of 14 trials of 1 steps on easy, hard" in planned.stderr and not folder.exists()
    done = bench("evidence", "-o", folder, *QUICK, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "## easy" in done.stdout and "## hard" in done.stdout and "Difference to bilayer" in done.stdout
    assert "Missing" not in done.stdout
    for name in ("report.md", "report.json", "report.png"):
        assert f"wrote {folder / name}" in done.stderr and (folder / name).exists()
    (folder / "results" / "hard" / "fcn-0.json").unlink()
    assert "1 of 14 trials" in bench("evidence", "-o", folder, *QUICK, "--dry-run").stderr
    shown = bench("evidence", "-o", folder, "--report-only", "--json")
    content = json.loads(shown.stdout)
    assert content["missing"] == [{"data": "hard", "matched": False, "arm": "fcn", "seed": 0}]
    refused = bench("evidence", "-o", folder, *QUICK, "--steps", "2")
    assert refused.returncode == 2 and "steps was 1, now 2" in refused.stderr


def test_evidence_rejects_missing_data_and_results(bench: Bench, tmp_path: Path) -> None:
    alone = bench("evidence", "-o", tmp_path, "--coco", "a.json")
    assert alone.returncode == 2 and "--images DIR" in alone.stderr
    empty = bench("evidence", "-o", tmp_path, "--report-only")
    assert empty.returncode == 3 and "no results yet" in empty.stderr
    missing = bench("evidence", "-o", tmp_path, "--coco", "a.json", "--images", tmp_path)
    assert missing.returncode == 3 and "a.json" in missing.stderr and not list(tmp_path.iterdir())


def test_the_viz_benchmark_draws_and_builds_a_page(bench: Bench) -> None:
    done = bench("viz", "--size", "120x160", "--instances", "4", "--repeats", "2", "--json")
    assert done.returncode == 0, done.stderr
    costs = json.loads(done.stdout)
    assert 0 < costs["panels"] < costs["files"] and 0 < costs["rois"] < costs["files"]
    assert costs["page"] > 0 and costs["page_bytes"] > 5000 * 1000


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TYPED = [
    (path.name, command)
    for path in DOCUMENTS
    for command in re.findall(
        r"^\s*python -m benchmarks (.+)$", path.read_text(encoding="utf-8").replace("\\\n", " "), re.MULTILINE
    )
]


def test_the_documented_commands_exist() -> None:
    program: Any = typer.main.get_command(app)
    assert len(TYPED) > 5
    for name, command in TYPED:
        _, found, rest = program.resolve_command(None, shlex.split(command))
        assert found.make_context(name, rest).params
