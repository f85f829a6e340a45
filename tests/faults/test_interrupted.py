"""Ctrl-C and SIGTERM at any moment: exit code 130, one line, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bcnet_cli import app
from bcnet_core.files.outputs import is_leftover
from tests.faults.conftest import ALL, Bench, assert_complete_or_absent

NAMES = [parameter for parameter in ALL if parameter.values != ("train",)]
"""An interrupted training run saves, see tests/cli/test_train_and_eval.py."""


def interrupt(bench: Bench, name: str, out: Path, moment: int, number: int, *, repeatedly: bool = False) -> None:
    """Send a signal to a command at an event, or also at all later ones, and check the end."""
    out.mkdir()
    app._interrupted = -app.GRACE_SECONDS  # an earlier test has just been interrupted

    def send(event: int, _: str) -> None:
        if event == moment or (repeatedly and event > moment):
            os.kill(os.getpid(), number)

    end = bench.run(name, out, action=send)
    last = moment >= len(bench.undisturbed(name).events) - 3
    assert end.code == 130 or (end.code == 0 and last), end.output
    assert "Traceback" not in end.output and "Exception ignored" not in end.output
    if end.code:
        assert sum(line.startswith(("interrupted", "error: interrupted")) for line in end.output.splitlines()) == 1
    assert_complete_or_absent(name, out, bench.undisturbed(name))
    assert not list(filter(is_leftover, out.rglob(".*")))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_interrupted(bench: Bench, tmp_path: Path, name: str, number: int) -> None:
    for moment in bench.undisturbed(name).moments[1::2]:
        interrupt(bench, name, tmp_path / f"{moment}", moment, number)


@pytest.mark.parametrize("name", ["annotate", "shapes"])
def test_repeated_ctrl_c(bench: Bench, tmp_path: Path, name: str) -> None:
    """An impatient second Ctrl-C does not stop the clean-up."""
    for moment in bench.undisturbed(name).moments[1::2]:
        interrupt(bench, name, tmp_path / f"{moment}", moment, signal.SIGINT, repeatedly=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["typer", "rich.console", "bcnet_cli.commands.viz"])
def test_interrupted_during_startup(module: str, number: int) -> None:
    """In the first half second of every command, while modules are imported."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs ignore SIGINT
        f"def hook(event, arguments):\n"
        f"    if event == 'import' and arguments[0] == '{module}': os.kill(os.getpid(), {int(number)})\n"
        "sys.addaudithook(hook)\n"
        "from bcnet_cli.__main__ import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")
