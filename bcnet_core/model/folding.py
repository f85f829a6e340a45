"""A trained detector rewritten for prediction: the same function of an image in fewer operations.

Norms with fixed statistics become part of the convolution before them, a non-local block needs two convolutions instead
of four, and all maps of a layer come from one. The weights have other names and shapes then, so it is done last.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from bcnet_core.maps import LayerName
from bcnet_core.model.detectors import Detector
from bcnet_core.model.head import BilayerMaskHead, MaskPredictor, NonLocalBlock, attend

PROBE = (96, 160)
"""Height and width of the image that shows which norm follows which convolution."""


@torch.no_grad()
def fold(detector: Detector, *, maps: Collection[str] | None = None) -> Detector:
    """Rewrite a detector for prediction, in place; logits change by rounding alone.

    Args:
        detector: in evaluation mode. It cannot be trained any more.
        maps: names of the maps that are needed, see `BilayerMaskHead.keep`; None for all.

    Returns:
        The detector.
    """
    fold_norms(detector.backbone, torch.zeros(1, 3, *PROBE, device=detector.device))
    fold_head(detector.heads.masks.head, maps=maps)
    return detector.requires_grad_(requires_grad=False).to(memory_format=detector.memory_format)


def fold_norms(module: nn.Module, example: Tensor) -> None:
    """Fold norms with fixed statistics into the convolutions whose outputs they read, in place.

    An activation that is part of a norm, as in timm, stays. A convolution that is not exactly torch's keeps its norm,
    because it may change its weights before it uses them, and so does one that is called more than once.

    Args:
        module: in evaluation mode; nothing but its norm reads the output of a convolution.
        example: an input.
    """
    for conv_name, norm_name in _find_pairs(module, example):
        conv, norm = module.get_submodule(conv_name), module.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        _fold_pair(conv, norm)
        parent, _, child = norm_name.rpartition(".")
        left = (getattr(norm, name, None) for name in ("drop", "act"))
        setattr(module.get_submodule(parent), child, nn.Sequential(*(part for part in left if part is not None)))


def fold_head(head: BilayerMaskHead, *, maps: Collection[str] | None = None) -> None:
    """Fold the non-local blocks and the predictors of a head, in place.

    Args:
        head: in evaluation mode.
        maps: as in `fold`.
    """
    if maps is not None:
        head.keep(maps)
    for layer in (head.occluder, head.occludee):
        if layer is not None and isinstance(layer.attention, NonLocalBlock):
            layer.attention = FoldedNonLocalBlock(layer.attention)
    by_layer: dict[LayerName, dict[str, MaskPredictor]] = {}
    for spec in head.maps:
        predictor = head.get_submodule(spec.name)
        if isinstance(predictor, MaskPredictor):
            by_layer.setdefault(spec.layer, {})[spec.name] = predictor
    for layer_name, predictors in by_layer.items():
        head.joined[layer_name] = JoinedPredictors(predictors)
        for name in predictors:
            delattr(head, name)


class FoldedNonLocalBlock(nn.Module):
    """A non-local block in evaluation mode with two 1x1 convolutions instead of four and a norm.

    Scores are x' Q' K x, so K' Q is one convolution and x its own key; likewise attention averages x itself, and value,
    output and norm are one convolution behind it.

    Args:
        block: with the weights; it is not changed.
    """

    def __init__(self, block: NonLocalBlock) -> None:
        super().__init__()
        query, key, value, output = (
            part.weight.double()[:, :, 0, 0] for part in (block.query, block.key, block.value, block.output)
        )
        channels = len(query)
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.query.weight.copy_((key.T @ query)[..., None, None])
        self.output = nn.Conv2d(channels, channels, 1, bias=False)
        self.output.weight.copy_((output @ value)[..., None, None])
        self.to(block.query.weight.device)
        _fold_pair(self.output, block.norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, S, S) features to (N, C, S, S) features."""
        residual: Tensor = self.output(attend(self.query(x), x, x))
        return residual.add_(x)


class JoinedPredictors(nn.Module):
    """The predictors of K maps of a layer as one: all corners of all maps are channels of one convolution.

    Args:
        predictors: of the maps, by name; they are not changed.
    """

    def __init__(self, predictors: Mapping[str, MaskPredictor]) -> None:
        super().__init__()
        self.names = tuple(predictors)
        parts = list(predictors.values())
        weights = [part.corners() for part in parts]  # (4 C, C, 1, 1) each
        width, count = len(weights[0]) // 4, 4 * len(parts)
        self.upsample = nn.Conv2d(width, count * width, 1)
        self.upsample.weight.copy_(torch.cat(weights))
        self.upsample.get_parameter("bias").copy_(_repeated(parts, "upsample.bias"))
        self.logits = nn.Conv2d(count * width, count, 1)  # block-diagonal: faster than one of as many groups
        rows = torch.cat([part.logits.weight[:, :, 0, 0].repeat(4, 1) for part in parts])  # (4 K, C)
        diagonal: Tensor = torch.block_diag(*rows)  # type: ignore[no-untyped-call]  # (4 K, 4 K C)
        self.logits.weight.copy_(diagonal[..., None, None])
        self.logits.get_parameter("bias").copy_(_repeated(parts, "logits.bias"))
        self.to(weights[0].device)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map (N, C, S, S) features to (N, 2S, 2S) logits by name."""
        corners = self.logits(functional.relu(self.upsample(x), inplace=True))
        return dict(zip(self.names, functional.pixel_shuffle(corners, 2).unbind(1), strict=True))


def _find_pairs(module: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Return the names of the convolutions of a module and of the norms that read their outputs, as a run shows them.

    Both are called once in the run.
    """
    norms = {name: part for name, part in module.named_modules() if _is_norm(part)}
    if not norms:
        return []
    made: list[tuple[str, Tensor]] = []
    read: list[tuple[str, Tensor]] = []
    hooks = [
        part.register_forward_hook(lambda _, __, output, name=name: made.append((name, output)))
        for name, part in module.named_modules()
        if type(part) is nn.Conv2d
    ]
    hooks += [
        part.register_forward_pre_hook(lambda _, inputs, name=name: read.append((name, inputs[0])))
        for name, part in norms.items()
    ]
    module(example)
    for hook in hooks:
        hook.remove()
    calls = [name for name, _ in (*made, *read)]
    return [
        (conv, norm)
        for conv, output in made
        for norm, seen in read
        if seen is output and calls.count(conv) == calls.count(norm) == 1
    ]


def _is_norm(module: nn.Module) -> bool:
    """Return whether a module is a BatchNorm of any library, also a frozen one."""
    return isinstance(getattr(module, "running_mean", None), Tensor) and hasattr(module, "eps")


def _fold_pair(conv: nn.Conv2d, norm: Any) -> None:  # noqa: ANN401  (norms have no type in common)
    """Make a convolution give what the norm behind it gave, computed in float64."""
    weight, bias, mean, variance, scale, shift = (
        None if part is None else part.double()
        for part in (conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    folded = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)  # type: ignore[arg-type]
    conv.weight, conv.bias = (nn.Parameter(part.to(conv.weight.dtype)) for part in folded)


def _repeated(predictors: list[MaskPredictor], name: str) -> Tensor:
    """Return a bias of some predictors, four times each: once for each corner."""
    return torch.cat([part.get_parameter(name).repeat(4) for part in predictors])
