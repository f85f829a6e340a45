"""The official BCNet release (FCOS), which was written for detectron2, and detectron2's Faster and Mask R-CNNs.

`stored` in `integrations/detectron2` uses the same names for whole detectors in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bcnet_core.config.choices import BoxHead
from bcnet_core.errors import data_error
from bcnet_core.weights.foreign import BODY, Converted, count_rows, drop_other_masks, fold_norm, layer_of

BOX_HEAD = "heads.roi_heads.box_head."
BOX_PREDICTOR = "heads.roi_heads.box_predictor."
RPN_HEAD = "proposal_generator.rpn_head."
MASK_HEAD = "heads.roi_heads.masks.head."
SCALES = "heads.boxes.scales"
PREFIXES = {
    f"{RPN_HEAD}conv.": "heads.rpn.head.conv.0.0.",
    f"{RPN_HEAD}objectness_logits.": "heads.rpn.head.cls_logits.",
    f"{RPN_HEAD}anchor_deltas.": "heads.rpn.head.bbox_pred.",
    "roi_heads.box_head.fc1.": f"{BOX_HEAD}fc6.",
    "roi_heads.box_head.fc2.": f"{BOX_HEAD}fc7.",
    "roi_heads.box_predictor.": BOX_PREDICTOR,
    "roi_heads.mask_head.head.": MASK_HEAD,  # bcnet's mask head in detectron2
}
"""Prefixes in detectron2's R-CNNs, and in bcnet's."""
CONV_BOX_HEAD = {f"roi_heads.box_head.{layer}" for layer in ("conv1", "conv2", "conv3", "conv4", "fc1")}
"""Layers of the box head that bcnet has with convolutions."""
RELEASE_PREFIXES = {
    "head.cls_tower.": "heads.boxes.class_tower.",
    "head.bbox_tower.": "heads.boxes.box_tower.",
    "head.cls_logits.": "heads.boxes.classes.",
    "head.bbox_pred.": "heads.boxes.distances.",
    "head.centerness.": "heads.boxes.centerness.",
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


def from_release(tensors: Mapping[str, Tensor], path: Path) -> Converted | None:
    """Convert a checkpoint of the official release, which must fill FCOS to the last tensor."""
    if not any(name.startswith(("mask_head.", "head.cls_tower.")) for name in tensors):
        return None
    found = Converted("the official BCNet release (FCOS)", detector="fcos", complete=True)
    found.classes = count_rows(tensors, "head.cls_logits")
    scales = sorted(name for name in tensors if (fcos_name(name) or "").startswith(SCALES))
    others = {name: tensor for name, tensor in tensors.items() if name not in scales}
    found.place_all(others, lambda name: fcos_name(name) or name)  # an unknown one keeps its name, and is left over
    if scales:
        found.place(SCALES, torch.cat([tensors[name].reshape(-1) for name in scales]), *scales)
    return found


def from_detectron2(tensors: Mapping[str, Tensor], path: Path) -> Converted | None:
    """Convert a detector of detectron2; of one that is no R-CNN with a pyramid, only the ResNet is used.

    Raises:
        BCNetError: if its backbone has layers that bcnet's backbones do not have.
    """
    stem = "backbone.bottom_up.stem.conv1."
    if not any(name.startswith(stem) for name in tensors):
        return None
    is_deformable = any(".conv2_offset." in name for name in tensors)
    if is_deformable or (f"{stem}norm.weight" in tensors and f"{stem}norm.running_mean" not in tensors):
        raise data_error(
            f"`{path}` is a detector of detectron2 whose backbone has "
            f"{'deformable convolutions' if is_deformable else 'GroupNorm'}, bcnet's backbones do not",
            "take one with plain convolutions and BatchNorm",
        )
    if not {f"{RPN_HEAD}objectness_logits.weight", "backbone.fpn_lateral2.weight"} <= tensors.keys():
        found = Converted("a detector of detectron2 that bcnet does not have")
        found.place_all(tensors, lambda name: backbone_name(name) if ".bottom_up." in name else None)
        return found
    found, left = Converted("a Faster or Mask R-CNN of detectron2", detector="faster_rcnn"), dict(tensors)
    layers = {layer_of(name) for name in left if name.startswith("roi_heads.box_head.") and ".norm." not in name}
    box_head: BoxHead = "conv" if any("box_head.conv" in layer for layer in layers) else "linear"
    if box_head == "conv" and layers != CONV_BOX_HEAD:  # its last layer reads other features
        box_head = "linear"
        for name in [name for name in left if name.startswith("roi_heads.box_")]:
            del left[name]
            found.dropped[name] = "part of a box head with other layers than four convolutions and a linear one"
    name_of = partial(detectron2_name, box_head=box_head)
    _fold_norms(left, found, name_of)
    found.place_all(left, name_of)
    convert_outputs(found)
    convs = sum(re.fullmatch(r"heads\.rpn\.head\.conv\.\d+\.0\.weight", name) is not None for name in found.tensors)
    found.settings = {"rpn_convs": max(1, convs), "box_head": box_head}
    return found


def _fold_norms(tensors: dict[str, Tensor], found: Converted, name_of: Callable[[str], str | None]) -> None:
    """Fold the BatchNorms outside of the ResNet into the convolutions in front of them, which computes the same.

    detectron2's zoo has them in the pyramid and the heads of its `syncbn` models. A convolution with another norm
    (GroupNorm depends on the input) is dropped together with it.

    Args:
        tensors: by the names in the file; folded and dropped ones are removed.
        found: receives them.
        name_of: gives bcnet's name of a tensor.
    """
    for layer in [name.removesuffix(".norm.weight") for name in tensors if name.endswith(".norm.weight")]:
        places = {part: name for part in ("weight", "bias") if (name := name_of(f"{layer}.{part}")) is not None}
        if layer.startswith("backbone.bottom_up.") or f"{layer}.weight" not in tensors or not places:
            continue
        parts = ("weight", "bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
        names = [name for part in parts if (name := f"{layer}.{part}") in tensors]
        given = {name.removeprefix(f"{layer}."): tensors.pop(name) for name in names}
        folded = fold_norm(given)
        if folded is None:
            found.dropped |= dict.fromkeys(names, "a convolution with a norm that bcnet does not have there")
            continue
        for part, place in places.items():
            found.place(place, folded[part], *names)


def convert_outputs(found: Converted) -> None:
    """Move the background from behind the classes to label 0, as in torchvision, and drop what bcnet has otherwise."""
    classes = count_rows(found.tensors, f"{BOX_PREDICTOR}cls_score")
    boxes = count_rows(found.tensors, f"{BOX_PREDICTOR}bbox_pred")
    found.classes = None if classes is None else classes - 1
    if boxes is not None and boxes != 4 * (found.classes or 0):
        found.drop_layer(f"{BOX_PREDICTOR}bbox_pred", "one box for all classes; bcnet has one a class")
    found.tensors = {name: move_background(name, tensor, to=0) for name, tensor in found.tensors.items()}
    drop_other_masks(found, MASK_HEAD)


def move_background(name: str, tensor: Tensor, *, to: Literal[0, -1]) -> Tensor:
    """Reorder the rows of a box predictor, by its name in bcnet: torchvision has the background first, detectron2 last.

    detectron2 has no boxes of the background; torchvision has, and ignores them.
    """
    if name.startswith(f"{BOX_PREDICTOR}cls_score."):
        return tensor.roll(1 if to == 0 else -1, 0)
    if name.startswith(f"{BOX_PREDICTOR}bbox_pred."):
        return torch.cat([tensor.new_zeros((4, *tensor.shape[1:])), tensor]) if to == 0 else tensor[4:]
    return tensor


def detectron2_name(name: str, *, box_head: BoxHead = "linear") -> str | None:
    """Return the name in bcnet's Faster R-CNN of a tensor of detectron2's; None if it is unknown.

    Args:
        name: the name in detectron2.
        box_head: of the detector, whose first linear layer is the last one of a head with convolutions.
    """
    if found := re.fullmatch(rf"{re.escape(RPN_HEAD)}conv\.conv(\d+)\.(\w+)", name):
        return f"heads.rpn.head.conv.{found[1]}.0.{found[2]}"
    if found := re.fullmatch(r"roi_heads\.box_head\.conv(\d+)\.(\w+)", name):
        return f"{BOX_HEAD}{int(found[1]) - 1}.0.{found[2]}"
    if box_head == "conv" and name.startswith("roi_heads.box_head.fc1."):
        return f"{BOX_HEAD}5." + name.removeprefix("roi_heads.box_head.fc1.")
    known = _replace_prefix(name, PREFIXES)
    return known or _mask_name(name, "roi_heads.mask_head.", MASK_HEAD) or backbone_name(name)


def fcos_name(name: str) -> str | None:
    """Return the name in bcnet's FCOS of a tensor of the release; None if it is unknown.

    The release has one number a level as scale; bcnet has one tensor: `heads.boxes.scales.0` is its first element.
    """
    if found := re.fullmatch(r"head\.scales\.(\d)\.scale", name):
        return f"{SCALES}.{found[1]}"
    known = _replace_prefix(name, RELEASE_PREFIXES)
    return known or _mask_name(name, "mask_head.", "heads.masks.head.") or backbone_name(name, first_level=3)


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


def _mask_name(name: str, old: str, new: str) -> str | None:
    """Rename a tensor of a mask head with the prefix `old`."""
    part = mask_head_name(name.removeprefix(old)) if name.startswith(old) else None
    return part and new + part


def _replace_prefix(name: str, prefixes: Mapping[str, str]) -> str | None:
    return next((new + name.removeprefix(old) for old, new in prefixes.items() if name.startswith(old)), None)


def backbone_name(name: str, *, first_level: int = 2) -> str | None:
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
    part = r"(weight|bias|running_mean|running_var)"
    found = re.fullmatch(rf"(?:stem|res([2-5])\.(\d+))\.(?:conv([123])|shortcut)(\.norm)?\.{part}", name)
    if found is None:
        return None
    stage, block, number, norm, part = found.groups()
    layer = f"{'bn' if norm else 'conv'}{number}" if number else f"downsample.{1 if norm else 0}"
    return BODY + (f"layer{int(stage) - 1}.{block}." if stage else "") + f"{layer}.{part}"
