"""ImageNet weights for the backbones of timm: files of a model that is named, and EfficientNet-Lite of the TF port."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcnet_core.config.choices import TIMM, BackboneName
from bcnet_core.errors import data_error, usage_error
from bcnet_core.model.timm_backbones import build_timm_backbone, require_timm, timm_pixels
from bcnet_core.weights.foreign import BODY, CLASSIFIER, UNUSED, Converted

LITE = tuple(f"{TIMM}tf_efficientnet_lite{size}" for size in range(5))
"""The models that have the padding and the BatchNorm of the TF port."""
LITE_LAYERS = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier",
}  # fmt: skip
"""Layers around its blocks, and timm's names of them."""
LITE_BLOCK = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
"""Layers of a block."""
LITE_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Layers of the first block, which does not expand its channels."""
FILTERS = ("checkpoint_filter_fn", "_filter_fn")
"""Names in timm's modules of the function that brings a file of the model's authors to timm's names."""
NOT_READ = "no level of the pyramid reads it"
Row = tuple[str, str, Tensor]
"""A tensor's name in the file and in timm, and its values."""


def from_timm(tensors: Mapping[str, Tensor], path: Path, backbone: BackboneName) -> Converted:
    """Convert a state dict of a model of timm, or one of its authors that timm itself can read.

    Args:
        tensors: of the file.
        path: for messages.
        backbone: timm/NAME, which such a file does not say.

    Raises:
        BCNetError: if timm is missing, does not know the name or has no pyramid of it, or cannot read the file.
    """
    if not backbone.startswith(TIMM):
        raise usage_error(
            f"--backbone names a model of timm, {TIMM}NAME, not `{backbone}`",
            "other files say what they are: leave it out",
        )
    timm_pixels(backbone)
    model = _whole_model(backbone)
    module = sys.modules[type(model).__module__]
    convert = next((getattr(module, name) for name in FILTERS if hasattr(module, name)), None)
    try:
        renamed = tensors if convert is None else _filtered(convert, dict(tensors), model)
    except Exception as error:  # a file of another model can raise anything in there
        raise data_error(f"`{path}` does not hold weights of `{backbone}` ({type(error).__name__}: {error})") from None
    names = {tensor.data_ptr(): name for name, tensor in tensors.items()}
    rows = [(names.get(tensor.data_ptr(), name), name, tensor) for name, tensor in renamed.items()]
    found = _place(rows, backbone, f"a state dict of {backbone}")
    unused = tensors.keys() - {given for given, _, _ in rows}
    found.dropped |= dict.fromkeys(sorted(unused), "timm's own reader leaves it out")
    return found


def from_efficientnet_lite(tensors: Mapping[str, Tensor], path: Path) -> Converted | None:
    """Convert an EfficientNet-Lite under the names of the TF port to PyTorch, which numbers the blocks through."""
    if "_conv_stem.weight" not in tensors or not any(name.startswith("_blocks.0.") for name in tensors):
        return None
    candidates: list[tuple[int, BackboneName, list[Row]]] = []
    for backbone in LITE:
        model = _whole_model(backbone)
        blocks = [f"{stage}.{block}" for stage, row in enumerate(model.blocks) for block in range(len(row))]
        rows = [(name, _lite_name(name, blocks), tensor) for name, tensor in tensors.items()]
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        fitting = sum(shapes.get(name) == tensor.shape for _, name, tensor in rows)
        candidates.append((fitting, backbone, rows))
    _, backbone, rows = max(candidates, key=lambda one: one[0])  # the first of equals: half a file of the smallest
    return _place(rows, backbone, "an EfficientNet-Lite of the TensorFlow port")


def _lite_name(name: str, blocks: list[str]) -> str:
    """Return timm's name of a tensor of the TF port, or the name itself if it is none."""
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
        number, layer, part = int(match[1]), match[2], match[3]
        layers = LITE_BLOCK if number else LITE_FIRST_BLOCK
        return f"blocks.{blocks[number]}.{layers[layer]}.{part}" if number < len(blocks) and layer in layers else name
    layer, _, part = name.partition(".")
    return f"{LITE_LAYERS[layer]}.{part}" if layer in LITE_LAYERS else name


def _place(rows: Iterable[Row], backbone: BackboneName, origin: str) -> Converted:
    """Give the tensors that the backbone has their places in bcnet, and note why the others are left out."""
    found = Converted(origin, style="torchvision", backbone=backbone)
    with torch.device("meta"):
        body = build_timm_backbone(backbone, 32, levels="p3_p7", frozen_stages=0, frozen_norm=True).body.state_dict()
    whole = _whole_model(backbone)
    classifier = whole.pretrained_cfg["classifier"]
    heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier or ()))
    left_out = whole.state_dict().keys() - body.keys()
    counters, reason = next(iter(UNUSED.items()))
    for given, name, tensor in rows:
        if name.startswith(heads):
            found.dropped[given] = CLASSIFIER
        elif re.search(counters, name):
            found.dropped[given] = reason
        elif name in left_out:
            found.dropped[given] = NOT_READ
        else:
            found.place(BODY + name, tensor, given)
    return found


def _filtered(convert: Any, tensors: dict[str, Tensor], model: Any) -> dict[str, Tensor]:  # noqa: ANN401
    """Apply timm's filter, which takes the model or not."""
    try:
        renamed: dict[str, Tensor] = convert(tensors, model)
    except TypeError:
        renamed = convert(tensors)
    return renamed


def _whole_model(backbone: BackboneName) -> Any:  # noqa: ANN401  (timm's models have no common type)
    """Build a model of timm with its classifier, without allocating it."""
    with torch.device("meta"):
        return require_timm().create_model(backbone.removeprefix(TIMM), pretrained=False)
