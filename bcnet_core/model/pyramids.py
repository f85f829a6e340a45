"""The feature pyramid over the maps of a feature extractor, and what of the extractor does not train."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

Levels = Literal["p3_p7", "p2_p6"]
"""Levels of a pyramid: those of FCOS, or those of Faster R-CNN."""
FINEST: Mapping[Levels, int] = {"p3_p7": 3, "p2_p6": 2}
"""The finest level of each; the coarsest map of the extractor is P5."""


def strides_of(levels: Levels) -> tuple[int, ...]:
    """Return the strides of the levels of a pyramid, finest first."""
    return tuple(2**level for level in range(FINEST[levels], FINEST[levels] + 5))


def build_pyramid(widths: Sequence[int], out_channels: int, levels: Levels) -> FeaturePyramidNetwork:
    """Build torchvision's feature pyramid over the maps that its levels up to P5 are made from.

    Args:
        widths: channels of these maps, finest first.
        out_channels: of every level.
        levels: "p3_p7", where P6 is made from P5 and P7 from ReLU(P6) by strided convolutions (FCOS), or "p2_p6", where
            P6 is every second pixel of P5 (Faster R-CNN).
    """
    top: ExtraFPNBlock = LastLevelP6P7(out_channels, out_channels) if levels == "p3_p7" else LastLevelMaxPool()
    return FeaturePyramidNetwork(list(widths), out_channels, extra_blocks=top)


def run_pyramid(fpn: FeaturePyramidNetwork, maps: Sequence[Tensor]) -> list[Tensor]:
    """Return the levels of a pyramid over some maps, finest first."""
    levels: dict[str, Tensor] = fpn(OrderedDict((str(index), x) for index, x in enumerate(maps)))
    return list(levels.values())


def freeze(
    backbone: nn.Module,
    stages: Mapping[str, int],
    frozen: Callable[[nn.BatchNorm2d], nn.Module],
    *,
    frozen_stages: int,
    frozen_norm: bool,
) -> None:
    """Take the lower stages of a feature extractor, or all of its BatchNorm, out of training, in place.

    Args:
        backbone: the extractor with its pyramid.
        stages: stage of every parameter of the extractor, by its name in `backbone`.
        frozen: makes the fixed affine map of a BatchNorm; its parameters become buffers.
        frozen_stages: number of stages that do not train; the stem is the first.
        frozen_norm: whether BatchNorm does not train in the others either.
    """
    for name, module in list(backbone.named_modules()):
        stage = stages.get(f"{name}.weight")
        if isinstance(module, nn.BatchNorm2d) and stage is not None and (frozen_norm or stage < frozen_stages):
            parent, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(parent), child, frozen(module))
    for name, parameter in backbone.named_parameters():
        if stages.get(name, frozen_stages) < frozen_stages:
            parameter.requires_grad = False
