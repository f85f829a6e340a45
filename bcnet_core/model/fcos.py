"""FCOS (Tian et al., 2019) as the official release has it: centerness on the regression branch, normalised targets.

Levels are those of the backbone; a location is the centre of a feature cell, at x * stride + stride // 2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import batched_nms, generalized_box_iou_loss, sigmoid_focal_loss

from bcnet_core.model.losses import global_divisor

SIZE_BOUNDS = (64, 128, 256, 512)
"""The largest regression distance of P3, P4, ... in pixels; the last level of a pyramid has no bound."""
CENTER_RADIUS = 1.5
"""Positive locations lie within this many strides of an instance's centre."""


PRIOR_BIAS = -4.595
"""Where the class logits begin: at a probability of 0.01."""


class Outputs(NamedTuple):
    """What the head says about L locations of B images, all levels one behind the other.

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
        """(B, L, 4) xyxy in pixels of the network's input, not clipped."""
        return distances_to_boxes(self.distances * self.strides[:, None], self.locations)


class Proposals(NamedTuple):
    """The boxes found in one image, best first: (D, 4) boxes xyxy, (D,) scores, (D,) int64 labels."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class FCOSHead(nn.Module):
    """Two towers of convolutions with GroupNorm, shared by all levels.

    Args:
        channels: of the pyramid and the towers; a multiple of 32.
        num_classes: K.
        convs: convolutions in each tower.
        strides: of the levels, pixels.
    """

    def __init__(self, *, channels: int, num_classes: int, convs: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = strides
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
        """Look at every location of the pyramid; `features` are L levels of (B, C, H / stride, W / stride)."""
        classes, distances, centerness, locations, strides = [], [], [], [], []
        for level, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            class_features, box_features = self.class_tower(feature), self.box_tower(feature)
            classes.append(_flatten(self.classes(class_features)))
            distances.append(_flatten(functional.relu(self.distances(box_features) * self.scales[level])))
            centerness.append(_flatten(self.centerness(box_features))[..., 0])
            locations.append(_locations(feature, stride))
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


def fcos_losses(outputs: Outputs, boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Tensor]:
    """Focal loss of the classes, GIoU loss of the boxes weighted by centerness, cross-entropy of the centerness.

    Focal loss: Lin et al., 2017, alpha 0.25, gamma 2. GIoU: Rezatofighi et al., 2019.

    Args:
        outputs: of B images.
        boxes: of each image, (N, 4) xyxy in pixels of the network's input; N may be 0.
        labels: of each image, (N,) int64.

    Returns:
        Scalars `classification`, `box`, `centerness`, unweighted; zero with a graph where nothing is positive.
    """
    num_classes = outputs.classes.shape[2]
    assigned = [assign(outputs, b, n, num_classes=num_classes) for b, n in zip(boxes, labels, strict=True)]
    label = torch.stack([part[0] for part in assigned])  # (B, L)
    target = torch.stack([part[1] for part in assigned])  # (B, L, 4)
    positive = label < num_classes
    onehot = functional.one_hot(label, num_classes + 1)[..., :num_classes].to(outputs.classes.dtype)
    target, predicted = target[positive], outputs.distances[positive]
    centerness = centerness_of(target)
    positives = global_divisor(len(target), label.device)
    weight = global_divisor(centerness.sum(), label.device, floor=1e-6)
    origin = target.new_zeros((len(target), 2))
    overlap = generalized_box_iou_loss(
        distances_to_boxes(predicted, origin), distances_to_boxes(target, origin), reduction="none"
    )
    centerness_loss = functional.binary_cross_entropy_with_logits(
        outputs.centerness[positive], centerness, reduction="sum"
    )
    return {
        "classification": sigmoid_focal_loss(outputs.classes, onehot, reduction="sum") / positives,
        "box": (overlap * centerness).sum() / weight,
        "centerness": centerness_loss / positives,
    }


@torch.no_grad()
def select(
    outputs: Outputs, *, score_threshold: float, nms_iou: float, candidates_per_level: int, most: int
) -> list[Proposals]:
    """The detections of each image, best first, after per-class NMS; boxes are not clipped.

    Args:
        outputs: of B images.
        score_threshold: the class probability that a candidate needs.
        nms_iou: IoU above which the weaker of two boxes of a class goes.
        candidates_per_level: kept of each level before NMS.
        most: detections of an image.

    Returns:
        The proposals of each image. A score is sqrt(class probability x centerness); the threshold is on the class.
    """
    probabilities, boxes = outputs.classes.sigmoid(), outputs.boxes()
    scores = (probabilities * outputs.centerness.sigmoid()[..., None]).sqrt()
    found = []
    for image in range(len(scores)):
        kept = []
        start = 0
        for count in outputs.levels:
            part = slice(start, start + count)
            place, label = (probabilities[image, part] > score_threshold).nonzero(as_tuple=True)
            best = scores[image, part][place, label].topk(min(candidates_per_level, len(place))).indices
            kept.append((place[best] + start, label[best]))
            start += count
        place, label = (torch.cat(parts) for parts in zip(*kept, strict=True))
        score, box = scores[image, place, label], boxes[image, place]
        order = batched_nms(box, score, label, nms_iou)[:most]
        found.append(Proposals(box[order], score[order], label[order]))
    return found


def distances_to_boxes(distances: Tensor, locations: Tensor) -> Tensor:
    """Turn left, top, right, bottom distances (..., 4) at locations (..., 2) into xyxy boxes."""
    return torch.cat([locations - distances[..., :2], locations + distances[..., 2:]], dim=-1)


def centerness_of(distances: Tensor) -> Tensor:
    """How central a location is in its box: (P, 4) distances to (P,) values in [0, 1] (FCOS, equation 3)."""
    horizontal, vertical = distances[:, 0::2], distances[:, 1::2]
    ratio = horizontal.amin(1) * vertical.amin(1) / (horizontal.amax(1) * vertical.amax(1)).clamp(min=1e-9)
    return ratio.clamp(min=0).sqrt()


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


def _tower(channels: int, convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(32, channels), nn.ReLU()]
    return nn.Sequential(*layers)


def _flatten(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def _locations(feature: Tensor, stride: int) -> Tensor:
    """The centre of every cell of a level in row-major order: (H * W, 2) float, x and y in pixels."""
    height, width = feature.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=feature.device), torch.arange(width, device=feature.device), indexing="ij"
    )
    return (torch.stack([x, y], dim=2).reshape(-1, 2) * stride + stride // 2).float()
