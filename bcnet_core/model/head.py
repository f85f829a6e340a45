"""The bilayer mask head: layer 1 finds the occluder, layer 2 the occludee (BCNet section 3)."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from bcnet_core.config.choices import MaskSize
from bcnet_core.maps import LayerName, map_specs


class NonLocalBlock(nn.Module):
    """Attention among the positions of a RoI: the graph convolution of a layer (section 3.2; Wang et al., 2018).

    Query, key, value and output are 1x1 convolutions without bias; scores are scaled by 1 / sqrt(C). The output passes
    a BatchNorm (eps 1e-4) and is added to the input; no ReLU follows.

    Args:
        channels: C, of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.output = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, S, S) features to (N, C, S, S) features."""
        attended = attend(self.query(x), self.key(x), self.value(x))
        residual: Tensor = self.norm(self.output(attended))
        return x + residual


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Average the values of all positions, weighted by the softmax of query x key / sqrt(C); each (N, C, S, S)."""
    count, channels, height, width = shape = value.shape
    query, key, value = (
        part.reshape(count, 1, channels, height * width).transpose(2, 3)  # no -1, so that N may be 0 in ONNX
        for part in (query, key, value)
    )  # each (N, 1, S*S, C): with one head, as the fused kernels expect
    if query.dtype == torch.float16:  # scores of trained weights exceed 65,504, the largest half-precision number
        with torch.autocast(query.device.type, enabled=False):
            attended = functional.scaled_dot_product_attention(query.float(), key.float(), value.float()).half()
    else:
        attended = functional.scaled_dot_product_attention(query, key, value)  # (N, 1, S*S, C)
    return attended.transpose(2, 3).reshape(shape)


class Layer(nn.Module):
    """One layer: 3x3 convolutions with ReLU, and a non-local block halfway (of four, behind the second).

    Args:
        in_channels: of the input.
        channels: of the output.
        attention: whether there is a non-local block ("GCN" in the paper; without it, "FCN").
        convs: number of convolutions; four in the paper.
    """

    def __init__(self, in_channels: int, channels: int, *, attention: bool = True, convs: int = 4) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * convs
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths))
        self.attention: nn.Module = NonLocalBlock(channels) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, S, S) features to (N, channels, S, S) features."""
        for index, conv in enumerate(self.convs):
            x = functional.relu(conv(x), inplace=True)
            if index == (len(self.convs) - 1) // 2:
                x = self.attention(x)
        return x


class MaskPredictor(nn.Module):
    """Upsample a layer's features by two and predict one class-agnostic map.

    Args:
        channels: of the layer's features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.logits = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, S, S) features to (N, 2S, 2S) logits.

        A transposed 2x2 convolution of stride 2 is four 1x1 convolutions, one for each corner of a cell. Computing the
        logits of each corner before interleaving them takes half the time.
        """
        upsampled = (functional.conv2d(x, corner, self.upsample.bias) for corner in self.corners().chunk(4))
        logits = [self.logits(functional.relu(part, inplace=True)) for part in upsampled]  # each (N, 1, S, S)
        return functional.pixel_shuffle(torch.cat(logits, dim=1), 2)[:, 0]

    def corners(self) -> Tensor:
        """Return the 1x1 convolutions of the four corners of a cell: (4 * channels, channels, 1, 1), row by row."""
        return self.upsample.weight.permute(2, 3, 1, 0).flatten(0, 2)[..., None, None]


class Refinement(nn.Module):
    """Double the side of a layer's features and halve their channels: what maps larger than 28 x 28 need.

    Each doubling costs about as much as the one before it, not four times as much.

    Args:
        channels: of the features.
        detail_channels: of finer RoI features, as large as the result, that are added to it; 0 adds none.
    """

    def __init__(self, channels: int, *, detail_channels: int = 0) -> None:
        super().__init__()
        half = max(channels // 2, 1)
        self.upsample = nn.ConvTranspose2d(channels, half, 2, stride=2)
        self.detail = nn.Conv2d(detail_channels, half, 1) if detail_channels else None
        self.conv = nn.Conv2d(half, half, 3, padding=1)

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        """Map (N, channels, S, S) features, and (N, detail_channels, 2S, 2S) finer ones, to (N, channels / 2, 2S, 2S).

        Without `detail_channels`, the finer features are not used.
        """
        x = self.upsample(x)
        if self.detail is not None:
            x = x + self.detail(rois)
        return functional.relu(self.conv(functional.relu(x, inplace=True)), inplace=True)


class SubpixelPredictor(nn.Module):
    """Predict one class-agnostic map of twice the side of refined features: four logits a cell, one for each corner.

    Source: the sub-pixel convolution of Shi et al. (CVPR 2016). `MaskPredictor` would cost more than the refinement.

    Args:
        channels: of the refined features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logits = nn.Conv2d(channels, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, S, S) features to (N, 2S, 2S) logits."""
        return functional.pixel_shuffle(self.logits(x), 2)[:, 0]


def roi_side(mask_size: MaskSize) -> int:
    """Return the side of the RoI features that a head with maps of `mask_size` cells a side reads: 14, or 28."""
    return 14 if mask_size == 28 else 28


class BilayerMaskHead(nn.Module):
    """Two overlapping layers over the same RoI; 6,296,580 parameters at 256 channels.

    Layer 2 reads the RoI features plus layer 1's output, so that it knows what is in front. The ablations of the paper
    are arguments: with one layer, no attention and no boundary it is Mask R-CNN's class-agnostic head (2,622,977).

    The layers work on 14 x 14 cells whatever the size of the maps. For maps of more than 28 x 28, which are not the
    paper's, RoIs are pooled at 28 x 28 and averaged for the layers, and a layer's features are refined in steps that
    double the side, the first with the RoI features beside them.

    Args:
        channels: C, of the RoI features and of both layers.
        layers: 2, or 1 for the occludee layer alone.
        attention: whether each layer has a non-local block.
        zero_init_residual: whether non-local blocks start as identities, with the gamma of their norm at 0 instead of 1
            (Goyal et al., 2017; Wang et al., 2018, start theirs so).
        boundary: whether each layer also predicts a boundary.
        amodal: whether layer 2 also predicts the whole mask, hidden parts included.
        convs: convolutions of each layer.
        width: channels of a single layer, if they are not C.
        mask_size: side of the maps.

    Attributes:
        joined: by layer, one module in place of the predictors of all its maps, once they are folded; see `folding`.

    Raises:
        ValueError: if two layers, whose features are added, are to have another width than C.
    """

    def __init__(
        self,
        channels: int = 256,
        *,
        layers: int = 2,
        attention: bool = True,
        zero_init_residual: bool = False,
        boundary: bool = True,
        amodal: bool = False,
        convs: int = 4,
        width: int | None = None,
        mask_size: MaskSize = 28,
    ) -> None:
        super().__init__()
        if layers > 1 and width not in {None, channels}:
            raise ValueError(f"two layers have the {channels} channels of their input, not {width}")
        in_channels, channels = channels, width or channels
        self.occluder = Layer(channels, channels, attention=attention, convs=convs) if layers > 1 else None
        self.occludee = Layer(in_channels, channels, attention=attention, convs=convs)
        self.maps = [
            spec
            for spec in map_specs()
            if (layers > 1 or spec.layer == "occludee")
            and (boundary or spec.kind != "boundary")
            and (amodal or spec.region != "amodal")
        ]
        self.mask_size = mask_size
        steps = (mask_size // 28).bit_length() - 1  # 0, 1 or 2
        self.refinements = nn.ModuleDict(
            {
                layer: nn.ModuleList(
                    Refinement(max(channels >> step, 1), detail_channels=0 if step else in_channels)
                    for step in range(steps)
                )
                for layer in dict.fromkeys(spec.layer for spec in self.maps)
            }
        )
        for spec in self.maps:
            predictor = SubpixelPredictor(max(channels >> steps, 1)) if steps else MaskPredictor(channels)
            self.add_module(spec.name, predictor)
        self.joined = nn.ModuleDict()
        self._initialize(zero_init_residual=zero_init_residual)

    def keep(self, names: Collection[str]) -> None:
        """Drop the predictors of all maps but those of some names; the layers stay."""
        for spec in self.maps:
            if spec.name not in names:
                delattr(self, spec.name)
        self.maps = [spec for spec in self.maps if spec.name in names]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the maps that this head predicts."""
        return tuple(spec.name for spec in self.maps)

    @property
    def roi_size(self) -> int:
        """Side of the RoI features that this head reads."""
        return roi_side(self.mask_size)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Predict the maps of every RoI.

        Args:
            features: (N, C, S, S) float, from aligned RoIAlign, with S = `roi_size`. N may be 0 in evaluation mode.

        Returns:
            (N, M, M) float logits by the names in `outputs`, with M = `mask_size`.
        """
        rois = features
        if self.roi_size > 14:
            features = functional.avg_pool2d(features, 2)
        layers: dict[LayerName, Tensor] = {}
        if self.occluder is not None:
            layers["occluder"] = self.occluder(features)
            features = features + layers["occluder"]
        layers["occludee"] = self.occludee(features)
        needed = {spec.layer for spec in self.maps}
        refined = {layer: self._refine(layer, x, rois) for layer, x in layers.items() if layer in needed}
        maps: dict[str, Tensor] = {}
        for layer, x in refined.items():
            if layer in self.joined:
                maps |= self.joined[layer](x)
        for spec in self.maps:
            if spec.name not in maps:
                maps[spec.name] = getattr(self, spec.name)(refined[spec.layer])
        return maps

    def _refine(self, layer: LayerName, x: Tensor, rois: Tensor) -> Tensor:
        for step in self.refinements[layer].children():
            x = step(x, rois)
        return x

    def _initialize(self, *, zero_init_residual: bool) -> None:
        """Draw MSRA (He, fan-out) weights for every convolution, normal(0, 0.001) for the logits; biases are zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, NonLocalBlock) and zero_init_residual:
                nn.init.zeros_(module.norm.weight)
        for name in self.outputs:
            nn.init.normal_(self.get_parameter(f"{name}.logits.weight"), std=0.001)
