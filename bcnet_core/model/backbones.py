"""Feature extractors: an image batch in, a feature pyramid out."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork


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
        self.out_channels = out_channels
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
        levels: dict[str, Tensor] = self.fpn(OrderedDict(zip("345", maps[1:], strict=True)))
        return list(levels.values())


def build_backbone(name: Literal["tiny"], *, out_channels: int) -> TinyBackbone:
    """The backbone of a recipe.

    Args:
        name: which.
        out_channels: of every pyramid level.
    """
    match name:
        case "tiny":
            return TinyBackbone(out_channels)


def _conv_norm(in_channels: int, channels: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    torch.nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.GroupNorm(16, channels))
