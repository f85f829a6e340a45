"""Worker processes: results in order, bounded memory, errors passed on, nothing left running."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bcnet_core.errors import BCNetError, ExitCode, data_error
from bcnet_core.files import workers
from bcnet_core.files.workers import parallel_map


def double(number: int) -> int:
    return 2 * number


def fail_at_three(number: int) -> int:
    if number == 3:
        raise data_error("three is bad", "take four")
    return number


def die(number: int) -> int:
    os._exit(number)


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_order(count: int) -> None:
    with parallel_map(double, range(20), workers=count, most=8) as results:
        assert list(results) == [2 * number for number in range(20)]
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_keeps_its_hints_and_stops_the_rest(count: int) -> None:
    with (
        pytest.raises(BCNetError, match="three is bad") as caught,
        parallel_map(fail_at_three, range(100), workers=count, most=8) as results,
    ):
        list(results)
    assert caught.value.hints == ("take four",)
    assert caught.value.exit_code == ExitCode.BAD_DATA
    assert multiprocessing.active_children() == []


def test_a_dead_worker_is_one_sentence() -> None:
    with (
        pytest.raises(BCNetError, match="worker process died"),
        parallel_map(die, [1, 2], workers=2, most=2) as results,
    ):
        list(results)
    assert multiprocessing.active_children() == []


def test_leaving_early_stops_the_workers_and_takes_no_more_tasks() -> None:
    taken = []

    def tasks() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    with parallel_map(double, tasks(), workers=2, most=8) as results:
        assert next(results) == 0
    assert multiprocessing.active_children() == []
    assert len(taken) <= 2 * workers.PENDING + 1


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from bcnet_core.files.workers import parallel_map\n"
        "def tell(number):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(0.2)\n"
        "if __name__ == '__main__':\n"
        "    with parallel_map(tell, range(10_000), workers=2, most=2) as results:\n"
        "        list(results)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        seen: set[int] = set()
        while len(seen) < 2:
            seen.add(int(parent.stdout.readline()))
        parent.kill()
        parent.stdout.read()  # ends when no process is left that could write


def test_few_tasks_are_not_worth_a_process() -> None:
    with parallel_map(os.getpgid, [0], workers=0, most=0) as results:
        assert list(results) == [os.getpgid(0)]
    assert isinstance(results, map), "no pool was started"


def test_leaving_does_not_wait_for_a_task_that_no_worker_takes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
import time
from bcnet_core.files.workers import parallel_map

def work(task):
    time.sleep(1)

if __name__ == "__main__":
    large = [b"x" * 2_000_000] * 20  # more than a pipe holds, so that one is always half sent
    with parallel_map(work, large, workers=2, most=2) as results:
        next(results)
        raise ZeroDivisionError
""")
    done = subprocess.run([sys.executable, script], timeout=120, capture_output=True, text=True, check=False)
    assert done.stderr.endswith("ZeroDivisionError\n")


def test_workers_ignore_the_signals_of_a_group_and_end_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
import os, signal, subprocess
from torch.utils.data import DataLoader
from bcnet_core.data.batches import shield_workers

if __name__ == "__main__":
    batches = iter(shield_workers(DataLoader(range(1000), num_workers=2)))
    next(batches), next(batches)  # one of each worker, so that both have started
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: print("received", flush=True))
        subprocess.run(["kill", f"-{number}", "--", f"-{os.getpgrp()}"])
    print(len(list(batches)), flush=True)
    batches = iter(shield_workers(DataLoader(range(1000), num_workers=1)))
    next(batches)
    raise ZeroDivisionError
""")
    done = subprocess.run(
        [sys.executable, script], timeout=120, capture_output=True, text=True, check=False, start_new_session=True
    )
    assert done.stdout == "received\nreceived\n998\n"
    assert done.stderr.endswith("ZeroDivisionError\n")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_workers_survive_a_signal_to_the_group_while_they_start(tmp_path: Path, number: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
import os, signal, subprocess, time
from multiprocessing import Process
from torch.utils.data import DataLoader
from bcnet_core.data import batches

def start_slowly(process, start=Process.start):
    start(process)
    # before the new worker blocks it; from a third process, since workers obey their parent
    subprocess.run(["kill", f"-{{signal.{number}}}", "--", f"-{{os.getpgrp()}}"])

def obey_late(obey=batches.obey_parent_only):
    time.sleep(0.3)
    obey()

if __name__ == "__main__":
    signal.signal(signal.{number}, lambda *_: print("received", flush=True))
    Process.start, batches.obey_parent_only = start_slowly, obey_late
    print(len(list(batches.shield_workers(DataLoader(range(20), num_workers=2)))))
""")
    done = subprocess.run(
        [sys.executable, script], timeout=120, capture_output=True, text=True, check=False, start_new_session=True
    )
    assert (done.stdout, done.stderr) == ("received\n20\n", "")


def test_where_nobody_says_who_sent_a_signal_workers_ignore_ctrl_c_alone(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
import os, signal, time
from multiprocessing import get_context
del signal.sigtimedwait  # as on macOS
from bcnet_core.files.workers import deferred_signals, obey_parent_only

def work(ready):
    obey_parent_only()
    ready.set()
    time.sleep(60)

if __name__ == "__main__":
    context = get_context("fork")
    for number in (signal.SIGINT, signal.SIGTERM):
        ready = context.Event()
        worker = context.Process(target=work, args=(ready,))
        with deferred_signals():
            worker.start()
        ready.wait()
        os.kill(worker.pid, number)
        worker.join(1)
        print(number.name, worker.exitcode)
        worker.kill()
        worker.join()
""")
    done = subprocess.run([sys.executable, script], timeout=60, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("SIGINT None\nSIGTERM -15\n", "")
