"""What a run writes of its progress: metrics.jsonl always, curves.png at its end, TensorBoard's events on request."""

from __future__ import annotations

import json
import math
from itertools import takewhile
from pathlib import Path
from typing import Any

from bcnet_core.engine.curves import draw_curves
from bcnet_core.engine.run_dir import CURVES_FILE, METRICS_FILE, TENSORBOARD_DIR
from bcnet_core.errors import usage_error
from bcnet_core.files.outputs import atomic_file

Row = dict[str, Any]


class RunWriter:
    """Appends rows to metrics.jsonl; a resumed run first drops the rows it is going to write again.

    Args:
        run_dir: of the run.
        first_step: the step that training begins or goes on with.
        tensorboard: whether to write event files as well.

    Raises:
        BCNetError: if TensorBoard is asked for and not installed.
    """

    def __init__(self, run_dir: Path, *, first_step: int, tensorboard: bool = False) -> None:
        self._path, self._curves = run_dir / METRICS_FILE, run_dir / CURVES_FILE
        goes_on = first_step and self._path.exists()
        lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines() if goes_on else []
        kept = list(takewhile(lambda line: _step_of(line) <= first_step, lines))
        self.rows: list[Row] = [json.loads(line) for line in kept]
        with atomic_file(self._path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self.events = _open_events(run_dir / TENSORBOARD_DIR, first_step) if tensorboard else None

    def append(self, row: Row) -> None:
        """Add one row; every row has `step`, the number of steps done. Nested rows are groups."""
        self.rows.append(row)
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        if self.events is not None:
            for name, value in _flat(row):
                self.events.add_scalar(name, value, row["step"])

    def validations(self) -> dict[int, float]:
        """The mask AP of every evaluation so far, by step."""
        return {row["step"]: row["validation"]["mask_AP"] for row in self.rows if "validation" in row}

    def close(self) -> None:
        """Draw the curves of all that was written, and finish the event files."""
        if self.rows:
            with atomic_file(self._curves) as temporary:
                temporary.write_bytes(draw_curves(self.rows))
        if self.events is not None:
            self.events.close()


def _flat(row: Row) -> list[tuple[str, float]]:
    """TensorBoard's names: losses under `loss/`, groups under their own."""
    found = []
    for name, value in row.items():
        if isinstance(value, dict):
            found += [(f"{name}/{inner}", number) for inner, number in value.items()]
        elif name != "step":
            found.append((name if name == "lr" else f"loss/{'total' if name == 'loss' else name}", value))
    return found


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
    """The step of a row; infinity where the row was cut off while it was written."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
