"""Paths and names that a terminal library could mistake for markup."""

import json
from pathlib import Path

import pytest

from tests.conftest import Bcnet

UNUSUAL = "r [/] [bold]x[/bold] :car: é"


@pytest.fixture(scope="module")
def folder(bcnet: Bcnet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("odd") / UNUSUAL
    done = bcnet("synth", "shapes", "-o", path, "--images", "4", "--val-images", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["root"] == str(path)
    return path


def test_every_command_takes_an_unusual_path_and_shows_it_unchanged(bcnet: Bcnet, folder: Path, tmp_path: Path) -> None:
    small = ("model.channels=32", "model.tower_convs=1", "data.min_size=64", "data.max_size=64", "data.workers=0")
    run, truth = tmp_path / UNUSUAL / "run", folder / "annotations/instances_val.json"
    for arguments, shown in (
        (("annotate", truth, "-o", tmp_path / UNUSUAL / "a.json"), tmp_path / UNUSUAL / "a.json"),
        (("split-occ", truth, "-o", tmp_path / UNUSUAL / "s.json", "--dry-run"), tmp_path / UNUSUAL / "s.json"),
        (("train", "shapes", "--data-root", folder, "--run-dir", run, "--dry-run"), run),
        (
            ("train", "shapes", *small, "solver.steps=1", "--data-root", folder, "--run-dir", run, "--device", "cpu"),
            run,
        ),
        (("eval", run, "--dry-run"), run),
        (("eval", run, "--device", "cpu"), run),
        (("viz", truth, "-o", tmp_path / UNUSUAL / "viz"), tmp_path / UNUSUAL / "viz"),
        (("demo", "-o", tmp_path / UNUSUAL / "demo", "--dry-run"), tmp_path / UNUSUAL / "demo"),
    ):
        done = bcnet(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)
        assert str(shown) in done.stderr, (arguments, done.stderr)


def test_a_data_set_without_images_is_refused_before_training(bcnet: Bcnet, folder: Path, tmp_path: Path) -> None:
    small = ("model.channels=32", "model.tower_convs=1", "data.min_size=64", "data.max_size=64", "data.workers=0")
    (tmp_path / "empty.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    validation = f"data.val.annotations={tmp_path / 'empty.json'}"
    data = ("--data-root", folder, "--run-dir", tmp_path / "run", "--device", "cpu")
    refused = bcnet("train", "shapes", *small, "solver.steps=1", validation, *data)
    assert refused.returncode == 3 and "lists no image" in refused.stderr and not (tmp_path / "run").exists()
