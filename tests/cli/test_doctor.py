"""`bcnet doctor` on working and broken machines, and the environment that every command sets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bcnet_cli import __main__
from bcnet_core.engine import doctor
from bcnet_core.engine.doctor import Check, examine
from tests.conftest import Bcnet


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_this_machine_can_train(bcnet: Bcnet, tmp_path: Path) -> None:
    (tmp_path / "train2017").mkdir()
    done = bcnet("doctor", "--data-root", tmp_path, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert found["torch"]["text"] == torch.__version__ and found["torchvision"]["state"] == "ok"
    assert "has train2017; not: annotations/instances_train2017.json" in found["data root"]["text"]
    assert list(tmp_path.iterdir()) == [tmp_path / "train2017"]
    gone = bcnet("doctor", "--data-root", tmp_path / "gone")
    assert gone.returncode == 1 and "is not a folder" in gone.stdout and "Traceback" not in gone.stderr


def test_a_broken_driver_is_reported_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise RuntimeError("the driver is out of order\nand more")

    monkeypatch.setattr(torch.cuda, "device_count", broken)
    found = by_name(examine(None))
    expected = Check("GPUs", "error", "the check failed: RuntimeError: the driver is out of order")
    assert found["GPUs"] == expected
    assert found["disk"].state in {"ok", "warning"} and found["data root"].state == "ok"


def test_missing_packages_and_little_space_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    monkeypatch.setattr(doctor, "REQUIRED", ("numpy", "no-such-package"))
    monkeypatch.setattr(doctor, "LITTLE_DISK", 1e18)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    found = by_name(examine(None))
    assert found["torch"].state == "error" and "2.6 or newer" in str(found["torch"].hint)
    assert found["packages"] == Check(
        "packages", "error", "not installed: no-such-package", "pip install no-such-package"
    )
    assert found["GPUs"].state == "warning" and "--device cpu" in str(found["GPUs"].hint)
    assert found["C++ compiler"].state == found["disk"].state == "warning"


def test_speed_is_measured_for_training_and_inference(
    bcnet: Bcnet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "SECONDS", 0.0)
    monkeypatch.setattr(doctor, "WARM_UP", 1)
    done = bcnet("doctor", "--speed", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    checks = json.loads(done.stdout)
    assert [check["name"] for check in checks] == ["training speed", "inference speed"]
    assert all(check["images_per_second"] > 0 and "recipe shapes" in check["text"] for check in checks)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (None, "5000")),
        ({"GOMP_SPINCOUNT": "7"}, (None, "7")),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
    ],
)
def test_threads_spin_briefly_unless_the_user_chooses(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: tuple[str | None, str | None]
) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    seen: list[tuple[str | None, ...]] = []
    monkeypatch.setattr("bcnet_cli.app.main", lambda: seen.append(tuple(map(os.environ.get, names))))
    for name in names:
        monkeypatch.setenv(name, "")  # restored at the end, whatever the program sets
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        __main__.main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert seen == [expected]


def test_importing_the_package_leaves_the_environment_alone() -> None:
    code = "import os; before = dict(os.environ); import bcnet_core, bcnet_core.errors; assert before == os.environ"
    subprocess.run([sys.executable, "-c", code], check=True)
