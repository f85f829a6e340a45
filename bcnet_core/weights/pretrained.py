"""Published weights as ours: which checkpoint this is, told by the names of its tensors, and what becomes of each.

Four families are known: the official BCNet release (FCOS), detectron2's Faster and Mask R-CNN, the ImageNet ResNets
that Caffe2 pickled for detectron2's zoo (MSRA's among them), and torchvision's ImageNet ResNets.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from bcnet_core.config.choices import BackboneName, BackboneStyle, DetectorName
from bcnet_core.errors import data_error
from bcnet_core.weights.official import BODY, caffe2_name, detectron2_name, fcos_name

BOX_PREDICTOR = "heads.roi_heads.box_predictor."
CLASS_LAYERS = ("heads.boxes.classes.", BOX_PREDICTOR)
"""What the names of tensors begin with whose shape depends on the number of classes."""
KNOWN_BACKBONES: dict[tuple[int, bool, tuple[int, ...]], BackboneName] = {
    (2, False, (64, 64)): "r18",
    (6, True, (64, 64)): "r50",
    (23, True, (64, 64)): "r101",
    (23, True, (256, 8)): "x101",
}
"""By the blocks of the third stage, whether they are bottlenecks, and the width of the first 3x3 convolution."""
STAGE = re.compile(re.escape(BODY) + r"layer([1-4])\.(\d+)\.")
"""The stage and block that a tensor of the body belongs to."""
FROZEN_NORM_EPS = 1e-5
"""What torchvision's and detectron2's frozen BatchNorm adds to the variance."""
NO_PLACE = "bcnet has nothing of the kind"
CLASSIFIER = "the ImageNet classifier"


@dataclass
class Converted:
    """The tensors of a published checkpoint under our names.

    Attributes:
        origin: what it is, in words.
        backbone: whose weights are in it.
        style: how that backbone wants its images, and where it strides.
        detector: that its tensors outside of the backbone's body fit; None where there are none.
        whole: whether it must fill the detector to the last tensor.
        tensors: by our names.
        theirs: our name to the name in the file; what is made up here has none.
        dropped: the name in the file to why it is not used.
        sizes: of all tensors in the file, by their names there.
    """

    origin: str
    backbone: BackboneName = "r50"
    style: BackboneStyle = "caffe"
    detector: DetectorName | None = None
    whole: bool = False
    tensors: dict[str, Tensor] = field(default_factory=dict)
    theirs: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def place(self, theirs: str, ours: str | None, tensor: Tensor, *, otherwise: str = NO_PLACE) -> None:
        """Give a tensor its name here, or note why it has none."""
        if ours is None:
            self.dropped[theirs] = otherwise
        elif ours in self.tensors:
            self.dropped[theirs] = f"`{self.theirs[ours]}` has the same place"
        else:
            self.tensors[ours], self.theirs[ours] = tensor, theirs

    def drop(self, ours: str, reason: str) -> None:
        """Take a tensor out again, if it is there."""
        if self.tensors.pop(ours, None) is not None:
            self.dropped[self.theirs.pop(ours)] = reason


def convert(tensors: Mapping[str, Tensor], path: Path) -> Converted:
    """Bring a published checkpoint under our names.

    Args:
        tensors: the file's, by its names.
        path: for messages.

    Raises:
        BCNetError: if the names are those of none of the families, or the backbone is none of ours.
    """
    if any(name.startswith(("mask_head.", "head.cls_tower.")) for name in tensors):
        converted = _from_release(tensors)
    elif any(name.startswith("backbone.bottom_up.stem.conv1.") for name in tensors):
        converted = _from_detectron2(tensors)
    elif "conv1_w" in tensors:
        converted = _from_caffe2(tensors)
    elif "conv1.weight" in tensors and any(name.startswith("layer1.0.") for name in tensors):
        converted = _from_torchvision(tensors)
    else:
        raise data_error(
            f"`{path}` is no checkpoint that bcnet knows: it holds {len(tensors)} tensors, {_some(tensors)}",
            "known are the official BCNet release (FCOS), detectron2's Faster and Mask R-CNN with a feature pyramid, "
            "the ImageNet ResNets of detectron2's zoo and of torchvision, and bcnet's own",
        )
    ours = converted.tensors
    backbone = backbone_of(ours)
    if not any(_blocks(ours)):
        raise data_error(
            f"`{path}` looks like {converted.origin}, but holds no backbone",
            "bcnet takes whole models and whole backbones; save all of its state dict",
        )
    if backbone is None:
        raise data_error(
            f"`{path}` is {converted.origin}, but its backbone is none that bcnet has: it has {_blocks(ours)} blocks, "
            f"the first with a 3x3 convolution of width {_first_width(ours)}",
            "bcnet has ResNet-18, ResNet-50, ResNet-101 and ResNeXt-101 32x8d, with frozen BatchNorm",
        )
    converted.backbone = backbone
    converted.sizes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return converted


def backbone_of(tensors: Mapping[str, Tensor]) -> BackboneName | None:
    """Which backbone the tensors of a detector of ours belong to, None if that cannot be told."""
    if any(name.startswith("backbone.stages.") for name in tensors):
        return "tiny"
    bottlenecks = any(name.startswith(f"{BODY}layer1.") and name.endswith("conv3.weight") for name in tensors)
    return KNOWN_BACKBONES.get((_blocks(tensors)[2], bottlenecks, _first_width(tensors)))


def depends_on_classes(name: str) -> bool:
    """Whether the shape of a tensor of ours, by its name, depends on the number of classes."""
    return name.startswith(CLASS_LAYERS)


def count_parts(names: Iterable[str]) -> dict[str, int]:
    """How many tensors each part of a detector has: `backbone.body`, `heads.boxes`, `heads.roi_heads.masks`, ..."""
    depth = {name: 3 if name.startswith("heads.roi_heads.") else 2 for name in names}
    return dict(sorted(Counter(".".join(name.split(".")[:parts]) for name, parts in depth.items()).items()))


def _from_release(tensors: Mapping[str, Tensor]) -> Converted:
    converted = Converted("the official BCNet release (FCOS)", detector="fcos", whole=True)
    for name, tensor in tensors.items():
        converted.place(name, fcos_name(name), tensor)
    scales = sorted(name for name in converted.tensors if name.startswith("heads.boxes.scales."))
    if scales:
        joined = torch.cat([converted.tensors.pop(name).reshape(-1) for name in scales])
        first, *_ = [converted.theirs.pop(name) for name in scales]
        converted.place(f"{first}, ...", "heads.boxes.scales", joined)
    return converted


def _from_detectron2(tensors: Mapping[str, Tensor]) -> Converted:
    """Of other detectors than R-CNNs with a pyramid, the body alone is of use."""
    is_rcnn = "proposal_generator.rpn_head.conv.weight" in tensors and "backbone.fpn_lateral2.weight" in tensors
    if not is_rcnn:
        converted = Converted("a detector of detectron2 that bcnet does not have")
    else:
        converted = Converted("a Faster or Mask R-CNN of detectron2", detector="faster_rcnn")
    for name, tensor in tensors.items():
        ours = detectron2_name(name)
        useful = ours is not None and (is_rcnn or ours.startswith(BODY))
        converted.place(name, ours if useful else None, tensor)
    _take_box_predictor(converted)
    for name in [name for name in converted.tensors if name.endswith("masks.head.occludee_mask.logits.weight")]:
        if len(converted.tensors[name]) != 1:
            for part in ("weight", "bias"):
                converted.drop(
                    f"{name.removesuffix('weight')}{part}", "one mask a class; bcnet's masks are of no class"
                )
    return converted


def _take_box_predictor(converted: Converted) -> None:
    """Bring the background from behind the classes to label 0, where torchvision has it; it has boxes there, too."""
    prefix = BOX_PREDICTOR
    boxes = converted.tensors.get(f"{prefix}bbox_pred.weight")
    classes = converted.tensors.get(f"{prefix}cls_score.weight")
    if boxes is not None and (classes is None or len(boxes) != 4 * (len(classes) - 1)):
        for part in ("weight", "bias"):
            converted.drop(f"{prefix}bbox_pred.{part}", "one box for all classes; bcnet has one a class")
    for name, tensor in converted.tensors.items():
        converted.tensors[name] = background_first(name, tensor)


def background_first(name: str, tensor: Tensor) -> Tensor:
    """A tensor of ours, by its name, from detectron2's order of classes: the background, there behind them, is 0."""
    if name.startswith(f"{BOX_PREDICTOR}cls_score."):
        return tensor.roll(1, 0)
    if name.startswith(f"{BOX_PREDICTOR}bbox_pred."):  # the background has boxes here, which nobody looks at
        return torch.cat([tensor.new_zeros((4, *tensor.shape[1:])), tensor])
    return tensor


def background_last(name: str, tensor: Tensor) -> Tensor:
    """The inverse of `background_first`."""
    if name.startswith(f"{BOX_PREDICTOR}cls_score."):
        return tensor.roll(-1, 0)
    if name.startswith(f"{BOX_PREDICTOR}bbox_pred."):
        return tensor[4:]
    return tensor


def _from_caffe2(tensors: Mapping[str, Tensor]) -> Converted:
    converted = Converted("an ImageNet ResNet of detectron2's zoo")
    for name, tensor in tensors.items():
        reason = NO_PLACE
        if name.endswith("_momentum"):
            reason = "the state of an optimiser"
        elif name == "conv1_b":
            reason = "a bias in front of a BatchNorm, which detectron2 leaves out as well"
        elif name.startswith(("fc1000_", "pred_", "last_out_")):
            reason = CLASSIFIER
        converted.place(name, caffe2_name(name), tensor, otherwise=reason)
    for name, scale in list(converted.tensors.items()):
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and scale.ndim == 1 and f"{module}.running_mean" not in converted.tensors:
            converted.tensors[f"{module}.running_mean"] = torch.zeros_like(scale)
            converted.tensors[f"{module}.running_var"] = torch.full_like(scale, 1 - FROZEN_NORM_EPS)
    return converted


def _from_torchvision(tensors: Mapping[str, Tensor]) -> Converted:
    converted = Converted("an ImageNet ResNet of torchvision", style="torchvision")
    for name, tensor in tensors.items():
        reason = NO_PLACE
        if name.startswith("fc."):
            reason = CLASSIFIER
        elif name.endswith("num_batches_tracked"):
            reason = "a counter that frozen BatchNorm does not have"
        is_body = reason == NO_PLACE and name.startswith(("conv1.", "bn1.", "layer"))
        converted.place(name, BODY + name if is_body else None, tensor, otherwise=reason)
    return converted


def _blocks(tensors: Iterable[str]) -> tuple[int, ...]:
    """The blocks of each of the four stages of a ResNet."""
    found = {match.groups() for name in tensors if (match := STAGE.match(name))}
    return tuple(sum(stage == number for stage, _ in found) for number in "1234")


def _first_width(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Channels out and in (of a group) of the 3x3 convolutions of the first stage."""
    names = (name for name in tensors if name.startswith(f"{BODY}layer1.") and name.endswith("conv2.weight"))
    return next((tuple(tensors[name].shape[:2]) for name in names), ())


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return "named " + ", ".join(f"`{name}`" for name in listed[:3]) + (", ..." if len(listed) > 3 else "")
