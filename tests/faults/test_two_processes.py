"""Two processes that write the same output: one succeeds, the other reports it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import ALL, Bench, contents, leftovers


@pytest.mark.parametrize("name", ALL)
def test_the_second_process_reports_that_the_output_is_busy(bench: Bench, tmp_path: Path, name: str) -> None:
    """The second one starts and ends while the first is about to finish its work."""
    whole = bench.undisturbed(name)
    seconds: list[tuple[int, str]] = []

    def run_second(number: int, _: str) -> None:
        if number == len(whole.events) - 2:
            process = bench.start(name, tmp_path, "" if name == "train" else "--overwrite")
            output = process.communicate()[0]
            seconds.append((process.returncode, output))

    end = bench.run(name, tmp_path, action=run_second)
    assert end.code == 0, end.output
    ((code, output),) = seconds
    assert code == 2, output
    busy = "another process is training in" if name == "train" else "is being written by another process"
    assert busy in output or (name == "train" and "is not empty" in output), output
    assert contents(tmp_path) == whole.files
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("name", ["annotate", "shapes"])
def test_two_processes_started_together(bench: Bench, tmp_path: Path, name: str) -> None:
    both = [bench.start(name, tmp_path) for _ in range(2)]
    ends = [(process.communicate()[0], process.returncode) for process in both]
    assert sorted(code for _, code in ends) == [0, 2]
    output = next(output for output, code in ends if code)
    assert "is being written by another process" in output or "exists already" in output
    assert contents(tmp_path) == bench.undisturbed(name).files
    assert not leftovers(tmp_path)
