"""detectron2 is optional: without it everything else works, and asking for it gives a helpful error."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bcnet_core
from bcnet_core import backends
from bcnet_core.errors import BCNetError, ExitCode
from tests.conftest import Bcnet

REPO = Path(__file__).parent.parent


@pytest.fixture
def no_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def find(name: str, *arguments: Any) -> Any:
        return None if name == "detectron2" else found(name, *arguments)

    monkeypatch.setattr(importlib.util, "find_spec", find)


@pytest.mark.usefixtures("no_detectron2")
@pytest.mark.parametrize(
    "words",
    [
        ["train", "tiny", "--backend", "detectron2"],
        ["train", "--backend", "detectron2", "--d2-config", "a.yaml"],
        ["eval", "run", "--backend", "detectron2"],
        ["viz", "run", "--backend", "detectron2", "-o", "viz"],
        ["weights", "convert", "run", "--to", "detectron2", "-o", "a.pth"],
    ],
)
def test_commands_without_detectron2_say_how_to_install_it(bcnet: Bcnet, tmp_path: Path, words: list[str]) -> None:
    ended = bcnet(*words, cwd=tmp_path)
    assert ended.returncode == ExitCode.USAGE
    message = " ".join(ended.stderr.split())
    assert message.startswith("error: detectron2 is not installed")
    assert "pip install 'bcnet[detectron2]'" in message
    assert "git+https://github.com/facebookresearch/detectron2" in message
    assert ended.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_detectron2")
def test_load_detector_without_detectron2_says_so() -> None:
    with pytest.raises(BCNetError, match="not installed"):
        bcnet_core.load_detector("run", backend="detectron2")


def test_batches_and_half_precision_are_refused_for_detectron2() -> None:
    with pytest.raises(BCNetError, match="half precision and --compile need") as error:
        bcnet_core.load_detector("run", backend="detectron2", runtime=bcnet_core.Runtime(precision="bf16"))
    assert error.value.exit_code == ExitCode.USAGE and "weights convert run --to torchvision" in error.value.hints[0]


def test_a_broken_installation_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("_C.so: undefined symbol: _ZN3c10\nmore")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(backends.importlib, "import_module", broken)
    with pytest.raises(BCNetError) as error:
        backends.require_backend("detectron2")
    assert error.value.message == "detectron2 is there but cannot be imported: _C.so: undefined symbol: _ZN3c10"
    assert error.value.hints[1:] == backends.INSTALL


def test_an_unknown_backend_is_rejected() -> None:
    with pytest.raises(BCNetError, match="no backend `caffe`") as error:
        bcnet_core.load_detector("run", backend="caffe")  # type: ignore[call-overload]
    assert error.value.hints == ("choose one: torchvision, detectron2",)


def test_only_the_integration_imports_detectron2() -> None:
    paths = [
        path.relative_to(REPO) for package in ("bcnet_core", "bcnet_cli") for path in (REPO / package).rglob("*.py")
    ]
    names = [".".join(path.with_suffix("").parts) for path in paths if "integrations" not in path.parts]
    assert len(names) > 100
    code = f"import sys; sys.modules['detectron2'] = None\nimport {', '.join(names)}"  # importing None is an error
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPO)
    assert result.returncode == 0, result.stderr
