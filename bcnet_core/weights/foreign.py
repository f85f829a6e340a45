"""Weights of other projects on their way to a checkpoint: the form that every family of files is converted to.

A family is a module `from_NAME.py` with one function `(tensors, path) -> Converted | None`: it recognizes its files by
their tensor names, else returns None, and moves the tensors to bcnet's names. `path` is for messages. `importing` lists
the families.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from bcnet_core.config.choices import BackboneName, BackboneStyle, DetectorName
from bcnet_core.errors import data_error

BODY = "backbone.body."
"""Prefix of the ResNet in a backbone of bcnet; around it lie the feature pyramid and the heads."""
KNOWN_BACKBONES: dict[tuple[int, bool, tuple[int, ...]], BackboneName] = {
    (2, False, (64, 64)): "r18",
    (6, True, (64, 64)): "r50",
    (23, True, (64, 64)): "r101",
    (23, True, (256, 8)): "x101",
}
"""ResNets by blocks in the third stage, whether these are bottlenecks, and the width of the first 3x3 convolution."""
NO_PLACE = "bcnet has nothing of the kind"
CLASSIFIER = "the ImageNet classifier"
COUNTER = "a counter that frozen BatchNorm does not have"


@dataclass
class Converted:
    """Tensors of a weight file under bcnet's names.

    Attributes:
        origin: description of the file.
        style: input convention and strides of its backbone.
        detector: detector that the tensors outside of the ResNet fit; None if there are none.
        complete: whether the file must fill the detector to the last tensor.
        classes: number of classes in its class-dependent layers; None if it has none.
        backbone: set by `identify_backbone`.
        tensors: by bcnet's names.
        sources: the names in the file that each of `tensors` was made from.
        dropped: reason why a tensor is not used, by its name in the file.
    """

    origin: str
    style: BackboneStyle = "caffe"
    detector: DetectorName | None = None
    complete: bool = False
    classes: int | None = None
    backbone: BackboneName = "r50"
    tensors: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    def place(self, name: str | None, tensor: Tensor, *sources: str, otherwise: str = NO_PLACE) -> None:
        """Add a tensor under its name in bcnet, or note why it is not used.

        Args:
            name: None if bcnet has no such tensor.
            tensor: its value.
            sources: the names in the file that it was made from.
            otherwise: reason to note if `name` is None.
        """
        if name is None:
            self.dropped |= dict.fromkeys(sources, otherwise)
        elif name in self.tensors:
            self.dropped |= dict.fromkeys(sources, f"`{self.sources[name][0]}` has the same place")
        else:
            self.tensors[name], self.sources[name] = tensor, sources

    def drop_layer(self, layer: str, reason: str) -> None:
        """Remove all tensors of a layer: half of one would compute something else.

        Args:
            layer: the names of its tensors up to the last dot.
            reason: why.
        """
        for name in [name for name in self.tensors if layer_of(name) == layer]:
            del self.tensors[name]
            self.dropped |= dict.fromkeys(self.sources.pop(name, ()), reason)


def layer_of(name: str) -> str:
    """Return the layer that a tensor belongs to: its name up to the last dot."""
    return name.rpartition(".")[0]


def identify_backbone(found: Converted, path: Path) -> None:
    """Set `found.backbone` by the shapes of the ResNet's tensors.

    Raises:
        BCNetError: if there is no ResNet, or none that bcnet has.
    """
    blocks = _blocks(found.tensors)
    if not any(blocks):
        raise data_error(
            f"`{path}` looks like {found.origin}, but holds no backbone",
            "bcnet takes whole models and whole backbones; save all of its state dict",
        )
    first_stage = [name for name in found.tensors if name.startswith(f"{BODY}layer1.")]
    is_bottleneck = any(name.endswith("conv3.weight") for name in first_stage)
    width = next((tuple(found.tensors[name].shape[:2]) for name in first_stage if name.endswith("conv2.weight")), ())
    backbone = KNOWN_BACKBONES.get((blocks[2], is_bottleneck, width))
    if backbone is None:
        raise data_error(
            f"`{path}` is {found.origin}, but its backbone is none that bcnet has: it has {blocks} blocks, "
            f"the first with a 3x3 convolution of width {width}",
            "bcnet has ResNet-18, ResNet-50, ResNet-101 and ResNeXt-101 32x8d, with frozen BatchNorm",
        )
    found.backbone = backbone


def _blocks(names: Iterable[str]) -> tuple[int, ...]:
    """Count the blocks of each of the four stages of a ResNet."""
    stage = re.compile(re.escape(BODY) + r"layer([1-4])\.(\d+)\.")
    found = {match.groups() for name in names if (match := stage.match(name))}
    return tuple(sum(stage == number for stage, _ in found) for number in "1234")


def count_rows(tensors: Mapping[str, Tensor], layer: str) -> int | None:
    """Return the number of outputs of a layer, None if its weight and bias are missing."""
    parts = (tensors.get(f"{layer}.{part}") for part in ("weight", "bias"))
    return next((len(part) for part in parts if part is not None and part.ndim), None)
