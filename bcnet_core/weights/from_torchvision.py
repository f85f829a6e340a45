"""The ImageNet ResNets of torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from bcnet_core.weights.foreign import BODY, CLASSIFIER, COUNTER, NO_PLACE, Converted


def from_torchvision(tensors: Mapping[str, Tensor], path: Path) -> Converted | None:
    """Convert an ImageNet ResNet."""
    if "conv1.weight" not in tensors or not any(name.startswith("layer1.0.") for name in tensors):
        return None
    found = Converted("an ImageNet ResNet of torchvision", style="torchvision")
    for name, tensor in tensors.items():
        reason = NO_PLACE
        if name.startswith("fc."):
            reason = CLASSIFIER
        elif name.endswith("num_batches_tracked"):
            reason = COUNTER
        is_body = reason == NO_PLACE and name.startswith(("conv1.", "bn1.", "layer"))
        found.place(BODY + name if is_body else None, tensor, name, otherwise=reason)
    return found
