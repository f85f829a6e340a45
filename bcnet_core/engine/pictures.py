"""Pictures of a run: its curves, and the maps that the mask head predicts for a training image."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

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
    """Draw the rows of metrics.jsonl.

    Args:
        rows: at least one row, ordered by step.

    Returns:
        A PNG; the same rows give the same bytes.
    """
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
    """Predict the maps of some instances of a training image inside their true boxes.

    Args:
        detector: detector in any mode, which it keeps.
        sample: training image with at least one instance.

    Returns:
        (3, H, W) uint8. Each instance has two rows, predicted above true; the columns are its part of the image, then
        boundary and mask of each layer, occluder first.
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
    image = sample.image.to(detector.device).float() / 255
    rows = []
    for index, instance in enumerate(chosen.tolist()):
        cutout = _cutout(image, targets.boxes[instance])
        wanted = {name: maps[instance].float() for name, maps in true.items()}
        predicted = {name: maps[index].sigmoid() for name, maps in logits.items()}
        rows += [_row(cutout, predicted), _row(cutout, wanted)]
    picture = functional.pad(torch.cat(rows, dim=1), (GAP, 0, GAP, 0), value=1.0)
    return (picture * 255).round().to(torch.uint8).cpu()


def _row(cutout: Tensor, maps: dict[str, Tensor]) -> Tensor:
    """Join a cutout and its maps side by side, occluder first as in the paper; a missing map is gray."""
    tiles = [cutout]
    for spec in reversed(map_specs()):
        values = maps.get(spec.name)
        gray = torch.full((1, 1, TILE, TILE), 0.5, device=cutout.device)
        tile = gray if values is None else functional.interpolate(values[None, None], size=(TILE, TILE))
        tiles.append(tile[0].expand(3, -1, -1))
    return torch.cat([functional.pad(tile, (0, GAP, 0, GAP), value=1.0) for tile in tiles], dim=2)


def _cutout(image: Tensor, box: Tensor) -> Tensor:
    """Crop a box from a (3, h, w) image and resize it to a tile."""
    x0, y0 = box[:2].floor().clamp(min=0).long().tolist()
    x1, y1 = box[2:].ceil().long().tolist()
    part = image[:, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return functional.interpolate(part[None], size=(TILE, TILE), mode="bilinear")[0]
