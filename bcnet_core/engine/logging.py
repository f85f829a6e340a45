"""The log of a run: metrics.jsonl, curves.png at the end, TensorBoard events on request; speed, memory, pictures."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional
from torchvision.utils import make_grid

from bcnet_core.data.dataset import Sample
from bcnet_core.engine.run_dir import CURVES_FILE, METRICS_FILE, TENSORBOARD_DIR
from bcnet_core.errors import usage_error
from bcnet_core.files.outputs import atomic_file
from bcnet_core.maps import map_specs
from bcnet_core.model.detectors import Detector
from bcnet_core.model.losses import bilayer_targets
from bcnet_core.model.rois import RoIs

Item = TypeVar("Item")
Row = dict[str, Any]

NO_LOSS = {"step", "lr", "speed", "validation"}
"""Entries of a row that are not losses."""
COLORS = ("#000000", "#0077bb", "#ee7733", "#009988", "#cc3311", "#33bbee", "#ee3377", "#aa4499", "#999933", "#666666")
"""Distinct for every kind of color vision (Paul Tol's); black is the sum."""
WINDOW = 50
"""A run with more than twice as many rows is drawn as means over twice as many spans."""
INSTANCES = 4
"""Number of instances shown: the most occluded of an image."""
TILE, GAP = 84, 4
"""Side of a map and the gap between two, in pixels."""


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


def draw_curves(rows: Sequence[dict[str, Any]]) -> bytes:
    """Draw the rows of metrics.jsonl, one at least, as a PNG; the same rows give the same bytes."""
    steps = [row for row in rows if "loss" in row]
    scores = [row for row in rows if "validation" in row]
    figure = Figure(figsize=(12, 4.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, 3 if scores else 2, squeeze=False)[0]
    names = [name for name in (steps[-1] if steps else {}) if name not in NO_LOSS]
    for name, color in zip(names, COLORS, strict=False):
        x, y = _smooth([row["step"] for row in steps], [row.get(name, np.nan) for row in steps])
        panels[0].plot(x, y, color=color, linewidth=2 if name == "loss" else 1, label=name)
    panels[0].set(title="losses (weighted)", xlabel="step", yscale="log" if names else "linear")
    if names:
        panels[0].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    panels[1].plot([row["step"] for row in steps], [row["lr"] for row in steps], color=COLORS[1])
    panels[1].set(title="learning rate", xlabel="step")
    if scores:
        for index, name in enumerate(scores[-1]["validation"]):
            values = [row["validation"].get(name, np.nan) for row in scores]
            panels[2].plot([row["step"] for row in scores], values, "o-", color=COLORS[index + 1], label=name)
        panels[2].set(title="scores on data.val", xlabel="step")
        panels[2].legend(fontsize=7, frameon=False)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    picture = BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _smooth(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Average many rows over spans of equal length."""
    if len(steps) <= 2 * WINDOW:
        return list(steps), list(values)
    parts = zip(np.array_split(np.array(steps), 2 * WINDOW), np.array_split(np.array(values), 2 * WINDOW), strict=True)
    means = [(float(x.mean()), float(np.nanmean(y))) for x, y in parts]
    return [x for x, _ in means], [y for _, y in means]


@torch.no_grad()
def layers_picture(detector: Detector, sample: Sample) -> Tensor:
    """Predict the maps of the most occluded instances of a training image inside their true boxes.

    Returns:
        (3, H, W) uint8. Each instance has two rows, predicted above true; the columns are its part of the image, then
        boundary and mask of each layer, occluder first as in the paper, behind the whole mask if the head predicts it.
        Another missing map is gray.
    """
    training, targets = detector.training, sample.targets.to(detector.device)
    count = len(targets.boxes)
    everyone = torch.arange(count, device=detector.device)
    rois = RoIs(targets.boxes, torch.zeros_like(everyone), everyone, torch.zeros(count, device=detector.device))
    true = bilayer_targets([targets], rois, size=detector.heads.masks.head.mask_size)
    hidden = true["occluder_mask"].flatten(1).sum(1)
    chosen = hidden.argsort(descending=True, stable=True)[:INSTANCES]
    batch = detector.eval().preprocess([sample.image])
    logits = detector.heads.masks(detector.backbone(batch.tensors), targets.boxes[chosen], torch.zeros_like(chosen))
    detector.train(training)
    predicted = {name: maps.sigmoid() for name, maps in logits.items()}
    wanted = {name: maps[chosen].float() for name, maps in true.items()}
    gray = torch.full((INSTANCES, 1, 1), 0.5, device=detector.device)
    specs = [spec for spec in reversed(map_specs()) if spec.region != "amodal" or spec.name in logits]
    tiles = []
    for index, (left, top, right, bottom) in enumerate(targets.boxes[chosen].tolist()):
        x, y = int(max(left, 0)), int(max(top, 0))
        crop = sample.image[:, y : max(math.ceil(bottom), y + 1), x : max(math.ceil(right), x + 1)]
        for maps in (predicted, wanted):
            columns = [maps.get(spec.name, gray)[index] for spec in specs]
            tiles.append(_tile(crop.to(detector.device).float() / 255, mode="bilinear"))
            tiles += [_tile(column.expand(3, -1, -1), mode="nearest") for column in columns]
    picture: Tensor = make_grid(torch.stack(tiles), nrow=1 + len(specs), padding=GAP, pad_value=1.0)
    return (picture * 255).round().to(torch.uint8).cpu()


def _tile(image: Tensor, *, mode: str) -> Tensor:
    return functional.interpolate(image[None], size=(TILE, TILE), mode=mode)[0]
