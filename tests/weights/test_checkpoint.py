import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bcnet_core
from bcnet_core import BCNetError
from bcnet_core.config.data import DataConfig
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.model.detectors import build_detector
from bcnet_core.weights.checkpoint import (
    Checkpoint,
    find_checkpoint,
    latest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from bcnet_core.weights.loading import load_trained, read_trained

CATEGORIES = [{"id": 1, "name": "disc"}, {"id": 2, "name": "box"}]
RECIPE = Recipe(
    data=DataConfig(min_size=64, max_size=64),
    model=ModelConfig(backbone="tiny", mask_proposals="jittered", channels=32, tower_convs=1, score_threshold=0),
)


def checkpoint(recipe: Recipe = RECIPE) -> Checkpoint:
    model = build_detector(recipe, CATEGORIES).state_dict()
    return Checkpoint(step=7, recipe=recipe.model_dump(mode="json"), categories=CATEGORIES, model=model, optimizer={})


def test_a_saved_detector_loads_unchanged(tmp_path: Path) -> None:
    saved = checkpoint()
    save_checkpoint(tmp_path / "checkpoints/step_00000007.pt", saved)
    for path in (tmp_path, tmp_path / "checkpoints/step_00000007.pt", str(tmp_path)):
        detector = bcnet_core.load_detector(path, device="cpu")
        assert detector.class_names == ["disc", "box"] and not detector.training
        state = read_trained(Path(path)).restore("cpu").state_dict()
        assert all(torch.equal(value, saved.model[name]) for name, value in state.items())
    assert len(detector.predict([np.zeros((64, 64, 3), np.uint8)])) == 1


def test_the_newest_step_is_found(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for step in (9, 10, 100):
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / f"checkpoints/step_{step:08d}.pt").touch()
    (tmp_path / "checkpoints/.part.step_00000200.pt").touch()
    (tmp_path / "checkpoints/step_best.pt").touch()
    assert find_checkpoint(tmp_path).name == "step_00000100.pt"


def test_a_data_folder_given_as_a_run_is_recognized(tmp_path: Path) -> None:
    def error() -> tuple[str, str]:
        with pytest.raises(BCNetError, match="holds no checkpoint") as caught:
            find_checkpoint(tmp_path)
        return caught.value.message, " ".join(caught.value.hints)

    assert "is it a run directory?" in error()[1]
    (tmp_path / "curves.png").touch()
    (tmp_path / "checkpoints").mkdir()
    assert "is it a run directory?" in error()[1]
    (tmp_path / "checkpoints").rmdir()
    message, hints = error()
    assert "looks like a folder of images" in message and "--data-root" in hints
    (tmp_path / "annotations").mkdir()
    message, hints = error()
    assert "looks like a data root" in message and f"--data-root {tmp_path}" in hints


def test_files_that_are_no_checkpoints_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(BCNetError, match="does not exist"):
        find_checkpoint(tmp_path / "gone")
    with pytest.raises(BCNetError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)
    whole = tmp_path / "whole.pt"
    save_checkpoint(whole, checkpoint())
    for name, content in {"text.pt": b"hello", "empty.pt": b"", "cut.pt": whole.read_bytes()[:9000]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BCNetError, match=f"{name}` is not a bcnet checkpoint") as caught:
            read_checkpoint(tmp_path / name)
        assert caught.value.exit_code == 3
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(BCNetError, match="is not a bcnet checkpoint") as caught:
        read_checkpoint(tmp_path / "other.pt")
    assert f"bcnet weights import {tmp_path / 'other.pt'} -o bcnet.pt" in caught.value.hints[1]
    for field, value, message in (
        ("extra", 1, "`extra`: Unexpected keyword argument"), ("step", "1", "`step`: Input should be a valid integer"),
        ("recipe", 3, "`recipe`: Input should be a valid dictionary"),
        ("categories", [{"id": 1}], "a category needs an integer id and a name"),
        ("model", {"a": 3}, "`model.a`: Input should be an instance of Tensor"),
    ):  # fmt: skip
        content = torch.load(whole, weights_only=True) | {field: value}
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(BCNetError, match=message):
            read_checkpoint(tmp_path / "other.pt")
    torch.save({"format": 99}, tmp_path / "newer.pt")
    with pytest.raises(BCNetError, match="format 99, this bcnet reads 1"):
        read_checkpoint(tmp_path / "newer.pt")


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("trap-was-sprung",)


def test_no_code_in_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "model": Trap()}, tmp_path / "trap.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap()))
    for name in ("trap.pt", "plain.pt"):
        with pytest.raises(BCNetError, match=r"reading it would call `posix.mkdir`|is not a bcnet checkpoint"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "trap-was-sprung").exists()


def test_an_unknown_setting_of_the_recipe_is_named(tmp_path: Path) -> None:
    recipe = RECIPE.model_dump(mode="json")
    recipe["model"]["depth"] = 5
    save_checkpoint(tmp_path / "x.pt", replace(checkpoint(), recipe=recipe))
    with pytest.raises(BCNetError, match=r"does not know: `model\.depth`"):
        bcnet_core.load_detector(tmp_path / "x.pt", device="cpu")


def test_errors_about_weights_that_do_not_fit_name_both_sides(tmp_path: Path) -> None:
    wide = Recipe(data=RECIPE.data, model=RECIPE.model.model_copy(update={"channels": 64}))
    wrong = replace(checkpoint(), recipe=wide.model_dump(mode="json"))
    save_checkpoint(tmp_path / "x.pt", wrong)
    with pytest.raises(BCNetError, match=r"do not fit this model: \d+ of \d+ tensors differ"):
        bcnet_core.load_detector(tmp_path / "x.pt", device="cpu")
    detector = build_detector(RECIPE, CATEGORIES)
    for categories, first in (
        (CATEGORIES[:1], "label 1 is None in the checkpoint, 'box' in the data"),
        (CATEGORIES[::-1], "label 0 is 'box' in the checkpoint, 'disc' in the data"),
    ):
        with pytest.raises(BCNetError, match="was trained on other classes") as caught:
            load_trained(detector, RECIPE, replace(checkpoint(), categories=categories), tmp_path / "x.pt")
        assert caught.value.hints[0] == first
        assert f"--init-from {tmp_path / 'x.pt'}" in caught.value.hints[-1]
