"""What FCOS learns from: which instance a location answers for, and the three losses (Tian et al., 2019)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from bcnet_core.config.choices import GIoU, Normalizer
from bcnet_core.model.fcos import Outputs, distances_to_boxes
from bcnet_core.model.global_batch import global_divisor

SIZE_BOUNDS = (64, 128, 256, 512)
"""The largest regression distance of P3, P4, ... in pixels; the last level of a pyramid has no bound."""
CENTER_RADIUS = 1.5
"""Positive locations lie within this many strides of an instance's centre."""


def assign(outputs: Outputs, boxes: Tensor, labels: Tensor, *, num_classes: int) -> tuple[Tensor, Tensor]:
    """Which instance each location of one image answers for: the smallest that is near enough and fits its level.

    Args:
        outputs: for locations, strides and levels only.
        boxes: (N, 4) float xyxy in pixels of the network's input.
        labels: (N,) int64.
        num_classes: K, the label of the background.

    Returns:
        (L,) int64 labels and (L, 4) float target distances in strides (arbitrary where the label is K).
    """
    locations, strides = outputs.locations, outputs.strides
    if len(boxes) == 0:
        return torch.full_like(strides, num_classes, dtype=torch.int64), locations.new_zeros((len(locations), 4))
    points, radius = locations[:, None, :], CENTER_RADIUS * strides[:, None, None]
    distances = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], dim=2)  # (L, N, 4)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = (
        torch.cat(
            [
                points - torch.maximum(centers - radius, boxes[:, :2]),
                torch.minimum(centers + radius, boxes[:, 2:]) - points,
            ],
            dim=2,
        ).amin(2)
        > 0
    )  # (L, N)
    reach = distances.amax(2)
    lower, upper = _size_bounds(outputs.levels, reach)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    candidates = torch.where(near & (reach >= lower) & (reach <= upper), area, torch.inf)  # (L, N)
    smallest, chosen = candidates.min(1)
    targets = distances.gather(1, chosen[:, None, None].expand(-1, 1, 4))[:, 0] / strides[:, None]
    return torch.where(smallest.isfinite(), labels[chosen], num_classes), targets


def fcos_losses(
    outputs: Outputs,
    boxes: list[Tensor],
    labels: list[Tensor],
    *,
    normalizer: Normalizer = "floored",
    giou: GIoU = "exact",
) -> dict[str, Tensor]:
    """Focal loss of the classes, GIoU loss of the boxes weighted by centerness, cross-entropy of the centerness.

    Focal loss: Lin et al., 2017, alpha 0.25, gamma 2. GIoU: Rezatofighi et al., 2019.

    Args:
        outputs: of B images.
        boxes: of each image, (N, 4) xyxy in pixels of the network's input; N may be 0.
        labels: of each image, (N,) int64.
        normalizer: what divides the class and centerness terms: the positives, at least 1 ("floored"), or without a
            floor, which makes both terms no finite numbers where nothing is positive ("official").
        giou: "exact", or "official", which adds 1 to intersection and union, in strides.

    Returns:
        Scalars `classification`, `box`, `centerness`, unweighted. Where nothing is positive, with a floor, the last two
        are zero with a graph.
    """
    num_classes = outputs.classes.shape[2]
    assigned = [assign(outputs, b, n, num_classes=num_classes) for b, n in zip(boxes, labels, strict=True)]
    label = torch.stack([part[0] for part in assigned])  # (B, L)
    target = torch.stack([part[1] for part in assigned])  # (B, L, 4)
    positive = label < num_classes
    onehot = functional.one_hot(label, num_classes + 1)[..., :num_classes].to(outputs.classes.dtype)
    target, predicted = target[positive], outputs.distances[positive]
    centerness = centerness_of(target)
    positives = global_divisor(len(target), label.device, floor=float(normalizer == "floored"))
    weight = global_divisor(centerness.sum(), label.device, floor=1e-6)
    origin = target.new_zeros((len(target), 2))
    predicted, target = distances_to_boxes(predicted, origin), distances_to_boxes(target, origin)
    overlap = (
        generalized_box_iou_loss(predicted, target, reduction="none")
        if giou == "exact"
        else official_giou_loss(predicted, target)
    )
    centerness_loss = functional.binary_cross_entropy_with_logits(
        outputs.centerness[positive], centerness, reduction="sum"
    )
    return {
        "classification": sigmoid_focal_loss(outputs.classes, onehot, reduction="sum") / positives,
        "box": (overlap * centerness).sum() / weight,
        "centerness": centerness_loss / positives,
    }


def centerness_of(distances: Tensor) -> Tensor:
    """How central a location is in its box: (P, 4) distances to (P,) values in [0, 1] (FCOS, equation 3)."""
    horizontal, vertical = distances[:, 0::2], distances[:, 1::2]
    ratio = horizontal.amin(1) * vertical.amin(1) / (horizontal.amax(1) * vertical.amax(1)).clamp(min=1e-9)
    return ratio.clamp(min=0).sqrt()


def official_giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU as the official release computes it, with (intersection + 1) / (union + 1) for the IoU.

    In strides this charges boxes of a few cells too little; for parity only.

    Args:
        predicted: (P, 4) float xyxy in strides, around the location.
        target: (P, 4) float xyxy in strides, likewise.

    Returns:
        (P,) float.
    """
    inner = torch.minimum(predicted[:, 2:], target[:, 2:]) - torch.maximum(predicted[:, :2], target[:, :2])
    outer = torch.maximum(predicted[:, 2:], target[:, 2:]) - torch.minimum(predicted[:, :2], target[:, :2])
    intersection, hull = inner.prod(1), outer.prod(1) + 1e-7
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (predicted, target)]
    union = areas[0] + areas[1] - intersection
    giou = (intersection + 1) / (union + 1) - (hull - union) / hull
    return 1 - giou


def _size_bounds(levels: list[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """The least and largest regression distance of each location, (L, 1) each, in pixels."""
    upper = [*SIZE_BOUNDS[: len(levels) - 1], torch.inf]
    lower = [-1.0, *upper[:-1]]
    counts = torch.tensor(levels, device=like.device)
    lowest, highest = (
        torch.tensor(bounds, dtype=like.dtype, device=like.device).repeat_interleave(counts)[:, None]
        for bounds in (lower, upper)
    )
    return lowest, highest
