"""SIGKILL at any change of the disk: outputs are complete or absent, and running the same command again repairs all.

Multi-process training runs that are killed repeatedly are in tests/engine/test_processes.py.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from bcnet_core.weights.checkpoint import latest_checkpoint
from tests.faults.conftest import COMMANDS, Bench, assert_complete_or_absent, contents, leftovers

KILLED = (
    "annotate",
    "data-import",
    "shapes",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("viz", "train", "predict")),
)
"""One command for each way of writing: files, folders, checkpoints, and predictions that are collected."""


def repair(bench: Bench, name: str, out: Path, more: str = "") -> None:
    """Run the same command again: it succeeds, and nothing is left of the killed process."""
    whole, run = bench.undisturbed(name), out / "run"
    more = more or "--overwrite" * any((out / file).is_file() for file in whole.files)
    if name == "train":
        more = "--resume" if latest_checkpoint(run) else ""
    end = bench.run(name, out, more)
    assert end.code == 0, (more, end.output)
    found = contents(out)
    if name == "train":  # if it was killed after its last checkpoint, the one before may stay
        found = {file: checksum for file, checksum in found.items() if not file.endswith("step_00000001.pt")}
    assert found == whole.files
    assert not leftovers(out)


def kill_at(bench: Bench, name: str, out: Path, moment: int, *, over: bool = False) -> None:
    """Kill a command at an event, perhaps while it replaces an older output; check and repair."""
    states = [bench.undisturbed(name)]
    if over:
        states.append(bench.undisturbed(name, COMMANDS[name].older))
        shutil.copytree(states[1].folder, out)
    else:
        out.mkdir()
    assert bench.run_killed(name, out, "--overwrite" * over, moment=moment) == -signal.SIGKILL
    assert_complete_or_absent(name, out, *states)
    repair(bench, name, out, "--overwrite" * over)


@pytest.mark.parametrize("name", KILLED)
def test_killed_while_outputs_take_their_place(bench: Bench, tmp_path: Path, name: str) -> None:
    moments = bench.undisturbed(name).moments
    for moment in sorted({*moments[:: max(1, len(moments) // 4)], moments[-1]}):
        kill_at(bench, name, tmp_path / f"{moment}", moment)


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.older])
def test_killed_while_replacing_an_output(bench: Bench, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(bench.undisturbed(name, COMMANDS[name].older).folder, out)
    end = bench.run(name, out, "--overwrite")
    assert end.code == 0, end.output
    assert contents(out) == bench.undisturbed(name).files
    assert not leftovers(out)
    renames = [number for number, event in enumerate(end.events) if event.startswith("os.rename")]
    for moment in {renames[0] + 1, renames[-1]}:
        kill_at(bench, name, tmp_path / f"{moment}", moment, over=True)
