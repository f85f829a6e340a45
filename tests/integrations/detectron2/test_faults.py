"""detectron2 runs that are killed, or share a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from torch import nn

from bcnet_core.config.load import load_recipe
from bcnet_core.engine.run_dir import LOCK_FILE, exclusive_run, require_free_run_dir
from bcnet_core.engine.state import RunOptions
from bcnet_core.errors import BCNetError
from bcnet_core.integrations.detectron2.trainer import WholeCheckpointer
from bcnet_core.integrations.detectron2.training import train_recipe
from bcnet_core.reporting import SilentReporter


def test_checkpoints_are_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 2)
    checkpointer = WholeCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"model_0000001.pth", "last_checkpoint"}
    assert before["last_checkpoint"] == b"model_0000001.pth"

    def half(content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file")

    with monkeypatch.context() as full:
        full.setattr(torch, "save", half)
        for name in ("model_0000001", "model_0000002"):
            with pytest.raises(BCNetError, match=f"cannot write `.*{name}.pth`: it could not be written whole"):
                checkpointer.save(name, iteration=2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    weights = model.weight.detach().clone()
    nn.init.zeros_(model.weight)
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1
    assert torch.equal(model.weight, weights)


def test_two_runs_cannot_share_a_folder(scenes: Path, tmp_path: Path) -> None:
    recipe = load_recipe("shapes", ["solver.steps=1"], data_root=scenes)
    options = RunOptions(tmp_path / "run", "cpu", 1, "bcnet train shapes --backend detectron2")
    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / LOCK_FILE),  # as another process holds it
        pytest.raises(BCNetError, match="another process is training in") as caught,
    ):
        train_recipe(recipe, options, SilentReporter())
    assert caught.value.exit_code == 2
    assert not [path for path in (tmp_path / "run").iterdir() if path.name != LOCK_FILE]


def test_a_run_killed_before_its_first_checkpoint_can_be_started_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "log.txt", "log.txt.rank1", "events.out.tfevents.1.host", ".part.model_0000001.pth"):
        (run / name).touch()
    with pytest.raises(BCNetError, match="is not empty"):  # a folder of somebody else may look like that
        require_free_run_dir(run, "bcnet train shapes")
    (run / ".lock").touch()
    require_free_run_dir(run, "bcnet train shapes")
    shutil.copytree(run, tmp_path / "other")
    with pytest.raises(ZeroDivisionError), exclusive_run(run, "bcnet train shapes"):
        raise ZeroDivisionError
    assert not list(run.iterdir())
    (tmp_path / "other/model_0000001.pth").touch()
    with pytest.raises(BCNetError, match="is not empty"):
        require_free_run_dir(tmp_path / "other", "bcnet train shapes")
