"""Two processes that write the same output: one wins, the other says so."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.faults.conftest import COMMANDS, QUICK, Server, contents, left_overs

SLOW = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in COMMANDS]


@pytest.mark.parametrize("name", SLOW)
def test_one_wins_and_the_other_says_so(server: Server, tmp_path: Path, name: str) -> None:
    """The first stands still where it has just begun, and where all but the last is done."""
    whole = server.undisturbed(name)
    for moment in {whole.claimed, len(whole.events) - 2}:
        out = tmp_path / f"{moment}"
        out.mkdir()
        first = server.start(name, out, fault="stop", at=moment)
        assert server.stopped(first)
        try:
            other = server.run(name, out, "" if name == "train" else "--overwrite")
        finally:
            os.kill(first[0], signal.SIGCONT)
        ended = server.wait(first)
        assert ended.code == 0, ended.told
        assert other.code == 2, other.told
        busy = "another process is training in" if name == "train" else "is being written by another process"
        assert busy in other.told or (name == "train" and "is not empty" in other.told), other.told
        assert contents(out) == whole.files
        assert not left_overs(out)


@pytest.mark.parametrize("name", ["annotate", "shapes"])
def test_at_the_same_time(server: Server, tmp_path: Path, name: str) -> None:
    both = [server.start(name, tmp_path) for _ in range(2)]
    ends = [server.wait(one) for one in both]
    assert sorted(end.code for end in ends) == [0, 2]
    told = next(end.told for end in ends if end.code)
    assert "is being written by another process" in told or "exists already" in told
    assert contents(tmp_path) == server.undisturbed(name).files
    assert not left_overs(tmp_path)
