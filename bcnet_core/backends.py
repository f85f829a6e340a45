"""The one place that knows both backends: torch with torchvision, and detectron2, which is imported on demand."""

from __future__ import annotations

import importlib
import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.config.choices import Backend
from bcnet_core.config.data import DataConfig
from bcnet_core.config.runtime import PLAIN, Runtime
from bcnet_core.config.schema import Recipe
from bcnet_core.engine.elastic import Cluster, check_processes
from bcnet_core.engine.state import RunOptions, TrainingJob
from bcnet_core.errors import BCNetError, ExitCode, usage_error
from bcnet_core.reporting import Reporter
from bcnet_core.weights.checkpoint import find_checkpoint
from bcnet_core.weights.loading import read_trained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bcnet_core.engine.run_dir import Run
    from bcnet_core.integrations.detectron2.converting import Difference
    from bcnet_core.integrations.detectron2.predicting import Detectron2Detector
    from bcnet_core.model.detectors import Detector

INSTALL = (
    "pip install 'bcnet[detectron2]' wheel ninja",
    "pip install --no-build-isolation --no-deps 'git+https://github.com/facebookresearch/detectron2'",
)
"""Commands that install detectron2, which is on no registry."""

UNLIMITED = 10_000
"""Detections per image of a config of detectron2 that keeps all of them."""


def require_backend(name: str) -> Backend:
    """Return the backend of this name.

    Raises:
        BCNetError: if there is no such backend, or detectron2 is not installed.
    """
    known: tuple[Backend, ...] = get_args(Backend)
    if name not in known:
        raise usage_error(f"there is no backend `{name}`", f"choose one: {', '.join(known)}")
    if name == "detectron2":
        require_detectron2()
    return known[known.index(name)]


def require_detectron2() -> None:
    """Check that detectron2 is installed and works.

    Raises:
        BCNetError: if not; the message says how to install it.
    """
    if importlib.util.find_spec("detectron2") is None:
        raise BCNetError("detectron2 is not installed; it takes two lines:", *INSTALL, exit_code=ExitCode.USAGE)
    try:
        importlib.import_module("bcnet_core.integrations.detectron2")
    except (ImportError, OSError) as error:
        raise BCNetError(
            f"detectron2 is there but cannot be imported: {str(error).splitlines()[0]}",
            "one that was built beside another torch does not fit this one; build it again:",
            *INSTALL,
            exit_code=ExitCode.USAGE,
        ) from None


def check_runtime(runtime: Runtime, backend: Backend, path: Path) -> None:
    """Require a way to compute that a backend has, for the run or checkpoint at `path`.

    Raises:
        BCNetError: if it has not; the message says how to convert the detector.
    """
    if backend == "detectron2" and runtime != PLAIN:
        raise usage_error(
            "detectron2 gets one image at a time and computes in float32: batches, half precision and --compile need a "
            "detector of the torchvision backend",
            f"convert it: bcnet weights convert {shlex.quote(str(path))} --to torchvision -o bcnet.pt",
        )


def load_detector(
    path: str | Path, *, device: str, backend: Backend, runtime: Runtime
) -> Detector | Detectron2Detector:
    """Load a trained detector; see `bcnet_core.load_detector`."""
    check_runtime(runtime, backend, Path(path))
    if require_backend(backend) == "torchvision":
        return read_trained(Path(path)).build(device, runtime=runtime)
    from bcnet_core.integrations.detectron2.predicting import load_detectron2

    return load_detectron2(Path(path), device=device)


def open_run(path: Path, backend: Backend) -> Run:
    """Open a run directory, or a checkpoint, of either backend.

    Raises:
        BCNetError: if there is no checkpoint, or it cannot be read.
    """
    from bcnet_core.engine import run_dir

    if backend == "torchvision":
        return run_dir.open_run(path)
    require_detectron2()
    from bcnet_core.integrations.detectron2.stored import read_stored

    stored = read_stored(path)
    kept = stored.config.TEST.DETECTIONS_PER_IMAGE
    own = {"data": stored.origin.data, "model": {"detections_per_image": kept if kept > 0 else UNLIMITED}}
    recipe = Recipe.model_validate(stored.origin.recipe or own)
    return run_dir.Run(path if path.is_dir() else path.parent, stored.path, recipe, stored.origin.categories)


def find_weights(path: Path, backend: Backend) -> Path:
    """Return the checkpoint of a run directory, or the file itself, of either backend.

    Raises:
        BCNetError: if there is none.
    """
    if backend == "torchvision":
        return find_checkpoint(path)
    from bcnet_core.integrations.detectron2.stored import find_stored

    return find_stored(path)


def train(job: TrainingJob, cluster: Cluster, *, backend: Backend, reporter: Reporter) -> Path:
    """Train a recipe, and return the last checkpoint.

    Raises:
        BCNetError: if training fails or is interrupted, or detectron2's trainer lacks what is asked for.
    """
    if backend == "torchvision":
        from bcnet_core.engine.launch import launch

        return launch(job, cluster, reporter=reporter)
    _check_cluster(cluster, job.device)
    from bcnet_core.integrations.detectron2.training import train_recipe

    options = RunOptions(job.run_dir, job.device, cluster.processes, job.command, job.resume, job.init)
    return train_recipe(job.recipe, options, reporter)


def train_config(
    config: Path,
    overrides: Sequence[str],
    data_root: Path | None,
    options: RunOptions,
    cluster: Cluster,
    *,
    reporter: Reporter,
) -> Path:
    """Train a user's own config of detectron2 with `KEY=VALUE` overrides, and return the last checkpoint.

    The COCO sets of a data root, if there is one, replace those of the config.

    Raises:
        BCNetError: if the config cannot be read, or training fails or is interrupted.
    """
    _check_cluster(cluster, options.device)
    from bcnet_core.integrations.detectron2 import stored, training

    data = None if data_root is None else DataConfig(root=data_root)
    return training.train_config(stored.read_config(config, overrides), data, options, reporter)


def detectron2_config(recipe: Recipe, *, num_classes: int) -> str:
    """Return a recipe as the yaml of a detectron2 config.

    Raises:
        BCNetError: if detectron2's trainer lacks what the recipe asks for.
    """
    require_detectron2()
    from bcnet_core.integrations.detectron2.config import config_from_recipe

    return str(config_from_recipe(recipe, num_classes=num_classes).dump())


def merged_config(path: Path, overrides: Sequence[str], data_root: Path | None, *, reporter: Reporter) -> str:
    """Return the yaml of a user's own detectron2 config as `train_config` would train it.

    Raises:
        BCNetError: if it cannot be read, an override does not fit, or training would fail on the data root.
    """
    require_detectron2()
    from bcnet_core.integrations.detectron2 import stored, training

    cfg = stored.read_config(path, overrides)
    training.prepare_config(cfg, None if data_root is None else DataConfig(root=data_root), reporter)
    return str(cfg.dump())


def convert(
    path: Path,
    to: Backend,
    *,
    config: Path | None = None,
    categories: Path | None = None,
    picture: NDArray[np.uint8] | None = None,
    outputs: Sequence[Path] = (),
) -> Difference:
    """Convert a detector to the other backend, and compare the two on a picture.

    Args:
        path: a checkpoint file, or a run directory.
        to: the target backend.
        config: the config of a checkpoint that detectron2 trained without `bcnet`.
        categories: a COCO file with the categories of such a checkpoint; None means COCO's 80.
        picture: (H, W, 3) uint8 RGB to compare on; None takes noise.
        outputs: files to write, see `converted_files`; none writes nothing.

    Raises:
        BCNetError: if the file cannot be read or written, or the other backend has no such detector.
    """
    require_detectron2()
    from bcnet_core.integrations.detectron2.converting import convert_detector

    return convert_detector(path, to, config=config, categories=categories, picture=picture, outputs=outputs)


def converted_files(output: Path, to: Backend) -> list[Path]:
    """Return the files that `convert` writes: the weights, and for detectron2 their config."""
    return [output] if to == "torchvision" else [output, output.with_suffix(".yaml")]


def predict_with_detectron2(
    run: Run,
    coco: CocoFile,
    images: Path,
    *,
    kept: int,
    counted: int,
    device: str,
    cluster: Cluster,
    reporter: Reporter,
) -> list[Record]:
    """Predict a COCO file with detectron2, report the scores of its `COCOEvaluator`, and return the COCO results.

    `kept` detections of an image are kept, `counted` of each category are scored.

    Raises:
        BCNetError: if a process fails.
    """
    _check_cluster(cluster, device)
    from bcnet_core.integrations.detectron2.predicting import predict_set

    results, scores = predict_set(
        run.checkpoint, coco, images, run.categories,
        kept=kept, counted=counted, device=device, processes=cluster.processes,
    )  # fmt: skip
    shown = [f"{kind} AP {values['AP']:.2f}" for kind, values in scores.items() if "AP" in values]
    if shown:
        reporter.info(f"detectron2's COCOEvaluator: {', '.join(shown)}")
    return results


def _check_cluster(cluster: Cluster, device: str) -> None:
    """Require detectron2, and processes that this machine and the detectron2 backend can serve."""
    require_detectron2()
    check_processes(cluster, device)
    if cluster.nodes > 1 or cluster.restarts:
        raise usage_error(
            "the detectron2 backend trains on one machine, and does not begin again by itself",
            "leave --nnodes and --max-restarts out, or use --backend torchvision",
        )
