"""The curves of a run as one picture: losses, learning rate and scores over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure

NO_LOSS = {"step", "lr", "speed", "validation"}
"""What a row holds beside the losses."""

COLOURS = ("#000000", "#0077bb", "#ee7733", "#009988", "#cc3311", "#33bbee", "#ee3377", "#aa4499", "#999933", "#666666")
"""Apart for every kind of colour vision (Paul Tol's); black is the sum."""

WINDOW = 50
"""A run with more than twice as many rows is drawn as the means of twice as many spans, so that it stays readable."""


def draw_curves(rows: Sequence[dict[str, Any]]) -> bytes:
    """Draw the rows of metrics.jsonl.

    Args:
        rows: at least one, in the order of their steps.

    Returns:
        A PNG; the same rows give the same bytes.
    """
    steps = [row for row in rows if "loss" in row]
    scores = [row for row in rows if "validation" in row]
    figure = Figure(figsize=(12, 4.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, 3 if scores else 2, squeeze=False)[0]
    names = [name for name in (steps[-1] if steps else {}) if name not in NO_LOSS]
    for name, colour in zip(names, COLOURS, strict=False):
        x, y = _smooth([row["step"] for row in steps], [row.get(name, np.nan) for row in steps])
        panels[0].plot(x, y, color=colour, linewidth=2 if name == "loss" else 1, label=name)
    panels[0].set(title="losses (weighted)", xlabel="step", yscale="log" if names else "linear")
    if names:
        panels[0].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    panels[1].plot([row["step"] for row in steps], [row["lr"] for row in steps], color=COLOURS[1])
    panels[1].set(title="learning rate", xlabel="step")
    if scores:
        for index, name in enumerate(scores[-1]["validation"]):
            values = [row["validation"].get(name, np.nan) for row in scores]
            panels[2].plot([row["step"] for row in scores], values, "o-", color=COLOURS[index + 1], label=name)
        panels[2].set(title="scores on data.val", xlabel="step")
        panels[2].legend(fontsize=7, frameon=False)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    picture = BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _smooth(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means over spans of equal length, where there are many rows."""
    if len(steps) <= 2 * WINDOW:
        return list(steps), list(values)
    parts = zip(np.array_split(np.array(steps), 2 * WINDOW), np.array_split(np.array(values), 2 * WINDOW), strict=True)
    means = [(float(x.mean()), float(np.nanmean(y))) for x, y in parts]
    return [x for x, _ in means], [y for _, y in means]
