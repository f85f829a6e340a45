"""What this machine has, and what would fail on it, before a run does."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
from torch import distributed

from bcnet_core import __version__
from bcnet_core.config.schema import DataConfig

State = Literal["ok", "warning", "error"]
OLDEST_TORCH = (2, 6)
REQUIRED = ("numpy", "pycocotools", "faster-coco-eval", "opencv-python-headless", "pillow", "shapely", "matplotlib",
            "pydantic", "pyyaml", "typer", "rich")  # fmt: skip
EXTRAS = {
    "detectron2": "--backend detectron2",
    "tensorboard": "bcnet train --tensorboard",
    "onnxscript": "bcnet weights export to ONNX",
}
"""Packages that one thing needs."""
LITTLE_MEMORY, LITTLE_SHARED, LITTLE_DISK = 4e9, 1e9, 5e9
"""Bytes below which a warning is in order."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of the thing.
        state: "error" if training cannot work, "warning" if something will not.
        text: what was found.
        hint: the way out, where something is wrong.
    """

    name: str
    state: State
    text: str
    hint: str | None = None


def examine(data_root: Path | None) -> list[Check]:
    """Look at everything; writes nothing, asks no network, and raises nothing.

    Args:
        data_root: that recipes' data paths are relative to, where one is given.

    Returns:
        The checks, in the order in which a person would ask.
    """
    parts: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
        ("versions", _versions),
        ("packages", _packages),
        ("processor", _processor),
        ("memory", _memory),
        ("GPUs", _gpus),
        ("processes", _processes),
        ("compiler", _compiler),
        ("data", lambda: _data(data_root)),
        ("extras", _extras),
        ("disk", _disk),
    )
    found: list[Check] = []
    for name, part in parts:
        found += _guarded(name, part)
    return found


def _guarded(name: str, part: Callable[[], Iterator[Check]]) -> list[Check]:
    """A part's checks; what it raises is one of them."""
    try:
        return list(part())
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        return [Check(name, "error", f"looking at it failed: {type(error).__name__}: {reason}")]


def _versions() -> Iterator[Check]:
    yield Check("bcnet", "ok", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    fine = version >= OLDEST_TORCH
    least = ".".join(map(str, OLDEST_TORCH))
    yield Check(
        "torch", "ok" if fine else "error", torch.__version__, None if fine else f"bcnet needs torch {least} or newer"
    )
    import torchvision

    boxes = torch.tensor([[0.0, 0, 9, 9], [1, 1, 9, 9]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5)  # which a build for another torch does not have
    yield Check("torchvision", "ok" if kept.tolist() == [0] else "error", torchvision.__version__)


def _packages() -> Iterator[Check]:
    versions = {name: _version(name) for name in REQUIRED}
    missing = [name for name, version in versions.items() if version is None]
    text = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    if missing:
        yield Check("packages", "error", f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        yield Check("packages", "ok", text)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> Iterator[Check]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("processor", "ok", f"{usable} cores, threads of torch: {torch.get_num_threads()}")


def _memory() -> Iterator[Check]:
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    free = os.sysconf("SC_AVPHYS_PAGES") * page
    table = Path("/proc/meminfo")
    if table.exists():  # which counts what the system would give back
        lines = dict(line.split(":", 1) for line in table.read_text(encoding="ascii").splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    little = free < LITTLE_MEMORY
    hint = "take fewer loader processes (data.workers) or smaller steps (solver.accumulate)" if little else None
    yield Check("memory", "warning" if little else "ok", f"{free / 1e9:.1f} of {total / 1e9:.1f} GB available", hint)
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        little = size < LITTLE_SHARED
        hint = "loader processes hand images over in it: give a container more (--shm-size), or data.workers=0"
        yield Check("shared memory", "warning" if little else "ok", f"{size / 1e9:.1f} GB", hint if little else None)


def _gpus() -> Iterator[Check]:
    count = torch.cuda.device_count()
    if not count:
        built = torch.version.cuda or torch.version.hip
        text = f"none (torch is built for CUDA {built})" if built else "none (torch is built for the CPU)"
        yield Check("GPUs", "warning", text, "train on the CPU: --device cpu; is there a driver? nvidia-smi")
    for index in range(count):
        about = torch.cuda.get_device_properties(index)
        numbers = torch.ones(64, 64, device=f"cuda:{index}")
        works = float((numbers @ numbers).sum()) == 64**3
        text = f"{about.name}, {about.total_memory / 1e9:.0f} GB, compute capability {about.major}.{about.minor}"
        yield Check(f"GPU {index}", "ok" if works else "error", text, None if works else "it computes wrongly")


def _processes() -> Iterator[Check]:
    backends = {"gloo": distributed.is_gloo_available(), "nccl": distributed.is_nccl_available()}
    text = ", ".join(f"{name} {'there' if there else 'missing'}" for name, there in backends.items())
    needed = "nccl" if torch.cuda.device_count() > 1 else "gloo"
    if backends["nccl"] and torch.cuda.device_count():
        text += f" (NCCL {'.'.join(map(str, torch.cuda.nccl.version()))})"  # type: ignore[no-untyped-call]
    fine = backends[needed]
    hint = None if fine else f"several processes need {needed}: install a build of torch that has it"
    yield Check("processes", "ok" if fine else "warning", text, hint)


def _compiler() -> Iterator[Check]:
    names = filter(None, (os.environ.get("CXX"), "g++", "clang++"))
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        yield Check("C++ compiler", "warning", "none", "only solver.compile=true needs one, on the CPU: install g++")
    else:
        yield Check("C++ compiler", "ok", found)


def _data(root: Path | None) -> Iterator[Check]:
    if root is None:
        yield Check("data root", "ok", "not given: --data-root DIR, or BCNET_DATA")
        return
    if not root.is_dir():
        yield Check("data root", "error", f"`{root}` is no folder", "say where the data is: --data-root DIR")
        return
    data = DataConfig(root=root)
    paths = [path for dataset in (data.train, data.val, data.test) for path in data.locate(dataset)]
    there = [str(path.relative_to(root)) for path in paths if path.exists()]
    missing = [str(path.relative_to(root)) for path in paths if not path.exists()]
    text = f"`{root}` has {', '.join(there) or 'nothing that COCO has'}"
    if missing:
        yield Check("data root", "ok" if there else "warning", f"{text}; not: {', '.join(missing)}")
    else:
        yield Check("data root", "ok", text)


def _extras() -> Iterator[Check]:
    for name, use in EXTRAS.items():
        version = _version(name)
        yield Check(name, "ok", version or f"not installed; only {use} needs it")


def _disk() -> Iterator[Check]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    if not os.access(here, os.W_OK):
        yield Check("current folder", "warning", "not writable", "name folders that are: --run-dir, -o")
    little = free < LITTLE_DISK
    hint = "a checkpoint of a large detector takes half a gigabyte" if little else None
    yield Check("disk", "warning" if little else "ok", f"{free / 1e9:.1f} GB free in the current folder", hint)
