"""A figure of the evidence: the difference of every arm to the bilayer head, by visible fraction."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.evidence.summary import BINS, Difference
from benchmarks.evidence.trials import ARMS, REFERENCE

LOOKS = {
    "bilayer": ("#000000", "o"),
    "no_occluder_loss": ("#e69f00", "o"),
    "no_boundary": ("#56b4e9", "s"),
    "fcn": ("#009e73", "^"),
    "single_layer": ("#0072b2", "D"),
    "plain": ("#d55e00", "v"),
    "plain_deep": ("#cc79a7", "P"),
}
"""Color and marker of each arm: the palette of Okabe and Ito, which suits every kind of color vision."""
WIDTH = 0.7
"""Width of the arms side by side in a bin, as a fraction of the bin."""


def plot_differences(differences: Sequence[Difference]) -> bytes:
    """Draw the differences in mask IoU as a PNG: one column a set, equal steps above equal time.

    The same differences give the same bytes.
    """
    sets = list(dict.fromkeys(one.data for one in differences)) or [""]
    kinds = sorted({one.matched for one in differences}) or [False]
    figure = Figure(figsize=(1 + 4.6 * len(sets), 1.2 + 3.2 * len(kinds)), dpi=120, layout="constrained")
    grid = figure.subplots(len(kinds), len(sets), squeeze=False, sharey=True, sharex=True)
    for line, matched in zip(grid, kinds, strict=True):
        for axes, data in zip(line, sets, strict=True):
            shown = [one for one in differences if (one.data, one.matched) == (data, matched)]
            _draw(axes, shown)
            seeds = sorted({len(one.seeds) for one in shown}) or [0]
            counted = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"seeds: {seeds[0]}"
            axes.set_title(f"{data}, equal {'time' if matched else 'steps'} ({counted})", fontsize=10)
        line[0].set_ylabel("IoU less that of bilayer, points")
    arms = [arm for arm in ARMS if any(one.arm == arm for one in differences)]
    marks = [
        Line2D([], [], color=LOOKS[arm][0], marker=LOOKS[arm][1], linestyle="", label=ARMS[arm].title) for arm in arms
    ]
    figure.suptitle("Mask IoU in true boxes by visible fraction, with 95 % intervals over seeds and images")
    if marks:
        figure.legend(handles=marks, loc="outside lower center", ncols=min(len(marks), 3 * len(sets)), frameon=False)
    picture = BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _draw(axes: Axes, differences: Sequence[Difference]) -> None:
    """Draw one panel; each arm has a fixed place in a bin."""
    others = [arm for arm in ARMS if arm != REFERENCE]
    for one in differences:
        offset = WIDTH * (others.index(one.arm) / (len(others) - 1) - 0.5)
        mean, low, high = 100 * np.array([one.iou[name] for name in BINS]).T
        color, mark = LOOKS[one.arm]
        reach = np.maximum((mean - low, high - mean), 0)  # with few images the mean may lie outside
        axes.errorbar(
            np.arange(len(BINS)) + offset, mean, reach,
            color=color, marker=mark, markersize=5, linestyle="", elinewidth=1.5,
        )  # fmt: skip
    axes.axhline(0, color=LOOKS[REFERENCE][0], linewidth=0.8)
    for edge in np.arange(1, len(BINS)) - 0.5:
        axes.axvline(edge, color="#dddddd", linewidth=0.8)
    axes.set_xticks(range(len(BINS)), list(BINS))
    axes.set_xlim(-0.5, len(BINS) - 0.5)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)
