"""FCOS (Tian et al., 2019) as the official release has it: centerness on the regression branch, normalized targets.

Levels are those of the backbone; a location is the center of a feature cell, at x * stride + stride // 2, or as
torchvision's FCOS has it, see `FCOSHead`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from bcnet_core.config.choices import Geometry, GIoU, Normalizer
from bcnet_core.distributed import global_divisor
from bcnet_core.model.rois import level_steps

PRIOR_BIAS = -4.595
"""Initial class logits: a probability of 0.01."""
SIZE_BOUNDS = (64, 128, 256, 512)
"""The largest regression distance of P3, P4, ... in pixels; the last level of a pyramid has no bound."""
CENTER_RADIUS = 1.5
"""Positive locations lie within this many strides of an instance's center."""


class Outputs(NamedTuple):
    """The outputs of the head for L locations of B images, the levels joined.

    Attributes:
        classes: (B, L, K) float logits.
        distances: (B, L, 4) float, left, top, right, bottom of the box in strides, never negative.
        centerness: (B, L) float logits.
        locations: (L, 2) float, x and y in pixels of the network's input.
        strides: (L,) float, pixels.
        levels: number of locations of each level.
    """

    classes: Tensor
    distances: Tensor
    centerness: Tensor
    locations: Tensor
    strides: Tensor
    levels: list[int]

    def boxes(self) -> Tensor:
        """Return the (B, L, 4) boxes, xyxy in pixels of the network's input, not clipped."""
        return distances_to_boxes(self.distances * self.strides[:, None], self.locations)


class FCOSHead(nn.Module):
    """Two towers of convolutions with GroupNorm, shared by all levels.

    Args:
        channels: of the pyramid and the towers; a multiple of 32.
        num_classes: K.
        convs: convolutions in each tower.
        strides: of the levels, pixels.
        geometry: "exact" for locations at the centers of the cells, or "torchvision" for the corners, `level_steps`
            apart, where its weights expect them; boxes are decoded in strides either way.
    """

    def __init__(
        self, *, channels: int, num_classes: int, convs: int, strides: tuple[int, ...], geometry: Geometry
    ) -> None:
        super().__init__()
        self.strides, self.geometry = strides, geometry
        self.class_tower = _tower(channels, convs)
        self.box_tower = _tower(channels, convs)
        self.classes = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.distances = nn.Conv2d(channels, 4, 3, padding=1)
        self.centerness = nn.Conv2d(channels, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(strides)))
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d) and conv.bias is not None:
                nn.init.normal_(conv.weight, std=0.01)
                nn.init.constant_(conv.bias, PRIOR_BIAS if conv is self.classes else 0.0)

    def forward(self, features: list[Tensor]) -> Outputs:
        """Predict at every location of a pyramid: L levels of (B, C, H / stride, W / stride)."""
        classes, distances, centerness, locations, strides = [], [], [], [], []
        steps = level_steps(features, self.strides, self.geometry)
        for level, (feature, stride, step) in enumerate(zip(features, self.strides, steps, strict=True)):
            class_features, box_features = self.class_tower(feature), self.box_tower(feature)
            classes.append(_flatten(self.classes(class_features)))
            distances.append(_flatten(functional.relu(self.distances(box_features) * self.scales[level])))
            centerness.append(_flatten(self.centerness(box_features))[..., 0])
            locations.append(_locations(feature, step, offset=stride // 2 if self.geometry == "exact" else 0))
            strides.append(torch.full_like(locations[-1][:, 0], stride))
        return Outputs(
            torch.cat(classes, 1),
            torch.cat(distances, 1),
            torch.cat(centerness, 1),
            torch.cat(locations),
            torch.cat(strides),
            [len(part) for part in locations],
        )


def assign(outputs: Outputs, boxes: Tensor, labels: Tensor, *, num_classes: int) -> tuple[Tensor, Tensor]:
    """Assign to each location of one image the smallest instance that is near enough and fits its level.

    Args:
        outputs: only their locations, strides and levels are used.
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
    from_corner = points - torch.maximum(centers - radius, boxes[:, :2])
    to_corner = torch.minimum(centers + radius, boxes[:, 2:]) - points
    near = torch.cat([from_corner, to_corner], dim=2).amin(2) > 0  # (L, N)
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
    """Compute the focal loss of the classes, the GIoU loss of the boxes and the cross-entropy of the centerness.

    Focal loss: Lin et al., 2017, alpha 0.25, gamma 2. GIoU: Rezatofighi et al., 2019, weighted by centerness.

    Args:
        outputs: of B images.
        boxes: of each image, (N, 4) xyxy in pixels of the network's input; N may be 0.
        labels: of each image, (N,) int64.
        normalizer: divisor of the class and centerness terms: the number of positives, at least 1 ("floored"), or
            without that floor, which gives no finite numbers if nothing is positive ("official").
        giou: "exact", or "official", which adds 1 to intersection and union, in strides.

    Returns:
        Unweighted scalars `classification`, `box`, `centerness`. Where nothing is positive, with a floor, the last two
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
    """Return how central a location is in its box: (P, 4) distances to (P,) values in [0, 1] (FCOS, equation 3)."""
    horizontal, vertical = distances[:, 0::2], distances[:, 1::2]
    ratio = horizontal.amin(1) * vertical.amin(1) / (horizontal.amax(1) * vertical.amax(1)).clamp(min=1e-9)
    return ratio.clamp(min=0).sqrt()


def official_giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Compute 1 - GIoU like the official release, with (intersection + 1) / (union + 1) for the IoU; for parity only.

    Args:
        predicted: (P, 4) float xyxy in strides, around the location.
        target: (P, 4) float xyxy in strides, around the location.

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


def distances_to_boxes(distances: Tensor, locations: Tensor) -> Tensor:
    """Turn left, top, right, bottom distances (..., 4) at locations (..., 2) into xyxy boxes."""
    return torch.cat([locations - distances[..., :2], locations + distances[..., 2:]], dim=-1)


def _size_bounds(levels: list[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and largest regression distance of each location, (L, 1) each, in pixels."""
    upper = [*SIZE_BOUNDS[: len(levels) - 1], torch.inf]
    lower = [-1.0, *upper[:-1]]
    counts = torch.tensor(levels, device=like.device)
    lowest, highest = (
        torch.tensor(bounds, dtype=like.dtype, device=like.device).repeat_interleave(counts)[:, None]
        for bounds in (lower, upper)
    )
    return lowest, highest


def _tower(channels: int, convs: int) -> nn.Sequential:
    groups = min(32, channels // 2)  # a group of one value, in a level of a single cell, has no statistics
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(groups, channels), nn.ReLU()]
    return nn.Sequential(*layers)


def _flatten(x: Tensor) -> Tensor:
    """Bring (B, C, H, W) to (B, H * W, C) float32: scores need more than 8 bits to be sorted."""
    return x.flatten(2).transpose(1, 2).float()


def _locations(feature: Tensor, step: tuple[int, int], *, offset: int) -> Tensor:
    """Return the locations of a level in row-major order: (H * W, 2) float, x and y in pixels.

    Args:
        feature: (B, C, H, W).
        step: vertical and horizontal distance of the cells, pixels.
        offset: x and y of the first location, pixels.
    """
    height, width = feature.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=feature.device), torch.arange(width, device=feature.device), indexing="ij"
    )
    return (torch.stack([x * step[1], y * step[0]], dim=2).reshape(-1, 2) + offset).float()
