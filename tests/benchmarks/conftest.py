from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.__main__ import main

Bench = Callable[..., subprocess.CompletedProcess[str]]
SPLITS = (
    "data.train.annotations=annotations/instances_train.json", "data.train.images=train",
    "data.val.annotations=annotations/instances_val.json", "data.val.images=val",
)  # fmt: skip
"""Settings that find the two halves of the scenes."""
SMALL = (
    *SPLITS, "data.min_size=64", "data.max_size=64", "data.train_sizes=[]", "model.init=none", "model.backbone=tiny",
    "model.channels=32", "model.frozen_norm=false", "solver.backbone_lr=none",
)  # fmt: skip
"""Settings that make own_light as small as a test needs it."""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Run `python -m benchmarks ARGUMENTS` in this process."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["benchmarks", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return subprocess.CompletedProcess(arguments, int(end.value.code or 0), *capsys.readouterr())

    return run
