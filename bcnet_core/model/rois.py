"""Which boxes train the mask head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from bcnet_core.data.dataset import Targets

FOREGROUND_IOU = 0.5
"""A proposal is a RoI of the instance that it overlaps most, if by this much."""


class RoIs(NamedTuple):
    """The RoIs that train the mask head: R over all images of a batch.

    Attributes:
        boxes: (R, 4) float32, xyxy in pixels of the network's input.
        images: (R,) int64, the image of each.
        instances: (R,) int64, the instance of each, counted over the batch.
        keys: (R,) float32 in [0, 1), a random number of each, for sampling.
    """

    boxes: Tensor
    images: Tensor
    instances: Tensor
    keys: Tensor


def jittered_rois(targets: list[Targets], seeds: list[int], *, most: int, amount: float = 0.1) -> RoIs:
    """One RoI an instance: its box, moved and scaled by up to `amount` of its size on each side.

    Every image draws from its own seed, so that the RoIs do not depend on how images are spread over processes.

    Args:
        targets: of each image.
        seeds: of each image.
        most: RoIs of an image at the most; beyond that a random choice is taken. 0 takes all.
        amount: largest shift of an edge, as a share of the box's width or height.

    Returns:
        R RoIs, in the order of the images and their instances.
    """
    boxes, images, instances, keys = [], [], [], []
    first = 0
    for image, (target, seed) in enumerate(zip(targets, seeds, strict=True)):
        count, device = len(target.boxes), target.boxes.device
        draws = torch.rand((count, 6), generator=torch.Generator().manual_seed(seed)).to(device)
        kept = draws[:, 4].argsort()[: most or count].sort().values
        size = (target.boxes[:, 2:] - target.boxes[:, :2]).repeat(1, 2)
        boxes.append((target.boxes + (2 * draws[:, :4] - 1) * amount * size)[kept])
        images.append(torch.full_like(kept, image))
        instances.append(kept + first)
        keys.append(draws[kept, 5])
        first += count
    return RoIs(torch.cat(boxes), torch.cat(images), torch.cat(instances), torch.cat(keys))


def matched_rois(proposals: Sequence[Tensor], targets: list[Targets], seeds: list[int], *, most: int) -> RoIs:
    """The proposals that lie on an instance, and behind them the ground-truth boxes themselves.

    Args:
        proposals: of each image, (D, 4) float xyxy in pixels of the network's input, best first.
        targets: of each image.
        seeds: of each image, for the choice where there are too many.
        most: RoIs of an image at the most; beyond that a random choice is taken. 0 takes all.

    Returns:
        R RoIs, in the order of the images, in each proposals before ground truth.
    """
    boxes, images, instances, keys = [], [], [], []
    first = 0
    for image, (proposal, target, seed) in enumerate(zip(proposals, targets, seeds, strict=True)):
        candidates = torch.cat([proposal, target.boxes])
        draws = torch.rand((len(candidates), 2), generator=torch.Generator().manual_seed(seed)).to(candidates.device)
        if len(target.boxes):
            overlap, instance = box_iou(target.boxes, candidates).max(0)
            kept = (overlap >= FOREGROUND_IOU).nonzero()[:, 0]
        else:
            kept = instance = torch.zeros(0, dtype=torch.int64, device=candidates.device)
        if most:
            kept = kept[draws[kept, 0].argsort()[:most]].sort().values
        boxes.append(candidates[kept])
        images.append(torch.full_like(kept, image))
        instances.append(instance[kept] + first)
        keys.append(draws[kept, 1])
        first += len(target.boxes)
    return RoIs(torch.cat(boxes), torch.cat(images), torch.cat(instances), torch.cat(keys))
