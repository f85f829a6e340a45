"""Feature extractors: an image batch in, a feature pyramid out.

A backbone carries everything that others need to know of it: the strides of its levels, the format of the pixels that
its weights expect, which sizes its input may have, and which stage each weight of its feature extractor belongs to. A
new one needs a name in `config.choices` and a row in `RESNETS`, or a line in `build_backbone` if it is no ResNet.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d

from bcnet_core.config.choices import TIMM, BackboneName, BackboneStyle
from bcnet_core.config.model import ModelConfig
from bcnet_core.model.pixels import IMAGENET, PixelFormat
from bcnet_core.model.pyramids import FINEST, Levels, build_pyramid, freeze, run_pyramid, strides_of
from bcnet_core.model.timm_backbones import TimmBackbone, build_timm_backbone, timm_pixels


class ResNetShape(NamedTuple):
    """A member of the ResNet family.

    Attributes:
        depth: number of layers, as in its usual name.
        blocks: number of residual blocks in each stage.
        is_bottleneck: whether these are bottlenecks.
        groups: groups of their 3x3 convolutions.
        width: channels per group in the first stage.
    """

    depth: int
    blocks: tuple[int, int, int, int]
    is_bottleneck: bool = True
    groups: int = 1
    width: int = 64


RESNETS: dict[BackboneName, ResNetShape] = {
    "r18": ResNetShape(18, (2, 2, 2, 2), is_bottleneck=False),
    "r50": ResNetShape(50, (3, 4, 6, 3)),
    "r101": ResNetShape(101, (3, 4, 23, 3)),
    "x101": ResNetShape(101, (3, 4, 23, 3), groups=32, width=8),
}
"""The backbones whose published weights come in two styles; others have none."""


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

    It has no batch statistics, so it trains from scratch at any batch size.

    Args:
        out_channels: C, of every pyramid level.
    """

    strides = (8, 16, 32)
    size_divisor = 32
    pixels = IMAGENET

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
            images: (B, 3, H, W) float, normalized; H and W divisible by 32.

        Returns:
            P3, P4, P5: (B, C, H / 8, W / 8), (B, C, H / 16, W / 16), (B, C, H / 32, W / 32).
        """
        x = functional.relu(self.stem(images))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return run_pyramid(self.fpn, maps[1:])

    def parameter_stages(self) -> dict[str, int]:
        """Return the stage of every parameter of the feature extractor, below the pyramid; the stem is 0."""
        names = [name for name, _ in self.named_parameters()]
        stages = {name: int(name.split(".")[1]) + 1 for name in names if name.startswith("stages.")}
        return {name: 0 for name in names if name.startswith("stem.")} | stages


class CaffeBottleneck(Bottleneck):  # type: ignore[misc]  # torchvision has no types
    """A bottleneck that strides in its first 1x1 convolution, as MSRA's ImageNet weights expect."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.conv1.stride, self.conv2.stride = self.conv2.stride, self.conv1.stride


class ResNetFPN(nn.Module):
    """torchvision's ResNet under torchvision's feature pyramid.

    Args:
        body: the ResNet; its classifier is dropped.
        out_channels: C, of every pyramid level.
        levels: of the pyramid, see `build_pyramid`.
        frozen_stages: number of stages that do not train; stem and four stages are counted.
        frozen_norm: whether BatchNorm does not train in the others either.
        pixels: that the weights expect.
    """

    size_divisor = 32

    def __init__(
        self,
        body: ResNet,
        out_channels: int,
        *,
        levels: Levels,
        frozen_stages: int,
        frozen_norm: bool,
        pixels: PixelFormat,
    ) -> None:
        super().__init__()
        self.strides = strides_of(levels)
        self.pixels = pixels
        self.body = body
        body.fc = nn.Identity()
        widths = [_width(stage) for stage in (body.layer1, body.layer2, body.layer3, body.layer4)]
        self.fpn = build_pyramid(widths[FINEST[levels] - 2 :], out_channels, levels)
        freeze(self, self.parameter_stages(), _frozen, frozen_stages=frozen_stages, frozen_norm=frozen_norm)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Extract the pyramid.

        Args:
            images: (B, 3, H, W) float, normalized; H and W divisible by 32.

        Returns:
            Five levels, (B, C, H / stride, W / stride) each, rounded up, for the strides in `strides`.
        """
        body = self.body
        x = body.maxpool(functional.relu(body.bn1(body.conv1(images))))
        maps = []
        for stage in (body.layer1, body.layer2, body.layer3, body.layer4):
            x = stage(x)
            maps.append(x)
        return run_pyramid(self.fpn, maps if self.strides[0] == 4 else maps[1:])

    def parameter_stages(self) -> dict[str, int]:
        """Return the stage of every parameter of the feature extractor, below the pyramid; the stem is 0."""
        names = [name for name, _ in self.named_parameters() if name.startswith("body.")]
        return {name: int(name[len("body.layer")]) if name.startswith("body.layer") else 0 for name in names}


Backbone = TinyBackbone | ResNetFPN | TimmBackbone


def build_backbone(
    name: BackboneName,
    *,
    out_channels: int,
    style: BackboneStyle = "torchvision",
    levels: Levels = "p3_p7",
    frozen_stages: int = 0,
    frozen_norm: bool = True,
) -> Backbone:
    """Build the backbone of a recipe, with fresh weights.

    Args:
        name: x101 is ResNeXt-101 32x8d. "tiny" has three levels of its own, no style, and is never frozen.
        out_channels: of every pyramid level.
        style: "caffe" strides in the first 1x1 convolution of the bottlenecks of r50 and r101 (the published x101 of
            either origin strides in the 3x3, r18 has no bottlenecks, timm's models have one style each).
        levels: of the pyramid.
        frozen_stages: number of stages that do not train; stem and four stages are counted.
        frozen_norm: whether BatchNorm does not train in the others either.

    Raises:
        BCNetError: if timm is missing, or has no such model with a pyramid.
    """
    if name.startswith(TIMM):
        return build_timm_backbone(
            name, out_channels, levels=levels, frozen_stages=frozen_stages, frozen_norm=frozen_norm
        )
    if name not in RESNETS:
        return TinyBackbone(out_channels)
    shape = RESNETS[name]
    bottleneck = CaffeBottleneck if style == "caffe" and shape.groups == 1 else Bottleneck
    body = ResNet(
        bottleneck if shape.is_bottleneck else BasicBlock, list(shape.blocks),
        groups=shape.groups, width_per_group=shape.width,
    )  # fmt: skip
    return ResNetFPN(
        body, out_channels, levels=levels, frozen_stages=frozen_stages, frozen_norm=frozen_norm,
        pixels=pixel_format(name, style),
    )  # fmt: skip


def pixel_format(name: BackboneName, style: BackboneStyle) -> PixelFormat:
    """Return the pixels that a backbone expects: "caffe" means BGR and, but for x101, a deviation of 1."""
    if name.startswith(TIMM):
        return timm_pixels(name)
    if style == "torchvision" or name not in RESNETS:
        return IMAGENET
    std = IMAGENET.std[::-1] if name == "x101" else (1.0, 1.0, 1.0)
    return PixelFormat(IMAGENET.mean[::-1], std, bgr=True)


def freezes_norm(model: ModelConfig) -> bool:
    """Return whether a recipe's backbone has BatchNorm that does not train; on random weights its training diverges.

    Raises:
        BCNetError: as `build_backbone`.
    """
    with torch.device("meta"):
        backbone = build_backbone(
            model.backbone, out_channels=32, frozen_stages=model.frozen_stages, frozen_norm=model.frozen_norm
        )
    return any(type(module).__name__.startswith("FrozenBatchNorm") for module in backbone.modules())


def _frozen(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    """Return the fixed affine map of a BatchNorm."""
    fixed = FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
    fixed.load_state_dict(norm.state_dict())
    return fixed


def _width(stage: nn.Sequential) -> int:
    """Return the output channels of a stage of a ResNet."""
    block = stage[-1]
    convolution = block.conv3 if isinstance(block, Bottleneck) else block.conv2
    assert isinstance(convolution, nn.Conv2d)
    return convolution.out_channels


def _conv_norm(in_channels: int, channels: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    torch.nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.GroupNorm(16, channels))
