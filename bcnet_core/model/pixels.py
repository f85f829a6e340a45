"""The pixels that a backbone expects, and the module that makes them from an image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class PixelFormat(NamedTuple):
    """The pixels that a backbone expects.

    Attributes:
        mean: of each channel in the backbone's order, for values from 0 to 255; subtracted.
        std: of each channel; divided by.
        bgr: whether the order is blue, green, red.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False


IMAGENET = PixelFormat((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


class NormalizePixels(nn.Module):
    """Bring images to the pixel format of a backbone.

    Args:
        pixels: the format.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pixels: PixelFormat) -> None:
        super().__init__()
        self.bgr = pixels.bgr
        self.register_buffer("mean", torch.tensor(pixels.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixels.std).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalize (..., 3, h, w) uint8 RGB images to (..., 3, h, w) float32 in the backbone's channel order."""
        channels = image.flip(-3) if self.bgr else image
        return (channels - self.mean) / self.std
