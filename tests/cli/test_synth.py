"""`bcnet synth shapes` on the command line."""

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

SMALL = ["--images", "3", "--val-images", "2", "--size", "64", "--workers", "1"]


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["shapes", *map(str, arguments)])


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


def test_dry_run_writes_nothing_but_still_refuses(tmp_path: Path) -> None:
    result = run("-o", tmp_path / "set", "--dry-run")
    assert result.exit_code == 0
    assert "2,000 + 300 scenes of 128 x 128" in result.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes.txt").write_text("keep")
    assert isinstance(run("-o", tmp_path, "--dry-run").exception, BCNetError)


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


def test_help_shows_examples_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from bcnet_cli.commands.synth import app;"
        "result = CliRunner().invoke(app, ['shapes', '--help']); print(result.output);"
        "print(sorted({'cv2', 'torch', 'numpy', 'pycocotools'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.count("bcnet synth shapes -o") == 2
    assert shown.endswith("[]\n")
