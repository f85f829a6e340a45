"""`bcnet doctor` on machines that are well, and on some that are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

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
    told = bcnet("doctor", "--data-root", tmp_path / "gone")
    assert told.returncode == 1 and "is no folder" in told.stdout and "Traceback" not in told.stderr


def test_a_broken_driver_is_an_error_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise RuntimeError("the driver is out of order\nand more")

    monkeypatch.setattr(torch.cuda, "device_count", broken)
    found = by_name(examine(None))
    expected = Check("GPUs", "error", "looking at it failed: RuntimeError: the driver is out of order")
    assert found["GPUs"] == expected
    assert found["disk"].state in {"ok", "warning"} and found["data root"].state == "ok"


def test_what_is_missing_or_little_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
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
