"""Feature extractors: an image batch in, a feature pyramid out."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from bcnet_core.config.choices import BackboneName, BackboneStyle

Levels = Literal["p3_p7", "p2_p6"]
"""Which levels a ResNet's pyramid has: those of FCOS, or those of Faster R-CNN."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with GroupNorm around a shortcut (He et al., a basic block).

    Args:
        in_channels: of the input.
        channels: of the output.
        stride: of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv_norm(in_channels, channels, stride=stride)
        self.conv2 = _conv_norm(channels, channels)
        same = stride == 1 and in_channels == channels
        self.shortcut = nn.Identity() if same else _conv_norm(in_channels, channels, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H / stride, W / stride)."""
        return functional.relu(self.conv2(functional.relu(self.conv1(x))) + self.shortcut(x))


class TinyBackbone(nn.Module):
    """A light pyramid for CPUs: a stem, four GroupNorm blocks (48, 64, 96, 128 channels), and an FPN over P3-P5.

    Batch statistics play no part in it, so it trains from scratch at any batch size.

    Args:
        out_channels: C, of every pyramid level.
    """

    strides = (8, 16, 32)

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.stem = _conv_norm(3, 48, kernel=5, stride=2)
        self.stages = nn.ModuleList(
            ResidualBlock(before, after, stride=2) for before, after in ((48, 48), (48, 64), (64, 96), (96, 128))
        )
        self.fpn = FeaturePyramidNetwork([64, 96, 128], out_channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Extract the pyramid.

        Args:
            images: (B, 3, H, W) float, normalised; H and W divisible by 32.

        Returns:
            P3, P4, P5: (B, C, H / 8, W / 8), (B, C, H / 16, W / 16), (B, C, H / 32, W / 32).
        """
        x = functional.relu(self.stem(images))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return _pyramid(self.fpn, maps[1:])


class CaffeBottleneck(Bottleneck):  # type: ignore[misc]  # torchvision has no types
    """A bottleneck that strides in its first 1x1 convolution, as MSRA's ImageNet weights expect."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.conv1.stride, self.conv2.stride = self.conv2.stride, self.conv1.stride


class ResNetFPN(nn.Module):
    """torchvision's ResNet with frozen BatchNorm under torchvision's feature pyramid.

    Args:
        body: the ResNet; its classifier is dropped.
        out_channels: C, of every pyramid level.
        levels: "p3_p7", where P6 is made from P5 and P7 from ReLU(P6) by strided convolutions (FCOS), or "p2_p6",
            where P6 is every second pixel of P5 (Faster R-CNN).
        frozen_stages: how many of stem and four stages do not train.
    """

    def __init__(self, body: ResNet, out_channels: int, *, levels: Levels, frozen_stages: int) -> None:
        super().__init__()
        first = 3 if levels == "p3_p7" else 2
        self.strides = tuple(2**level for level in range(first, first + 5))
        self.body = body
        body.fc = nn.Identity()
        widths = [_width(stage) for stage in (body.layer1, body.layer2, body.layer3, body.layer4)][first - 2 :]
        top: ExtraFPNBlock = LastLevelMaxPool() if first == 2 else LastLevelP6P7(out_channels, out_channels)
        self.fpn = FeaturePyramidNetwork(widths, out_channels, extra_blocks=top)
        stages = (body.conv1, body.layer1, body.layer2, body.layer3, body.layer4)
        for stage in stages[:frozen_stages]:
            stage.requires_grad_(requires_grad=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Extract the pyramid.

        Args:
            images: (B, 3, H, W) float, normalised; H and W divisible by 32.

        Returns:
            Five levels, (B, C, H / stride, W / stride) each, rounded up, for the strides in `strides`.
        """
        body = self.body
        x = body.maxpool(functional.relu(body.bn1(body.conv1(images))))
        maps = []
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = stage(x)
            maps.append(x)
        return _pyramid(self.fpn, maps if self.strides[0] == 4 else maps[1:])


Backbone = TinyBackbone | ResNetFPN


def build_backbone(
    name: BackboneName,
    *,
    out_channels: int,
    style: BackboneStyle = "torchvision",
    levels: Levels = "p3_p7",
    frozen_stages: int = 0,
) -> Backbone:
    """The backbone of a recipe, with fresh weights.

    Args:
        name: which; x101 is ResNeXt-101 32x8d. "tiny" has three levels of its own and no style.
        out_channels: of every pyramid level.
        style: "caffe" strides in the first 1x1 convolution of the bottlenecks of r50 and r101 (the published x101 of
            either origin strides in the 3x3, r18 has no bottlenecks).
        levels: of the pyramid of a ResNet.
        frozen_stages: of stem and four stages, how many do not train.
    """
    bottleneck = CaffeBottleneck if style == "caffe" else Bottleneck
    norm = FrozenBatchNorm2d
    match name:
        case "tiny":
            return TinyBackbone(out_channels)
        case "r18":
            body = ResNet(BasicBlock, [2, 2, 2, 2], norm_layer=norm)
        case "r50":
            body = ResNet(bottleneck, [3, 4, 6, 3], norm_layer=norm)
        case "r101":
            body = ResNet(bottleneck, [3, 4, 23, 3], norm_layer=norm)
        case "x101":
            body = ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=8, norm_layer=norm)
    return ResNetFPN(body, out_channels, levels=levels, frozen_stages=frozen_stages)


class PixelStatistics(nn.Module):
    """What images are normalised with before a backbone sees them.

    Args:
        backbone: whose convention.
        style: "caffe" means BGR with the mean alone (x101: with a deviation, too), "torchvision" RGB.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: BackboneName, style: BackboneStyle) -> None:
        super().__init__()
        self.bgr = style == "caffe" and backbone != "tiny"
        mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, RGB, for values from 0 to 255
        if self.bgr:
            mean, std = mean[::-1], (std[::-1] if backbone == "x101" else (1.0, 1.0, 1.0))
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalise a (3, h, w) uint8 RGB image to (3, h, w) float32 in the backbone's channel order."""
        channels = image.flip(0) if self.bgr else image
        return (channels - self.mean) / self.std


def _pyramid(fpn: FeaturePyramidNetwork, maps: list[Tensor]) -> list[Tensor]:
    """The levels of a pyramid over some maps, finest first."""
    levels: dict[str, Tensor] = fpn(OrderedDict((str(index), x) for index, x in enumerate(maps)))
    return list(levels.values())


def _width(stage: nn.Sequential) -> int:
    """The channels that a stage of a ResNet puts out."""
    block = stage[-1]
    convolution = block.conv3 if isinstance(block, Bottleneck) else block.conv2
    assert isinstance(convolution, nn.Conv2d)
    return convolution.out_channels


def _conv_norm(in_channels: int, channels: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    torch.nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.GroupNorm(16, channels))
