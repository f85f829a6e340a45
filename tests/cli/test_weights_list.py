"""`bcnet weights list`, and names on the command line of train and import; nothing is downloaded."""

import json
from pathlib import Path

import pytest

from tests.conftest import Bcnet


def test_the_list_fits_80_columns_and_names_are_whole(bcnet: Bcnet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = bcnet("weights", "list")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["torchvision/maskrcnn_resnet50_fpn_v2", "186", "MB", "47.4", "41.8"] for line in lines)
    longest = "detectron2/COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x"
    assert any(line.split() == [longest, "44.3", "39.5"] for line in lines)
    assert "licence CC-BY-SA-3.0" in done.stdout and "timm" in done.stderr


def test_the_list_as_json_and_by_a_part_of_the_name(bcnet: Bcnet) -> None:
    rows = json.loads(bcnet("weights", "list", "torchvision/fcos", "--json").stdout)
    (row,) = rows
    assert (row["name"], row["box_ap"], row["mask_ap"]) == ("torchvision/fcos_resnet50_fpn", 39.2, None)
    nothing = bcnet("weights", "list", "no-such-part")
    assert nothing.returncode == 2 and "no published weights have `no-such-part` in their name" in nothing.stderr


def test_a_dry_run_says_what_would_be_fetched_and_fetches_nothing(
    bcnet: Bcnet, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    common = (
        "train",
        "shapes",
        "--data-root",
        scenes,
        "--run-dir",
        tmp_path / "run",
        "--dry-run",
        "model.backbone=r18",
    )
    for start in (("--init-from", "torchvision/resnet18"), ("model.init=torchvision/resnet18",)):
        done = bcnet(*common, *start)
        assert done.returncode == 0, done.stderr
        stderr = done.stderr.replace("\n", " ")
        assert "would fetch https://download.pytorch.org/models/resnet18-f37072fd.pth (47 MB) to" in stderr
        assert "random weights" not in stderr
    assert not (tmp_path / "cache/bcnet").exists() and not (tmp_path / "run").exists()
    wrong = bcnet(*common, "--init-from", "torchvision/resnet81")
    assert wrong.returncode == 2 and "nearest: torchvision/resnet18" in wrong.stderr


def test_offline_an_import_by_name_is_one_sentence_with_the_place_for_the_file(
    bcnet: Bcnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    done = bcnet("weights", "import", "torchvision/resnet18", "-o", tmp_path / "x.pt")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    message = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "cannot fetch `https://download.pytorch.org/models/resnet18-f37072fd.pth`" in message
    assert f"put it at `{tmp_path / 'cache/bcnet/weights'}" in message and message.endswith("resnet18-f37072fd.pth`")
    assert not list(tmp_path.rglob("*.p*"))
