import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from bcnet_core.config.load import load_recipe
from bcnet_core.model.backbones import ResNetFPN, build_backbone, pixel_format
from bcnet_core.model.detectors import build_detector
from bcnet_core.model.pixels import NormalizePixels, PixelFormat
from tests.model.test_detectors import targets


@pytest.mark.parametrize(("levels", "strides"), [("p3_p7", (8, 16, 32, 64, 128)), ("p2_p6", (4, 8, 16, 32, 64))])
def test_levels_have_their_strides(levels: str, strides: tuple[int, ...]) -> None:
    backbone = build_backbone("r18", out_channels=16, levels=levels)  # type: ignore[arg-type]
    assert backbone.strides == strides
    features = backbone(torch.zeros(1, 3, 96, 160))
    assert [x.shape for x in features] == [(1, 16, -(-96 // stride), -(-160 // stride)) for stride in strides]


def test_the_body_is_torchvisions_resnet() -> None:
    """With the same weights, the last stage of both gives the same."""
    reference = resnet50().eval()
    backbone = build_backbone("r50", out_channels=8)
    assert isinstance(backbone, ResNetFPN)
    state = {
        key: value for key, value in reference.state_dict().items() if "num_batches" not in key and "fc" not in key
    }
    backbone.body.load_state_dict(state)
    image, last = torch.randn(1, 3, 64, 64), {}
    for name, body in (("ours", backbone.body), ("theirs", reference)):
        body.layer4.register_forward_hook(lambda _m, _i, output, name=name: last.update({name: output}))
    with torch.no_grad():
        backbone(image)
        reference(image)
    torch.testing.assert_close(last["ours"], last["theirs"], rtol=1e-4, atol=1e-4)


def strides_of(backbone: ResNetFPN) -> tuple[tuple[int, int], tuple[int, int]]:
    block = backbone.body.layer2[0]
    return block.conv1.stride, block.conv2.stride


@pytest.mark.parametrize(
    ("name", "style", "strides"),
    [("r50", "caffe", ((2, 2), (1, 1))), ("r50", "torchvision", ((1, 1), (2, 2))), ("x101", "caffe", ((1, 1), (2, 2)))],
)
def test_caffe_style_strides_in_the_first_convolution(name: str, style: str, strides: object) -> None:
    backbone = build_backbone(name, out_channels=8, style=style)  # type: ignore[arg-type]
    assert isinstance(backbone, ResNetFPN) and strides_of(backbone) == strides


@pytest.mark.parametrize(
    ("stages", "frozen"), [(0, set()), (2, {"conv1", "layer1"}), (3, {"conv1", "layer1", "layer2"})]
)
def test_stages_are_frozen(stages: int, frozen: set[str]) -> None:
    backbone = build_backbone("r18", out_channels=8, frozen_stages=stages)
    assert isinstance(backbone, ResNetFPN)
    assert {name.split(".")[0] for name, p in backbone.body.named_parameters() if not p.requires_grad} == frozen
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())


def test_images_are_normalized_as_the_weights_expect() -> None:
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)
    rgb = NormalizePixels(pixel_format("r50", "torchvision"))(image).flatten()
    torch.testing.assert_close(rgb[0], torch.tensor((10 - 123.675) / 58.395))
    bgr = NormalizePixels(pixel_format("r50", "caffe"))(image).flatten()
    torch.testing.assert_close(bgr, torch.tensor([30 - 103.53, 20 - 116.28, 10 - 123.675]))
    with_deviation = NormalizePixels(pixel_format("x101", "caffe"))(image).flatten()
    torch.testing.assert_close(with_deviation[0], torch.tensor((30 - 103.53) / 57.375))
    assert torch.equal(NormalizePixels(pixel_format("tiny", "caffe"))(image).flatten(), rgb)


class Coarse(nn.Module):
    """A backbone that no table lists: two levels, grey levels around 100, sides of 64 n."""

    strides = (16, 32)
    size_divisor = 64
    pixels = PixelFormat((100.0, 100.0, 100.0), (50.0, 50.0, 50.0), bgr=True)

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, out_channels, 3, stride=16, padding=1)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = self.conv(images).relu()
        return [x, nn.functional.max_pool2d(x, 2)]


@pytest.mark.parametrize("detector", ["fcos", "faster_rcnn"])
def test_a_backbone_that_no_table_lists_trains_and_predicts(monkeypatch: pytest.MonkeyPatch, detector: str) -> None:
    monkeypatch.setattr(
        "bcnet_core.model.detectors.build_backbone", lambda name, out_channels, **_: Coarse(out_channels)
    )
    recipe = load_recipe("tiny", [f"model.detector={detector}", "model.score_threshold=0"])
    model = build_detector(recipe, [{"id": 1, "name": "a"}])
    image = torch.full((3, 70, 90), 150, dtype=torch.uint8)
    batch = model.preprocess([image])
    assert batch.tensors.shape == (1, 3, 128, 128) and batch.tensors.max() == 1
    assert all(loss.isfinite() for loss in model([image], [targets(2)], [0]).values())
    assert model.eval().predict([image.permute(1, 2, 0).numpy()])[0].boxes.shape[1] == 4
