"""FCOS (Tian et al., 2019) as the official release has it: centerness on the regression branch, normalised targets.

Levels are those of the backbone; a location is the centre of a feature cell, at x * stride + stride // 2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import batched_nms

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


@torch.no_grad()
def select(
    outputs: Outputs, boxes: Tensor, *, score_threshold: float, nms_iou: float, candidates_per_level: int, most: int
) -> list[Proposals]:
    """The detections of each image, best first, after per-class NMS; boxes are not clipped.

    Args:
        outputs: of B images.
        boxes: (B, L, 4) float xyxy in pixels, decoded from the outputs.
        score_threshold: the class probability that a candidate needs.
        nms_iou: IoU above which the weaker of two boxes of a class goes.
        candidates_per_level: kept of each level before NMS.
        most: detections of an image.

    Returns:
        The proposals of each image. A score is sqrt(class probability x centerness); the threshold is on the class.
    """
    probabilities = outputs.classes.sigmoid()
    scores = (probabilities * outputs.centerness.sigmoid()[..., None]).sqrt()
    found = []
    for image in range(len(scores)):
        kept = []
        start = 0
        for count in outputs.levels:
            part = slice(start, start + count)
            place, label = (probabilities[image, part] > score_threshold).nonzero(as_tuple=True)
            best = scores[image, part][place, label].sort(descending=True).indices[:candidates_per_level]
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


def _tower(channels: int, convs: int) -> nn.Sequential:
    groups = min(32, channels // 2)  # one value a group, as a level of a single cell would have, is no statistic
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(groups, channels), nn.ReLU()]
    return nn.Sequential(*layers)


def _flatten(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H * W, C) float32: under autocast, too, scores need more than 8 bits to be sorted."""
    return x.flatten(2).transpose(1, 2).float()


def _locations(feature: Tensor, stride: int) -> Tensor:
    """The centre of every cell of a level in row-major order: (H * W, 2) float, x and y in pixels."""
    height, width = feature.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=feature.device), torch.arange(width, device=feature.device), indexing="ij"
    )
    return (torch.stack([x, y], dim=2).reshape(-1, 2) * stride + stride // 2).float()
