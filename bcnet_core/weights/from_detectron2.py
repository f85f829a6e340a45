"""Faster and Mask R-CNN with a feature pyramid as detectron2 and its zoo store them, also with BCNet's mask head.

`stored` in `integrations/detectron2` uses the same names for whole detectors in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bcnet_core.errors import data_error
from bcnet_core.weights.foreign import BODY, COUNTER, NO_PLACE, Converted, count_rows

BOX_PREDICTOR = "heads.roi_heads.box_predictor."
PREFIXES = {
    "proposal_generator.rpn_head.conv.": "heads.rpn.head.conv.0.0.",
    "proposal_generator.rpn_head.objectness_logits.": "heads.rpn.head.cls_logits.",
    "proposal_generator.rpn_head.anchor_deltas.": "heads.rpn.head.bbox_pred.",
    "roi_heads.box_head.fc1.": "heads.roi_heads.box_head.fc6.",
    "roi_heads.box_head.fc2.": "heads.roi_heads.box_head.fc7.",
    "roi_heads.box_predictor.": BOX_PREDICTOR,
}
MASK_LAYERS = {"boundary_fcn": "occluder", "mask_fcn": "occludee"}
"""Convolutions of the mask head: the release calls those of the occluder layer boundary."""
ATTENTION_PARTS = {
    "query_transform": "query", "key_transform": "key", "value_transform": "value", "output_transform": "output",
    "blocker": "norm",
}  # fmt: skip
MASK_OUTPUTS = {
    "deconv": "occludee_mask.upsample", "predictor": "occludee_mask.logits",
    "boundary_deconv": "occludee_boundary.upsample", "boundary_predictor": "occludee_boundary.logits",
    "bo_deconv": "occluder_mask.upsample", "predictor_bo": "occluder_mask.logits",
    "boundary_deconv_bo": "occluder_boundary.upsample", "boundary_predictor_bo": "occluder_boundary.logits",
}  # fmt: skip
FROZEN_NORM_EPS = 1e-5
"""Added to the variance by every BatchNorm of detectron2 and by torchvision's frozen one."""


def from_detectron2(tensors: Mapping[str, Tensor], path: Path) -> Converted | None:
    """Convert a detector of detectron2; of one that is no R-CNN with a pyramid, only the ResNet is used.

    Raises:
        BCNetError: if its backbone has layers that bcnet's backbones do not have.
    """
    if not any(name.startswith("backbone.bottom_up.stem.conv1.") for name in tensors):
        return None
    _check_backbone(tensors, path)
    found, left = Converted("a detector of detectron2 that bcnet does not have"), dict(tensors)
    is_rcnn = {"proposal_generator.rpn_head.conv.weight", "backbone.fpn_lateral2.weight"} <= tensors.keys()
    if is_rcnn:
        found.origin, found.detector = "a Faster or Mask R-CNN of detectron2", "faster_rcnn"
        _drop_convolutional_box_head(left, found)
        _fold_norms(left, found)
    for name, tensor in left.items():
        ours = detectron2_name(name)
        is_counter = name.endswith(".norm.num_batches_tracked") and ours is not None and ours.startswith(BODY)
        is_used = ours is not None and not is_counter and (is_rcnn or ours.startswith(BODY))
        found.place(ours if is_used else None, tensor, name, otherwise=COUNTER if is_counter else NO_PLACE)
    _convert_outputs(found)
    return found


def _check_backbone(tensors: Mapping[str, Tensor], path: Path) -> None:
    stem = "backbone.bottom_up.stem.conv1.norm"
    unknown = None
    if any(".conv2_offset." in name for name in tensors):
        unknown = "deformable convolutions"
    elif f"{stem}.weight" in tensors and f"{stem}.running_mean" not in tensors:
        unknown = "GroupNorm"
    if unknown is not None:
        raise data_error(
            f"`{path}` is a detector of detectron2 whose backbone has {unknown}, bcnet's backbones do not",
            "take one with plain convolutions and BatchNorm",
        )


def _fold_norms(tensors: dict[str, Tensor], found: Converted) -> None:
    """Fold the BatchNorms outside of the ResNet into the convolutions in front of them, which computes the same.

    detectron2's zoo has them in the pyramid and the heads of its `syncbn` models. A convolution with another norm
    (GroupNorm depends on the input) is dropped together with it.

    Args:
        tensors: by the names in the file; folded and dropped ones are removed.
        found: receives them.
    """
    for layer in [name.removesuffix(".norm.weight") for name in tensors if name.endswith(".norm.weight")]:
        if layer.startswith("backbone.bottom_up.") or f"{layer}.weight" not in tensors:
            continue
        names = [name for name in tensors if name.startswith((f"{layer}.norm.", f"{layer}.weight", f"{layer}.bias"))]
        parts = {name.removeprefix(f"{layer}."): tensors.pop(name) for name in names}
        counter = f"{layer}.norm.num_batches_tracked"
        if not {"norm.bias", "norm.running_mean", "norm.running_var"} <= parts.keys():
            found.dropped |= dict.fromkeys(names, "a convolution with a norm that bcnet does not have there")
            continue
        scale = parts["norm.weight"].double() / (parts["norm.running_var"].double() + FROZEN_NORM_EPS).sqrt()
        shift = parts.get("bias", torch.zeros(())) - parts["norm.running_mean"].double()
        if counter in names:
            names.remove(counter)
            found.dropped[counter] = COUNTER
        weight, bias = parts["weight"] * scale.view(-1, 1, 1, 1), parts["norm.bias"] + shift * scale
        found.place(detectron2_name(f"{layer}.weight"), weight.float(), *names)
        found.place(detectron2_name(f"{layer}.bias"), bias.float(), *names)


def _drop_convolutional_box_head(tensors: dict[str, Tensor], found: Converted) -> None:
    """Drop the box head if it begins with convolutions: its linear layers would read other features in bcnet."""
    if any(name.startswith("roi_heads.box_head.conv") for name in tensors):
        for name in [name for name in tensors if name.startswith("roi_heads.box_")]:
            del tensors[name]
            found.dropped[name] = "part of a box head with convolutions; bcnet's has two linear layers"


def _convert_outputs(found: Converted) -> None:
    """Move the background from behind the classes to label 0, as in torchvision, and drop outputs of another kind."""
    classes = count_rows(found.tensors, f"{BOX_PREDICTOR}cls_score")
    boxes = count_rows(found.tensors, f"{BOX_PREDICTOR}bbox_pred")
    found.classes = None if classes is None else classes - 1
    if boxes is not None and boxes != 4 * (found.classes or 0):
        found.drop_layer(f"{BOX_PREDICTOR}bbox_pred", "one box for all classes; bcnet has one a class")
    for name in found.tensors:
        found.tensors[name] = background_first(name, found.tensors[name])
    masks = "heads.roi_heads.masks.head.occludee_mask.logits"
    if count_rows(found.tensors, masks) not in {None, 1}:
        found.drop_layer(masks, "one mask a class; bcnet's masks are class-agnostic")


def background_first(name: str, tensor: Tensor) -> Tensor:
    """Reorder the rows of a box predictor, by its name in bcnet: detectron2 has the background last, torchvision first.

    detectron2 has no boxes of the background; torchvision has, and ignores them.
    """
    if name.startswith(f"{BOX_PREDICTOR}cls_score."):
        return tensor.roll(1, 0)
    if name.startswith(f"{BOX_PREDICTOR}bbox_pred."):
        return torch.cat([tensor.new_zeros((4, *tensor.shape[1:])), tensor])
    return tensor


def background_last(name: str, tensor: Tensor) -> Tensor:
    """Invert `background_first`."""
    if name.startswith(f"{BOX_PREDICTOR}cls_score."):
        return tensor.roll(-1, 0)
    if name.startswith(f"{BOX_PREDICTOR}bbox_pred."):
        return tensor[4:]
    return tensor


def detectron2_name(name: str) -> str | None:
    """Return the name in bcnet's Faster R-CNN of a tensor of detectron2's; None if it is unknown.

    With bcnet's mask head in detectron2, its tensors have their own names below `roi_heads.mask_head.head`.
    """
    if name.startswith("roi_heads.mask_head.head."):
        return "heads.roi_heads.masks." + name.removeprefix("roi_heads.mask_head.")
    if name.startswith("roi_heads.mask_head."):
        part = mask_head_name(name.removeprefix("roi_heads.mask_head."))
        return part and f"heads.roi_heads.masks.head.{part}"
    return replace_prefix(name, PREFIXES) or backbone_name(name, first_level=2)


def bilayer_fcos_name(name: str) -> str | None:
    """Return the name in bcnet's FCOS of a tensor of `BilayerFCOS` in detectron2, which has the same heads."""
    return name if name.startswith("heads.") else backbone_name(name, first_level=3)


def mask_head_name(name: str) -> str | None:
    """Return the name in `BilayerMaskHead` of a tensor of the release's mask head, or of Mask R-CNN's."""
    layer, _, part = name.rpartition(".")
    if layer in MASK_OUTPUTS:
        return f"{MASK_OUTPUTS[layer]}.{part}"
    if found := re.fullmatch(r"(boundary_fcn|mask_fcn)([1-9])", layer):
        return f"{MASK_LAYERS[found[1]]}.convs.{int(found[2]) - 1}.{part}"
    if found := re.fullmatch(r"(\w+)_bound(_bo)?", layer):
        attention = ATTENTION_PARTS.get(found[1])
        return attention and f"{'occluder' if found[2] else 'occludee'}.attention.{attention}.{part}"
    return None


def replace_prefix(name: str, prefixes: Mapping[str, str]) -> str | None:
    """Replace the prefix of a name; None if it has none of these."""
    return next((new + name.removeprefix(old) for old, new in prefixes.items() if name.startswith(old)), None)


def backbone_name(name: str, *, first_level: int) -> str | None:
    """Return bcnet's name of `backbone.bottom_up.*`, `backbone.fpn_*` and `backbone.top_block.*`.

    Args:
        name: the name in detectron2.
        first_level: finest level of the pyramid, 2 for P2.
    """
    if name.startswith("backbone.pyramid."):  # a backbone of bcnet in detectron2
        return "backbone." + name.removeprefix("backbone.pyramid.")
    if name.startswith("backbone.bottom_up."):
        return body_name(name.removeprefix("backbone.bottom_up."))
    if found := re.fullmatch(r"backbone\.fpn_(lateral|output)([2-5])\.(\w+)", name):
        blocks, index = "inner_blocks" if found[1] == "lateral" else "layer_blocks", int(found[2]) - first_level
        return f"backbone.fpn.{blocks}.{index}.0.{found[3]}" if index >= 0 else None
    if found := re.fullmatch(r"backbone\.top_block\.(p[67]\.\w+)", name):
        return f"backbone.fpn.extra_blocks.{found[1]}"
    return None


def body_name(name: str) -> str | None:
    """Return bcnet's name of a tensor of detectron2's ResNet: `stem.conv1.weight`, `res2.0.conv1.norm.bias`, ..."""
    if found := re.fullmatch(r"stem\.conv1(\.norm)?\.(\w+)", name):
        return f"{BODY}{'bn1' if found[1] else 'conv1'}.{found[2]}"
    found = re.fullmatch(r"res([2-5])\.(\d+)\.(?:conv([123])|shortcut)(\.norm)?\.(\w+)", name)
    if found is None:
        return None
    stage, block, number, norm, part = found.groups()
    kind = "bn" if norm else "conv"
    layer = f"{kind}{number}" if number else f"downsample.{1 if norm else 0}"
    return f"{BODY}layer{int(stage) - 1}.{block}.{layer}.{part}"
