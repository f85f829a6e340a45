"""Ctrl-C and SIGTERM in every moment: exit code 130, one line, no output, nothing half-written."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bcnet_core.files.outputs import is_leftover
from tests.faults.conftest import COMMANDS, QUICK, Server
from tests.faults.test_killed import assert_complete_or_absent

SLOW = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in COMMANDS if name != "train"]
"""An interrupted training saves, see tests/cli/test_train_and_eval.py."""


def assert_interrupted(server: Server, name: str, out: Path, fault: str, at: int, number: int) -> None:
    out.mkdir()
    end = server.run(name, out, fault=fault, at=at, number=number)
    last = at >= len(server.undisturbed(name).events) - 3
    assert end.code == 130 or (end.code == 0 and last), end.told
    assert "Traceback" not in end.told and "Exception ignored" not in end.told
    if end.code:
        assert sum(line.startswith(("interrupted", "error: interrupted")) for line in end.told.splitlines()) == 1
    assert_complete_or_absent(name, out, server.undisturbed(name))
    assert not list(filter(is_leftover, out.rglob(".*")))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SLOW)
def test_interrupted(server: Server, tmp_path: Path, name: str, number: int) -> None:
    for moment in server.undisturbed(name).moments[1::2]:
        assert_interrupted(server, name, tmp_path / f"{moment}", "signal", moment, number)


@pytest.mark.parametrize("name", ["annotate", "shapes"])
def test_ctrl_c_again_and_again(server: Server, tmp_path: Path, name: str) -> None:
    """In every moment of the clearing away, too."""
    for moment in server.undisturbed(name).moments[1::2]:
        assert_interrupted(server, name, tmp_path / f"{moment}", "signals", moment, signal.SIGINT)


def test_ctrl_c_once_more_just_before_the_clearing_away(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from bcnet_core.files import outputs\n"
        "deferred_signals, told = outputs.deferred_signals, []\n"
        "def late():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return deferred_signals()\n"
        "def hook(event, arguments):\n"
        "    if event == 'open' and '.part.s/' in str(arguments[0]) and not told:\n"
        "        told.append(outputs.__dict__.update(deferred_signals=late))\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(hook)\n"
        "from bcnet_cli.app import main\n"
        "main()\n"
    )
    arguments = ["synth", "shapes", "-o", str(tmp_path / "s"), "--images", "2", "--val-images", "1", "--workers", "1"]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 130 and "interrupted" in ended.stderr, ended
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["typer", "rich.console", "bcnet_cli.commands.viz"])
def test_while_the_program_is_still_being_read(module: str, number: int) -> None:
    """The first half second of every command."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # deaf where the tests run in the background
        f"def hook(event, arguments):\n"
        f"    if event == 'import' and arguments[0] == '{module}': os.kill(os.getpid(), {int(number)})\n"
        "sys.addaudithook(hook)\n"
        "from bcnet_cli.__main__ import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")
