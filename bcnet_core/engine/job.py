"""What a training run is asked to do, as it travels to every process."""

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
    """What scores a detector under way; `bcnet_core.evaluation.validation.VALIDATION` is the one there is.

    Attributes:
        check: refuses, before the first step, a held-out set that does not go with the training set.
        score: scores a detector, in evaluation mode, on the held-out images: every process its share. The last argument
            says whether somebody wants it to stop; it returns None then, in every process. Rank 0 gets the scores,
            `mask_AP` among them, the others an empty dict.
    """

    check: Callable[[Recipe, CocoFile], None]
    score: Callable[[Detector, Recipe, Reporter, Callable[[], bool]], dict[str, float] | None]


@dataclass(frozen=True)
class TrainingJob:
    """What to train, and where.

    Attributes:
        recipe: resolved, with its data root.
        run_dir: where everything is written.
        device: "auto", "cpu", "cuda".
        command: the command line without --run-dir, --resume and --init-from; for messages.
        resume: whether to go on from the newest checkpoint in `run_dir`.
        init_from: a run or checkpoint whose weights to begin with.
        validation: what scores the detector every `solver.eval_every` steps.
        tensorboard: whether to write its event files as well.
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
    """How a run of the detectron2 backend is done, whatever it trains.

    Attributes:
        run_dir: where everything is written.
        device: "auto", "cpu", "cuda".
        processes: on this machine, one a GPU, or gloo processes on the CPU.
        command: the command line without --run-dir, --resume and --init-from; for messages.
        resume: whether to go on from the newest checkpoint in `run_dir`.
        init_from: a run or checkpoint of either backend whose weights to begin with.
    """

    run_dir: Path
    device: str
    processes: int
    command: str
    resume: bool = False
    init_from: Path | None = None
