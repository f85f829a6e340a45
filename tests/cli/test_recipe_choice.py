"""`bcnet train` without a recipe takes the one for the device and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from bcnet_cli.recipe_choice import ChosenRecipe, choose_recipe
from tests.conftest import Bcnet

SMALL = ["model.channels=32", "model.tower_convs=1", "data.min_size=64", "data.max_size=64", "data.workers=0"]


@pytest.fixture
def mine(scenes: Path, tmp_path: Path) -> Path:
    """Return a data root as `bcnet data import` lays it out."""
    root = tmp_path / "mine"
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / f"annotations/instances_{split}2017.json").symlink_to(scenes / f"annotations/instances_{split}.json")
        (root / f"{split}2017").symlink_to(scenes / split)
    return root


def test_a_cpu_gets_the_light_recipe_and_a_gpu_the_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_recipe([], device="cpu", resumed=None).name == "own_light"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    on_gpu = choose_recipe(["solver.epochs=3"], device="auto", resumed=None)
    note = "recipe own_rcnn, as no other was named and this is a GPU; all: bcnet recipes list"
    assert on_gpu == ChosenRecipe("own_rcnn", ["solver.epochs=3"], note)
    assert choose_recipe([], device="cpu", resumed=None).name == "own_light"


def test_a_first_word_is_a_recipe_unless_it_is_an_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["tiny"], ["tiny", "solver.lr=1"], ["runs/lr=1/mine.yaml"], ["./a=b"]):
        assert choose_recipe(words, device="cpu", resumed=None) == ChosenRecipe(words[0], words[1:], None)
    for words in (["solver.lr=1", "seed=2"], ["solver.lr = 1"], ["data.root=a.yaml"], ["=3"]):
        assert choose_recipe(words, device="cpu", resumed=None)[:2] == ("own_light", words)
    monkeypatch.chdir(tmp_path)
    Path("lr=1.yaml").touch()
    assert choose_recipe(["lr=1.yaml"], device="cpu", resumed=None).name == "lr=1.yaml"


def test_a_dry_run_without_a_recipe_tells_the_choice_and_the_schedule(bcnet: Bcnet, mine: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    done = bcnet("train", "solver.epochs=5", "--data-root", mine, "--device", "cpu", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("recipe own_light, as no other was named and this is a CPU; all: bcnet recipes list")
    assert "30 steps of 2 images: 5.0 epochs" in done.stderr and "would write runs/own_light-" in done.stderr
    solver = yaml.safe_load(done.stdout)["solver"]
    assert (solver["steps"], solver["epochs"], solver["precision"]) == (30, None, "fp32")


def test_nothing_at_all_is_the_usual_sentence(bcnet: Bcnet, tmp_path: Path) -> None:
    done = bcnet("train", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 2
    choice, sentence, *ways_out = done.stderr.splitlines()
    assert choice.startswith("recipe own_light") and "no data root was given" in sentence
    assert ways_out == ["  say where the data is: --data-root DIR, or set BCNET_DATA"]
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_resumed_with_its_own_recipe(bcnet: Bcnet, scenes: Path, tmp_path: Path) -> None:
    run = ("--run-dir", "run", "--device", "cpu")
    first = bcnet("train", "shapes", *SMALL, "solver.schedule=step", "solver.steps=1", "--data-root", scenes, *run,
                  cwd=tmp_path)  # fmt: skip
    assert first.returncode == 0, first.stderr
    done = bcnet("train", "solver.steps=2", "--resume", *run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "recipe" not in done.stderr.splitlines()[0]
    rows = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert [row["step"] for row in rows] == [1, 2]
