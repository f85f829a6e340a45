"""Turn published weights into checkpoints: read, recognize, rename, and account for every tensor.

The official release becomes a complete checkpoint, which can predict at once. Everything else becomes an
*initialization*: a part of a model for `bcnet train --init-from` to start from.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from bcnet_core.annotations.coco import Record, coco_categories, in_id_order, read_coco
from bcnet_core.config.choices import TIMM, BackboneName, BackboneStyle, DetectorName
from bcnet_core.config.data import DataConfig
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import LossConfig, Recipe
from bcnet_core.errors import data_error, usage_error
from bcnet_core.weights.checkpoint import (
    DETECTRON2_KEY,
    Checkpoint,
    conversion_command,
    first_problem,
    is_checkpoint,
    parse_checkpoint,
    recipe_of,
)
from bcnet_core.weights.classes import class_rows
from bcnet_core.weights.files import named_tensors, read_weight_file
from bcnet_core.weights.foreign import BODY, Converted, count_parts, identify_backbone, layer_of
from bcnet_core.weights.from_caffe2 import from_caffe2
from bcnet_core.weights.from_detectron2 import from_detectron2, from_release
from bcnet_core.weights.from_mmdetection import from_mmdetection, read_meta
from bcnet_core.weights.from_timm import from_efficientnet_lite, from_timm
from bcnet_core.weights.from_torchvision import from_torchvision, from_torchvision_detector
from bcnet_core.weights.loading import Shapes, model_shapes, shapes_of

FAMILIES = (
    from_mmdetection, from_release, from_detectron2, from_caffe2, from_torchvision, from_torchvision_detector,
    from_efficientnet_lite,
)  # fmt: skip
"""Converters, one for each family of files; the first that recognizes a file converts it."""
MAX_ROWS = 20
"""Rows shown of the table of tensors that do not fit."""


@dataclass(frozen=True)
class ImportReport:
    """Result of a weight import; see `Converted` for the other attributes.

    Attributes:
        settings: further settings of `ModelConfig` that a model of these weights needs, where they are no defaults.
        whole: whether the checkpoint is a complete detector, not an initialization.
        placed: number of tensors that were filled, by part of the model.
        fresh: number of tensors that training will initialize, by part of the model.
        dropped: names in the file of the tensors that are not used, by reason.
    """

    origin: str
    detector: DetectorName | None
    backbone: BackboneName
    style: BackboneStyle
    settings: dict[str, Any]
    classes: int | None
    whole: bool
    placed: dict[str, int]
    fresh: dict[str, int]
    dropped: dict[str, list[str]]


def import_weights(
    path: Path, *, categories: Path | None = None, drop_classes: bool = False, backbone: BackboneName | None = None
) -> tuple[Checkpoint, ImportReport]:
    """Make a checkpoint from a weight file, without running code from it.

    Args:
        path: the file.
        categories: COCO file with the categories that the weights were trained on; not needed for COCO's 80.
        drop_classes: leave out the layers whose shape depends on the number of classes.
        backbone: timm/NAME for a state dict of timm, which does not say which model it is.

    Returns:
        The checkpoint, without optimizer state, and a report on every tensor.

    Raises:
        BCNetError: if the file cannot be read or recognized, or its tensors do not fit; the message names both sides.
    """
    if categories is not None and drop_classes:
        raise usage_error("--categories and --drop-classes exclude each other", "without classes, no names are needed")
    content = read_weight_file(path)
    if isinstance(content, dict) and DETECTRON2_KEY in content:
        raise usage_error(
            f"`{path}` is a whole detector that detectron2 trained for bcnet, nothing to import",
            f"make it one of the torchvision backend: {conversion_command(path)}",
        )
    if is_checkpoint(content):
        if backbone is not None:
            raise usage_error(f"`{path}` knows its backbone", "leave out --backbone")
        if categories is not None:
            raise usage_error(f"`{path}` knows its categories", "leave out --categories")
        checkpoint = parse_checkpoint(content, path).for_inference()
        found = _from_bcnet(checkpoint, path)
    else:
        tensors = named_tensors(content, path)
        found = recognize(tensors, path) if backbone is None else from_timm(tensors, path, backbone)
        read_meta(found, content, path)
        named = [] if drop_classes else _name_classes(found, path, categories)
        checkpoint = Checkpoint(0, _recipe_for(found, path).model_dump(mode="json"), named, model={}, optimizer={})
    recipe = Recipe.model_validate(checkpoint.recipe)
    shapes = model_shapes(recipe, classes=found.classes or 1)
    fit(found, shapes, path)
    _check_finite(found, path)
    one_more = model_shapes(recipe, classes=(found.classes or 1) + 1)
    class_layers = {layer_of(name) for name in class_rows(shapes, one_more, classes=found.classes or 1)}
    if drop_classes:
        for layer in class_layers:
            found.drop_layer(layer, "its shape depends on the classes (--drop-classes)")
    if class_layers.isdisjoint(map(layer_of, found.tensors)):
        found.classes, checkpoint = None, replace(checkpoint, categories=[])
    fresh = shapes.keys() - found.tensors.keys()
    if fresh:
        checkpoint = replace(checkpoint, step=0, part_of=len(shapes))
    return replace(checkpoint, model=found.tensors), _report(found, fresh)


def recognize(tensors: Mapping[str, Tensor], path: Path) -> Converted:
    """Bring the tensors of a published weight file under bcnet's names.

    Raises:
        BCNetError: if it belongs to none of `FAMILIES`, or bcnet does not have its backbone.
    """
    for convert in FAMILIES:
        if (found := convert(tensors, path)) is not None:
            if not found.backbone.startswith(TIMM):
                identify_backbone(found, path)
            return found
    names = ", ".join(f"`{name}`" for name in list(tensors)[:3]) + (", ..." if len(tensors) > 3 else "")
    raise data_error(
        f"`{path}` is no checkpoint that bcnet knows: it holds {len(tensors)} tensors, named {names}",
        "known are the official BCNet release (FCOS), detectron2's Faster and Mask R-CNN with a feature pyramid, "
        "torchvision's FCOS, Faster and Mask R-CNN, those of mmdetection, the ImageNet ResNets of detectron2's zoo and "
        "of torchvision, EfficientNet-Lite of the TF port, bcnet's own",
        "a state dict of timm does not say which model it is: "
        f"bcnet weights import {shlex.quote(str(path))} -o init.pt --backbone {TIMM}NAME",
    )


def _recipe_for(found: Converted, path: Path) -> Recipe:
    """Return settings of a model that published weights fit; those of the official release reproduce its results.

    Raises:
        BCNetError: if bcnet has no model of these settings.
    """
    if not found.complete:
        detector = found.detector or "fcos"  # a bare backbone fits both
        model = {"detector": detector, "backbone": found.backbone, "backbone_style": found.style, **found.settings}
        try:
            return Recipe(model=ModelConfig.model_validate(model))
        except ValidationError as error:
            raise data_error(
                f"`{path}` is {found.origin}, but of a size that bcnet does not have: {first_problem(error)}"
            ) from None
    min_size, max_size = (600, 900) if found.backbone == "r50" else (800, 1333)
    return Recipe(
        data=DataConfig(min_size=min_size, max_size=max_size),
        model=ModelConfig(
            detector="fcos", backbone=found.backbone, backbone_style="caffe",
            occluder_sampling="official", mask_proposals="official", mask_rois_per_image=0,
        ),
        loss=LossConfig(normalizer="official", giou="official"),
    )  # fmt: skip


def _from_bcnet(checkpoint: Checkpoint, path: Path) -> Converted:
    """Treat a checkpoint of bcnet like published weights."""
    is_complete = checkpoint.part_of is None
    model = recipe_of(replace(checkpoint, part_of=None), path).model
    return Converted(
        "a bcnet checkpoint" if is_complete else "an initialization for bcnet",
        style=model.backbone_style,
        detector=model.detector if any(name.startswith("heads.") for name in checkpoint.model) else None,
        complete=is_complete,
        classes=len(checkpoint.categories) or None,
        backbone=model.backbone,
        tensors=dict(checkpoint.model),
        sources={name: (name,) for name in checkpoint.model},
    )


def _name_classes(found: Converted, path: Path, given: Path | None) -> list[Record]:
    """Return the categories of published weights by id, which is the label order of the official code.

    They come from the COCO file `given`, or the weight file knows them, or they are COCO's 80.

    Raises:
        BCNetError: if the numbers differ, or categories are given for weights without classes.
    """
    if found.classes is None:
        if given is not None:
            raise usage_error(f"`{path}` is {found.origin}: it knows no classes", "leave out --categories")
        return []
    if given is None and found.class_names:
        return [{"id": number, "name": name} for number, name in enumerate(found.class_names, 1)]
    categories = read_coco(given, need_annotations=False).categories if given else coco_categories()
    if len(categories) == found.classes:
        return in_id_order(categories)
    if given is not None:
        raise data_error(
            f"`{path}` tells {found.classes} classes apart, `{given}` has {len(categories)} categories",
            "give the COCO file that it was trained on, or take the other layers alone: --drop-classes",
        )
    command = f"bcnet weights import {shlex.quote(str(path))} -o init.pt"
    raise usage_error(
        f"`{path}` tells {found.classes} classes apart, COCO has {len(categories)}",
        f"name them by the COCO file that it was trained on: {command} --categories FILE.json",
        f"or take the other layers for a training to begin with: {command} --drop-classes",
    )


def fit(found: Converted, shapes: Shapes, path: Path) -> None:
    """Check every tensor against a model of these shapes.

    Of an initialization, the layers around the ResNet that the model does not have, or of which the file has only a
    part, are dropped.

    Raises:
        BCNetError: with a table of what does not fit.
    """
    given = shapes_of(found.tensors)
    has_body = any(name.startswith(BODY) for name in given)
    layers = {layer_of(name) for name in given}
    unfit = []
    for name in [name for name in {**given, **shapes} if given.get(name) != shapes.get(name)]:
        must_fit = found.complete or re.match(found.must_fit, name)
        if must_fit and (has_body or not name.startswith(BODY)):
            unfit.append(name)
        elif layer_of(name) in layers:
            in_file, in_model = (side.get(name, "missing") for side in (given, shapes))
            found.drop_layer(layer_of(name), f"`{name}` is {in_file} in the file, {in_model} in bcnet")
    if not unfit:
        return
    rows = [("in the file", "shape", f"in bcnet's {found.backbone}", "shape")]
    for name in unfit[:MAX_ROWS]:
        sources = found.sources.get(name, ("-",))
        source = sources[0] + (", ..." if len(sources) > 1 else "")
        rows.append((source, str(given.get(name, "-")), name if name in shapes else "-", str(shapes.get(name, "-"))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    left_over, missing = sum(name not in shapes for name in unfit), sum(name not in given for name in unfit)
    raise data_error(
        f"`{path}` looks like {found.origin}, but its tensors do not fit: {left_over} left over, {missing} missing, "
        f"{len(unfit) - left_over - missing} of another shape (bcnet's model has {len(shapes)})",
        *lines,
        *([f"and {len(unfit) - MAX_ROWS} more"] if len(unfit) > MAX_ROWS else []),
    )


def _check_finite(found: Converted, path: Path) -> None:
    """Reject weights with NaN or infinity: every prediction would be NaN."""
    broken = [name for name, tensor in found.tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise data_error(
            f"`{path}` holds numbers that are not finite, in {len(broken)} of {len(found.tensors)} tensors, "
            f"the first is `{found.sources.get(broken[0], broken)[0]}`",
            "its training has probably diverged; take an earlier checkpoint of it",
        )


def _report(found: Converted, fresh: Iterable[str]) -> ImportReport:
    dropped: dict[str, list[str]] = {}
    for name, reason in found.dropped.items():
        dropped.setdefault(reason, []).append(name)
    left, defaults = count_parts(fresh), ModelConfig().model_dump()
    settings = {key: value for key, value in found.settings.items() if value != defaults[key]}
    return ImportReport(
        found.origin, found.detector, found.backbone, found.style, settings, found.classes,
        whole=not left, placed=count_parts(found.tensors), fresh=left, dropped=dropped,
    )  # fmt: skip
