import os
from pathlib import Path

import pytest
import torch

from bcnet_core.config.load import load_recipe
from bcnet_core.engine import launch
from bcnet_core.engine.state import TrainingJob
from tests.conftest import Heard


def reading(*cores: tuple[int, int]) -> str:
    """Return a /proc/stat of cores with so many ticks of work and idle, half in each of two columns."""
    rows = [f"cpu{n} {work - work // 2} 0 {work // 2} {idle - idle // 2} {idle // 2} 0 0 0 7 7"
            for n, (work, idle) in enumerate(cores)]  # fmt: skip
    return "\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *rows, "intr 5 5", ""])


def warnings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *after: tuple[int, int], cores: int = 2, threads: int = 2
) -> list[str]:
    """Report between a reading of idle cores and `after`, on the first of them."""
    file, reporter = tmp_path / "stat", Heard()
    file.write_text(reading(*[(100, 100)] * len(after)))
    monkeypatch.setattr(launch, "STATISTICS", file)
    monkeypatch.setattr(launch.time, "sleep", lambda _: file.write_text(reading(*after)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    job = TrainingJob(load_recipe("shapes"), tmp_path / "run", "cpu", "bcnet train shapes")
    launch.report_busy_cores(job, reporter)
    return reporter.warnings


@pytest.fixture(autouse=True)
def no_threads_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_a_busy_core_is_reported_with_the_number_of_threads_that_avoids_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (warning,) = warnings(monkeypatch, tmp_path, (118, 102), (102, 118))
    assert warning.startswith("other programs keep 1.0 of 2 cores busy, which slows 2 threads")
    assert warning.endswith(": OMP_NUM_THREADS=1 bcnet train shapes")
    (warning,) = warnings(monkeypatch, tmp_path, (120, 100), *[(100, 120)] * 3, cores=4, threads=4)
    assert "1.0 of 4 cores" in warning and warning.endswith(": OMP_NUM_THREADS=3 bcnet train shapes")


@pytest.mark.parametrize(
    ("after", "cores", "threads"),
    [
        ([(105, 115), (105, 115)], 2, 2),  # half a core is busy
        ([(120, 100), (100, 120)], 2, 1),  # a core is left for the thread
        ([(100, 120), (120, 100)], 1, 1),  # the busy core is not this process's
        ([(100, 100), (100, 100)], 2, 2),  # the counters stand still
    ],
)
def test_nothing_is_said_where_no_thread_has_to_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, after: list[tuple[int, int]], cores: int, threads: int
) -> None:
    assert warnings(monkeypatch, tmp_path, *after, cores=cores, threads=threads) == []


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_chosen_number_of_threads_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setenv(name, "2")
    assert warnings(monkeypatch, tmp_path, (120, 100), (120, 100)) == []


def test_without_linux_statistics_nothing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launch, "STATISTICS", tmp_path / "missing")
    job, reporter = TrainingJob(load_recipe("shapes"), tmp_path, "cpu", "bcnet train shapes"), Heard()
    launch.report_busy_cores(job, reporter)
    assert reporter.warnings == []
