"""SIGKILL in every moment in which the disk changes: outputs are complete or absent, and the same command mends all.

Trainings of several processes that are killed again and again are in tests/engine/test_processes.py.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from bcnet_core.weights.checkpoint import latest_checkpoint, read_checkpoint
from tests.faults.conftest import COMMANDS, QUICK, Server, Whole, contents, left_overs

SLOW = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in COMMANDS]
OVER = [name for name, command in COMMANDS.items() if command.older]


def assert_complete_or_absent(name: str, out: Path, *states: Whole) -> None:
    """Every output is one of an undisturbed run; of what is kept on purpose, every file that such a run has."""
    found = contents(out)
    for output in {Path(file).parts[0] for file in found} - {*COMMANDS[name].kept}:
        own = {file: sum_ for file, sum_ in found.items() if Path(file).parts[0] == output}
        assert any(own.items() <= state.files.items() for state in states), (output, left_overs(out))
        assert any({file for file in state.files if Path(file).parts[0] == output} == own.keys() for state in states)
    for file in {file for file in found if Path(file).parts[0] in COMMANDS[name].kept}:
        if file.endswith(".pt"):
            read_checkpoint(out / file)
        elif not file.endswith("metrics.jsonl") and "_predictions.jsonl" not in file:
            assert any(state.files.get(file) == found[file] for state in states), file


def mend(server: Server, name: str, out: Path, more: str = "") -> None:
    """The same command once more ends well, and nothing is left of the killed one."""
    whole, run = server.undisturbed(name), out / "run"
    there = any((out / file).is_file() for file in whole.files)
    more = more or "--overwrite" * there
    if name == "train":
        more = "--resume" if latest_checkpoint(run) else ""
    end = server.run(name, out, more)
    assert end.code == 0, (more, end.told)
    found = contents(out)
    if name == "train":  # killed behind its last checkpoint, it may keep the one before
        found = {file: sum_ for file, sum_ in found.items() if not file.endswith("step_00000001.pt")}
    assert found == whole.files
    assert not left_overs(out)


def kill_at(server: Server, name: str, tmp_path: Path, moments: Iterable[int], *, over: bool = False) -> None:
    whole, seen = server.undisturbed(name), []
    states = [whole, server.undisturbed(name, COMMANDS[name].older)] if over else [whole]
    for moment in moments:
        out = tmp_path / f"{moment}"
        if over:
            shutil.copytree(states[1].folder, out)
        else:
            out.mkdir()
        end = server.run(name, out, "--overwrite" * over, fault="kill", at=moment)
        assert end.code == -signal.SIGKILL, end.told
        assert_complete_or_absent(name, out, *states)
        state = (contents(out), sorted(left_overs(out)))
        if state not in seen:
            seen.append(state)
            mend(server, name, out, "--overwrite" * over)
    assert len(seen) > 1, "it was never killed in the middle of anything"


@pytest.mark.parametrize("name", SLOW)
def test_killed_where_something_comes_into_its_place(server: Server, tmp_path: Path, name: str) -> None:
    kill_at(server, name, tmp_path, server.undisturbed(name).moments)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_in_every_moment(server: Server, tmp_path: Path, name: str) -> None:
    whole = server.undisturbed(name)
    kill_at(server, name, tmp_path, set(range(len(whole.events))) - set(whole.moments))


@pytest.mark.parametrize("name", OVER)
def test_killed_while_it_replaces_another_one(server: Server, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(server.undisturbed(name, COMMANDS[name].older).folder, out)
    end = server.run(name, out, "--overwrite")
    assert end.code == 0, end.told
    assert contents(out) == server.undisturbed(name).files
    assert not left_overs(out)
    kill_at(server, name, tmp_path, Whole(out, {}, end.events).moments, over=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random(server: Server, tmp_path: Path, name: str) -> None:
    """Five times one after the other, into the same folder, as an impatient user does."""
    whole, rng = server.undisturbed(name), random.Random(name)
    started = time.monotonic()
    server.run(name, tmp_path / "timed")
    takes = time.monotonic() - started
    out = tmp_path / "out"
    out.mkdir()
    for _ in range(5):
        more = "--resume" if name == "train" and latest_checkpoint(out / "run") else ""
        run = server.start(name, out, more if name == "train" else "--overwrite")
        time.sleep(rng.uniform(0, takes))
        os.kill(run[0], signal.SIGKILL)
        assert server.wait(run).code in {-signal.SIGKILL, 0}
        assert_complete_or_absent(name, out, whole)
        if name == "train" and not left_overs(out) and contents(out) == whole.files:
            shutil.rmtree(out / "run")
    mend(server, name, out)
