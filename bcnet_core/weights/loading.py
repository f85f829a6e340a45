"""From a checkpoint to a detector: weights that do not belong to a model are refused by name."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bcnet_core.annotations.coco import category_difference
from bcnet_core.config.schema import Recipe
from bcnet_core.distributed import choose_device
from bcnet_core.errors import data_error
from bcnet_core.model.detectors import Detector, build_detector
from bcnet_core.model.one_stage import OneStageHeads
from bcnet_core.weights.checkpoint import Checkpoint, find_checkpoint, read_checkpoint, recipe_of
from bcnet_core.weights.pretrained import backbone_of, depends_on_classes


def load_detector(path: str | Path, *, device: str = "auto") -> Detector:
    """Load a trained detector; see `bcnet_core.load_detector`."""
    file = find_checkpoint(Path(path))
    checkpoint = read_checkpoint(file)
    recipe = recipe_of(checkpoint, file)
    # Before the detector is made: its size is what the file says, its tensors are no larger than the file.
    refuse_misfit(model_shapes(recipe, classes=len(checkpoint.categories)), checkpoint.for_use().model, file)
    detector = build_detector(recipe, checkpoint.categories)
    load_weights(detector, checkpoint.for_use(), file)
    return detector.to(choose_device(device)).eval()


def model_shapes(recipe: Recipe, *, classes: int) -> dict[str, tuple[int, ...]]:
    """The tensors of the detector of a recipe and their shapes, without making any of them."""
    with torch.device("meta"):
        detector = build_detector(recipe, [{"id": number, "name": str(number)} for number in range(classes)])
    return {name: tuple(tensor.shape) for name, tensor in detector.state_dict().items()}


def load_weights(detector: Detector, checkpoint: Checkpoint, path: Path) -> list[str]:
    """Put a checkpoint's weights into a detector.

    Args:
        detector: fresh, for the categories of the data.
        checkpoint: what was read from `path`; an initialisation puts in what it holds.
        path: for messages.

    Returns:
        The names of the tensors that stay as they were; there are some with an initialisation only.

    Raises:
        BCNetError: if the detector, the backbone or the categories are others, or in another order, or a tensor does
            not fit; the message names both sides.
    """
    own = detector.state_dict()
    refuse_other_model(detector, checkpoint, path)
    if any(map(depends_on_classes, checkpoint.model)) or checkpoint.part_of is None:
        refuse_other_classes(detector, checkpoint, path)
    fresh = sorted(own.keys() - checkpoint.model.keys()) if checkpoint.part_of is not None else []
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    refuse_misfit(shapes, checkpoint.model, path, may_lack=fresh)
    detector.load_state_dict(checkpoint.model, strict=not fresh)
    return fresh


def refuse_misfit(
    shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], path: Path, *, may_lack: Sequence[str] = ()
) -> None:
    """Refuse tensors that are not those of a model.

    Args:
        shapes: of the model's tensors.
        tensors: what was read from `path`.
        path: for the message.
        may_lack: names that need not be among the tensors.

    Raises:
        BCNetError: naming the first that differs, on both sides.
    """
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    unfit = sorted(name for name in shapes.keys() | given.keys() if shapes.get(name) != given.get(name))
    unfit = [name for name in unfit if name not in may_lack]
    if unfit:
        first = unfit[0]
        raise data_error(
            f"the weights in `{path}` do not fit this model: {len(unfit)} of {len(shapes)} tensors differ, "
            f"the first is `{first}`",
            f"its shape is {given.get(first, 'nothing')} in the file, {shapes.get(first, 'nothing')} in the model",
            "train and load with the same model.* settings",
        )


def refuse_other_model(detector: Detector, checkpoint: Checkpoint, path: Path) -> None:
    """Refuse weights of another detector or backbone, or of a backbone that sees its images otherwise.

    Raises:
        BCNetError: naming both sides.
    """
    model = Recipe().model.model_dump() | checkpoint.recipe.get("model", {})
    theirs: tuple[str, ...] = (model["detector"], model["backbone"], model["backbone_style"])
    ours: tuple[str, ...] = (
        "fcos" if isinstance(detector.heads, OneStageHeads) else "faster_rcnn",
        backbone_of(detector.state_dict()) or "unknown",
        "caffe" if detector.statistics.bgr else "torchvision",
    )
    if not any(name.startswith("heads.") for name in checkpoint.model):  # an ImageNet backbone fits both detectors
        theirs = (ours[0], *theirs[1:])
    theirs, ours = (side[:2] if side[1] == "tiny" else side for side in (theirs, ours))  # tiny has no style
    if theirs != ours:
        keys = ("model.detector", "model.backbone", "model.backbone_style")
        raise data_error(
            f"`{path}` holds weights of {' '.join(theirs)}, this model is {' '.join(ours)}",
            f"take its settings: {' '.join(f'{key}={value}' for key, value in zip(keys, theirs, strict=False))}",
        )


def refuse_other_classes(detector: Detector, checkpoint: Checkpoint, path: Path) -> None:
    """Refuse weights that were trained on other categories, or in another order.

    Raises:
        BCNetError: naming both sides.
    """
    trained, given = checkpoint.categories, detector.categories
    difference = category_difference(trained, given, by_label=True)
    if difference is not None:
        names = [dict(side) for side in difference]
        label = min(names[0].keys() | names[1].keys())
        first, second = (side.get(label) for side in names)
        raise data_error(
            f"`{path}` was trained on other classes ({len(trained)}) than the data has ({len(given)})",
            f"label {label} is {first!r} in the checkpoint, {second!r} in the data",
            "use the annotation file it was trained on, or one with the same categories in the same order",
            "or begin with all but its class-dependent layers: "
            f"bcnet weights import {shlex.quote(str(path))} -o init.pt --drop-classes, then --init-from init.pt",
        )
