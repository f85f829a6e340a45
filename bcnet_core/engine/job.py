"""What a training run is asked to do, as it travels to every process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bcnet_core.config.schema import Recipe


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
    """

    recipe: Recipe
    run_dir: Path
    device: str
    command: str
    resume: bool = False
    init_from: Path | None = None
