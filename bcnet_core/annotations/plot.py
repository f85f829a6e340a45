"""A picture of how occluded a data set is: the histograms of a split's manifest."""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure

COLOURS = {"source": "#bbbbbb", "split": "#0077bb"}
"""Grey and blue: they stay apart for every kind of colour vision, and in print."""


def plot_histogram(manifest: dict[str, Any]) -> bytes:
    """Draw the occlusion of instances and of images, source beside split.

    Args:
        manifest: of `split_occluded`.

    Returns:
        A PNG; the same manifest gives the same bytes.
    """
    histogram, rule = manifest["histogram"], manifest["rule"]
    bins = ["0", *(f"{low:g}-{high:g}" for low, high in pairwise(histogram["edges"]))]
    figure = Figure(figsize=(11, 4.2), dpi=120, layout="constrained")
    for axes, unit in zip(figure.subplots(1, 2), ("instances", "images"), strict=True):
        for offset, part in zip((-0.2, 0.2), ("source", "split"), strict=True):
            axes.bar(np.arange(len(bins)) + offset, histogram[part][unit], 0.4, color=COLOURS[part], label=part)
        axes.set_title(f"{sum(histogram['source'][unit]):,} {unit}, {sum(histogram['split'][unit]):,} in the split")
        axes.set_xticks(range(len(bins)), bins, rotation=45, ha="right")
        axes.set_xlabel(f"occlusion ({rule['measure']})" + (" of the most occluded instance" * (unit == "images")))
        axes.set_ylabel(unit)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"How much instances are occluded: {manifest['source']['file']}", parse_math=False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    picture = BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
