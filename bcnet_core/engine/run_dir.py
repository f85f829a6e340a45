"""The folder of a run: what was asked for, on what machine, and what came of it.

recipe.resolved.yaml  every setting        metrics.jsonl  one row a log interval, one an evaluation
env.json              versions, hardware   curves.png     the same as a picture, drawn when training ends
checkpoints/          step_00001000.pt, best.pt           tensorboard/   on request
"""

from __future__ import annotations

import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
import torchvision

from bcnet_core import __version__
from bcnet_core.annotations.coco import Record
from bcnet_core.config.load import dump_recipe, format_value, settings
from bcnet_core.config.schema import Recipe
from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.files.json_files import write_json
from bcnet_core.files.outputs import atomic_file, hold_lock, is_leftover
from bcnet_core.files.workers import deferred_signals
from bcnet_core.weights.checkpoint import (
    CHECKPOINT_DIR,
    DETECTRON2_FILE,
    find_checkpoint,
    latest_checkpoint,
    read_checkpoint,
    recipe_of,
)

MAY_CHANGE = {
    "data.root", "data.workers", "solver.checkpoint_every", "solver.keep_checkpoints", "solver.log_every",
    "solver.eval_every", "solver.compile",
}  # fmt: skip
"""Settings that a resumed run may change."""

RECIPE_FILE, ENV_FILE, METRICS_FILE = "recipe.resolved.yaml", "env.json", "metrics.jsonl"
CURVES_FILE, TENSORBOARD_DIR = "curves.png", "tensorboard"
HEADER = {RECIPE_FILE, ENV_FILE, METRICS_FILE, CURVES_FILE}
DETECTRON2_HEADER = ("config.yaml", "metrics.json", "log.txt*", "events.out.tfevents.*")
"""What a run of detectron2 writes before its first checkpoint."""
LOCK_FILE = ".lock"


@dataclass(frozen=True)
class Run:
    """A run that has been trained.

    Attributes:
        path: its folder; for a checkpoint file that is in no run's folder of them, the folder that holds it.
        checkpoint: its newest checkpoint, or the file that was asked for.
        recipe: what it was trained with.
        categories: what it was trained on, in label order.
    """

    path: Path
    checkpoint: Path
    recipe: Recipe
    categories: list[Record]


def open_run(path: Path) -> Run:
    """Open a run directory, or a checkpoint file.

    Raises:
        BCNetError: if there is no checkpoint, or it cannot be read.
    """
    checkpoint = find_checkpoint(path)
    content = read_checkpoint(checkpoint)
    folder = path if path.is_dir() else path.parent
    folder = folder.parent if folder.name == CHECKPOINT_DIR else folder
    return Run(folder, checkpoint, recipe_of(content, checkpoint), content.categories)


def refuse_taken(path: Path, command: str) -> None:
    """Refuse to train into a folder with something in it; a run that never saved anything is no obstacle.

    Args:
        path: the run directory.
        command: the command line without --run-dir, --resume and --init-from, for the way out.

    Raises:
        BCNetError: if there is a checkpoint, or any file that is not of a run.
    """
    if path.exists() and not path.is_dir():
        raise usage_error(f"the run directory `{path}` is a file", "choose another: --run-dir")
    names = _names(path)
    ours = RECIPE_FILE in names or (path / LOCK_FILE).exists()
    if names and not (ours and all(map(_is_header, names))):
        quoted = shlex.quote(str(path))
        raise usage_error(
            f"the run directory `{path}` is not empty",
            f"go on with that run:     {command} --run-dir {quoted} --resume",
            f"start from its weights:  {command} --run-dir {shlex.quote(f'{path}-2')} --init-from {quoted}",
        )


def refuse_other_recipe(checkpoint: Path, before: Recipe, now: Recipe) -> None:
    """Refuse to go on with a run whose science would change under way.

    Args:
        checkpoint: that is resumed from.
        before: the recipe it was trained with.
        now: the recipe that is asked for.

    Raises:
        BCNetError: naming the settings that differ, apart from those in `MAY_CHANGE`. A run may become longer, unless
            its learning rate depends on where it ends.
    """
    may_change = MAY_CHANGE | ({"solver.steps"} if now.solver.schedule == "step" else set())
    pairs = zip(settings(before), settings(now), strict=True)
    differ = [
        f"{old.key} was {format_value(old.value)}, now {format_value(new.value)}"
        for old, new in pairs
        if old.value != new.value and old.key not in may_change
    ]
    if differ:
        raise usage_error(
            f"`{checkpoint}` was trained with other settings",
            *differ,
            "go on with the same settings, or begin a new run from its weights: --init-from",
        )


def write_header(path: Path, recipe: Recipe, *, world_size: int, device: torch.device) -> None:
    """Write what a run is, before its first step."""
    with atomic_file(path / RECIPE_FILE) as temporary:
        temporary.write_text(dump_recipe(recipe), encoding="utf-8")
    on_gpu = device.type == "cuda"
    environment = {
        "bcnet": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "processes": world_size,
        "threads_per_process": torch.get_num_threads(),
        "command": sys.argv,
    }
    write_json(path / ENV_FILE, environment)


def remove_run(path: Path) -> None:
    """Remove a run and its evaluation, if there is one.

    Raises:
        BCNetError: if the folder holds anything else.
    """
    if path.is_dir() and not {item.name for item in path.iterdir() if not is_leftover(item)} <= HEADER | {
        CHECKPOINT_DIR,
        "eval",
        LOCK_FILE,
        TENSORBOARD_DIR,
    }:
        raise usage_error(f"`{path}` holds something else than a run, so it is not removed", "remove it yourself")
    if path.is_dir():
        shutil.rmtree(path)


def _names(path: Path) -> set[str]:
    """The files under a folder, less what a killed run leaves: its lock, TensorBoard's, a half-written checkpoint."""
    files = (item for item in path.rglob("*") if not item.is_dir() and not is_leftover(item))
    files = (item for item in files if item.parent.name != TENSORBOARD_DIR)
    return {item.name for item in files} - {LOCK_FILE}


def _is_header(name: str) -> bool:
    """Whether a run has a file of this name before its first checkpoint."""
    return name in HEADER or any(fnmatchcase(name, pattern) for pattern in DETECTRON2_HEADER)


@contextmanager
def exclusive_run(path: Path, command: str | None) -> Iterator[None]:
    """Keep other processes from training into the same folder; if the block fails unsaved, undo what it wrote.

    Args:
        path: the run directory.
        command: for `refuse_taken`, which nobody can make untrue in here; None to go on with what is there.

    Raises:
        BCNetError: if another process trains there, or the folder is taken, has a link in it where the run writes, or
            cannot be made.
    """
    if command is not None:
        refuse_taken(path, command)
    for name in HEADER:
        if (path / name).is_symlink():  # in a folder from elsewhere it could lead to any file
            raise usage_error(f"`{path / name}` is a link, which would be written through", "remove it")
    with ExitStack() as stack:
        if not path.exists():
            stack.callback(_remove_empty, path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            busy = usage_error(f"another process is training in `{path}`", "choose another: --run-dir")
            stack.enter_context(hold_lock(path / LOCK_FILE, busy))
        except OSError as error:
            raise BCNetError(f"cannot write `{path}`: {error.strerror}", "choose another: --run-dir") from None
        if command is not None:
            refuse_taken(path, command)
        _remove_left_overs(path)
        try:
            yield
        finally:
            with deferred_signals():
                if latest_checkpoint(path) is None and not (path / DETECTRON2_FILE).exists():
                    _discard(path)


def _discard(path: Path) -> None:
    _remove_left_overs(path)
    for item in [item for item in path.iterdir() if _is_header(item.name)]:
        item.unlink()
    shutil.rmtree(path / TENSORBOARD_DIR, ignore_errors=True)
    _remove_empty(path / CHECKPOINT_DIR)


def _remove_left_overs(path: Path) -> None:
    """Remove what a killed process of the run was writing."""
    for folder in (path, path / CHECKPOINT_DIR):
        for item in filter(is_leftover, folder.glob(".*")):
            item.unlink()


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # not there, or not empty: somebody put something into it
        folder.rmdir()
