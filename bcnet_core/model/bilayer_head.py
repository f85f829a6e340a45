"""The bilayer mask head: layer 1 finds the occluder, layer 2 the occludee (BCNet section 3)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from bcnet_core.model.attention import NonLocalBlock


class BilayerLogits(NamedTuple):
    """The four outputs of the head, each (N, 2S, 2S) float logits for N RoIs.

    Attributes:
        occludee_mask: layer 2's mask of the instance that the RoI is about.
        occludee_boundary: layer 2's contour band.
        occluder_mask: layer 1's mask of what overlaps the instance.
        occluder_boundary: layer 1's contour band.
    """

    occludee_mask: Tensor
    occludee_boundary: Tensor
    occluder_mask: Tensor
    occluder_boundary: Tensor


class Layer(nn.Module):
    """One layer: four 3x3 convolutions with ReLU, and a non-local block behind the second.

    Args:
        in_channels: of the input; each further convolution keeps `channels`.
        channels: of the output.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        widths = (in_channels, channels, channels, channels)
        self.convs = nn.ModuleList(nn.Conv2d(width, channels, 3, padding=1) for width in widths)
        self.attention = NonLocalBlock(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, S, S) RoI features to (N, channels, S, S)."""
        for index, conv in enumerate(self.convs):
            x = functional.relu(conv(x))
            if index == 1:
                x = self.attention(x)
        return x


class Predictor(nn.Module):
    """Upsample a layer's features by two and predict one class-agnostic map.

    Args:
        channels: of the layer's features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.logits = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, S, S) features to (N, 2S, 2S) logits."""
        logits: Tensor = self.logits(functional.relu(self.upsample(x)))
        return logits[:, 0]


class BilayerMaskHead(nn.Module):
    """Two overlapping layers over the same RoI; 6,296,580 parameters at 256 channels.

    Layer 2 reads the RoI feature plus layer 1's output, so that it knows what is in front.

    Args:
        channels: C, of the RoI features and of both layers.
    """

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        self.occluder = Layer(channels, channels)
        self.occludee = Layer(channels, channels)
        self.occludee_mask = Predictor(channels)
        self.occludee_boundary = Predictor(channels)
        self.occluder_mask = Predictor(channels)
        self.occluder_boundary = Predictor(channels)
        self._initialise()

    def forward(self, features: Tensor) -> BilayerLogits:
        """Predict the four maps of every RoI.

        Args:
            features: (N, C, S, S) float, from aligned RoIAlign; S is 14 in the paper.

        Returns:
            Four (N, 2S, 2S) float logit maps.
        """
        occluder = self.occluder(features)
        occludee = self.occludee(features + occluder)
        return BilayerLogits(
            self.occludee_mask(occludee),
            self.occludee_boundary(occludee),
            self.occluder_mask(occluder),
            self.occluder_boundary(occluder),
        )

    def _initialise(self) -> None:
        """MSRA (He, fan-out) for every convolution, normal(0, 0.001) for the four predictors; biases zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for predictor in (
            self.occludee_mask,
            self.occludee_boundary,
            self.occluder_mask,
            self.occluder_boundary,
        ):
            nn.init.normal_(predictor.logits.weight, std=0.001)
