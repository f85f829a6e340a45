"""From a checkpoint to a detector: what a model is comes from its recipe.

A trained detector must fit to the last tensor; weights that a training starts from must fit below the pyramid.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcnet_core.annotations.coco import Record, category_difference
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.runtime import PLAIN, Runtime
from bcnet_core.config.schema import Recipe
from bcnet_core.distributed import choose_device
from bcnet_core.errors import data_error
from bcnet_core.maps import maps_of_results
from bcnet_core.model.backbones import RESNETS
from bcnet_core.model.detectors import Detector, build_detector
from bcnet_core.model.folding import fold
from bcnet_core.weights.checkpoint import Checkpoint, find_checkpoint, read_checkpoint, recipe_of
from bcnet_core.weights.classes import class_rows, match_classes, transfer_rows
from bcnet_core.weights.foreign import COUNTER, count_parts, layer_of
from bcnet_core.weights.report import Start

SHAPING = (
    "channels", "tower_convs", "rpn_convs", "box_head", "box_head_channels", "layers", "mask_convs", "mask_channels",
    "mask_size", "attention", "boundary", "amodal",
)  # fmt: skip
"""Settings of a model that its layers around the feature extractor depend on."""
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of a model's tensors by name."""


@dataclass(frozen=True)
class Trained:
    """A trained detector, read from its checkpoint once.

    Attributes:
        path: the checkpoint.
        recipe: the recipe that it was trained with.
        categories: COCO categories in label order.
        weights: state dict to predict with: EMA weights if available.
    """

    path: Path
    recipe: Recipe
    categories: list[Record]
    weights: dict[str, Tensor]

    @property
    def amodal_boxes(self) -> bool:
        """Whether its boxes enclose whole objects, hidden parts included."""
        return self.recipe.amodal_boxes

    def build(
        self,
        device: str = "auto",
        *,
        detections_per_image: int | None = None,
        runtime: Runtime = PLAIN,
        layers: bool = True,
    ) -> Detector:
        """Build the detector to predict with: in evaluation mode and folded, see `model/folding.py`.

        Args:
            device: like "cuda", or "auto" for a GPU if there is one.
            detections_per_image: number of detections that it keeps; None for the recipe's.
            runtime: how it computes.
            layers: whether all maps are needed; otherwise it predicts those that results without layers depend on.

        Raises:
            BCNetError: if the weights do not fit the recipe.
        """
        detector = self.restore(device, detections_per_image=detections_per_image)
        detector.runtime = runtime
        return fold(detector, maps=None if layers else maps_of_results(detector.heads.masks.head.outputs))

    def restore(self, device: str = "auto", *, detections_per_image: int | None = None) -> Detector:
        """Build the detector as it was trained, in evaluation mode; see `build`."""
        # Before the detector is made: a recipe may ask for any size, the tensors are no larger than their file.
        check_shapes(model_shapes(self.recipe, classes=len(self.categories)), self.weights, self.path)
        recipe = self.recipe
        if detections_per_image is not None:
            model = recipe.model.model_copy(update={"detections_per_image": detections_per_image})
            recipe = recipe.model_copy(update={"model": model})
        detector = build_detector(recipe, self.categories)
        detector.load_state_dict(self.weights)
        return detector.to(choose_device(device)).eval()


def read_trained(path: Path) -> Trained:
    """Read a trained detector from a run directory or a checkpoint.

    Raises:
        BCNetError: if there is no checkpoint, or it cannot be read or is an initialization.
    """
    file = find_checkpoint(path)
    checkpoint = read_checkpoint(file)
    return Trained(file, recipe_of(checkpoint, file), checkpoint.categories, checkpoint.for_inference().model)


def model_shapes(recipe: Recipe, *, classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a recipe's detector, without allocating them."""
    with torch.device("meta"):
        detector = build_detector(recipe, [{"id": label, "name": str(label)} for label in range(classes)])
        return shapes_of(detector.state_dict())


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def load_trained(detector: Detector, recipe: Recipe, checkpoint: Checkpoint, path: Path) -> None:
    """Load a complete checkpoint into a detector built from `recipe` for the data, to go on with it.

    Raises:
        BCNetError: if the checkpoint is of another detector or backbone, has other categories or another order of
            them, or a tensor does not fit; the message names both sides.
    """
    _check_model(recipe.model, checkpoint, path)
    _check_categories(detector.categories, checkpoint.categories, path)
    check_shapes(shapes_of(detector.state_dict()), checkpoint.model, path)
    detector.load_state_dict(checkpoint.model)


def load_weights(detector: Detector, recipe: Recipe, checkpoint: Checkpoint, path: Path) -> Start:
    """Load the weights that a training starts from into a detector built from `recipe` for the data.

    Class-dependent tensors take the rows of the classes that have the same name; see `match_classes`. Layers around the
    feature extractor that have another shape, or are only in the weights, are left out.

    Args:
        detector: with fresh weights, which the tensors and rows without a counterpart keep.
        recipe: of the detector.
        checkpoint: an initialization, or a checkpoint of any classes.
        path: of the checkpoint, for messages.

    Raises:
        BCNetError: if the weights are of another detector, backbone or style, or do not fill the feature extractor.
    """
    _check_model(recipe.model, checkpoint, path)
    state, classes, trained = detector.state_dict(), len(detector.categories), len(checkpoint.categories)
    shapes = shapes_of(state)
    rows = class_rows(shapes, model_shapes(recipe, classes=classes + 1), classes=classes)
    expected = shapes | {name: one.shape(shapes[name], classes=trained) for name, one in rows.items()}
    _check_extractor(detector, expected, checkpoint.model, path)
    left_out = _misfits(expected, shapes_of(checkpoint.model))
    placed = {
        name: tensor for name, tensor in checkpoint.model.items() if name in shapes and layer_of(name) not in left_out
    }
    new = {name: name.replace(".amodal_mask.", ".occludee_mask.") for name in shapes if name not in checkpoint.model}
    copied = {name: placed[visible] for name, visible in new.items() if visible in placed}
    placed |= copied
    labels, filled = match_classes(checkpoint.categories, detector.categories), rows.keys() & placed.keys()
    for name in filled:
        placed[name] = transfer_rows(placed[name], state[name], rows[name], labels)
    detector.load_state_dict(placed, strict=False)
    names = detector.class_names if filled else []
    return Start(
        placed=len(placed),
        copied=len(copied),
        fresh=count_parts(name for name in shapes if name not in placed and not name.endswith(COUNTER)),
        kept_classes=[name for label, name in enumerate(names) if label in labels],
        fresh_classes=[name for label, name in enumerate(names) if label not in labels],
        left_out=left_out,
        settings=_other_shapes(recipe.model, checkpoint),
    )


def _check_extractor(detector: Detector, expected: Shapes, given: Mapping[str, Tensor], path: Path) -> None:
    """Require weights to fill the feature extractor below the pyramid: a part of one computes nothing of use."""
    parts = {f"backbone.{name.partition('.')[0]}." for name in detector.backbone.parameter_stages()}

    def below(name: str) -> bool:
        return name.startswith(tuple(parts)) and not name.endswith(COUNTER)

    own = {name: shape for name, shape in expected.items() if below(name)}
    check_shapes(own, {name: tensor for name, tensor in given.items() if below(name)}, path)


def _misfits(expected: Shapes, given: Shapes) -> dict[str, str]:
    """Return the layers of a file that do not fit a model of these shapes, each with the first reason."""
    reasons: dict[str, str] = {}
    in_file, in_model = ({layer_of(name) for name in side} for side in (given, expected))
    for name in sorted(given.keys() | expected.keys()):
        layer, _, part = name.rpartition(".")
        if layer not in in_model:
            reasons[layer] = "this model has no such layer"
        elif layer in in_file and given.get(name) != expected.get(name) and part != COUNTER:
            sides = (side.get(name, "missing") for side in (given, expected))
            reasons.setdefault(layer, "its {} is {} there, {} in this model".format(part, *sides))
    return reasons


def check_shapes(shapes: Shapes, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Require the tensors of a file to be exactly those of a model of these shapes.

    Raises:
        BCNetError: naming the first that differs, on both sides.
    """
    given = shapes_of(tensors)
    differing = sorted(name for name in shapes.keys() | given.keys() if shapes.get(name) != given.get(name))
    if differing:
        first = differing[0]
        raise data_error(
            f"the weights in `{path}` do not fit this model: {len(differing)} of {len(shapes)} tensors differ, "
            f"the first is `{first}`",
            f"its shape is {given.get(first, 'nothing')} in the file, {shapes.get(first, 'nothing')} in the model",
            "train and load with the same model.* settings",
        )


def _check_model(model: ModelConfig, checkpoint: Checkpoint, path: Path) -> None:
    """Require the detector and backbone of a checkpoint's recipe to be a model's, with the same input convention."""
    theirs, ours = _identity(_stored_settings(checkpoint)), _identity(model.model_dump())
    is_bare = checkpoint.part_of is not None and not any(name.startswith("heads.") for name in checkpoint.model)
    if is_bare:
        theirs |= {key: ours[key] for key in ("detector", "geometry")}  # a bare backbone fits all
    if theirs != ours:
        words = [f"model.{key}={value}" for key, value in theirs.items()]
        words += [] if is_bare else _other_shapes(model, checkpoint)
        raise data_error(
            f"`{path}` holds weights of {_described(theirs)}, this model is {_described(ours)}",
            f"take its settings: {' '.join(words)}",
        )


def _stored_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the model settings of a checkpoint's recipe; those that it does not know have their defaults."""
    stored = checkpoint.recipe.get("model")
    return {**ModelConfig().model_dump(), **(stored if isinstance(stored, dict) else {})}


def _other_shapes(model: ModelConfig, checkpoint: Checkpoint) -> list[str]:
    """Return the settings of `SHAPING` in which a checkpoint differs from a model, as a command line gives them."""
    theirs, ours = _stored_settings(checkpoint), model.model_dump()
    return [f"model.{key}={theirs[key]}".lower() for key in SHAPING if theirs[key] != ours[key]]


def _identity(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that say which weights a model has."""
    keys = ("detector", "backbone", *(("backbone_style",) if settings["backbone"] in RESNETS else ()), "geometry")
    return {key: str(settings[key]) for key in keys}


def _described(identity: Mapping[str, str]) -> str:
    words = [value for key, value in identity.items() if key != "geometry"]
    return " ".join([*words, *(["in torchvision's geometry"] if identity["geometry"] == "torchvision" else [])])


def _check_categories(categories: list[Record], trained: list[Record], path: Path) -> None:
    """Require weights to be trained on the categories of the data, in their order."""
    difference = category_difference(trained, categories, by_label=True)
    if difference is None:
        return
    names = [dict(side) for side in difference]
    label = min(names[0].keys() | names[1].keys())
    first, second = (side.get(label) for side in names)
    raise data_error(
        f"`{path}` was trained on other classes ({len(trained)}) than the data has ({len(categories)})",
        f"label {label} is {first!r} in the checkpoint, {second!r} in the data",
        "use the annotation file it was trained on, or one with the same categories in the same order",
        f"or start a new run from its weights, whose classes are taken by name: --init-from {shlex.quote(str(path))}",
    )
