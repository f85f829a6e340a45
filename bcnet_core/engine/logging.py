"""The log of a run: metrics.jsonl, curves.png at the end, TensorBoard events on request; speed and memory."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import torch

from bcnet_core.engine.pictures import draw_curves
from bcnet_core.engine.run_dir import CURVES_FILE, METRICS_FILE, TENSORBOARD_DIR
from bcnet_core.errors import usage_error
from bcnet_core.files.outputs import atomic_file

Item = TypeVar("Item")
Row = dict[str, Any]


class RunWriter:
    """Append rows to metrics.jsonl; a resumed run first drops the rows that it will write again.

    Attributes:
        rows: the rows so far.
        events: TensorBoard's `SummaryWriter`, or None.

    Raises:
        BCNetError: if TensorBoard is requested but not installed.
    """

    def __init__(self, run_dir: Path, *, first_step: int, tensorboard: bool = False) -> None:
        self._path, self._curves = run_dir / METRICS_FILE, run_dir / CURVES_FILE
        exists = first_step and self._path.exists()
        lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines() if exists else []
        kept = list(takewhile(lambda line: _step_of(line) <= first_step, lines))
        self.rows: list[Row] = [json.loads(line) for line in kept]
        with atomic_file(self._path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self.events = _open_events(run_dir / TENSORBOARD_DIR, first_step) if tensorboard else None

    def append(self, row: Row) -> None:
        """Add one row; `step` is the number of steps done, nested rows are groups."""
        self.rows.append(row)
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        if self.events is not None:
            for name, value in row.items():
                if isinstance(value, dict):
                    for inner, number in value.items():
                        self.events.add_scalar(f"{name}/{inner}", number, row["step"])
                elif name != "step":
                    tag = name if name == "lr" else f"loss/{'total' if name == 'loss' else name}"
                    self.events.add_scalar(tag, value, row["step"])

    def validations(self) -> dict[int, float]:
        """Return the mask AP of every evaluation so far, by step."""
        return {row["step"]: row["validation"]["mask_AP"] for row in self.rows if "validation" in row}

    def close(self) -> None:
        """Draw the curves of all rows and finish the event files."""
        if self.rows:
            with atomic_file(self._curves) as temporary:
                temporary.write_bytes(draw_curves(self.rows))
        if self.events is not None:
            self.events.close()


def _open_events(folder: Path, first_step: int) -> Any:  # noqa: ANN401  (TensorBoard has no types)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise usage_error(
            "--tensorboard needs the package tensorboard, which is not installed",
            "install it:        pip install 'bcnet[tensorboard]'",
            "or do without it:  metrics.jsonl holds the same numbers, curves.png shows them",
        ) from None
    return SummaryWriter(str(folder), purge_step=first_step + 1)


def _step_of(line: str) -> float:
    """Return the step of a row; infinity if the row was cut off by a crash."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class Meter:
    """Measure speed, over the images of a step in all processes, and memory since the last reading."""

    def __init__(self, images: int, device: torch.device) -> None:
        self._images, self._device = images, device
        self._begin()

    def _begin(self) -> None:
        self._started, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def watch(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Pass batches through, counting the time until each arrives as waiting."""
        requested = time.perf_counter()
        for batch in batches:
            self._waited += time.perf_counter() - requested
            self._steps += 1
            yield batch
            requested = time.perf_counter()

    def pause(self, seconds: float) -> None:
        """Exclude time that was spent on saving or evaluating."""
        self._started += seconds

    def read(self) -> dict[str, float]:
        """Return images/s, the share of time spent waiting for data and peak memory in GB, at the end of a step."""
        seconds = max(time.perf_counter() - self._started, 1e-9)
        on_gpu = self._device.type == "cuda"
        memory = torch.cuda.max_memory_allocated(self._device) if on_gpu else peak_memory()
        values = {
            "images_per_second": self._steps * self._images / seconds,
            "data_wait": self._waited / seconds,
            "memory_gb": memory / 1e9,
        }
        self._begin()
        return {name: float(f"{value:.4g}") for name, value in values.items()}


def peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # there, ru_maxrss of a child starts at its parent's
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def duration(seconds: float) -> str:
    """Format a time: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"
