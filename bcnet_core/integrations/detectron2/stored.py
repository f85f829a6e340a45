"""Detectors in files of detectron2: what a run saves beside its tensors, and renaming between the two backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn
from yaml import YAMLError

from bcnet_core.annotations.coco import Record
from bcnet_core.config.data import DataConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.errors import data_error, usage_error
from bcnet_core.integrations.detectron2.config import (
    config_from_recipe,
    config_from_yaml,
    fresh_config,
    recipe_from_config,
)
from bcnet_core.integrations.detectron2.data import registered_categories, registered_paths
from bcnet_core.integrations.detectron2.fcos import BilayerFCOS
from bcnet_core.weights.checkpoint import (
    DETECTRON2_FILE,
    DETECTRON2_KEY,
    Checkpoint,
    find_checkpoint,
    is_checkpoint,
    parse_checkpoint,
    recipe_of,
)
from bcnet_core.weights.files import named_tensors, read_weight_file
from bcnet_core.weights.from_detectron2 import BOX_HEAD, bilayer_fcos_name, detectron2_name, move_background
from bcnet_core.weights.loading import check_shapes, model_shapes, shapes_of

MERGE_ERRORS = (OSError, KeyError, ValueError, AssertionError, AttributeError, YAMLError)
"""Errors of yacs about a config, or a setting, that does not fit."""


@dataclass
class Origin:
    """Addition of bcnet to a checkpoint of detectron2; a "checkpointable" of detectron2's checkpointer.

    Attributes:
        config: the whole config, as yaml.
        categories: COCO categories in label order.
        data: location of the data, as plain values of `DataConfig`.
        recipe: recipe that the config was made from, as plain values; empty if the config is a user's own.
    """

    config: str
    categories: list[Record]
    data: dict[str, Any]
    recipe: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        """Return the content to save."""
        return dict(self.__dict__)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing: a resumed run keeps the settings it is asked for, which were compared before."""


def origin_of(cfg: CfgNode) -> Origin:
    """Return the origin of a config whose data sets are registered with detectron2.

    Raises:
        BCNetError: if one is not registered.
    """
    categories = registered_categories(cfg.DATASETS.TRAIN[0], classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    names = {"train": cfg.DATASETS.TRAIN[0], **({"val": cfg.DATASETS.TEST[0]} if cfg.DATASETS.TEST else {})}
    paths = {key: path for key, name in names.items() if (path := registered_paths(name)) is not None}
    return Origin(cfg.dump(), categories, DataConfig(**paths).model_dump(mode="json"), {})


@dataclass(frozen=True)
class Stored:
    """A detector of detectron2, read from a file.

    Attributes:
        path: the file.
        tensors: state dict under detectron2's names.
        origin: config, categories and data of the detector.
        steps: optimizer steps done.
        native: whether the file is detectron2's, not a checkpoint of the torchvision backend.
    """

    path: Path
    tensors: dict[str, Tensor]
    origin: Origin
    steps: int
    native: bool

    @property
    def config(self) -> CfgNode:
        """A new copy of the config."""
        return config_from_yaml(self.origin.config)

    @property
    def recipe(self) -> Recipe:
        """Recipe that it was trained with, or one made from its config (if our backend has such a detector)."""
        if self.origin.recipe:
            return Recipe.model_validate(self.origin.recipe)
        found = recipe_from_config(self.config)
        own = found.data.model_dump(include={"min_size", "max_size", "boxes"})
        return found.model_copy(update={"data": DataConfig.model_validate({**self.origin.data, **own})})

    def build(self, device: str, *, detections_per_image: int | None = None) -> nn.Module:
        """Build the detector in evaluation mode; it keeps `detections_per_image`, if given, instead of its config's.

        Raises:
            BCNetError: if the tensors are not those of the config's model.
        """
        cfg = self.config
        cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = device, ""
        if detections_per_image is not None:
            cfg.TEST.DETECTIONS_PER_IMAGE = detections_per_image
        model: nn.Module = build_model(cfg)
        check_shapes(shapes_of(model.state_dict()), self.tensors, self.path)
        model.load_state_dict(self.tensors)
        return model.eval()


def find_stored(path: Path) -> Path:
    """Return the file that a user means by a run of either backend, or by a file.

    Raises:
        BCNetError: if there is none.
    """
    last = path / DETECTRON2_FILE
    if last.is_file():
        return path / last.read_text(encoding="utf-8").strip()
    return find_checkpoint(path)


def read_stored(path: Path, *, config: Path | None = None, categories: Sequence[Record] | None = None) -> Stored:
    """Read a detector of either backend from a file or a run, with its tensors under detectron2's names.

    A checkpoint that detectron2 trained without `bcnet` needs its config, and its categories in label order.

    Raises:
        BCNetError: if the file cannot be read, or neither the file nor `config` says what detector it is.
    """
    file = find_stored(path)
    content = read_weight_file(file)
    if is_checkpoint(content):
        return _from_torchvision(parse_checkpoint(content, file).for_inference(), file)
    tensors = named_tensors(content, file)
    more = content if isinstance(content, dict) else {}
    if isinstance(more.get(DETECTRON2_KEY), dict):
        origin = _origin(more[DETECTRON2_KEY], file)
    elif config is not None and categories is not None:
        cfg = read_config(config)
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(categories)
        origin = Origin(cfg.dump(), list(categories), DataConfig().model_dump(mode="json"), {})
    else:
        raise data_error(
            f"`{file}` does not say what detector it is of",
            "bcnet train --backend detectron2 writes files that do; for another: bcnet weights convert --d2-config",
        )
    return Stored(file, tensors, origin, int(more.get("iteration", -1)) + 1, native=True)


def read_config(path: Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Read a yacs config of detectron2 with its `_BASE_`, and merge `KEY=VALUE` overrides into it.

    Raises:
        BCNetError: if the config cannot be read, or an override does not fit.
    """
    if path.suffix not in {".yaml", ".yml"}:
        raise usage_error(
            f"`{path}` is no yaml config",
            "a LazyConfig (.py) is a program of its own: run it with detectron2's tools/lazyconfig_train_net.py, "
            "see docs/detectron2.md",
        )
    cfg = fresh_config()
    try:
        cfg.merge_from_file(str(path))
    except MERGE_ERRORS as error:
        raise usage_error(f"`{path}` is not a config of detectron2: {_first_line(error)}") from None
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise usage_error(f"`{override}` is no setting", "KEY=VALUE, for example SOLVER.MAX_ITER=1000")
        try:
            cfg.merge_from_list([key, value])
        except MERGE_ERRORS as error:
            raise usage_error(f"`{override}` does not fit the config: {_first_line(error)}") from None
    return cfg


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def to_torchvision(stored: Stored) -> Checkpoint:
    """Convert a detector of detectron2 to a checkpoint of the torchvision backend.

    Raises:
        BCNetError: if the torchvision backend does not have such a detector.
    """
    recipe = stored.recipe
    rcnn_name = partial(detectron2_name, box_head=recipe.model.box_head)
    name_of = bilayer_fcos_name if recipe.model.detector == "fcos" else rcnn_name
    tensors = {}
    for name, tensor in stored.tensors.items():
        place = name_of(name) or name  # an unknown one keeps its name, and is left over
        tensors[place] = move_background(place, tensor, to=0)
    check_shapes(model_shapes(recipe, classes=len(stored.origin.categories)), tensors, stored.path)
    return Checkpoint(stored.steps, recipe.model_dump(mode="json"), stored.origin.categories, tensors, optimizer={})


def detectron2_tensors(ours: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename tensors of the torchvision backend to those of the same detector in detectron2, where it has them."""
    rcnn_name = partial(detectron2_name, box_head="conv" if f"{BOX_HEAD}5.weight" in ours else "linear")
    name_of = bilayer_fcos_name if isinstance(model, BilayerFCOS) else rcnn_name
    places = {name: name_of(name) or "" for name in model.state_dict()}
    return {name: move_background(place, ours[place], to=-1) for name, place in places.items() if place in ours}


def _from_torchvision(checkpoint: Checkpoint, file: Path) -> Stored:
    recipe = recipe_of(checkpoint, file)
    cfg = config_from_recipe(recipe, num_classes=len(checkpoint.categories))
    plain = recipe.model_dump(mode="json")
    origin = Origin(cfg.dump(), checkpoint.categories, plain["data"], plain)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    return Stored(file, detectron2_tensors(checkpoint.model, model), origin, checkpoint.step, native=False)


def _origin(content: Mapping[str, Any], file: Path) -> Origin:
    """Validate what a file says about itself."""
    try:
        origin = Origin(**content)
        DataConfig.model_validate(origin.data)
        if origin.recipe:
            Recipe.model_validate(origin.recipe)
        config_from_yaml(origin.config)
    except (TypeError, *MERGE_ERRORS) as error:
        raise data_error(f"`{file}` does not describe its detector as this bcnet expects: {error}") from None
    return origin
