"""What a model is comes from its recipe; the names of its tensors do not matter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bcnet_core import load_detector
from bcnet_core.annotations.coco import read_coco
from bcnet_core.config.load import load_recipe
from bcnet_core.engine.launch import run_training
from bcnet_core.engine.state import TrainingJob
from bcnet_core.errors import BCNetError
from bcnet_core.evaluation.predict import predict_images
from bcnet_core.model import detectors
from bcnet_core.model.backbones import TinyBackbone
from bcnet_core.reporting import SilentReporter
from bcnet_core.weights.checkpoint import latest_checkpoint, read_checkpoint
from bcnet_core.weights.export import export_detector
from bcnet_core.weights.importing import import_weights
from bcnet_core.weights.loading import read_trained


class Unlisted(nn.Module):
    """A backbone of three convolutions that no table of bcnet knows."""

    strides, pixels = TinyBackbone.strides, TinyBackbone.pixels
    size_divisor = TinyBackbone.size_divisor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, channels, 8, stride=8)
        self.deeper = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(2))

    def forward(self, images: Tensor) -> list[Tensor]:
        levels = [self.trunk(images)]
        for conv in self.deeper:
            levels.append(conv(torch.relu(levels[-1])))
        return levels


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_unlisted_backbone_is_trained_resumed_evaluated_and_exported(
    tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detectors, "build_backbone", lambda *_, out_channels, **__: Unlisted(out_channels))
    settings = ["model.channels=32", "model.tower_convs=1", "data.min_size=64", "data.max_size=64", "data.workers=0",
                "solver.batch_size=2", "solver.schedule=step", "model.score_threshold=0",
                "model.detections_per_image=5"]  # fmt: skip

    def train(run: str, steps: int, *, resume: bool = False, init_from: str | None = None) -> Path:
        recipe = load_recipe("shapes", [*settings, f"solver.steps={steps}"], data_root=scenes)
        job = TrainingJob(recipe, tmp_path / run, "cpu", "bcnet train shapes", resume=resume, init_from=init_from)
        return run_training(job, SilentReporter())

    train("run", 1)
    last = train("run", 2, resume=True)
    assert read_checkpoint(last).step == 2
    assert "backbone.trunk.weight" in read_checkpoint(train("other", 1, init_from=str(tmp_path / "run"))).model
    checkpoint, report = import_weights(last, drop_classes=True)
    assert report.placed["backbone.trunk"] == 2 and checkpoint.part_of is not None

    detector = load_detector(tmp_path / "run", device="cpu")
    coco = read_coco(scenes / "annotations/instances_val.json")
    images = scenes / load_recipe("shapes").data.val.images
    assert predict_images(detector, coco.images[:1], images, reporter=SilentReporter())
    check = export_detector(detector, tmp_path / "x.torchscript", form="torchscript", height=64, width=64)
    assert check.instances == 5


def test_a_checkpoint_is_read_once_for_everything(untrained: Path) -> None:
    trained = read_trained(untrained)
    assert trained.path == untrained and trained.recipe.model.channels == 32
    assert len(trained.categories) == 5
    state = trained.build("cpu").state_dict()
    assert state.keys() == trained.weights.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in trained.weights.items())


def test_weights_of_another_backbone_name_both_recipes(tmp_path: Path, scenes: Path, untrained: Path) -> None:
    recipe = load_recipe("shapes", ["model.backbone=r18", "data.workers=0"], data_root=scenes)
    job = TrainingJob(recipe, tmp_path / "run", "cpu", "bcnet train shapes", init_from=str(untrained))
    with pytest.raises(BCNetError, match="holds weights of fcos tiny, this model is fcos r18 caffe"):
        run_training(job, SilentReporter())
    assert latest_checkpoint(tmp_path / "run") is None
