"""Starts of a training by run, file, URL and name; names lead to a server on this machine."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

from bcnet_core import BCNetError
from bcnet_core.config.load import load_recipe
from bcnet_core.engine.state import TrainingJob
from bcnet_core.reporting import SilentReporter
from bcnet_core.weights import sources
from bcnet_core.weights.starts import describe_start, fetch_start, find_source, read_start
from tests.conftest import Heard

R50 = "detectron2/ImageNetPretrained/MSRA/R-50"
MASK = "detectron2/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"


@pytest.fixture
def zoo(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a server that stands in for detectron2's zoo."""
    monkeypatch.setattr(sources, "ZOO", f"{server}/")
    return tmp_path / "served"


def test_a_name_is_fetched_once_and_read_from_the_cache(zoo: Path) -> None:
    torch.save(resnet18(weights=None).state_dict(), zoo / "r18.pth")
    (zoo / "ImageNetPretrained/MSRA").mkdir(parents=True)
    (zoo / "r18.pth").rename(zoo / "ImageNetPretrained/MSRA/R-50.pkl")
    with pytest.raises(BCNetError, match=f"`{R50}` is not in the cache, at `.*R-50.pkl`"):
        read_start(R50)
    assert describe_start(R50).startswith("would fetch http://127.0.0.1:")
    path = fetch_start(R50, SilentReporter())
    (zoo / "ImageNetPretrained/MSRA/R-50.pkl").unlink()
    assert describe_start(R50) == f"would start from {R50}, fetched before: {path}"
    checkpoint, file = read_start(R50)
    assert file == path and checkpoint.recipe["model"]["backbone"] == "r18"


def test_the_digest_of_a_name_is_checked(zoo: Path, tmp_path: Path) -> None:
    file = zoo / "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
    file.parent.mkdir(parents=True)
    file.write_bytes(pickle.dumps({"w": np.ones(3)}))
    with pytest.raises(BCNetError, match=r"its md5 begins with [0-9a-f]{6}, not f10217"):
        fetch_start(MASK, SilentReporter())
    assert not list((tmp_path / "cache").rglob("*.pkl"))


def test_a_name_of_timm_tells_the_file_which_model_it_is(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm")
    monkeypatch.setenv("HF_ENDPOINT", server)
    place = tmp_path / "served/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    place.parent.mkdir(parents=True)
    save_file(timm.create_model("resnet18").state_dict(), place)
    assert fetch_start("timm/resnet18", SilentReporter()).name == "model.safetensors"
    checkpoint, _ = read_start("timm/resnet18")
    assert checkpoint.recipe["model"]["backbone"] == "timm/resnet18"


def test_a_package_wins_over_a_download_and_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    (tmp_path / "shipped_for_a_test.py").touch()
    (tmp_path / "w.pth").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        sources, "PACKAGED", {"timm/tf_efficientnet_lite0": ("a-package", "shipped_for_a_test", "w.pth")}
    )
    found, told = find_source("timm/tf_efficientnet_lite0"), Heard()
    assert (found.path, found.url, found.backbone) == (tmp_path / "w.pth", None, None)
    assert fetch_start("timm/tf_efficientnet_lite0", told) == tmp_path / "w.pth"
    assert told.infos == [f"`timm/tf_efficientnet_lite0`: {tmp_path / 'w.pth'}, which the package a-package ships"]


def test_a_path_that_exists_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("torchvision").mkdir()
    torch.save(resnet18(weights=None).state_dict(), "torchvision/resnet50")
    checkpoint, path = read_start("torchvision/resnet50")
    assert path == Path("torchvision/resnet50") and checkpoint.recipe["model"]["backbone"] == "r18"
    assert read_start((tmp_path / "torchvision/resnet50").as_uri())[1] == tmp_path / "torchvision/resnet50"


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("maskrcnn_resnet50_fpn_v2", "nearest names: torchvision/maskrcnn_resnet50_fpn_v2"),
        ("runs/nothing", "give a run directory, a checkpoint or weight file, a URL, or a name of bcnet weights list"),
    ],
)
def test_what_is_neither_file_nor_name_is_one_sentence(source: str, hint: str) -> None:
    with pytest.raises(BCNetError, match=f"^`{source}` does not exist") as caught:
        find_source(source)
    assert caught.value.exit_code == 3 and any(line.startswith(hint) for line in caught.value.hints)


def test_the_command_line_wins_over_the_recipe_and_a_resumed_run_starts_from_neither(tmp_path: Path) -> None:
    named = load_recipe("shapes", ["model.init=torchvision/resnet18"])
    job = TrainingJob(named, tmp_path, "cpu", "bcnet train")
    assert job.init == "torchvision/resnet18"
    assert TrainingJob(named, tmp_path, "cpu", "bcnet train", init_from="a.pt").init == "a.pt"
    assert TrainingJob(named, tmp_path, "cpu", "bcnet train", resume=True).init is None
    assert TrainingJob(load_recipe("shapes", ["model.init=none"]), tmp_path, "cpu", "bcnet train").init is None
