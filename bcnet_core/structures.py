"""The values that pass between the rooms once tensors are involved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcnet_core.masks import RLE
from bcnet_core.masks.paste import paste_masks, paste_rles


class Detections(NamedTuple):
    """What a detector found in one image, best first; N detections in an image of H x W pixels.

    Masks of the image's size are made when they are asked for: 100 of a picture of 8,000 x 6,000 pixels take 5 GB.

    Attributes:
        boxes: (N, 4) float32, xyxy in pixels of the input image, clipped to it.
        scores: (N,) float32 in [0, 1], descending.
        labels: (N,) int64, the index into the detector's `categories`.
        image_size: (H, W) of the input image in pixels.
        occludee_mask: (N, S, S) float32 in [0, 1], layer 2's mask inside the box (S = 28).
        occludee_boundary: (N, S, S) float32 in [0, 1], layer 2's boundary inside the box.
        occluder_mask: (N, S, S) float32 in [0, 1], layer 1's mask: what overlaps the target inside its box.
        occluder_boundary: (N, S, S) float32 in [0, 1], layer 1's boundary.

    A map is None where the detector's mask head does not predict it (the ablations `layers=1`, `boundary=false`).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    image_size: tuple[int, int]
    occludee_mask: Tensor
    occludee_boundary: Tensor | None
    occluder_mask: Tensor | None
    occluder_boundary: Tensor | None

    def to(self, device: torch.device | str) -> Detections:
        """The same detections on `device`."""
        return Detections._make(part.to(device) if isinstance(part, Tensor) else part for part in self)

    @property
    def masks(self) -> Tensor:
        """(N, H, W) bool, the occludee masks in the image; made anew at every access."""
        return paste_masks(self.occludee_mask, self.boxes, *self.image_size)

    @property
    def rles(self) -> list[RLE]:
        """The same N masks, run-length encoded: much faster than to encode `masks`."""
        return paste_rles(self.occludee_mask, self.boxes, *self.image_size)


class Predictor(Protocol):
    """What finds instances: a detector of either backend, in evaluation mode, or a stand-in."""

    @property
    def categories(self) -> Sequence[dict[str, Any]]:
        """COCO category records; the label of a detection is the position in this list."""

    def predict(self, images: list[NDArray[np.uint8]], /) -> list[Detections]:
        """Find instances in (H, W, 3) uint8 RGB images."""
