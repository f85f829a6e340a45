"""From a checkpoint to a detector: what a model is comes from its recipe, and weights that do not fit are rejected."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcnet_core.annotations.coco import Record, category_difference
from bcnet_core.config.schema import ModelConfig, Recipe
from bcnet_core.distributed import choose_device
from bcnet_core.errors import data_error
from bcnet_core.model.backbones import RESNETS
from bcnet_core.model.detectors import Detector, build_detector
from bcnet_core.weights.checkpoint import Checkpoint, find_checkpoint, read_checkpoint, recipe_of

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

    def build(self, device: str = "auto", *, detections_per_image: int | None = None) -> Detector:
        """Build the detector in evaluation mode.

        Args:
            device: like "cuda", or "auto" for a GPU if there is one.
            detections_per_image: number of detections that it keeps; None for the recipe's.

        Raises:
            BCNetError: if the weights do not fit the recipe.
        """
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


def load_weights(detector: Detector, recipe: Recipe, checkpoint: Checkpoint, path: Path) -> list[str]:
    """Load the weights of a checkpoint, or of an initialization, into a detector built from `recipe` for the data.

    Returns:
        The names of the tensors that an initialization leaves as they were.

    Raises:
        BCNetError: if the checkpoint is of another detector or backbone, has other categories or another order of
            them, or a tensor does not fit; the message names both sides.
    """
    _check_model(recipe.model, checkpoint, path)
    is_part = checkpoint.part_of is not None
    if checkpoint.categories or not is_part:  # an initialization without categories has no class-dependent layers
        _check_categories(detector.categories, checkpoint.categories, path)
    shapes = shapes_of(detector.state_dict())
    fresh = sorted(shapes.keys() - checkpoint.model.keys()) if is_part else []
    check_shapes(shapes, checkpoint.model, path, optional=fresh)
    detector.load_state_dict(checkpoint.model, strict=not is_part)
    return fresh


def check_shapes(shapes: Shapes, tensors: Mapping[str, Tensor], path: Path, *, optional: Collection[str] = ()) -> None:
    """Require the tensors of a file to be exactly those of a model of these shapes, but for `optional` ones.

    Raises:
        BCNetError: naming the first that differs, on both sides.
    """
    given = shapes_of(tensors)
    names = (shapes.keys() | given.keys()) - set(optional)
    differing = sorted(name for name in names if shapes.get(name) != given.get(name))
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
    stored = checkpoint.recipe.get("model")
    theirs = _identity({**ModelConfig().model_dump(), **(stored if isinstance(stored, dict) else {})})
    ours = _identity(model.model_dump())
    if checkpoint.part_of is not None and not any(name.startswith("heads.") for name in checkpoint.model):
        theirs |= {key: ours[key] for key in ("detector", "geometry")}  # a bare backbone fits all
    if theirs != ours:
        raise data_error(
            f"`{path}` holds weights of {_described(theirs)}, this model is {_described(ours)}",
            f"take its settings: {' '.join(f'model.{key}={value}' for key, value in theirs.items())}",
        )


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
        "or begin with all but its class-dependent layers: "
        f"bcnet weights import {shlex.quote(str(path))} -o init.pt --drop-classes, then --init-from init.pt",
    )
