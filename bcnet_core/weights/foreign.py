"""Weights of other projects on their way to a checkpoint: the form that every family of files is converted to.

A family is a function `(tensors, path) -> Converted | None`: it recognizes its files by their tensor names (None if it
does not), and moves the tensors to bcnet's names. `path` is for messages. `importing` lists the families.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcnet_core.config.choices import BackboneName, BackboneStyle, DetectorName
from bcnet_core.errors import data_error
from bcnet_core.model.backbones import RESNETS

BODY = "backbone.body."
"""Prefix of the ResNet in a backbone of bcnet; around it lie the feature pyramid and the heads."""
CLASSIFIER = "the ImageNet classifier"
COUNTER = "num_batches_tracked"
"""A tensor of BatchNorm that no result depends on; frozen BatchNorm has none."""
FROZEN_NORM_EPS = 1e-5
"""Added to the variance by every BatchNorm of detectron2 and by torchvision's, also the frozen one."""
MASK_CONVS = 4
"""Convolutions in a layer of bcnet's mask head."""
UNUSED = {rf"{COUNTER}$": "a counter that frozen BatchNorm does not have", "": "bcnet has nothing of the kind"}
"""Reasons why a tensor is not used, by a pattern in its name; the first that is found counts."""


@dataclass
class Converted:
    """Tensors of a weight file under bcnet's names.

    Attributes:
        origin: description of the file.
        style: input convention and strides of its backbone.
        detector: detector that the tensors outside of the ResNet fit; None if there are none.
        complete: whether the file must fill the detector to the last tensor.
        must_fit: pattern of the beginnings of names that have to be exactly those of the model; of what lies elsewhere
            a file may have other layers, which are left out.
        classes: number of classes in its class-dependent layers; None if it has none.
        class_names: names of these classes in the order of their labels, where the file knows them.
        backbone: a model of timm; any other is set by `identify_backbone`.
        settings: further settings of `ModelConfig` that the tensors need.
        tensors: by bcnet's names.
        sources: the names in the file that each of `tensors` was made from.
        dropped: reason why a tensor is not used, by its name in the file.
    """

    origin: str
    style: BackboneStyle = "caffe"
    detector: DetectorName | None = None
    complete: bool = False
    must_fit: str = re.escape(BODY)
    classes: int | None = None
    class_names: list[str] = field(default_factory=list)
    backbone: BackboneName = "r50"
    settings: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    def place(self, name: str, tensor: Tensor, *sources: str) -> None:
        """Add a tensor under its name in bcnet, made from the tensors `sources` of the file."""
        if name in self.tensors:
            self.dropped |= dict.fromkeys(sources, f"`{self.sources[name][0]}` has the same place")
        else:
            self.tensors[name], self.sources[name] = tensor, sources

    def place_all(
        self, tensors: Mapping[str, Tensor], new_name: Callable[[str], str | None], unused: Mapping[str, str] = UNUSED
    ) -> None:
        """Add the tensors that `new_name` has a name for, and note by `unused` why the others are left out."""
        for name, tensor in tensors.items():
            if (place := new_name(name)) is not None:
                self.place(place, tensor, name)
            else:
                self.dropped[name] = next(reason for part, reason in unused.items() if re.search(part, name))

    def drop_layer(self, layer: str, reason: str) -> None:
        """Remove all tensors of a layer: half of one would compute something else."""
        for name in [name for name in self.tensors if layer_of(name) == layer]:
            del self.tensors[name]
            self.dropped |= dict.fromkeys(self.sources.pop(name, ()), reason)


def layer_of(name: str) -> str:
    """Return the layer that a tensor belongs to: its name up to the last dot."""
    return name.rpartition(".")[0]


def count_parts(names: Iterable[str]) -> dict[str, int]:
    """Count the tensors of each part of a detector: `backbone.body`, `heads.boxes`, `heads.roi_heads.masks`, ..."""
    depth = {name: 3 if name.startswith("heads.roi_heads.") else 2 for name in names}
    return dict(sorted(Counter(".".join(name.split(".")[:parts]) for name, parts in depth.items()).items()))


def fold_norm(given: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Fold a BatchNorm into the convolution in front of it, which computes the same.

    Args:
        given: `weight` and, if there is one, `bias` of the convolution; `norm.weight`, `norm.bias`, `norm.running_mean`
            and `norm.running_var`.

    Returns:
        `weight` and `bias`, float32; None if a part is missing or their shapes do not fit together.
    """
    norm = [given.get(f"norm.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
    width = given["weight"].shape[:1]
    vectors = [*norm, *([given["bias"]] if "bias" in given else [])]
    if given["weight"].ndim != 4 or any(part is None or part.shape != width for part in vectors):
        return None
    scale = given["norm.weight"].double() / (given["norm.running_var"].double() + FROZEN_NORM_EPS).sqrt()
    shift = given.get("bias", torch.zeros(())) - given["norm.running_mean"].double()
    folded = {"weight": given["weight"] * scale.view(-1, 1, 1, 1), "bias": given["norm.bias"] + shift * scale}
    return {part: tensor.float() for part, tensor in folded.items()}


def drop_other_masks(found: Converted, head: str) -> None:
    """Drop what bcnet's mask head has otherwise than a Mask R-CNN's: masks by class, more or fewer convolutions.

    Args:
        found: with the layers of the mask head under bcnet's names.
        head: prefix of the mask head.
    """
    masks = f"{head}occludee_mask.logits"
    if count_rows(found.tensors, masks) not in {None, 1}:
        found.drop_layer(masks, "one mask a class; bcnet's masks are class-agnostic")
    layers = {layer_of(name) for name in found.tensors if name.startswith(head)}
    convs = {layer for layer in layers if layer.startswith(f"{head}occludee.convs.")}
    if convs != {f"{head}occludee.convs.{index}" for index in range(MASK_CONVS)}:
        for layer in layers:
            found.drop_layer(layer, "part of a mask head with other convolutions than bcnet's four")


def identify_backbone(found: Converted, path: Path) -> None:
    """Set `found.backbone` by the shapes of the ResNet's tensors.

    Raises:
        BCNetError: if there is no ResNet, or none that bcnet has.
    """
    body = {name.removeprefix(BODY): tensor for name, tensor in found.tensors.items() if name.startswith(BODY)}
    ids = {match.groups() for name in body if (match := re.match(r"layer([1-4])\.(\d+)\.", name))}
    blocks = tuple(sum(stage == number for stage, _ in ids) for number in "1234")
    if not any(blocks):
        raise data_error(
            f"`{path}` looks like {found.origin}, but holds no backbone",
            "bcnet takes whole models and whole backbones; save all of its state dict",
        )
    first = {name: tuple(tensor.shape[:2]) for name, tensor in body.items() if name.startswith("layer1.")}
    is_bottleneck = any(name.endswith("conv3.weight") for name in first)
    width = next((shape for name, shape in first.items() if name.endswith("conv2.weight")), ())
    for name, resnet in RESNETS.items():
        expected = (resnet.groups * resnet.width, resnet.width)
        if (resnet.blocks[2], resnet.is_bottleneck, expected) == (blocks[2], is_bottleneck, width):
            found.backbone = name
            return
    raise data_error(
        f"`{path}` is {found.origin}, but its backbone is none that bcnet has: it has {blocks} blocks, "
        f"the first with a 3x3 convolution of width {width}",
        "bcnet has ResNet-18, ResNet-50, ResNet-101 and ResNeXt-101 32x8d, with frozen BatchNorm",
    )


def count_rows(tensors: Mapping[str, Tensor], layer: str) -> int | None:
    """Return the number of outputs of a layer, None if its weight and bias are missing."""
    parts = (tensors.get(f"{layer}.{part}") for part in ("weight", "bias"))
    return next((len(part) for part in parts if part is not None and part.ndim), None)
