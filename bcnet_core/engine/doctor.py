"""Checks of this machine: what it has, what would fail on it, and how fast it is."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from torch import distributed

from bcnet_core import __version__
from bcnet_core.config.data import DataConfig
from bcnet_core.config.load import load_recipe
from bcnet_core.distributed import choose_device
from bcnet_core.engine.launch import open_data
from bcnet_core.engine.state import TrainingJob, TrainingState
from bcnet_core.model.compiling import cpp_compiler
from bcnet_core.reporting import SilentReporter
from bcnet_core.synth.sets import write_shapes

State = Literal["ok", "warning", "error"]
OLDEST_TORCH = (2, 6)
REQUIRED = ("numpy", "pycocotools", "faster-coco-eval", "opencv-python-headless", "pillow", "shapely", "matplotlib",
            "pydantic", "pyyaml", "typer", "rich")  # fmt: skip
EXTRAS = {
    "detectron2": "--backend detectron2",
    "tensorboard": "bcnet train --tensorboard",
    "onnxscript": "bcnet weights export to ONNX",
}
"""Optional packages and what needs them."""
LITTLE_MEMORY, LITTLE_SHARED, LITTLE_DISK = 4e9, 1e9, 5e9
"""Bytes below which to warn."""
WARM_UP, SECONDS = 3, 8.0
"""Untimed calls, and the least seconds of timed ones, of each speed."""


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        state: "error" if training cannot work, "warning" if something else will not.
        hint: the way out, if something is wrong.
        images_per_second: measured speed, for the checks of `measure_speed`.
    """

    name: str
    state: State
    text: str
    hint: str | None = None
    images_per_second: float | None = None


def examine(data_root: Path | None) -> list[Check]:
    """Run all checks; writes nothing, uses no network and raises nothing."""
    parts: dict[str, Callable[[], Iterator[Check]]] = {
        "versions": _versions,
        "packages": _packages,
        "processor": _processor,
        "memory": _memory,
        "GPUs": _gpus,
        "processes": _processes,
        "compiler": _compiler,
        "data": lambda: _data(data_root),
        "extras": _extras,
        "disk": _disk,
    }
    found: list[Check] = []
    for name, part in parts.items():
        try:
            found += part()
        except Exception as error:  # noqa: PERF203  (a broken driver, say, is a finding)
            reason = str(error).strip().split("\n")[0]
            found.append(Check(name, "error", f"the check failed: {type(error).__name__}: {reason}"))
    return found


def measure_speed() -> list[Check]:
    """Time training steps and inference of the recipe `shapes` on generated scenes, on a GPU if there is one."""
    device = choose_device("auto")
    with TemporaryDirectory(prefix="bcnet-speed-") as folder:
        write_shapes(Path(folder) / "shapes", images=8, val_images=1, workers=1)
        recipe = load_recipe("shapes", ["model.score_threshold=0"], data_root=Path(folder) / "shapes")
        dataset, coco, recipe = open_data(recipe, None, device, SilentReporter())
        state = TrainingState(TrainingJob(recipe, Path(folder), "auto", ""), coco.categories, device)
        samples = [dataset[position, position] for position in range(recipe.solver.batch_size)]

    def step() -> None:
        state.backward(samples)
        state.update()

    training = len(samples) * _calls_per_second(step, device)
    state.detector.eval()
    image = np.ascontiguousarray(samples[0].image.permute(1, 2, 0).numpy())
    inference = _calls_per_second(lambda: state.detector.predict([image]), device)
    where = f"on the {'GPU' if device.type == 'cuda' else 'CPU'}, {image.shape[0]} x {image.shape[1]} pixels"
    return [
        Check(name, "ok", f"{speed:.1f} images/s ({what}, recipe shapes {where})", images_per_second=round(speed, 2))
        for name, what, speed in (
            ("training speed", f"steps of {len(samples)} images", training),
            ("inference speed", f"{recipe.model.most_detections} detections an image", inference),
        )
    ]


def _calls_per_second(function: Callable[[], object], device: torch.device) -> float:
    """Call a function for `SECONDS` after a warm-up."""
    for _ in range(WARM_UP):
        function()
    started, calls = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < SECONDS or not calls:
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        calls += 1
    return calls / seconds


def _versions() -> Iterator[Check]:
    yield Check("bcnet", "ok", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    hint = None if version >= OLDEST_TORCH else f"bcnet needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer"
    yield Check("torch", "error" if hint else "ok", torch.__version__, hint)
    import torchvision

    boxes = torch.tensor([[0.0, 0, 9, 9], [1, 1, 9, 9]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5)  # fails if it was built for another torch
    yield Check("torchvision", "ok" if kept.tolist() == [0] else "error", torchvision.__version__)


def _packages() -> Iterator[Check]:
    versions = {name: _version(name) for name in REQUIRED}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        yield Check("packages", "error", f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        yield Check("packages", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> Iterator[Check]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    waiting = ", ".join(
        f"{key}={os.environ[key]}" for key in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if key in os.environ
    )
    yield Check("processor", "ok", f"{usable} cores, threads of torch: {threads}, waiting: {waiting or 'default'}")


def _memory() -> Iterator[Check]:
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    table = Path("/proc/meminfo")
    if table.exists():  # it also counts the caches that the system would free
        lines = dict(line.split(":", 1) for line in table.read_text(encoding="ascii").splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    yield _at_least(
        LITTLE_MEMORY, free, "memory", f"{free / 1e9:.1f} of {total / 1e9:.1f} GB available",
        "use fewer data loader workers (data.workers) or split steps (solver.accumulate)",
    )  # fmt: skip
    if Path("/dev/shm").is_dir():
        size = shutil.disk_usage("/dev/shm").total
        hint = "data loader workers pass images through it: give a container more (--shm-size), or data.workers=0"
        yield _at_least(LITTLE_SHARED, size, "shared memory", f"{size / 1e9:.1f} GB", hint)


def _at_least(least: float, amount: float, name: str, text: str, hint: str) -> Check:
    return Check(name, "warning", text, hint) if amount < least else Check(name, "ok", text)


def _gpus() -> Iterator[Check]:
    count = torch.cuda.device_count()
    if not count:
        built = torch.version.cuda or torch.version.hip
        text = f"none (torch is built for {f'CUDA {built}' if built else 'the CPU'})"
        yield Check("GPUs", "warning", text, "train on the CPU: --device cpu; is there a driver? nvidia-smi")
    for index in range(count):
        about = torch.cuda.get_device_properties(index)
        numbers = torch.ones(64, 64, device=f"cuda:{index}")
        works = float((numbers @ numbers).sum()) == 64**3
        text = f"{about.name}, {about.total_memory / 1e9:.0f} GB, compute capability {about.major}.{about.minor}"
        yield Check(f"GPU {index}", "ok" if works else "error", text, None if works else "its results are wrong")


def _processes() -> Iterator[Check]:
    backends = {"gloo": distributed.is_gloo_available(), "nccl": distributed.is_nccl_available()}
    text = ", ".join(f"{name} {'available' if there else 'missing'}" for name, there in backends.items())
    if backends["nccl"] and torch.cuda.device_count():
        text += f" (NCCL {'.'.join(map(str, torch.cuda.nccl.version()))})"  # type: ignore[no-untyped-call]
    needed = "nccl" if torch.cuda.device_count() > 1 else "gloo"
    hint = None if backends[needed] else f"several processes need {needed}: install a build of torch that has it"
    yield Check("processes", "warning" if hint else "ok", text, hint)


def _compiler() -> Iterator[Check]:
    found = cpp_compiler()
    hint = None if found else "only solver.compile=true and --compile need one, on the CPU: install g++"
    yield Check("C++ compiler", "warning" if hint else "ok", found or "none", hint)


def _data(root: Path | None) -> Iterator[Check]:
    if root is None:
        yield Check("data root", "ok", "not given: --data-root DIR, or BCNET_DATA")
        return
    if not root.is_dir():
        yield Check("data root", "error", f"`{root}` is not a folder", "say where the data is: --data-root DIR")
        return
    data = DataConfig(root=root)
    paths = [path for dataset in (data.train, data.val, data.test) for path in data.locate(dataset)]
    there = [str(path.relative_to(root)) for path in paths if path.exists()]
    missing = [str(path.relative_to(root)) for path in paths if not path.exists()]
    text = f"`{root}` has {', '.join(there) or 'none of the files of COCO'}"
    text += f"; not: {', '.join(missing)}" if missing else ""
    yield Check("data root", "ok" if there else "warning", text)


def _extras() -> Iterator[Check]:
    for name, use in EXTRAS.items():
        yield Check(name, "ok", _version(name) or f"not installed; only {use} needs it")


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(Path.cwd()).free
    if not os.access(Path.cwd(), os.W_OK):
        yield Check("current folder", "warning", "not writable", "name folders that are: --run-dir, -o")
    hint = "a checkpoint of a large detector takes half a gigabyte"
    yield _at_least(LITTLE_DISK, free, "disk", f"{free / 1e9:.1f} GB free in the current folder", hint)
