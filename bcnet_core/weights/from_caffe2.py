"""The ImageNet ResNets that Caffe2 pickled for detectron2's zoo, MSRA's among them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bcnet_core.weights.foreign import CLASSIFIER, FROZEN_NORM_EPS, UNUSED, Converted
from bcnet_core.weights.from_detectron2 import body_name

NORM_PARTS = {
    "s": "weight", "gamma": "weight", "b": "bias", "bias": "bias", "beta": "bias",
    "rm": "running_mean", "running_mean": "running_mean", "riv": "running_var", "running_var": "running_var",
}  # fmt: skip
"""Spellings of the parts of a BatchNorm in Caffe2."""
UNUSED_CAFFE2 = {
    "_momentum$": "the state of an optimizer",
    "^conv1_b$": "a bias in front of a BatchNorm, which detectron2 leaves out as well",
    "^(fc1000|pred|last_out)_": CLASSIFIER,
} | UNUSED  # fmt: skip


def from_caffe2(tensors: Mapping[str, Tensor], path: Path) -> Converted | None:
    """Convert a ResNet of Caffe2; a norm without statistics becomes one that computes the same affine map."""
    if "conv1_w" not in tensors:
        return None
    found = Converted("an ImageNet ResNet of detectron2's zoo")
    found.place_all(tensors, caffe2_name, UNUSED_CAFFE2)
    for name, scale in list(found.tensors.items()):
        layer, _, part = name.rpartition(".")
        if part == "weight" and scale.ndim == 1 and f"{layer}.running_mean" not in found.tensors:
            found.tensors[f"{layer}.running_mean"] = torch.zeros_like(scale)
            found.tensors[f"{layer}.running_var"] = torch.full_like(scale, 1 - FROZEN_NORM_EPS)
    return found


def caffe2_name(name: str) -> str | None:
    """Return bcnet's name of `conv1_w`, `res2_0_branch2a_bn_s`, ...; None if it is unknown."""
    if found := re.fullmatch(r"(?:res_)?conv1_(?:bn_(\w+)|w)", name):
        layer, part = "stem.conv1", found[1]
    elif found := re.fullmatch(r"res([2-5])_(\d+)_branch(1|2[abc])_(?:bn_(\w+)|w)", name):
        stage, block, branch, part = found.groups()
        layer = f"res{stage}.{block}." + ("shortcut" if branch == "1" else f"conv{'abc'.index(branch[1]) + 1}")
    else:
        return None
    if part is None:
        return body_name(f"{layer}.weight")
    return body_name(f"{layer}.norm.{NORM_PARTS[part]}") if part in NORM_PARTS else None
