"""Fixtures shared by all tests: real data if available, small scenes, and the program as a user calls it."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

from bcnet_core.reporting import SilentReporter

REPO = Path(__file__).parent.parent
MAX_EXAMPLES = int(os.environ.get("BCNET_MAX_EXAMPLES", "1000"))
"""Limit for `examples`; `make mutants` lowers it, because it runs each test a thousand times."""
hypothesis.settings.register_profile("bcnet", deadline=None)  # examples take longer on a busy machine
hypothesis.settings.load_profile("bcnet")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell script starts what runs in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Heard(SilentReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []

    def info(self, message: str) -> None:
        self.infos.append(message)

    def warning(self, message: str) -> None:
        self.warnings.append(message)


def examples(count: int) -> hypothesis.settings:
    """Let hypothesis try so many examples of a property."""
    return hypothesis.settings(max_examples=min(count, MAX_EXAMPLES), deadline=None)


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Return the data root of 159 real COCO images beside the project; skip if it is not there."""
    root = REPO.parent / "shared" / "data" / "coco-mini"
    if not root.is_dir():
        pytest.skip("../shared/data/coco-mini is not here")
    return root


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data root with a few synthetic scenes; never write into it."""
    from bcnet_core.synth.sets import write_shapes

    root = tmp_path_factory.mktemp("scenes") / "shapes"
    write_shapes(root, images=12, val_images=6, workers=1)
    return root


@pytest.fixture(scope="session")
def untrained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of an untrained FCOS, which finds five objects in every image of the scenes."""
    import torch

    from bcnet_core.annotations.coco import read_coco
    from bcnet_core.config.load import load_recipe
    from bcnet_core.model.detectors import build_detector
    from bcnet_core.weights.checkpoint import Checkpoint, save_checkpoint

    settings = ["model.channels=32", "model.tower_convs=1", "data.min_size=64", "data.max_size=64"]
    settings += [
        "model.detector=fcos",
        "model.attention=true",
        "model.score_threshold=0",
        "model.detections_per_image=5",
    ]
    recipe = load_recipe("shapes", settings, data_root=scenes)
    torch.manual_seed(2)  # whether an untrained mask has a pixel is a matter of luck
    categories = read_coco(scenes / "annotations/instances_val.json").categories
    path = tmp_path_factory.mktemp("untrained") / "model.pt"
    model = build_detector(recipe, categories).state_dict()
    save_checkpoint(path, Checkpoint(1, recipe.model_dump(mode="json"), categories, model, {}))
    return path


Bcnet = Callable[..., subprocess.CompletedProcess[str]]


def run_inside(arguments: Sequence[str | Path], cwd: Path | None) -> subprocess.CompletedProcess[str]:
    """Run `bcnet ARGUMENTS` in this process; what child processes print is not captured."""
    from bcnet_cli.app import main

    handlers, code = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}, 0
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as out, io.StringIO() as err:
        patch.setattr(sys, "argv", ["bcnet", *map(str, arguments)])
        patch.delenv("BCNET_DATA", raising=False)
        patch.delenv("BCNET_DEBUG", raising=False)
        patch.chdir(cwd or Path.cwd())
        try:
            with redirect_stdout(out), redirect_stderr(err):
                main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def bcnet() -> Bcnet:
    """Run `bcnet ARGUMENTS` in this process, which saves importing torch every time."""

    def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return run_inside(arguments, cwd)

    return run


@pytest.fixture(scope="session")
def bcnet_process() -> Bcnet:
    """Run `bcnet ARGUMENTS` in a process of its own, as a shell does."""

    def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key not in {"BCNET_DATA", "BCNET_DEBUG"}}
        command = [sys.executable, "-m", "bcnet_cli", *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=900
        )

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report how many tests were skipped because detectron2 is not installed or there is no GPU."""
    import torch

    for missing, there, folder in (
        ("detectron2 is not installed", find_spec("detectron2") is not None, "integrations/detectron2"),
        ("there is no GPU", torch.cuda.is_available(), "gpu"),
    ):
        files = (Path(__file__).parent / folder).glob("test_*.py")
        count = sum(len(re.findall(r"^def test_", path.read_text(encoding="utf-8"), re.MULTILINE)) for path in files)
        if not there:
            told = f"NOT TESTED: {missing}, {count} test functions of tests/{folder} were skipped"
            terminalreporter.write_line(told, yellow=True, bold=True)
