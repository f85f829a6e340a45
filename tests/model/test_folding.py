"""Folded detectors compute the same function; and how many operations and host synchronisations that takes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.resnet import Bottleneck

from bcnet_core.config.load import load_recipe
from bcnet_core.model.backbones import build_backbone
from bcnet_core.model.detectors import Detector, build_detector
from bcnet_core.model.folding import fold, fold_head, fold_norms
from bcnet_core.model.head import BilayerMaskHead

CATEGORIES = [{"id": label, "name": f"class {label}"} for label in range(80)]
LARGE, SMALL = (
    torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    for height, width in ((480, 640), (96, 128))
)


class Operations(TorchDispatchMode):
    """Counts the operations that PyTorch dispatches, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        self.counts[str(func).split(".")[1]] += 1
        return func(*args, **(kwargs or {}))


def draw_norms(module: nn.Module) -> None:
    """Give every norm statistics and weights of its own."""
    for part in module.modules():
        if isinstance(getattr(part, "running_mean", None), Tensor):
            with torch.no_grad():
                part.running_mean.normal_(std=0.2)
                part.running_var.uniform_(0.5, 1.5)
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(std=0.2)


def norms_of(module: nn.Module) -> int:
    return sum(isinstance(getattr(part, "running_mean", None), Tensor) for part in module.modules())


def build_release(name: str, *overrides: str) -> Detector:
    """A detector of the release's size with random weights, whose 100 best candidates become detections."""
    torch.manual_seed(0)
    detector = build_detector(load_recipe(name, ["model.detections_per_image=100", *overrides]), CATEGORIES)
    draw_norms(detector)
    for part in detector.backbone.modules():
        if isinstance(part, Bottleneck):
            part.bn3.weight.fill_(0.2)  # else activations grow from block to block
    heads = detector.eval().heads
    heads.suppression = replace(heads.suppression, score_threshold=0.0)
    return detector


@pytest.mark.parametrize("name", ["r18", "r50", "timm/resnet18d", "timm/efficientnet_b0", "timm/regnetx_002"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_backbone_without_its_norms_gives_the_same_pyramid(name: str, frozen: bool) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    backbone = build_backbone(name, out_channels=32, frozen_norm=frozen).eval()
    draw_norms(backbone)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = backbone(image)
        assert norms_of(backbone) > 15
        fold_norms(backbone, torch.zeros(1, 3, 64, 64))
        assert norms_of(backbone) == 0
        for got, before in zip(backbone(image), expected, strict=True):
            torch.testing.assert_close(got, before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))


class Unusual(nn.Module):
    """A convolution that standardizes its weights, one that two norms share, and one without a norm."""

    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(x, self.weight / self.weight.std(), self.bias)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = self.Standardized(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.first(x))
        x = self.norms[2](self.second(self.norms[1](self.second(x))))
        return self.norms[3](x + self.third(x))


def test_only_what_can_be_folded_is() -> None:
    module, image = Unusual().eval(), torch.randn(1, 3, 5, 5)
    draw_norms(module)
    with torch.no_grad():
        expected = module(image)
        fold_norms(module, image)
        assert norms_of(module) == 4
        torch.testing.assert_close(module(image), expected)


@pytest.mark.parametrize(
    "options", [{}, {"layers": 1}, {"attention": False}, {"amodal": True}, {"mask_size": 56, "amodal": True}]
)
def test_a_folded_head_gives_the_same_logits(options: dict) -> None:
    torch.manual_seed(0)
    head = BilayerMaskHead(32, **options).eval()
    draw_norms(head)
    side = head.roi_size
    features = torch.randn(5, 32, side, side)
    with torch.no_grad():
        for name in head.outputs:
            head.get_parameter(f"{name}.logits.weight").normal_()
        expected = head(features)
        fold_head(head)
        got = head(features)
        assert norms_of(head) == 0 and got.keys() == expected.keys() == set(head.outputs)
        for name, logits in expected.items():
            torch.testing.assert_close(got[name], logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))
        assert head(features[:0])["occludee_mask"].shape == (0, head.mask_size, head.mask_size)


@pytest.mark.parametrize("size", [28, 56])
def test_maps_that_are_not_needed_are_not_computed(size: int) -> None:
    torch.manual_seed(0)
    head = BilayerMaskHead(32, mask_size=size).eval()
    features = torch.randn(2, 32, head.roi_size, head.roi_size)
    with torch.no_grad():
        expected = head(features)["occludee_mask"]
        with Operations() as every:
            head(features)
        head.keep({"occludee_mask", "amodal_mask"})
        with Operations() as needed:
            assert torch.equal(head(features)["occludee_mask"], expected)
        fold_head(head)
        torch.testing.assert_close(head(features)["occludee_mask"], expected)
    assert head.outputs == ("occludee_mask",)
    saved = 3 * 8 if size == 28 else 3 * 1 + 3  # three predictors; larger maps: and the refinement of the occluder
    assert needed.counts["convolution"] == every.counts["convolution"] - saved


def test_a_folded_detector_predicts_the_same_inside_boxes() -> None:
    detector = build_release("fcos_r50", "model.backbone=r18", "model.channels=64")
    boxes = [[[10, 10, 60, 50], [30, 20, 120, 90]]]
    (expected,) = detector.predict_inside([SMALL], boxes, resize=False)
    (found,) = fold(detector).predict_inside([SMALL], boxes, resize=False)
    assert found.maps.keys() == expected.maps.keys() and len(found.maps) == 4
    for name, maps in expected.maps.items():
        torch.testing.assert_close(found.maps[name], maps, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "waits"),
    [
        ("fcos_r50", {"nonzero": 1 + 5, "nms": 1}),
        ("faster_rcnn_r50", {"nonzero": 8 + 4 + 2 + 4, "nms": 6, "_unique2": 1}),
    ],
)
def test_an_image_takes_at_most_900_operations(name: str, waits: dict[str, int]) -> None:
    """A GPU is waited for to know how many candidates pass the threshold, how many NMS keeps, and the levels of RoIs.

    The 5 or 4 `nonzero` of a pooling are of levels that are on the CPU already. Of the others of Faster R-CNN, 8 are in
    torchvision's region proposal network, as is an NMS for each level.
    """
    detector = fold(build_release(name, "model.proposals_per_image=100"))
    with Operations() as operations:
        (found,) = detector.predict([LARGE], resize=False)
    assert len(found.scores) == 100
    counts = operations.counts
    assert sum(counts.values()) <= 900
    waiting = ("nonzero", "nms", "_local_scalar_dense", "item", "masked_select", "_unique2")
    assert {operation: counts[operation] for operation in waiting if counts[operation]} == waits
