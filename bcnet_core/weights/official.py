"""Where the tensors of published checkpoints live in our detectors: names only.

The names on the left stand in files: those of the official BCNet release (FCOS), of detectron2, and of the Caffe2
pickles in detectron2's zoo. A function gives our name, or None where a name is not known.
"""

from __future__ import annotations

import re

BODY = "backbone.body."
RELEASE_PREFIXES = {
    "head.cls_tower.": "heads.boxes.class_tower.",
    "head.bbox_tower.": "heads.boxes.box_tower.",
    "head.cls_logits.": "heads.boxes.classes.",
    "head.bbox_pred.": "heads.boxes.distances.",
    "head.centerness.": "heads.boxes.centerness.",
}
DETECTRON2_PREFIXES = {
    "proposal_generator.rpn_head.conv.": "heads.rpn.head.conv.0.0.",
    "proposal_generator.rpn_head.objectness_logits.": "heads.rpn.head.cls_logits.",
    "proposal_generator.rpn_head.anchor_deltas.": "heads.rpn.head.bbox_pred.",
    "roi_heads.box_head.fc1.": "heads.roi_heads.box_head.fc6.",
    "roi_heads.box_head.fc2.": "heads.roi_heads.box_head.fc7.",
    "roi_heads.box_predictor.": "heads.roi_heads.box_predictor.",
}
MASK_LAYERS = {"boundary_fcn": "occluder", "mask_fcn": "occludee"}
"""Convolutions: the release calls those of the occluder layer boundary."""
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
NORM_PARTS = {
    "s": "weight", "gamma": "weight", "b": "bias", "bias": "bias", "beta": "bias",
    "rm": "running_mean", "running_mean": "running_mean", "riv": "running_var", "running_var": "running_var",
}  # fmt: skip
"""Of a BatchNorm, in the spellings of Caffe2's pickles."""


def fcos_name(name: str) -> str | None:
    """Our FCOS name of a tensor of the official release.

    Its scales are one number a level; here they are one tensor, so `heads.boxes.scales.0` is its first element.
    """
    if found := re.fullmatch(r"head\.scales\.(\d)\.scale", name):
        return f"heads.boxes.scales.{found[1]}"
    if name.startswith("mask_head."):
        return _below("heads.masks.head.", mask_head_name(name.removeprefix("mask_head.")))
    return _by_prefix(name, RELEASE_PREFIXES) or _backbone_name(name, first_level=3)


def detectron2_name(name: str) -> str | None:
    """Our Faster R-CNN name of a tensor of detectron2's Faster and Mask R-CNN with a feature pyramid.

    With the bilayer head in it, the mask head's tensors are ours already, below `roi_heads.mask_head.head`.
    """
    if name.startswith("roi_heads.mask_head.head."):
        return "heads.roi_heads.masks." + name.removeprefix("roi_heads.mask_head.")
    if name.startswith("roi_heads.mask_head."):
        return _below("heads.roi_heads.masks.head.", mask_head_name(name.removeprefix("roi_heads.mask_head.")))
    return _by_prefix(name, DETECTRON2_PREFIXES) or _backbone_name(name, first_level=2)


def bilayer_fcos_name(name: str) -> str | None:
    """Our FCOS name of a tensor of `BilayerFCOS` in detectron2, whose heads are ours."""
    return name if name.startswith("heads.") else _backbone_name(name, first_level=3)


def mask_head_name(name: str) -> str | None:
    """The name within `BilayerMaskHead` of a tensor of the release's mask head, or of Mask R-CNN's in detectron2."""
    module, _, leaf = name.rpartition(".")
    if module in MASK_OUTPUTS:
        return f"{MASK_OUTPUTS[module]}.{leaf}"
    if found := re.fullmatch(r"(boundary_fcn|mask_fcn)([1-9])", module):
        return f"{MASK_LAYERS[found[1]]}.convs.{int(found[2]) - 1}.{leaf}"
    if found := re.fullmatch(r"(\w+)_bound(_bo)?", module):
        part = ATTENTION_PARTS.get(found[1])
        return part and f"{'occluder' if found[2] else 'occludee'}.attention.{part}.{leaf}"
    return None


def caffe2_name(name: str) -> str | None:
    """Our name of a tensor of a ResNet that Caffe2 pickled: `conv1_w`, `res2_0_branch2a_bn_s`, ..."""
    if found := re.fullmatch(r"(?:res_)?conv1_(?:bn_(\w+)|w)", name):
        module, part = ("stem.conv1", found[1])
    elif found := re.fullmatch(r"res([2-5])_(\d+)_branch(1|2[abc])_(?:bn_(\w+)|w)", name):
        stage, block, branch, part = found.groups()
        layer = "shortcut" if branch == "1" else f"conv{'abc'.index(branch[1]) + 1}"
        module = f"res{stage}.{block}.{layer}"
    else:
        return None
    if part is None:
        return _body_name(f"{module}.weight")
    return _body_name(f"{module}.norm.{NORM_PARTS[part]}") if part in NORM_PARTS else None


def _by_prefix(name: str, prefixes: dict[str, str]) -> str | None:
    return next(
        (ours + name.removeprefix(theirs) for theirs, ours in prefixes.items() if name.startswith(theirs)), None
    )


def _below(prefix: str, name: str | None) -> str | None:
    return None if name is None else prefix + name


def _backbone_name(name: str, *, first_level: int) -> str | None:
    """Of `backbone.bottom_up.*`, `backbone.fpn_*` and `backbone.top_block.*`; the pyramid begins at `first_level`."""
    if name.startswith("backbone.pyramid."):  # ours, in detectron2
        return "backbone." + name.removeprefix("backbone.pyramid.")
    if name.startswith("backbone.bottom_up."):
        return _body_name(name.removeprefix("backbone.bottom_up."))
    if found := re.fullmatch(r"backbone\.fpn_(lateral|output)([2-5])\.(\w+)", name):
        blocks, index = "inner_blocks" if found[1] == "lateral" else "layer_blocks", int(found[2]) - first_level
        return f"backbone.fpn.{blocks}.{index}.0.{found[3]}" if index >= 0 else None
    if found := re.fullmatch(r"backbone\.top_block\.(p[67]\.\w+)", name):
        return f"backbone.fpn.extra_blocks.{found[1]}"
    return None


def _body_name(name: str) -> str | None:
    """Of `stem.conv1.weight`, `res2.0.conv1.norm.bias`, `res2.0.shortcut.weight`, ..."""
    if found := re.fullmatch(r"stem\.conv1(\.norm)?\.(\w+)", name):
        return f"{BODY}{'bn1' if found[1] else 'conv1'}.{found[2]}"
    found = re.fullmatch(r"res([2-5])\.(\d+)\.(?:conv([123])|shortcut)(\.norm)?\.(\w+)", name)
    if found is None:
        return None
    stage, block, number, norm, leaf = found.groups()
    kind = "bn" if norm else "conv"
    module = f"{kind}{number}" if number else f"downsample.{1 if norm else 0}"
    return f"{BODY}layer{int(stage) - 1}.{block}.{module}.{leaf}"
