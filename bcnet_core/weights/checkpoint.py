"""Checkpoints: the complete state of a run, written atomically and read without running code."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

from bcnet_core.annotations.coco import Record
from bcnet_core.config.schema import Recipe
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.outputs import atomic_file
from bcnet_core.weights.files import read_weight_file

CHECKPOINT_DIR = "checkpoints"
"""Folder of a run directory that holds its checkpoints."""
DETECTRON2_FILE = "last_checkpoint"
"""File in which a run of detectron2 names its newest checkpoint."""
DETECTRON2_KEY = "bcnet"
"""Key under which detectron2's checkpointer saves what bcnet adds to a run."""
EXPORTED = ".onnx"
"""Suffix of the files that `bcnet predict` runs with onnxruntime; they are no checkpoints."""
FORMAT = 1
"""Version of the file format; newer ones are rejected."""
MAX_STEPS = 10**8
"""More than any run has: file names of checkpoints have eight digits."""


def _check_category(category: Record) -> Record:
    if type(category.get("id")) is not int or "name" not in category:
        raise ValueError("a category needs an integer id and a name")
    return category


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True))
class Checkpoint:
    """The state of a run after some steps.

    Attributes:
        step: optimizer steps done. Learning rate, order, augmentation and sampling follow from it and the recipe, so
            no state of a schedule, a sampler or a random generator is stored.
        recipe: the resolved recipe, as plain values.
        categories: COCO categories in label order.
        model: state dict of the detector.
        optimizer: state dict of the optimizer.
        scaler: state dict of the loss scaler, empty unless precision is fp16.
        averaged: state dict of the EMA weights, empty without solver.ema.
        part_of: None if `model` is complete. A number marks an *initialization*: `model` holds some of that many
            tensors, for training to start from, and `recipe` only says which backbone and detector they fit.
    """

    step: Annotated[int, Field(ge=0, lt=MAX_STEPS)]
    recipe: dict[str, Any]
    categories: list[Annotated[dict[str, Any], AfterValidator(_check_category)]]
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] = Field(default_factory=dict)
    averaged: dict[str, Tensor] = Field(default_factory=dict)
    part_of: Annotated[int, Field(ge=0, lt=MAX_STEPS)] | None = None

    def for_inference(self) -> Checkpoint:
        """Return a copy with the EMA weights if available, without optimizer state."""
        return replace(self, model=self.averaged or self.model, optimizer={}, scaler={}, averaged={})


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically; an older file is replaced.

    Raises:
        BCNetError: if it cannot be written; an older file at `path` stays as it was.
    """
    save_content(path, {"format": FORMAT, **vars(checkpoint)})


def save_content(path: Path, content: dict[str, Any]) -> None:
    """Write a file with `torch.save`, like `save_checkpoint`."""
    with atomic_file(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch's writer hides the system's error
            raise OSError(f"it could not be written whole ({str(error).splitlines()[0]})") from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        BCNetError: if the file is missing, damaged, not a checkpoint of bcnet, or of a newer format.
    """
    if not path.exists():
        raise data_error(f"the checkpoint `{path}` does not exist")
    return parse_checkpoint(read_weight_file(path, kind="a bcnet checkpoint", hints=_ways_out(path)), path)


def is_checkpoint(content: object) -> bool:
    """Return whether the content of a weight file is a checkpoint of bcnet."""
    return isinstance(content, dict) and {"format", "recipe", "categories"} <= content.keys()


def parse_checkpoint(content: object, path: Path) -> Checkpoint:
    """Validate the content of a checkpoint that has been read from `path`.

    Raises:
        BCNetError: see `read_checkpoint`.
    """
    if not isinstance(content, dict) or "format" not in content:
        raise _not_a_checkpoint(path)
    version = content["format"]
    if type(version) is not int or version != FORMAT:
        raise data_error(f"`{path}` has checkpoint format {version!r:.80}, this bcnet reads {FORMAT}", "update bcnet")
    # The first checkpoints had a schedule, which is not used.
    kept = {name: value for name, value in content.items() if name not in {"format", "schedule"}}
    try:
        return Checkpoint(**kept)
    except ValidationError as error:
        raise _not_a_checkpoint(path, f": {first_problem(error)}") from None
    except TypeError:  # from Python: a key that is not a string
        raise _not_a_checkpoint(path) from None


def first_problem(error: ValidationError) -> str:
    """Return the place and the message of the first problem that a validation found."""
    first = error.errors(include_url=False)[0]
    return f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}"


def _not_a_checkpoint(path: Path, reason: str = "") -> BCNetError:
    return data_error(f"`{path}` is not a bcnet checkpoint{reason}", *_ways_out(path))


def _ways_out(path: Path) -> tuple[str, ...]:
    """Return hints for a file that is not a checkpoint of bcnet."""
    if path.suffix.lower() == EXPORTED:
        return (
            f"an exported file predicts: bcnet predict {shlex.quote(str(path))} PHOTOS -o results.json",
            "and its results are scored: bcnet eval --results results.json --gt instances.json",
        )
    return (
        "give a run or a checkpoint; bcnet train writes them",
        f"published weights become one by: bcnet weights import {shlex.quote(str(path))} -o bcnet.pt",
        f"a detector of detectron2 by: {conversion_command(path)}",
    )


def conversion_command(path: Path) -> str:
    """Return the command that converts a detector of detectron2 to a checkpoint of bcnet."""
    return f"bcnet weights convert {shlex.quote(str(path))} --to torchvision -o bcnet.pt"


def recipe_of(checkpoint: Checkpoint, path: Path) -> Recipe:
    """Return the recipe that a checkpoint was trained with.

    Raises:
        BCNetError: if this version does not know one of its settings, or the checkpoint is an initialization, which
            was not trained with any.
    """
    if checkpoint.part_of is not None:
        raise data_error(
            f"`{path}` is an initialization, not a trained detector: it only holds {len(checkpoint.model)} of the "
            f"{checkpoint.part_of} tensors of a model",
            f"use it with bcnet train RECIPE --init-from {shlex.quote(str(path))}",
        )
    try:
        return Recipe.model_validate(checkpoint.recipe)
    except ValidationError as error:
        raise data_error(
            f"`{path}` was trained with a setting that this bcnet does not know: {first_problem(error)}",
            "use the bcnet version that env.json in its run directory names",
        ) from None


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Return where a run keeps its checkpoint of a step."""
    return run_dir / CHECKPOINT_DIR / f"step_{step:08d}.pt"


def checkpoint_step(path: Path) -> int:
    """Return the step in the name of a checkpoint file."""
    return int(path.stem.removeprefix("step_"))


def list_checkpoints(run_dir: Path) -> list[Path]:
    """List the checkpoints of a run by step, the newest last."""
    return sorted((run_dir / CHECKPOINT_DIR).glob(f"step_{'[0-9]' * 8}.pt"))


def latest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint of a run, None if it has none."""
    return max(list_checkpoints(run_dir), default=None)


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a user means by a run directory or a file.

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
    message, hints = f"`{path}` holds no checkpoint", ["is it a run directory? Training writes one: bcnet train"]
    images = (one for one in path.glob("*") if one.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if (path / DETECTRON2_FILE).is_file():
        message = f"`{path}` is a run of detectron2"
        hints = [
            "train, eval and viz take it with --backend detectron2",
            f"for everything else convert it: {conversion_command(path)}",
        ]
    elif (path / "annotations").is_dir():
        message += ", it looks like a data root"
        hints = [
            f"name one of its json files: {path / 'annotations'}/NAME.json",
            f"or a run, and where its data is: RUN --data-root {shlex.quote(str(path))}",
        ]
    elif not (path / CHECKPOINT_DIR).exists() and any(images):  # a run has a plot of its curves
        message += ", it looks like a folder of images"
        hints = ["name the json that lists them, or a run and the data root that they are in: RUN --data-root DIR"]
    raise data_error(message, *hints)


def best_path(run_dir: Path) -> Path:
    """Return where a run with evaluations keeps its best checkpoint."""
    return run_dir / CHECKPOINT_DIR / "best.pt"


def keep_as_best(path: Path, run_dir: Path) -> None:
    """Make a checkpoint the best of its run, as a hard link where possible, to save disk space."""
    with atomic_file(best_path(run_dir)) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(path)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)


def drop_old_checkpoints(run_dir: Path, *, keep: int) -> None:
    """Remove all but the newest checkpoints of a run; the best one stays."""
    for path in list_checkpoints(run_dir)[:-keep]:
        path.unlink()
