"""The description of a training run, which is pickled and sent to every process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bcnet_core.annotations.coco import CocoFile
from bcnet_core.config.schema import Recipe
from bcnet_core.model.detectors import Detector
from bcnet_core.reporting import Reporter


@dataclass(frozen=True)
class Validation:
    """Evaluation during training; the one implementation is `bcnet_core.evaluation.validation.VALIDATION`.

    Attributes:
        check: checks before the first step that the validation set goes with the training set; raises if the
            evaluations of the recipe would fail, warns if only a later `bcnet eval` would.
        score: scores a detector in evaluation mode on the validation images, each process its share. Its last argument
            says whether to stop; it then returns None in every process. Rank 0 gets the scores, `mask_AP` among them,
            the others an empty dict.
    """

    check: Callable[[Recipe, CocoFile, Reporter], None]
    score: Callable[[Detector, Recipe, Reporter, Callable[[], bool]], dict[str, float] | None]


@dataclass(frozen=True)
class TrainingJob:
    """A training run: recipe, folder, device and start.

    Attributes:
        recipe: resolved recipe, with its data root.
        run_dir: folder for everything that is written.
        device: "auto", "cpu" or "cuda".
        command: command line without --run-dir, --resume and --init-from, for messages.
        resume: whether to resume from the newest checkpoint in `run_dir`.
        init_from: run or checkpoint whose weights to start from.
        validation: evaluation every `solver.eval_every` steps.
        tensorboard: whether to write TensorBoard's event files as well.
    """

    recipe: Recipe
    run_dir: Path
    device: str
    command: str
    resume: bool = False
    init_from: Path | None = None
    validation: Validation | None = None
    tensorboard: bool = False


@dataclass(frozen=True)
class RunOptions:
    """How to run the detectron2 backend, whatever it trains.

    Attributes:
        run_dir: folder for everything that is written.
        device: "auto", "cpu" or "cuda".
        processes: processes on this machine: one per GPU, or gloo processes on the CPU.
        command: command line without --run-dir, --resume and --init-from, for messages.
        resume: whether to resume from the newest checkpoint in `run_dir`.
        init_from: run or checkpoint of either backend whose weights to start from.
    """

    run_dir: Path
    device: str
    processes: int
    command: str
    resume: bool = False
    init_from: Path | None = None
