"""Pictures of a run: its curves, and the maps that the mask head predicts for a training image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional
from torchvision.utils import make_grid

from bcnet_core.data.dataset import Sample
from bcnet_core.maps import map_specs
from bcnet_core.model.detectors import Detector
from bcnet_core.model.mask_branch import MASK_SIZE
from bcnet_core.model.rois import RoIs
from bcnet_core.model.targets import bilayer_targets

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
        boundary and mask of each layer, occluder first as in the paper. A missing map is gray.
    """
    training, targets = detector.training, sample.targets.to(detector.device)
    count = len(targets.boxes)
    everyone = torch.arange(count, device=detector.device)
    rois = RoIs(targets.boxes, torch.zeros_like(everyone), everyone, torch.zeros(count, device=detector.device))
    true = bilayer_targets([targets], rois, size=MASK_SIZE)
    hidden = true["occluder_mask"].flatten(1).sum(1)
    chosen = hidden.argsort(descending=True, stable=True)[:INSTANCES]
    batch = detector.eval().preprocess([sample.image])
    logits = detector.heads.masks(detector.backbone(batch.tensors), targets.boxes[chosen], torch.zeros_like(chosen))
    detector.train(training)
    predicted = {name: maps.sigmoid() for name, maps in logits.items()}
    wanted = {name: maps[chosen].float() for name, maps in true.items()}
    gray = torch.full((INSTANCES, 1, 1), 0.5, device=detector.device)
    tiles = []
    for index, (left, top, right, bottom) in enumerate(targets.boxes[chosen].tolist()):
        x, y = int(max(left, 0)), int(max(top, 0))
        crop = sample.image[:, y : max(math.ceil(bottom), y + 1), x : max(math.ceil(right), x + 1)]
        for maps in (predicted, wanted):
            columns = [maps.get(spec.name, gray)[index] for spec in reversed(map_specs())]
            tiles.append(_tile(crop.to(detector.device).float() / 255, mode="bilinear"))
            tiles += [_tile(column.expand(3, -1, -1), mode="nearest") for column in columns]
    picture: Tensor = make_grid(torch.stack(tiles), nrow=1 + len(map_specs()), padding=GAP, pad_value=1.0)
    return (picture * 255).round().to(torch.uint8).cpu()


def _tile(image: Tensor, *, mode: str) -> Tensor:
    return functional.interpolate(image[None], size=(TILE, TILE), mode=mode)[0]
