"""The values that pass between the rooms once tensors are involved."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Detections(NamedTuple):
    """What a detector found in one image, best first; N detections in an image of H x W pixels.

    Attributes:
        boxes: (N, 4) float32, xyxy in pixels of the input image, clipped to it.
        scores: (N,) float32 in [0, 1], descending.
        labels: (N,) int64, the index into the detector's `categories`.
        masks: (N, H, W) bool, the occludee masks at the size of the input image.
        occludee_mask: (N, S, S) float32 in [0, 1], layer 2's mask inside the box (S = 28).
        occludee_boundary: (N, S, S) float32 in [0, 1], layer 2's boundary inside the box.
        occluder_mask: (N, S, S) float32 in [0, 1], layer 1's mask: what overlaps the target inside its box.
        occluder_boundary: (N, S, S) float32 in [0, 1], layer 1's boundary.

    A map is None where the detector's mask head does not predict it (the ablations `layers=1`, `boundary=false`).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor
    occludee_mask: Tensor
    occludee_boundary: Tensor | None
    occluder_mask: Tensor | None
    occluder_boundary: Tensor | None

    def to(self, device: torch.device | str) -> Detections:
        """The same detections on `device`."""
        return Detections._make(None if part is None else part.to(device) for part in self)
