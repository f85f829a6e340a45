"""The run directory: what was asked for, on which machine, and the results.

recipe.resolved.yaml  every setting        metrics.jsonl  one row a log interval, one an evaluation
env.json              versions, hardware   curves.png     the same as a plot, drawn when training ends
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
from bcnet_core.errors import BCNetError, ExitCode, usage_error
from bcnet_core.files.json_files import write_json
from bcnet_core.files.outputs import atomic_file, hold_lock, is_leftover
from bcnet_core.files.workers import deferred_signals
from bcnet_core.weights.checkpoint import (
    CHECKPOINT_DIR,
    DETECTRON2_FILE,
    latest_checkpoint,
)
from bcnet_core.weights.loading import Trained, read_trained

MAY_CHANGE = {
    "data.root", "data.workers", "solver.checkpoint_every", "solver.keep_checkpoints", "solver.log_every",
    "solver.eval_every", "solver.patience", "solver.compile",
}  # fmt: skip
"""Settings that a resumed run may change."""
RECIPE_FILE, ENV_FILE, METRICS_FILE = "recipe.resolved.yaml", "env.json", "metrics.jsonl"
CURVES_FILE, TENSORBOARD_DIR = "curves.png", "tensorboard"
HEADER = {RECIPE_FILE, ENV_FILE, METRICS_FILE, CURVES_FILE}
DETECTRON2_HEADER = ("config.yaml", "metrics.json", "log.txt*", "events.out.tfevents.*")
"""Files that a detectron2 run writes before its first checkpoint."""
LOCK_FILE = ".lock"
_LENGTHS = ("solver.steps", "solver.warmup_steps", "solver.milestones")


@dataclass(frozen=True)
class Run:
    """A trained run.

    Attributes:
        path: run directory, or the folder of a checkpoint file outside one.
        checkpoint: newest checkpoint, or the file that was asked for.
        categories: categories it was trained on, in label order.
        trained: its detector, which is built without reading the checkpoint again; None for the detectron2 backend.
    """

    path: Path
    checkpoint: Path
    recipe: Recipe
    categories: list[Record]
    trained: Trained | None = None


def open_run(path: Path) -> Run:
    """Open a run directory or a checkpoint file.

    Raises:
        BCNetError: if there is no checkpoint, or it cannot be read.
    """
    trained = read_trained(path)
    folder = path if path.is_dir() else path.parent
    folder = folder.parent if folder.name == CHECKPOINT_DIR else folder
    return Run(folder, trained.path, trained.recipe, trained.categories, trained)


def require_free_run_dir(path: Path, command: str) -> None:
    """Check that a run directory is empty, but for files of a run that never saved a checkpoint.

    `command` is the command line without --run-dir, --resume and --init-from, for the message.

    Raises:
        BCNetError: if there is a checkpoint, or any file that does not belong to a run.
    """
    if path.exists() and not path.is_dir():
        raise usage_error(f"the run directory `{path}` is a file", "choose another: --run-dir")
    files = (item for item in path.rglob("*") if not item.is_dir() and not is_leftover(item))
    names = {item.name for item in files if item.parent.name != TENSORBOARD_DIR} - {LOCK_FILE}
    is_run = RECIPE_FILE in names or (path / LOCK_FILE).exists()
    if names and not (is_run and all(map(_is_header, names))):
        quoted = shlex.quote(str(path))
        raise usage_error(
            f"the run directory `{path}` is not empty",
            f"resume that run:          {command} --run-dir {quoted} --resume",
            f"start from its weights:   {command} --run-dir {shlex.quote(f'{path}-2')} --init-from {quoted}",
        )


def require_same_recipe(checkpoint: Path, before: Recipe, now: Recipe) -> None:
    """Check that a resumed run keeps its settings, apart from those in `MAY_CHANGE`.

    A run may become longer, unless its learning rate depends on the last step.

    Raises:
        BCNetError: naming the settings that differ.
    """
    may_change = MAY_CHANGE | ({"solver.steps"} if now.solver.schedule == "step" else set())
    different = [
        f"{old.key} was {format_value(old.value)}, now {format_value(new.value)}"
        for old, new in zip(settings(before), settings(now), strict=True)
        if old.value != new.value and old.key not in may_change
    ]
    if different:
        lengths = any(one.startswith(_LENGTHS) for one in different)
        raise usage_error(
            f"`{checkpoint}` was trained with other settings",
            *different,
            *(["lengths in epochs, and milestones as shares, follow from the number of training images"] * lengths),
            "resume with the same settings, or start a new run from its weights: --init-from",
        )


def write_header(path: Path, recipe: Recipe, *, world_size: int, device: torch.device) -> None:
    """Write the recipe and the environment of a run, before its first step."""
    with atomic_file(path / RECIPE_FILE) as temporary:
        temporary.write_text(dump_recipe(recipe), encoding="utf-8")
    environment = {
        "bcnet": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processes": world_size,
        "threads_per_process": torch.get_num_threads(),
        "command": sys.argv,
    }
    write_json(path / ENV_FILE, environment)


@contextmanager
def exclusive_run(path: Path, command: str | None) -> Iterator[None]:
    """Lock a run directory against other training processes; a run that fails before its first checkpoint is removed.

    With a `command` the folder has to be free, see `require_free_run_dir`; None resumes.

    Raises:
        BCNetError: if another process trains there, the folder is not free, cannot be made, or holds a link where the
            run writes.
    """
    for name in HEADER:
        if (path / name).is_symlink():  # in a downloaded folder it could lead to any file of the user's
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
            require_free_run_dir(path, command)
        _remove_partial_files(path)
        try:
            yield
        finally:
            with deferred_signals():
                if latest_checkpoint(path) is None and not (path / DETECTRON2_FILE).exists():
                    _discard(path)


def interruption(path: Path, command: str, saved: str | None) -> BCNetError:
    """Return the error of an interrupted run, with the command that resumes it; `saved` is what it saved last."""
    if saved is None:
        return BCNetError("interrupted before the first step was saved", exit_code=ExitCode.INTERRUPTED)
    return BCNetError(
        f"interrupted; saved {saved}",
        f"resume it: {command} --run-dir {shlex.quote(str(path))} --resume",
        exit_code=ExitCode.INTERRUPTED,
    )


def _discard(path: Path) -> None:
    """Remove the files of a run without a checkpoint, and nothing else."""
    _remove_partial_files(path)
    for item in list(path.iterdir()):
        if _is_header(item.name):
            item.unlink()
    shutil.rmtree(path / TENSORBOARD_DIR, ignore_errors=True)
    _remove_empty(path / CHECKPOINT_DIR)


def _is_header(name: str) -> bool:
    return name in HEADER or any(fnmatchcase(name, pattern) for pattern in DETECTRON2_HEADER)


def _remove_partial_files(path: Path) -> None:
    """Remove what a killed process left half-written."""
    for folder in (path, path / CHECKPOINT_DIR):
        for item in filter(is_leftover, folder.glob(".*")):
            item.unlink()


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # missing, or not empty: it holds files of the user's
        folder.rmdir()
