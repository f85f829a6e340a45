"""The official BCNet release (FCOS), which was written for detectron2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bcnet_core.weights.foreign import Converted, count_rows
from bcnet_core.weights.from_detectron2 import backbone_name, mask_head_name, replace_prefix

PREFIXES = {
    "head.cls_tower.": "heads.boxes.class_tower.",
    "head.bbox_tower.": "heads.boxes.box_tower.",
    "head.cls_logits.": "heads.boxes.classes.",
    "head.bbox_pred.": "heads.boxes.distances.",
    "head.centerness.": "heads.boxes.centerness.",
}
SCALES = "heads.boxes.scales"


def from_release(tensors: Mapping[str, Tensor], path: Path) -> Converted | None:
    """Convert a checkpoint of the official release, which must fill FCOS to the last tensor."""
    if not any(name.startswith(("mask_head.", "head.cls_tower.")) for name in tensors):
        return None
    found = Converted("the official BCNet release (FCOS)", detector="fcos", complete=True)
    found.classes = count_rows(tensors, "head.cls_logits")
    scales = sorted(name for name in tensors if (fcos_name(name) or "").startswith(f"{SCALES}."))
    for name, tensor in tensors.items():
        if name not in scales:
            found.place(fcos_name(name) or name, tensor, name)  # an unknown one keeps its name, and is left over
    if scales:
        found.place(SCALES, torch.cat([tensors[name].reshape(-1) for name in scales]), *scales)
    return found


def fcos_name(name: str) -> str | None:
    """Return the name in bcnet's FCOS of a tensor of the release; None if it is unknown.

    The release has one number a level as scale; bcnet has one tensor: `heads.boxes.scales.0` is its first element.
    """
    if found := re.fullmatch(r"head\.scales\.(\d)\.scale", name):
        return f"{SCALES}.{found[1]}"
    if name.startswith("mask_head."):
        part = mask_head_name(name.removeprefix("mask_head."))
        return part and f"heads.masks.head.{part}"
    return replace_prefix(name, PREFIXES) or backbone_name(name, first_level=3)
