"""docs/detectron2.md is right: its settings exist, its example and its program run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.modeling import build_model

from bcnet_core.integrations.detectron2 import BilayerFCOS
from bcnet_core.integrations.detectron2.config import fresh_config
from bcnet_core.integrations.detectron2.fields import map_field
from bcnet_core.integrations.detectron2.stored import read_stored, to_torchvision
from bcnet_core.maps import MAPS
from tests.conftest import REPO
from tests.integrations.detectron2.test_training import coco_root

PAGE = (REPO / "docs" / "detectron2.md").read_text(encoding="utf-8")


def test_documented_settings_exist() -> None:
    cfg = fresh_config()
    settings = re.findall(r"`((?:MODEL|INPUT)\.[A-Z_.]+): (\w+)`", PAGE)
    assert len(settings) == 6
    for key, value in settings:
        cfg.merge_from_list([key, value])
    cfg.MODEL.DEVICE, cfg.MODEL.RESNETS.OUT_FEATURES = "cpu", ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    assert isinstance(build_model(cfg), BilayerFCOS)
    for key in re.findall(r"`(MODEL\.BCNET[A-Z_.]*|INPUT\.[A-Z_]+)`", PAGE):
        node = cfg
        for part in key.split("."):
            node = node[part]
    assert all(f"`{field}`" in PAGE for field in map(map_field, MAPS))


def test_the_documented_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "docs/detectron2.md", "exec"), names)
    assert "BilayerMaskRCNNHead" in str(names["cfg"].model.roi_heads.mask_head)  # type: ignore[attr-defined]


def test_install_commands_are_the_same_everywhere() -> None:
    from bcnet_core.backends import INSTALL

    readme = (REPO / "bcnet_core/integrations/detectron2/README.md").read_text(encoding="utf-8")
    assert all(line in readme and line in PAGE for line in INSTALL)


@pytest.mark.slow
def test_the_documented_program_trains(scenes: Path, tmp_path: Path) -> None:
    root = coco_root(tmp_path / "coco", scenes)
    small = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", "18",
             "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64",
             "SOLVER.IMS_PER_BATCH", "1", "SOLVER.MAX_ITER", "2", "DATALOADER.NUM_WORKERS", "0",
             "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16", "OUTPUT_DIR", str(tmp_path / "out")]  # fmt: skip
    program = [sys.executable, "-W", "ignore", str(REPO / "docs/detectron2/train.py"), str(root), *small]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "loss_occluder_mask" in (tmp_path / "out/metrics.json").read_text()
    assert (tmp_path / "out/inference/coco_instances_results.json").is_file()
    stored = read_stored(tmp_path / "out")
    data = stored.recipe.data
    assert data.locate(data.val)[0] == root / "annotations/instances_val2017.json"
    assert to_torchvision(stored).recipe["model"]["detector"] == "faster_rcnn"
