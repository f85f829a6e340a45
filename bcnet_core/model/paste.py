"""From 28 x 28 maps inside boxes to masks of the image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def paste_masks(maps: Tensor, boxes: Tensor, height: int, width: int, *, threshold: float = 0.5) -> Tensor:
    """Sample every map at the pixel centres of its box, bilinear, and threshold it.

    The map spans its box exactly, as RoIAlign saw it; torchvision's paste rounds the box outwards by up to a pixel on
    each side, which makes small masks a tenth too large.

    Args:
        maps: (N, S, S) float probabilities.
        boxes: (N, 4) float xyxy in pixels of the image.
        height: of the image.
        width: of the image.
        threshold: at and above which a pixel is set.

    Returns:
        (N, height, width) bool.
    """
    masks = torch.zeros((len(maps), height, width), dtype=torch.bool, device=maps.device)
    limit = boxes.new_tensor([width, height])
    first = boxes[:, :2].floor().clamp(min=0).long().tolist()
    last = boxes[:, 2:].ceil().minimum(limit).long().tolist()
    for index, ((x0, y0), (x1, y1)) in enumerate(zip(first, last, strict=True)):
        if x1 <= x0 or y1 <= y0:
            continue
        corner, size = boxes[index, :2], (boxes[index, 2:] - boxes[index, :2]).clamp(min=1e-6)
        x = (torch.arange(x0, x1, device=maps.device) + 0.5 - corner[0]) / size[0] * 2 - 1
        y = (torch.arange(y0, y1, device=maps.device) + 0.5 - corner[1]) / size[1] * 2 - 1
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=2)  # (h, w, 2)
        sampled = functional.grid_sample(maps[index][None, None], grid[None], align_corners=False)
        masks[index, y0:y1, x0:x1] = sampled[0, 0] >= threshold
    return masks
