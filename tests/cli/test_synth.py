"""The command `bcnet synth`, and the use of its sets by every other command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bcnet_cli.commands.synth import app
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.synth.sets import write_shapes
from tests.conftest import Bcnet

SMALL = ["--images", "3", "--val-images", "2", "--size", "64", "--workers", "1"]


def run(*arguments: str | Path, command: str = "shapes") -> Any:
    return CliRunner().invoke(app, [command, *map(str, arguments)])


def test_writes_a_set_and_names_the_next_command(tmp_path: Path) -> None:
    result = run("-o", tmp_path / "my set", *SMALL)
    assert result.exit_code == 0, result.output
    table = result.stdout
    assert [word in table for word in ("split", "images", "instances", "train", "val")] == [True] * 5
    assert "wrote" not in table
    assert f"bcnet train shapes --data-root '{tmp_path / 'my set'}'" in result.stderr
    assert len(list((tmp_path / "my set" / "train").iterdir())) == 3


def test_json_holds_the_summary_of_both_splits(tmp_path: Path) -> None:
    result = run("-o", tmp_path / "set", *SMALL, "--json")
    summary = json.loads(result.stdout)
    assert summary["root"] == str(tmp_path / "set")
    assert [(row["split"], row["images"]) for row in summary["splits"]] == [("train", 3), ("val", 2)]
    coco = json.loads((tmp_path / "set" / "annotations" / "instances_train.json").read_text())
    assert summary["splits"][0]["instances"] == len(coco["annotations"])


def test_a_dry_run_writes_nothing_but_still_checks(tmp_path: Path) -> None:
    result = run("-o", tmp_path / "set", "--dry-run")
    assert result.exit_code == 0
    assert "2,000 + 300 scenes of 128 x 128" in result.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes.txt").write_text("keep")
    assert isinstance(run("-o", tmp_path, "--dry-run").exception, BCNetError)


def test_hard_scenes_have_one_class_each_and_are_marked_in_the_file(tmp_path: Path) -> None:
    assert "2,000 + 300 hard scenes" in run("-o", tmp_path / "set", "--hard", "--dry-run").stderr
    assert run("-o", tmp_path / "set", *SMALL, "--hard").exit_code == 0
    coco = json.loads((tmp_path / "set" / "annotations" / "instances_train.json").read_text())
    assert coco["info"]["options"]["hard"] is True
    for image in coco["images"]:
        assert len({one["category_id"] for one in coco["annotations"] if one["image_id"] == image["id"]}) == 1


def test_existing_set_needs_overwrite(tmp_path: Path) -> None:
    assert run("-o", tmp_path / "set", *SMALL).exit_code == 0
    refused = run("-o", tmp_path / "set", *SMALL)
    assert isinstance(refused.exception, BCNetError)
    assert refused.exception.exit_code == ExitCode.USAGE
    assert "--overwrite" in " ".join(refused.exception.hints)
    assert run("-o", tmp_path / "set", *SMALL, "--overwrite").exit_code == 0


@pytest.mark.parametrize("wrong", [("--images", "0"), ("--size", "8"), ("--seed", "-1"), ("--workers", "-2")])
def test_options_out_of_range_are_usage_errors(tmp_path: Path, wrong: tuple[str, str]) -> None:
    result = run("-o", tmp_path / "set", *wrong)
    assert result.exit_code == ExitCode.USAGE
    assert wrong[0] in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO set in which some objects lie alone."""
    root = tmp_path_factory.mktemp("source") / "shapes"
    write_shapes(root, images=150, val_images=1, workers=1)
    return root


def paste(source: Path, *arguments: str | Path) -> Any:
    options = ["--size", "96x128", "--min-area", "200", "--workers", "1", *arguments]
    annotations = source / "annotations" / "instances_train.json"
    return run(annotations, "--images", source / "train", *options, command="paste")


def test_a_pasted_set_works_in_every_command_without_options(source: Path, tmp_path: Path, bcnet: Bcnet) -> None:
    root, small = tmp_path / "my set", ["--scenes", "6", "--val-scenes", "3", "--objects", "2..4"]
    result = paste(source, "-o", root, *small)
    assert result.exit_code == 0, result.output
    assert "complete objects" in result.stdout
    assert "left out: touches another object" in result.stdout
    assert f"bcnet train tiny --data-root '{root}'" in result.stderr
    run_dir = tmp_path / "run"
    done = [
        bcnet("train", "tiny", "--data-root", root, "--run-dir", run_dir, "--device", "cpu", "solver.steps=2"),
        bcnet("eval", run_dir, "--device", "cpu", "--occ"),
        bcnet("viz", run_dir, "--device", "cpu", "-o", tmp_path / "found"),
        bcnet("viz", root / "annotations" / "instances_val2017.json", "-o", tmp_path / "truth"),
        bcnet("split-occ", root / "annotations" / "instances_val2017.json", "-o", tmp_path / "occ.json"),
        bcnet("annotate", root / "annotations" / "instances_train2017.json", "-o", tmp_path / "bilayer.json"),
        bcnet("annotate", "--check", root / "annotations" / "instances_train2017.json"),
    ]
    assert [one.returncode for one in done] == [0] * len(done), "\n".join(one.stderr for one in done)
    assert "1.0000" in done[-1].stdout, "its occluders are exact"


def test_a_dry_paste_shows_what_the_set_offers(source: Path, tmp_path: Path) -> None:
    result = paste(source, "-o", tmp_path / "set", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "train2017: objects" in result.stdout
    assert "would write 2,000 + 300 scenes of 96x128 pixels" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_json_of_a_dry_run_is_the_plan(source: Path, tmp_path: Path) -> None:
    plan = json.loads(paste(source, "-o", tmp_path / "set", "--dry-run", "--json").stdout)
    assert plan["annotations"] == plan["complete"] + sum(plan["left_out"].values())
    assert plan["splits"]["train2017"]["objects"] + plan["splits"]["val2017"]["objects"] == plan["complete"]
    drawn = json.loads(run("-o", tmp_path / "set", *SMALL, "--dry-run", "--json").stdout)
    assert drawn["splits"] == [{"split": "train", "images": 3}, {"split": "val", "images": 2}]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_reports_missing_images_too(source: Path, tmp_path: Path) -> None:
    annotations = source / "annotations" / "instances_train.json"
    for extra in ([], ["--dry-run"]):
        options = ["--images", source / "val", "-o", tmp_path / "set", "--min-area", "200", "--workers", "1", *extra]
        error = run(annotations, *options, command="paste").exception
        assert isinstance(error, BCNetError)
        assert "images are not in" in error.message
        assert error.exit_code == ExitCode.BAD_DATA


def test_json_of_a_paste_is_the_summary(source: Path, tmp_path: Path) -> None:
    result = paste(source, "-o", tmp_path / "set", "--scenes", "2", "--val-scenes", "1", "--objects", "2..3", "--json")
    summary = json.loads(result.stdout)
    assert [(row["split"], row["images"]) for row in summary["splits"]] == [("train2017", 2), ("val2017", 1)]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--occlusion", "0.2"), "is not a range"),
        (("--occlusion", "0.2-0.6"), "is not a range"),
        (("--occlusion", "0.6..0.2"), "0.6 to 0.2"),
        (("--scale", "a..b"), "is not a range"),
        (("--objects", "2.5..4"), "whole numbers"),
        (("--objects", "1..4"), "from 2"),
        (("--size", "640"), "not an image size"),
        (("--size", "20x20"), "20 x 20"),
        (("--size", "70000x100"), "70000 x 100"),
    ],
)
def test_invalid_options_of_a_paste_are_usage_errors(
    source: Path, tmp_path: Path, wrong: tuple[str, str], words: str
) -> None:
    error = paste(source, "-o", tmp_path / "set", *wrong).exception
    assert isinstance(error, BCNetError)
    assert words in error.message
    assert error.exit_code == ExitCode.USAGE
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_of_images_is_an_error(source: Path, tmp_path: Path) -> None:
    annotations = source / "annotations" / "instances_train.json"
    error = run(annotations, "--images", tmp_path / "none", "-o", tmp_path / "set", command="paste").exception
    assert isinstance(error, BCNetError)
    assert error.exit_code == ExitCode.BAD_DATA
    assert "--images" in error.hints[0]


def test_help_shows_examples_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from bcnet_cli.commands.synth import app;"
        "[print(CliRunner().invoke(app, [name, '--help']).output) for name in ('shapes', 'paste')];"
        "print(sorted({'cv2', 'torch', 'numpy', 'pycocotools'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.count("bcnet synth shapes -o") == 2
    assert shown.count("bcnet synth paste ") == 2
    assert shown.endswith("[]\n")
