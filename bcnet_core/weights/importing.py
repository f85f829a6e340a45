"""Published weights become checkpoints of ours: read, told apart, brought under our names, checked to the last tensor.

The official release becomes a whole checkpoint, which predicts at once. Everything else becomes an *initialisation*: a
part of a model for `bcnet train --init-from` to begin with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from bcnet_core.annotations.coco import Record, read_coco
from bcnet_core.annotations.coco_categories import coco_categories
from bcnet_core.config.choices import BackboneName, BackboneStyle, DetectorName
from bcnet_core.config.schema import DataConfig, LossConfig, ModelConfig, Recipe
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.weights.checkpoint import DETECTRON2_KEY, Checkpoint, conversion, read_checkpoint, recipe_of
from bcnet_core.weights.files import named_tensors, read_content
from bcnet_core.weights.loading import model_shapes
from bcnet_core.weights.official import BODY
from bcnet_core.weights.pretrained import Converted, convert, count_parts, depends_on_classes

Shapes = Mapping[str, tuple[int, ...]]
Row = tuple[object, object, object, object]
"""Of the table of what does not fit: name and shape in the file, name and shape here; "-" where there is none."""

MOST_ROWS = 20
"""Shown of that table."""
CLASS_LAYER = "its shape depends on the classes (--drop-classes)"


@dataclass(frozen=True)
class ImportReport:
    """What became of a weight file.

    Attributes:
        origin: what it was taken for, in words.
        detector: that the weights fit; None for a bare backbone, which fits both.
        backbone: whose weights are in it.
        style: of that backbone; it has to be the recipe's `model.backbone_style`.
        classes: how many it knows, None for an initialisation without class-dependent layers.
        whole: whether the checkpoint is a whole detector, not an initialisation.
        placed: how many tensors of each part of the model are filled.
        fresh: how many stay as training initialises them.
        dropped: reason to the names, as they stand in the file.
    """

    origin: str
    detector: DetectorName | None
    backbone: BackboneName
    style: BackboneStyle
    classes: int | None
    whole: bool
    placed: dict[str, int]
    fresh: dict[str, int]
    dropped: dict[str, list[str]]


def import_weights(
    path: Path, *, categories: Path | None = None, drop_classes: bool = False
) -> tuple[Checkpoint, ImportReport]:
    """Make a checkpoint of a weight file, without running anything that the file may hold.

    Args:
        path: the file.
        categories: a COCO file with the categories that the weights were trained on; not needed for COCO's 80.
        drop_classes: leave out the layers whose shape depends on the classes.

    Returns:
        The checkpoint, without optimiser, and what became of the tensors.

    Raises:
        BCNetError: if the file cannot be read, is of no known kind, or its tensors do not fit; the message names both
            sides.
    """
    if categories is not None and drop_classes:
        raise usage_error("--categories and --drop-classes exclude each other", "without classes, no names are needed")
    content = read_content(path)
    if isinstance(content, dict) and DETECTRON2_KEY in content:
        raise usage_error(
            f"`{path}` is a whole detector that detectron2 trained for bcnet, nothing to import",
            f"make it one of the torchvision backend: {conversion(path)}",
        )
    if isinstance(content, dict) and {"format", "recipe", "categories"} <= content.keys():
        if categories is not None:
            raise usage_error(f"`{path}` knows its categories", "leave out --categories")
        found, checkpoint = own_weights(path)
    else:
        found = convert(named_tensors(content, path), path)
        named = [] if drop_classes else name_classes(found, path, categories)
        checkpoint = Checkpoint(0, _recipe_for(found).model_dump(mode="json"), named, model={}, optimizer={})
    recipe = Recipe.model_validate(checkpoint.recipe)
    shapes = model_shapes(recipe, classes=num_classes(found.tensors) or 1)
    fit(found, shapes, path)
    refuse_not_finite(found, path)
    if drop_classes:
        checkpoint = replace(checkpoint, categories=[])
        for name in filter(depends_on_classes, list(found.tensors)):
            found.drop(name, CLASS_LAYER)
    fresh = shapes.keys() - found.tensors.keys()
    if fresh:
        checkpoint = replace(checkpoint, step=0, part_of=len(shapes))
    return replace(checkpoint, model=found.tensors), _report(found, fresh)


def release_recipe(backbone: BackboneName) -> Recipe:
    """The settings that the official FCOS release was trained and evaluated with."""
    min_size, max_size = (600, 900) if backbone == "r50" else (800, 1333)
    return Recipe(
        data=DataConfig(min_size=min_size, max_size=max_size),
        model=ModelConfig(
            detector="fcos", backbone=backbone, backbone_style="caffe",
            occluder_sampling="official", mask_proposals="official", mask_rois_per_image=0,
        ),
        loss=LossConfig(normalizer="official", giou="official"),
    )  # fmt: skip


def _recipe_for(found: Converted) -> Recipe:
    """The settings of a model that published weights fit."""
    if found.whole:
        return release_recipe(found.backbone)
    detector = found.detector or "fcos"  # which one is all the same to a bare backbone
    return Recipe(model=ModelConfig(detector=detector, backbone=found.backbone, backbone_style=found.style))


def own_weights(file: Path) -> tuple[Converted, Checkpoint]:
    """A checkpoint of ours, less what only its run can go on with."""
    checkpoint = read_checkpoint(file).for_use()
    whole = checkpoint.part_of is None
    model = recipe_of(replace(checkpoint, part_of=None), file).model
    found = Converted(
        "a bcnet checkpoint" if whole else "an initialisation for bcnet",
        backbone=model.backbone,
        style=model.backbone_style,
        detector=model.detector if any(name.startswith("heads.") for name in checkpoint.model) else None,
        whole=whole,
        tensors=dict(checkpoint.model),
        theirs={name: name for name in checkpoint.model},
    )
    return found, checkpoint


def num_classes(tensors: Mapping[str, Tensor]) -> int | None:
    """How many classes the class-dependent layers of a detector of ours tell apart, None without such layers."""
    for layer, background in (("heads.boxes.classes", 0), ("heads.roi_heads.box_predictor.cls_score", 1)):
        for part in ("weight", "bias"):
            if f"{layer}.{part}" in tensors:
                return len(tensors[f"{layer}.{part}"]) - background
    return None


def name_classes(found: Converted, file: Path, given: Path | None) -> list[Record]:
    """The categories of published weights in the order of their ids, which is the official code's label order.

    Args:
        found: the weights.
        file: that they are from, for messages.
        given: a COCO file with their categories; None takes COCO's 80.

    Raises:
        BCNetError: if the numbers differ, or categories are given for weights without classes.
    """
    classes = num_classes(found.tensors)
    if classes is None:
        if given is not None:
            raise usage_error(f"`{file}` is {found.origin}: it knows no classes", "leave out --categories")
        return []
    categories = read_coco(given, need_annotations=False).categories if given else coco_categories()
    if len(categories) == classes:
        return sorted(categories, key=lambda category: int(category["id"]))
    if given is not None:
        raise data_error(
            f"`{file}` tells {classes} classes apart, `{given}` has {len(categories)} categories",
            "give the COCO file that it was trained on, or take the other layers alone: --drop-classes",
        )
    raise usage_error(
        f"`{file}` tells {classes} classes apart, COCO has {len(categories)}",
        "name them: --categories FILE.json, the COCO file that it was trained on",
        "or take the other layers for a training to begin with: --drop-classes",
    )


def fit(found: Converted, shapes: Shapes, file: Path) -> None:
    """Check every tensor against the model. Of an initialisation, what does not fit around the body is dropped.

    Args:
        found: the weights.
        shapes: of the model.
        file: that the weights are from, for messages.

    Raises:
        BCNetError: with a table of what does not fit.
    """
    given = {name: tuple(tensor.shape) for name, tensor in found.tensors.items()}
    if not found.whole:
        for name in [name for name in given if not name.startswith(BODY) and given[name] != shapes.get(name)]:
            found.drop(name, f"its shape is {given.pop(name)}, bcnet's is {shapes.get(name, 'none')}")
    has_body = any(name.startswith(BODY) for name in given)
    needed = [name for name in shapes if found.whole or (has_body and name.startswith(BODY))]
    rows: list[Row] = [
        (found.theirs.get(name, "-"), given.get(name, "-"), name if name in shapes else "-", shapes.get(name, "-"))
        for name in dict.fromkeys([*given, *needed])
        if given.get(name) != shapes.get(name)
    ]
    if found.whole:
        rows += [(name, found.sizes[name], "-", "-") for name in found.dropped]
    if rows:
        raise _misfit(found, rows, len(shapes), file)


def refuse_not_finite(found: Converted, file: Path) -> None:
    """Refuse weights that would make every answer not a number.

    Raises:
        BCNetError: naming the first such tensor as the file does.
    """
    broken = [name for name, tensor in found.tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        first = found.theirs.get(broken[0], broken[0])
        raise data_error(
            f"`{file}` holds numbers that are not finite, in {len(broken)} of {len(found.tensors)} tensors, "
            f"the first is `{first}`",
            "its training has probably diverged; take an earlier checkpoint of it",
        )


def _misfit(found: Converted, rows: list[Row], ours: int, file: Path) -> BCNetError:
    """The error that shows what does not fit."""
    over, missing = (sum(row[column] == "-" for row in rows) for column in (2, 0))
    table = [("in the file", "shape", f"in bcnet's {found.backbone}", "shape"), *rows[:MOST_ROWS]]
    cells = [[str(cell) for cell in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    more = [f"and {len(rows) - MOST_ROWS} more"] if len(rows) > MOST_ROWS else []
    return data_error(
        f"`{file}` looks like {found.origin}, but its tensors do not fit: {over} left over, {missing} missing, "
        f"{len(rows) - over - missing} of another shape (bcnet's model has {ours})",
        *lines,
        *more,
    )


def _report(found: Converted, fresh: Iterable[str]) -> ImportReport:
    dropped: dict[str, list[str]] = {}
    for name, reason in found.dropped.items():
        dropped.setdefault(reason, []).append(name)
    left = count_parts(fresh)
    return ImportReport(
        found.origin, found.detector, found.backbone, found.style, num_classes(found.tensors),
        whole=not left, placed=count_parts(found.tensors), fresh=left, dropped=dropped,
    )  # fmt: skip
