"""The examples in docs/python.md are run as they stand."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.model.detectors import build_detector
from bcnet_core.weights.checkpoint import Checkpoint, save_checkpoint
from tests.conftest import REPO
from tests.evaluation.test_predict import three_discs


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    categories = [{"id": 1, "name": "thing"}]
    torch.manual_seed(0)
    recipe = Recipe(model=ModelConfig(backbone="tiny", channels=32, tower_convs=1, score_threshold=0))
    detector = build_detector(recipe, categories)
    torch.nn.init.constant_(detector.heads.boxes.classes.bias, 3.0)  # sure of everything
    torch.nn.init.constant_(detector.heads.boxes.centerness.bias, 3.0)
    weights = detector.state_dict()
    save_checkpoint(Path("bcnet.pt"), Checkpoint(0, recipe.model_dump(mode="json"), categories, weights, {}))
    example, second, third = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "python.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/python.md", "exec"), names)
    assert re.match(r"thing \[[\d.]+, .*\] \d+ pixels\n", capsys.readouterr().out)
    names["found"] = three_discs("occludee_mask", "amodal_mask")
    exec(compile(second, "docs/python.md", "exec"), names)
    assert capsys.readouterr().out == "thing 1 hides a part of thing 0\n"
    exec(compile(third, "docs/python.md", "exec"), names)
    assert capsys.readouterr().out == "[17, 3] torch.Size([2, 480, 640])\n"
