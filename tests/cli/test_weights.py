"""`bcnet weights import` and `export` on the command line."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.models import resnet18
from typer.testing import CliRunner

from bcnet_cli.commands.weights import app
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.model.detectors import build_detector
from bcnet_core.weights.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from bcnet_core.weights.files import read_weight_file
from tests.conftest import Bcnet
from tests.weights.test_families import detectron2_rcnn, release, torchvision_backbone


def run(*arguments: str | Path, command: str = "import") -> Any:
    return CliRunner().invoke(app, [command, *map(str, arguments)])


@pytest.fixture
def official(tmp_path: Path) -> Path:
    torch.save({"model": release()}, tmp_path / "official.pth")
    return tmp_path / "official.pth"


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    torch.save(torchvision_backbone(resnet18), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


def test_the_release_becomes_a_checkpoint_to_evaluate(official: Path, tmp_path: Path) -> None:
    result = run(official, "-o", tmp_path / "my out.pt")
    assert result.exit_code == 0, result.output
    assert (
        "The official BCNet release (FCOS): a whole checkpoint of fcos r50 (caffe style), 80 classes" in result.stdout
    )
    assert "370" in result.stdout and "wrote" not in result.stdout
    assert f"wrote {tmp_path / 'my out.pt'}" in result.stderr
    assert f"bcnet eval '{tmp_path / 'my out.pt'}'" in result.stderr
    assert read_checkpoint(tmp_path / "my out.pt").part_of is None


def test_a_backbone_becomes_an_initialization_to_train_from(backbone: Path, tmp_path: Path) -> None:
    result = run(backbone.as_uri(), "-o", tmp_path / "init.pt")
    assert "An ImageNet ResNet of torchvision: an initialization of r18 (torchvision style)" in result.stdout
    assert "not used: fc.weight, fc.bias: the ImageNet classifier" in result.stdout
    assert ", ... (20; all: --json): a counter that frozen BatchNorm does not have" in result.stdout
    command = f"--init-from {tmp_path / 'init.pt'} model.backbone=r18 model.backbone_style=torchvision"
    assert f"bcnet train RECIPE {command}" in result.stderr
    assert read_checkpoint(tmp_path / "init.pt").part_of is not None


def test_json_contains_the_whole_report(tmp_path: Path) -> None:
    torch.save(detectron2_rcnn(), tmp_path / "x.pth")
    report = json.loads(run(tmp_path / "x.pth", "-o", tmp_path / "init.pt", "--json", "--drop-classes").stdout)
    assert (report["detector"], report["backbone"], report["whole"]) == ("faster_rcnn", "r50", False)
    assert report["placed"]["backbone.body"] == 265 and report["fresh"]["heads.roi_heads.box_predictor"] == 4
    assert ["roi_heads.mask_head.predictor.weight", "roi_heads.mask_head.predictor.bias"] in report["dropped"].values()


def test_dry_run_writes_nothing_but_reads_everything(backbone: Path, tmp_path: Path) -> None:
    result = run(backbone, "-o", tmp_path / "init.pt", "--dry-run")
    assert result.exit_code == 0 and "backbone.body" in result.stdout
    assert f"would write {tmp_path / 'init.pt'}" in result.stderr
    (tmp_path / "broken.pth").write_bytes(backbone.read_bytes()[:5000])
    assert isinstance(run(tmp_path / "broken.pth", "-o", tmp_path / "init.pt", "--dry-run").exception, BCNetError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.pth", "resnet18.pth"]


def test_existing_outputs_are_kept_and_inputs_never_overwritten(backbone: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.pt").write_text("kept")
    refused = run(backbone, "-o", tmp_path / "kept.pt")
    assert isinstance(refused.exception, BCNetError) and "--overwrite" in " ".join(refused.exception.hints)
    assert (tmp_path / "kept.pt").read_text() == "kept"
    assert run(backbone, "-o", tmp_path / "kept.pt", "--overwrite").exit_code == 0
    same = run(backbone, "-o", backbone, "--overwrite")
    assert isinstance(same.exception, BCNetError) and "is the input itself" in same.exception.message
    missing = run(tmp_path / "gone.pth", "-o", tmp_path / "x.pt")
    assert isinstance(missing.exception, BCNetError) and "does not exist" in missing.exception.message


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("threshold", "count", "message"),
    [
        (0.0, 100, r"differ from the detector's by [\d.e-]+ at most \((\d+ of )?\d+ instances\)"),
        (1.0, 0, "neither the file nor the detector finds anything"),
    ],
)
def test_a_detector_is_exported_and_compared(tmp_path: Path, threshold: float, count: int, message: str) -> None:
    recipe = Recipe(model=ModelConfig(backbone="tiny", channels=32, tower_convs=1, score_threshold=threshold))
    categories = [{"id": 1, "name": "thing"}]
    weights = build_detector(recipe, categories).state_dict()
    save_checkpoint(tmp_path / "x.pt", Checkpoint(0, recipe.model_dump(mode="json"), categories, weights, {}))
    Image.new("RGB", (50, 40)).save(tmp_path / "picture.png")
    where = tmp_path / "out.torchscript"
    arguments = [tmp_path / "x.pt", "-o", where, "--size", "64x96", "--image", tmp_path / "picture.png"]
    result = run(*arguments, command="export")
    assert result.exit_code == 0 and re.search(message, result.stderr), result.output
    boxes, *_ = torch.jit.load(str(where))(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    assert len(boxes) == count
    with pytest.raises(BCNetError, match="it is a TorchScript program"):
        read_weight_file(where)
    huge = run(tmp_path / "x.pt", "-o", tmp_path / "huge.torchscript", "--size", "99999x64", command="export")
    assert isinstance(huge.exception, BCNetError) and "99999 x 64 pixels is too large" in huge.exception.message
    misnamed = run(tmp_path / "x.pt", "-o", tmp_path / "x.onnx", command="export")
    assert isinstance(misnamed.exception, BCNetError) and "--format onnx" in misnamed.exception.hints[0]
    assert not (tmp_path / "x.onnx").exists()
    again = run(*arguments, command="export")
    assert isinstance(again.exception, BCNetError) and "--overwrite" in " ".join(again.exception.hints)


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("the trap was sprung",)


def test_a_harmful_file_gives_one_error_message(bcnet: Bcnet, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"conv1_w": Trap()}))
    done = bcnet("weights", "import", tmp_path / "x.pkl", "-o", tmp_path / "out.pt")
    assert done.returncode == ExitCode.BAD_DATA
    assert "is refused: reading it would call `builtins.print`" in done.stderr
    assert "trap" not in done.stdout and "Traceback" not in done.stderr
    assert not (tmp_path / "out.pt").exists()


def test_the_help_names_the_extra_that_onnx_needs() -> None:
    assert "bcnet[onnx]" in CliRunner().invoke(app, ["export", "--help"]).output


def test_help_shows_examples_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from bcnet_cli.commands.weights import app;"
        "result = CliRunner().invoke(app, ['import', '--help']); print(result.output);"
        "print(sorted({'cv2', 'torch', 'numpy', 'pycocotools'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.count("bcnet weights import") == 3
    assert shown.endswith("[]\n")
