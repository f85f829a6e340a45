"""Full and read-only disks: the command says so, and outputs that could not be completed are absent."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from tests.faults.conftest import ALL, Bench, contents, leftovers


def assert_no_output(out: Path) -> None:
    """Check that there is no output and nothing half-written; predictions of finished images may stay."""
    assert not leftovers(out)
    assert all(file.endswith("_predictions.jsonl") for file in contents(out)), contents(out)


@pytest.mark.parametrize("name", ALL)
def test_a_disk_that_becomes_full(bench: Bench, tmp_path: Path, name: str) -> None:
    """From some moment on nothing can be created; existing files stay and can be removed."""
    events = bench.undisturbed(name).events
    creations = [number for number, event in enumerate(events) if " new " in event]
    for moment in {creations[0], creations[len(creations) // 2], creations[-1]}:
        out = tmp_path / f"{moment}"
        out.mkdir()

        def fill(number: int, event: str, moment: int = moment) -> None:
            if number >= moment and " new " in event:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), event.rsplit(maxsplit=1)[-1])

        end = bench.run(name, out, action=fill)
        assert end.code == 1, end.output
        assert "No space left on device" in end.output
        assert "Traceback" not in end.output
        if name == "train" and (out / "run").exists():  # its first steps are saved
            assert not [one for one in leftovers(out) if not one.endswith("run/.lock")]
        else:
            assert_no_output(out)


@pytest.mark.parametrize("name", ALL)
def test_files_that_cannot_grow(bench: Bench, tmp_path: Path, name: str) -> None:
    """The system itself refuses to write more, whichever library writes the file."""
    bench.undisturbed(name)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        end = bench.run(name, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert end.code == 1, end.output
    assert "cannot write" in end.output or "could not be written" in end.output
    assert "Traceback" not in end.output
    assert_no_output(tmp_path)


@pytest.mark.parametrize("name", ALL)
def test_a_read_only_folder(bench: Bench, tmp_path: Path, name: str) -> None:
    bench.undisturbed(name)

    def deny(_: int, event: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), event.rsplit(maxsplit=1)[-1])

    end = bench.run(name, tmp_path, action=deny)
    assert end.code == 1, end.output
    assert "cannot write" in end.output
    assert "Permission denied" in end.output
    assert "Traceback" not in end.output
    assert not list(tmp_path.iterdir())
