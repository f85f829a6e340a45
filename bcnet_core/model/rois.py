"""The RoIs of the box and mask heads: which boxes train the masks, and the pooling of their features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou, roi_align

from bcnet_core.config.choices import Geometry
from bcnet_core.data.dataset import Targets

FOREGROUND_IOU = 0.5
"""Least IoU of a proposal with an instance for which it becomes a RoI."""
CANONICAL_SIZE, CANONICAL_LEVEL = 224.0, 4
"""A box of 224 x 224 pixels pools from P4."""
LEVEL_SLACK: dict[Geometry, float] = {"exact": 0.0, "torchvision": 1e-6}
"""Added to the level of a box before it is rounded down."""


class RoIs(NamedTuple):
    """The RoIs that train the mask head, R over all images of a batch.

    Attributes:
        boxes: (R, 4) float32, xyxy in pixels of the network's input.
        images: (R,) int64, the image of each RoI.
        instances: (R,) int64, the instance of each RoI, counted over the batch.
        keys: (R,) float32 in [0, 1), a random number of each RoI, for sampling.
    """

    boxes: Tensor
    images: Tensor
    instances: Tensor
    keys: Tensor


def random_numbers(seed: int, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Draw uniform numbers from the seed of one image, so that they do not depend on how images are spread."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def choose_rois(
    boxes: Sequence[Tensor], matches: Sequence[Tensor], draws: Sequence[Tensor], targets: list[Targets], *, most: int
) -> RoIs:
    """Choose up to `most` RoIs of each image among the boxes that match an instance, and join the images.

    Args:
        boxes: (D, 4) float of each image, xyxy in pixels of the network's input.
        matches: (D,) int64 of each image: the instance of each box, or -1.
        draws: (D, 2) random numbers of each image: those with the smallest first ones are chosen, the others are kept
            as keys.
        targets: of each image.
        most: largest number of RoIs of an image; 0 takes all.

    Returns:
        R RoIs in the order of images and boxes.
    """
    parts, first = [], 0
    for image, (box, match, draw, target) in enumerate(zip(boxes, matches, draws, targets, strict=True)):
        kept = (match >= 0).nonzero()[:, 0]
        if most:
            kept = kept[draw[kept, 0].argsort()[:most]].sort().values
        parts.append((box[kept], torch.full_like(kept, image), match[kept] + first, draw[kept, 1]))
        first += len(target.boxes)
    return RoIs(*map(torch.cat, zip(*parts, strict=True)))


def jitter_boxes(boxes: Tensor, draws: Tensor) -> Tensor:
    """Move each edge of (D, 4) xyxy boxes by up to a tenth of the box's width or height.

    Args:
        boxes: float.
        draws: (D, 4) uniform in [0, 1), one an edge; 0.5 leaves an edge where it is.
    """
    return boxes + (2 * draws - 1) * 0.1 * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)


def jittered_rois(targets: list[Targets], seeds: list[int], *, most: int) -> RoIs:
    """Make one RoI of each instance: its box, jittered.

    Args:
        targets: of each image.
        seeds: of each image.
        most: largest number of RoIs of an image; 0 takes all.
    """
    boxes = [target.boxes for target in targets]
    draws = [random_numbers(seed, (len(box), 6), box.device) for box, seed in zip(boxes, seeds, strict=True)]
    moved = [jitter_boxes(box, draw[:, :4]) for box, draw in zip(boxes, draws, strict=True)]
    everyone = [torch.arange(len(box), device=box.device) for box in boxes]
    return choose_rois(moved, everyone, [draw[:, 4:] for draw in draws], targets, most=most)


def matched_rois(proposals: Sequence[Tensor], targets: list[Targets], seeds: list[int], *, most: int) -> RoIs:
    """Choose among the proposals that lie on an instance and, behind them, the ground-truth boxes.

    Args:
        proposals: (D, 4) float of each image, xyxy in pixels of the network's input, best first.
        targets: of each image.
        seeds: of each image.
        most: largest number of RoIs of an image; 0 takes all.
    """
    boxes = [torch.cat([proposal, target.boxes]) for proposal, target in zip(proposals, targets, strict=True)]
    draws = [random_numbers(seed, (len(box), 2), box.device) for box, seed in zip(boxes, seeds, strict=True)]
    matches = [_best_match(box, target.boxes) for box, target in zip(boxes, targets, strict=True)]
    return choose_rois(boxes, matches, draws, targets, most=most)


def _best_match(boxes: Tensor, instances: Tensor) -> Tensor:
    """Return the instance that each box overlaps most, (D,) int64; -1 below `FOREGROUND_IOU`."""
    if len(instances) == 0:
        return torch.full_like(boxes[:, 0], -1, dtype=torch.int64)
    overlap, best = box_iou(instances, boxes).max(0)
    return torch.where(overlap >= FOREGROUND_IOU, best, -1)


def level_steps(features: list[Tensor], strides: tuple[int, ...], geometry: Geometry) -> list[tuple[int, int]]:
    """Return the vertical and horizontal distance of the cells of each level, in pixels of the network's input.

    Args:
        features: L levels, (B, C, H / stride, W / stride) each, rounded up; the finest is not.
        strides: of the levels.
        geometry: "exact" for the strides, or "torchvision", which divides the padded input by the size of a level,
            rounding down: an input of 96 pixels has a P6 of two cells, 48 pixels apart and not 64.
    """
    if geometry == "exact":
        return [(stride, stride) for stride in strides]
    height, width = (side * strides[0] for side in features[0].shape[-2:])
    return [(height // x.shape[-2], width // x.shape[-1]) for x in features]


def pooling_levels(boxes: Tensor, *, first: int, last: int, slack: float = 0.0) -> Tensor:
    """Return the pyramid level of each box: floor(4 + log2(sqrt(area) / 224)), within [first, last] (FPN, equation 1).

    Args:
        boxes: (R, 4) float xyxy in pixels of the network's input.
        first: the finest level (3 for P3).
        last: the coarsest level.
        slack: added before the level is rounded down.

    Returns:
        (R,) int64.
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
    level = torch.floor(CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIZE + 1e-8) + slack)
    return level.clamp(first, last).long()


def pool_rois(
    features: list[Tensor],
    boxes: Tensor,
    images: Tensor,
    *,
    strides: tuple[int, ...],
    size: int = 14,
    geometry: Geometry = "exact",
) -> Tensor:
    """Pool an S x S feature map for every RoI from the pyramid level that fits it, with RoIAlign.

    Args:
        features: L levels, each (B, C, H / stride, W / stride).
        boxes: (R, 4) float xyxy in pixels of the network's input.
        images: (R,) int64, the image of each box.
        strides: of the levels, powers of two.
        size: S.
        geometry: "exact" is aligned RoIAlign at as many points as a RoI has pixels; "torchvision" is what its
            detectors pool boxes with, half a pixel off and at 2 x 2 points a cell.

    Returns:
        (R, C, S, S), in the order of the boxes.
    """
    exact, first = geometry == "exact", strides[0].bit_length() - 1
    last = first + len(strides) - 1
    levels = pooling_levels(boxes, first=first, last=last, slack=LEVEL_SLACK[geometry]) - first
    rois = torch.cat([images[:, None].to(boxes.dtype), boxes], dim=1)  # (R, 5)
    levels = levels.cpu()  # one wait for a GPU, not one for each level
    chosen = [(levels == level).nonzero()[:, 0] for level in range(len(strides))]
    parts = [
        roi_align(feature, rois[which], size, spatial_scale=1 / stride, sampling_ratio=0 if exact else 2, aligned=exact)
        for feature, stride, which in zip(features, strides, chosen, strict=True)
    ]
    pooled = torch.cat(parts)  # level by level
    return torch.zeros_like(pooled).index_put((torch.cat(chosen),), pooled)
