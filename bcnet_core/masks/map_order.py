"""The order of detected instances, from their maps: probabilities tell more than masks that are cut off at a half."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from bcnet_core.masks.order import FrontPair

CELLS = 28
"""Side of the grid on which the maps of two instances are compared, over the part that their boxes share."""
LEAST_SHARED = 0.02
"""Share of the smaller whole mask that two instances must share to be a pair: blurred edges share a little."""
CHUNK = 1024
"""Pairs that are compared at once."""


def map_pairs(maps: Mapping[str, Tensor], boxes: Tensor) -> list[FrontPair]:
    """Find which of N instances of one image is in front of which, where their whole masks overlap.

    The one in front is seen where the other is hidden: where the other's whole map is sure and its visible map is not,
    and where its occluder map says that something lies over it. Both are summed over the part that two boxes share, and
    the greater sum wins. Unlike `front_pairs` of the masks, this decides every pair that overlaps.

    Args:
        maps: (N, S, S) float probabilities inside the boxes by their names in `bcnet_core.maps.MAPS`: `occludee_mask`,
            and if they are predicted `amodal_mask`, without which all of an instance is visible, and `occluder_mask`.
        boxes: (N, 4) float, xyxy in pixels.

    Returns:
        The pairs, by the position of the one in front and then of the other.
    """
    visible = maps["occludee_mask"]
    whole, occluder = maps.get("amodal_mask", visible), maps.get("occluder_mask", torch.zeros_like(visible))
    stacked = torch.stack([visible, whole, occluder], dim=1).detach().float().cpu()  # (N, 3, S, S)
    boxes = boxes.detach().float().cpu()
    upper, lower = torch.triu(_shared_areas(boxes) > 0, diagonal=1).nonzero().unbind(1)
    areas = stacked[:, 1].mean((1, 2)) * _areas(boxes)
    pairs: list[FrontPair] = []
    for one, other in zip(torch.split(upper, CHUNK), torch.split(lower, CHUNK), strict=True):
        shared = _intersections(boxes[one], boxes[other])
        (seen, covers, over), (seen_other, covers_other, over_other) = (
            _sample(stacked[which], boxes[which], shared).unbind(1) for which in (one, other)
        )
        overlap = (covers * covers_other).mean((1, 2)) * _areas(shared)
        hidden, hidden_other = (covers - seen).clamp(min=0), (covers_other - seen_other).clamp(min=0)
        in_front = (seen * (hidden_other + covers_other * over_other)).sum((1, 2))
        behind = (seen_other * (hidden + covers * over)).sum((1, 2))
        known = (overlap > LEAST_SHARED * torch.minimum(areas[one], areas[other])) & (in_front != behind)
        front, back = (
            torch.where(in_front > behind, one, other)[known],
            torch.where(in_front > behind, other, one)[known],
        )
        pairs += map(FrontPair, front.tolist(), back.tolist())
    return sorted(pairs)


def _areas(boxes: Tensor) -> Tensor:
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    return sides[:, 0] * sides[:, 1]


def _intersections(first: Tensor, second: Tensor) -> Tensor:
    """Return the (P, 4) boxes that P pairs of boxes share."""
    return torch.cat([torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])], dim=1)


def _shared_areas(boxes: Tensor) -> Tensor:
    """Return the (N, N) areas that boxes share."""
    sides = torch.minimum(boxes[:, None, 2:], boxes[:, 2:]) - torch.maximum(boxes[:, None, :2], boxes[:, :2])
    return sides.clamp(min=0).prod(2)


def _sample(maps: Tensor, boxes: Tensor, parts: Tensor) -> Tensor:
    """Sample (P, C, S, S) maps of P boxes on a grid over parts of the boxes, bilinear; (P, C, CELLS, CELLS)."""
    steps = (torch.arange(CELLS) + 0.5) / CELLS
    places = parts[:, None, :2] + (parts[:, 2:] - parts[:, :2])[:, None] * steps[None, :, None]  # (P, CELLS, 2)
    inside = (places - boxes[:, None, :2]) / (boxes[:, 2:] - boxes[:, :2])[:, None] * 2 - 1
    x, y = inside.unbind(2)
    grid = torch.stack([x[:, None].expand(-1, CELLS, -1), y[:, :, None].expand(-1, -1, CELLS)], dim=3)
    return functional.grid_sample(maps, grid, padding_mode="border", align_corners=False)
