"""torchvision's ResNets, and its FCOS, Faster and Mask R-CNN of both generations.

The detectors compute the same in bcnet with `model.geometry=torchvision`: every tensor but those of Mask R-CNN's last
layer has a place, and the norms in the pyramid and the heads of the second generation are folded into their
convolutions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bcnet_core.annotations.coco import coco_categories
from bcnet_core.errors import data_error
from bcnet_core.weights.foreign import (
    BODY,
    CLASSIFIER,
    COUNTER,
    FROZEN_NORM_EPS,
    UNUSED,
    Converted,
    count_rows,
    drop_other_masks,
    fold_norm,
    identify_backbone,
)

FCOS, BOXES, MASK_HEAD = "heads.boxes.", "heads.roi_heads.box_", "heads.roi_heads.masks.head."
PLACES = {
    r"backbone\.(?:body|fpn)\.": "",
    r"head\.classification_head\.conv\.": f"{FCOS}class_tower.",
    r"head\.classification_head\.cls_logits\.": f"{FCOS}classes.",
    r"head\.regression_head\.conv\.": f"{FCOS}box_tower.",
    r"head\.regression_head\.bbox_reg\.": f"{FCOS}distances.",
    r"head\.regression_head\.bbox_ctrness\.": f"{FCOS}centerness.",
    r"rpn\.head\.": "heads.rpn.head.",
    r"roi_heads\.box_": BOXES,
    r"roi_heads\.mask_head\.(\d+)\.0\.": rf"{MASK_HEAD}occludee.convs.\1.",
    r"roi_heads\.mask_predictor\.conv5_mask\.": f"{MASK_HEAD}occludee_mask.upsample.",
    r"roi_heads\.mask_predictor\.mask_fcn_logits\.": f"{MASK_HEAD}occludee_mask.logits.",
}
"""Beginnings of names in torchvision, and in bcnet; "" stands for the same."""
RELEASED = {
    r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)": r"\1.0.\2",
    r"rpn\.head\.conv\.(weight|bias)": r"rpn.head.conv.0.0.\1",
}
"""Names in the files of the first generation, which are older than torchvision's current names."""
NORMS = re.compile(r"(backbone\.fpn\.\w+_blocks\.\d+|roi_heads\.(?:box|mask)_head\.\d+)\.1\.running_var")
COCO_OUTPUTS = 91
"""Outputs of the published detectors: one for each of COCO's ids, of which 80 are in use, and the background."""
REFUSED = {
    "roi_heads.keypoint_": "torchvision's Keypoint R-CNN",
    "head.classification_head.module_list.": "torchvision's SSD",
    "head.regression_head.bbox_reg.": "torchvision's RetinaNet",
    "head.": "half a one-stage detector of torchvision",
}
"""Other detectors of torchvision by the beginnings of names."""


def from_torchvision(tensors: Mapping[str, Tensor], path: Path) -> Converted | None:
    """Convert a ResNet of torchvision, whose names bcnet uses."""
    if "conv1.weight" not in tensors or not any(name.startswith("layer1.0.") for name in tensors):
        return None
    found = Converted("an ImageNet ResNet of torchvision", style="torchvision")
    used = re.compile(r"(conv1|bn1|layer).*(?<!num_batches_tracked)")
    found.place_all(
        tensors, lambda name: BODY + name if used.fullmatch(name) else None, {r"^fc\.": CLASSIFIER} | UNUSED
    )
    return found


def from_torchvision_detector(tensors: Mapping[str, Tensor], path: Path) -> Converted | None:
    """Convert an FCOS, Faster or Mask R-CNN of torchvision.

    Raises:
        BCNetError: if it is another detector of torchvision.
    """
    trunk, heads = ("backbone.body.", "backbone.features."), ("head.", "rpn.", "roi_heads.")
    if not all(any(name.startswith(parts) for name in tensors) for parts in (trunk, heads)):
        return None
    is_fcos = _check_kind(tensors, path)
    found = Converted("", style="torchvision", detector="fcos" if is_fcos else "faster_rcnn")
    found.must_fit = r"(?!heads\.(roi_heads\.)?masks\.)"
    names: dict[str, str] = {}
    for name in tensors:
        if name != names.setdefault(_current_name(name), name):
            found.dropped[name] = f"`{names[_current_name(name)]}` has the same place"
    left = {current: tensors[name] for current, name in names.items()}
    norms = [match[1] for name in left if (match := NORMS.fullmatch(name))]
    for layer in norms:
        _fold(layer, left, names, found)
    for name, tensor in left.items():
        if name.endswith(COUNTER):
            found.dropped[names[name]] = UNUSED[f"{COUNTER}$"]
        else:
            found.place(_place(name), tensor, names[name])
    identify_backbone(found, path)
    if is_fcos:
        _finish_fcos(found)
    else:
        _finish_rcnn(found, has_norms=bool(norms), is_frozen=f"backbone.body.bn1.{COUNTER}" not in tensors)
    return found


def _check_kind(tensors: Mapping[str, Tensor], path: Path) -> bool:
    """Return whether a detector is an FCOS; it is an R-CNN otherwise."""
    is_fcos = any(name.startswith("head.regression_head.bbox_ctrness.") for name in tensors)
    kinds = [kind for part, kind in REFUSED.items() if any(name.startswith(part) for name in tensors)]
    if kinds and not is_fcos:
        kind = kinds[0]
    elif not any(name.startswith(("backbone.body.conv1.", "backbone.body.layer")) for name in tensors):
        kind = "a detector of torchvision over another backbone than a ResNet"
    else:
        return is_fcos
    raise data_error(
        f"`{path}` is {kind}, which bcnet does not take",
        "of torchvision's detectors it takes FCOS, Faster R-CNN and Mask R-CNN (also v2) over a ResNet",
    )


def _current_name(name: str) -> str:
    """Return the name that current versions of torchvision give to a tensor of a file of any age."""
    for old, new in RELEASED.items():
        if re.fullmatch(old, name):
            return re.sub(old, new, name)
    if match := re.fullmatch(r"roi_heads\.mask_head\.mask_fcn(\d+)\.(\w+)", name):
        return f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"
    return name


def _place(name: str) -> str:
    """Return bcnet's name; an unknown tensor keeps its own, and is left over."""
    for old, new in PLACES.items():
        if match := re.match(old, name):
            return match.expand(new) + name[match.end() :] if new else name
    return name


def _fold(layer: str, left: dict[str, Tensor], names: Mapping[str, str], found: Converted) -> None:
    """Fold a norm into the convolution in front of it, and place the result; what is not whole stays left."""
    parts = {part: f"{layer}.0.{part}" for part in ("weight", "bias")}
    parts |= {f"norm.{part}": f"{layer}.1.{part}" for part in ("weight", "bias", "running_mean", "running_var")}
    given = {part: name for part, name in parts.items() if name in left}
    folded = fold_norm({part: left[name] for part, name in given.items()}) if "weight" in given else None
    if folded is None:
        return
    for name in given.values():
        del left[name]
    for part, tensor in folded.items():
        found.place(_place(f"{layer}.0.{part}"), tensor, *(names[name] for name in given.values()))


def _finish_fcos(found: Converted) -> None:
    found.origin = "torchvision's FCOS"
    found.tensors[f"{FCOS}scales"] = torch.ones(5)  # torchvision has no factor for each level
    outputs = count_rows(found.tensors, f"{FCOS}classes")
    rows = _kept_rows(outputs)[1:]  # it is not trained to find the background, whose row is unused
    found.classes = len(rows) if outputs is not None else None
    _keep(found, f"{FCOS}classes", rows)
    towers = sum(re.fullmatch(rf"{FCOS}class_tower\.\d+\.weight", name) is not None for name in found.tensors)
    found.settings = {**_common(found), "tower_convs": max(1, towers // 2)}


def _finish_rcnn(found: Converted, *, has_norms: bool, is_frozen: bool) -> None:
    tensors = found.tensors
    is_mask = any(name.startswith(MASK_HEAD) for name in tensors)
    convs = sum(re.fullmatch(r"heads\.rpn\.head\.conv\.\d+\.0\.weight", name) is not None for name in tensors)
    box_head = "conv" if f"{BOXES}head.0.0.weight" in tensors else "linear"
    linear = f"{BOXES}head.{'5' if box_head == 'conv' else 'fc6'}"
    found.origin = f"torchvision's {'Mask' if is_mask else 'Faster'} R-CNN"
    if is_frozen and not has_norms and found.backbone == "r50":
        found.origin += " (v1, its frozen BatchNorm taken to have an epsilon of 0, as published)"
        _remove_epsilon(found)
    outputs = count_rows(tensors, f"{BOXES}predictor.cls_score")
    rows = _kept_rows(outputs)
    found.classes = len(rows) - 1 if outputs is not None else None
    _keep(found, f"{BOXES}predictor.cls_score", rows)
    _keep(found, f"{BOXES}predictor.bbox_pred", [4 * row + side for row in rows for side in range(4)])
    if count_rows(tensors, f"{MASK_HEAD}occludee_mask.logits") == 2:  # the background, and the only class
        _keep(found, f"{MASK_HEAD}occludee_mask.logits", [1])
    drop_other_masks(found, MASK_HEAD)
    width = count_rows(tensors, linear)
    found.settings = {**_common(found), "rpn_convs": max(1, convs), "box_head": box_head}
    found.settings |= {} if width is None else {"box_head_channels": width}


def _common(found: Converted) -> dict[str, object]:
    """Return the settings of both detectors."""
    channels = count_rows(found.tensors, "backbone.fpn.layer_blocks.0.0")
    return {"geometry": "torchvision", **({} if channels is None else {"channels": channels})}


def _kept_rows(outputs: int | None) -> list[int]:
    """Return the outputs to keep, the background first: all, or those of COCO's ids that are in use."""
    if outputs == COCO_OUTPUTS:
        return [0, *(int(category["id"]) for category in coco_categories())]
    return list(range(outputs or 1))


def _keep(found: Converted, layer: str, rows: list[int]) -> None:
    for name in (f"{layer}.weight", f"{layer}.bias"):
        tensor = found.tensors.get(name)
        if (
            tensor is not None and tensor.ndim and len(tensor) > max(rows, default=0)
        ):  # others do not fit, which is told
            found.tensors[name] = tensor[rows]


def _remove_epsilon(found: Converted) -> None:
    """Scale the weights of the ResNet's norms so that a norm with an epsilon computes what one without does.

    The files of the first generation are older than the epsilon of torchvision's frozen BatchNorm, and torchvision sets
    it to 0 for them. The variance cannot take it up: in a dead channel, it is far smaller than the epsilon.
    """
    for name in [name for name in found.tensors if name.startswith(BODY) and name.endswith(".running_var")]:
        weight, variance = name.replace("running_var", "weight"), found.tensors[name].double()
        if weight in found.tensors and found.tensors[weight].shape == variance.shape:
            scaled = found.tensors[weight].double() * (1 + FROZEN_NORM_EPS / variance).sqrt()
            found.tensors[weight] = scaled.float()
