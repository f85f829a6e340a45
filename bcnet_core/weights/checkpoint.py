"""Checkpoints: everything a run needs to go on, written whole or not at all, read without running code."""

from __future__ import annotations

import re
import reprlib
import shlex
import shutil
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from bcnet_core.annotations.coco import Record
from bcnet_core.config.schema import Recipe
from bcnet_core.errors import data_error
from bcnet_core.files.outputs import atomic_file
from bcnet_core.weights.files import is_plain, read_safely

CHECKPOINT_DIR = "checkpoints"
"""The folder of a run directory that holds its checkpoints."""
DETECTRON2_FILE = "last_checkpoint"
"""In which a run of detectron2 names its newest checkpoint."""
DETECTRON2_KEY = "bcnet"
"""Under which its checkpointer saves what only we know of a run."""
FORMAT = 1
"""Version of the file format; a reader refuses what is newer."""
MOST_STEPS = 10**8
"""More than any run has; the names of its checkpoints have as many digits."""
FIELD_TYPES = {
    "step": int, "recipe": dict, "categories": list, "model": dict, "optimizer": dict, "scaler": dict, "averaged": dict,
}  # fmt: skip
"""What the fields of a checkpoint are, as far as a reader relies on it."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after some steps.

    Attributes:
        step: optimiser steps done. Learning rate, order, augmentation and sampling follow from it and the recipe, so
            no state of a schedule, a sampler or a generator is kept.
        recipe: the resolved recipe, as plain values.
        categories: the COCO categories, in label order.
        model: the detector's state dict.
        optimizer: the optimiser's state dict.
        scaler: the state dict of the loss scaler, empty unless precision is fp16.
        averaged: the state dict of the averaged weights, empty without solver.ema.
        part_of: None where `model` is whole. A number makes this an *initialisation*: it holds some of that many
            tensors, for training to begin with, and a `recipe` that says no more than whose backbone they fit.
    """

    step: int
    recipe: dict[str, Any]
    categories: list[Record]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] = field(default_factory=dict)
    averaged: dict[str, Any] = field(default_factory=dict)
    part_of: int | None = None

    def for_use(self) -> Checkpoint:
        """The weights to predict with, or to begin another run with: the averaged ones where there are, alone."""
        return replace(self, model=self.averaged or self.model, optimizer={}, scaler={}, averaged={})


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically.

    Args:
        path: the file; an older one is replaced.
        checkpoint: the state.

    Raises:
        BCNetError: if it cannot be written; an older file at `path` stays as it was.
    """
    fields = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__}
    save_content(path, {"format": FORMAT, **fields})


def save_content(path: Path, content: dict[str, Any]) -> None:
    """Write what `torch.save` writes, atomically.

    Raises:
        BCNetError: see `save_checkpoint`.
    """
    with atomic_file(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch's writer does not say what the system said
            raise OSError(f"it could not be written whole ({str(error).splitlines()[0]})") from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        BCNetError: if the file is missing, damaged, not ours, or of a newer format.
    """
    if not path.exists():
        raise data_error(f"the checkpoint `{path}` does not exist")
    if path.is_file() and not zipfile.is_zipfile(path):  # which is what torch writes, so it is no use to look further
        raise data_error(f"`{path}` is not a bcnet checkpoint, or is cut off", *_ways_out(path))
    content = read_safely(path, "a bcnet checkpoint", *_ways_out(path))
    if not isinstance(content, dict) or "format" not in content:
        raise data_error(f"`{path}` is not a bcnet checkpoint", *_ways_out(path))
    version = content.pop("format")
    if type(version) is not int or version != FORMAT:
        raise data_error(
            f"`{path}` has checkpoint format {reprlib.repr(version)}, this bcnet reads {FORMAT}", "update bcnet"
        )
    content.pop("schedule", None)  # which the first checkpoints had
    for name, empty in (("part_of", None), ("scaler", {}), ("averaged", {})):
        content.setdefault(name, empty)  # which they did not have
    if wrong := _what_is_wrong(content):
        raise data_error(f"`{path}` is not a bcnet checkpoint: {wrong}", *_ways_out(path))
    return Checkpoint(**content)


def _what_is_wrong(content: dict[str, Any]) -> str | None:
    """Why these are not the fields of a checkpoint."""
    fields = Checkpoint.__dataclass_fields__.keys()
    if missing := sorted(fields - content.keys()):
        return f"it lacks {', '.join(missing)}"
    if unknown := sorted(map(str, content.keys() - fields)):
        return f"it holds {', '.join(unknown)}, which this bcnet does not know"
    for name, kind in FIELD_TYPES.items():
        if not isinstance(content[name], kind):
            return f"its {name} is of type {type(content[name]).__name__}"
    numbers = {name: content[name] or 0 for name in ("step", "part_of")}
    if odd := [name for name, one in numbers.items() if type(one) is not int or not 0 <= one < MOST_STEPS]:
        return f"its {odd[0]} is {reprlib.repr(numbers[odd[0]])}"
    if not all(isinstance(one, dict) and type(one.get("id")) is int and "name" in one for one in content["categories"]):
        return "its categories have no ids and names"
    plain = all(_is_state_dict(content[part]) for part in ("model", "averaged"))
    return None if plain else "its model holds other things than tensors"


def _is_state_dict(part: dict[Any, Any]) -> bool:
    return all(
        isinstance(name, str) and isinstance(tensor, Tensor) and is_plain(tensor) for name, tensor in part.items()
    )


def _ways_out(path: Path) -> tuple[str, str, str]:
    """What to do about a file that is no checkpoint of ours."""
    published = f"bcnet weights import {shlex.quote(str(path))} -o bcnet.pt"
    return (
        "give a run or a checkpoint; bcnet train writes them",
        f"of published weights, make one: {published}",
        f"of a detector of detectron2, too: {conversion(path)}",
    )


def conversion(path: Path) -> str:
    """The command that makes a detector of detectron2 one of ours."""
    return f"bcnet weights convert {shlex.quote(str(path))} --to torchvision -o bcnet.pt"


def recipe_of(checkpoint: Checkpoint, path: Path) -> Recipe:
    """The recipe that a checkpoint was trained with.

    Raises:
        BCNetError: if this version does not know one of its settings, or the checkpoint is an initialisation, which
            was not trained with any.
    """
    if checkpoint.part_of is not None:
        raise data_error(
            f"`{path}` is an initialisation, no trained detector: it only holds {len(checkpoint.model)} of the "
            f"{checkpoint.part_of} tensors of a model",
            f"use it with bcnet train RECIPE --init-from {shlex.quote(str(path))}",
        )
    try:
        return Recipe.model_validate(checkpoint.recipe)
    except ValidationError as error:
        first = error.errors()[0]
        raise data_error(
            f"`{path}` was trained with a setting that this bcnet does not know: "
            f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}",
            "use the bcnet version that env.json in its run directory names",
        ) from None


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Where a run keeps its checkpoint of a step."""
    return run_dir / CHECKPOINT_DIR / f"step_{step:08d}.pt"


def checkpoint_step(path: Path) -> int:
    """The step that a checkpoint's name tells."""
    return int(path.stem.removeprefix("step_"))


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoints of a run by their steps, the newest last."""
    found = (run_dir / CHECKPOINT_DIR).glob("step_*.pt")
    return sorted(path for path in found if re.fullmatch(r"step_\d{8}\.pt", path.name))


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run, None where it has none."""
    return max(list_checkpoints(run_dir), default=None)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a user means by a run directory or a file.

    Raises:
        BCNetError: if there is none.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise data_error(f"`{path}` does not exist", "give a run directory or a checkpoint file")
    latest = latest_checkpoint(path)
    if latest is not None:
        return latest
    if (path / DETECTRON2_FILE).is_file():
        raise data_error(
            f"`{path}` is a run of detectron2",
            "train, eval and viz take it with --backend detectron2",
            f"for everything else convert it: {conversion(path)}",
        )
    if (path / "annotations").is_dir():
        raise data_error(
            f"`{path}` holds no checkpoint, it looks like a data root",
            f"name one of its json files: {path / 'annotations'}/NAME.json",
            f"or a run, and where its data is: RUN --data-root {shlex.quote(str(path))}",
        )
    pictures = (one for one in path.glob("*") if one.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if not (path / CHECKPOINT_DIR).exists() and any(pictures):  # a run has a picture of its curves
        raise data_error(
            f"`{path}` holds no checkpoint, it looks like a folder of images",
            "name the json that lists them, or a run and the data root that they are in: RUN --data-root DIR",
        )
    raise data_error(f"`{path}` holds no checkpoint", "is it a run directory? Training writes one: bcnet train")


def best_path(run_dir: Path) -> Path:
    """Where a run that is evaluated keeps its best checkpoint."""
    return run_dir / CHECKPOINT_DIR / "best.pt"


def keep_as_best(path: Path, run_dir: Path) -> None:
    """Make a checkpoint of a run its best one; it takes no more space as long as it is among the newest."""
    with atomic_file(best_path(run_dir)) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(path)
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)


def drop_old_checkpoints(run_dir: Path, *, keep: int) -> None:
    """Remove all but the newest checkpoints of a run; not the best."""
    for path in list_checkpoints(run_dir)[:-keep]:
        path.unlink()
