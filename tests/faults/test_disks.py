"""Disks that are full or read-only: the command says so, and what it could not write whole is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import COMMANDS, QUICK, Server, contents, left_overs

SLOW = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in COMMANDS]


def assert_nothing_there(name: str, out: Path) -> None:
    """No output, and nothing half-written; of an evaluation or a prediction, the images that are done."""
    assert not left_overs(out)
    assert all("_predictions.jsonl" in file for file in contents(out)), contents(out)


@pytest.mark.parametrize("name", SLOW)
def test_a_disk_that_is_full_from_some_moment_on(server: Server, tmp_path: Path, name: str) -> None:
    """Nothing can be made any more from then on; what there was before it stays, and is cleared away."""
    events = server.undisturbed(name).events
    places = [number for number, event in enumerate(events) if " new " in event]
    for moment in {places[0], places[len(places) // 2], places[-1]}:
        out = tmp_path / f"{moment}"
        out.mkdir()
        end = server.run(name, out, fault="full", at=moment)
        assert end.code == 1, end.told
        assert "No space left on device" in end.told
        assert "Traceback" not in end.told
        if name == "train" and (out / "run").exists():  # its first steps are saved
            assert not [one for one in left_overs(out) if not one.endswith("run/.lock")]
        else:
            assert_nothing_there(name, out)


@pytest.mark.parametrize("name", SLOW)
def test_files_that_may_not_grow(server: Server, tmp_path: Path, name: str) -> None:
    """The system itself refuses, in whatever language the file is written."""
    end = server.run(name, tmp_path, fault="limit", number=10)
    assert end.code == 1, end.told
    assert "cannot write" in end.told or "could not be written" in end.told
    assert "Traceback" not in end.told
    assert_nothing_there(name, tmp_path)


@pytest.mark.parametrize("name", SLOW)
def test_a_folder_that_is_read_only(server: Server, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o500)
    end = server.run(name, out)
    assert end.code == 1, end.told
    assert "cannot write" in end.told
    assert "Permission denied" in end.told
    assert "Traceback" not in end.told
    assert not list(out.iterdir())
