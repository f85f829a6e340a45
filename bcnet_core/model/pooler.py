"""Aligned RoIAlign over a feature pyramid (Mask R-CNN; level rule of FPN, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align

CANONICAL_SIZE, CANONICAL_LEVEL = 224.0, 4
"""A box of 224 x 224 pixels pools from P4."""


def pooling_levels(boxes: Tensor, *, first: int, last: int) -> Tensor:
    """The pyramid level of each box: floor(4 + log2(sqrt(area) / 224)), within [first, last].

    Args:
        boxes: (R, 4) float xyxy in pixels of the network's input.
        first: the finest level there is (3 for P3).
        last: the coarsest.

    Returns:
        (R,) int64.
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
    level = torch.floor(CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIZE + 1e-8))
    return level.clamp(first, last).long()


def pool_rois(
    features: list[Tensor], boxes: Tensor, images: Tensor, *, strides: tuple[int, ...], size: int = 14
) -> Tensor:
    """Cut an S x S feature map out of the fitting pyramid level for every RoI.

    Args:
        features: L levels, each (B, C, H / stride, W / stride).
        boxes: (R, 4) float xyxy in pixels of the network's input.
        images: (R,) int64, the image of each box.
        strides: of the levels, powers of two.
        size: S.

    Returns:
        (R, C, S, S), in the order of the boxes.
    """
    first = strides[0].bit_length() - 1
    levels = pooling_levels(boxes, first=first, last=first + len(strides) - 1) - first
    rois = torch.cat([images[:, None].to(boxes.dtype), boxes], dim=1)  # (R, 5)
    pooled = features[0].new_zeros((boxes.shape[0], features[0].shape[1], size, size))
    for level, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        chosen = (levels == level).nonzero()[:, 0]
        crops = roi_align(feature, rois[chosen], size, spatial_scale=1 / stride, sampling_ratio=0, aligned=True)
        pooled = pooled.index_put((chosen,), crops)
    return pooled
