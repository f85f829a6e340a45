"""The true maps inside each RoI: batched tensor expressions, on the device of the RoIs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from bcnet_core.data.dataset import Targets
from bcnet_core.maps import LayerName, map_specs
from bcnet_core.masks.crops import MaskCrops, concatenate
from bcnet_core.model.rois import RoIs

CHUNK = 64
"""RoIs that are cropped at once, which bounds the memory to some 30 MB."""


def bilayer_targets(targets: list[Targets], rois: RoIs, *, size: int) -> dict[str, Tensor]:
    """Crop the masks of both layers to the RoIs and draw their boundaries.

    Args:
        targets: of each image.
        rois: of the batch.
        size: S, the side of the maps.

    Returns:
        (R, S, S) bool maps by name; an instance without an occluder has empty occluder maps.
    """
    placement = torch.stack([target.placement for target in targets])[rois.images]  # (R, 4)
    scale, shift = placement[:, 0::2].repeat(1, 2), placement[:, 1::2].repeat(1, 2)
    source = (rois.boxes - shift) / scale  # a mirrored image gives x0 > x1, which reads the crop backwards
    occludees = concatenate([target.occludees for target in targets])
    occluders = concatenate([target.occluders for target in targets])
    return target_maps(
        {
            "occludee": crop_to_boxes(occludees, rois.instances, source, size=size),
            "occluder": crop_to_boxes(occluders, rois.instances, source, size=size),
        }
    )


def target_maps(masks: Mapping[LayerName, Tensor]) -> dict[str, Tensor]:
    """Make the true maps of each layer from its mask.

    Args:
        masks: (R, S, S) bool by layer.

    Returns:
        (R, S, S) bool by name, for the maps of these layers.
    """
    return {
        spec.name: masks[spec.layer] if spec.kind == "mask" else boundary(masks[spec.layer])
        for spec in map_specs()
        if spec.layer in masks
    }


def crop_to_boxes(crops: MaskCrops, instances: Tensor, boxes: Tensor, *, size: int, samples: int = 3) -> Tensor:
    """Sample one mask per box on an S x S grid; a mask is empty outside of its crop.

    Each cell looks at `samples` x `samples` pixels and is set if at least half of them are.

    Args:
        crops: the masks of all instances.
        instances: (R,) int64, the mask of each box.
        boxes: (R, 4) float, xyxy in source pixels.
        size: S.
        samples: per cell and axis.

    Returns:
        (R, S, S) bool.
    """
    if len(boxes) == 0 or crops.bits.numel() == 0:
        return torch.zeros((len(boxes), size, size), dtype=torch.bool, device=boxes.device)
    parts = zip(torch.split(instances, CHUNK), torch.split(boxes, CHUNK), strict=True)
    return torch.cat([_sample(crops, which, where, size * samples, samples) for which, where in parts])


def _sample(crops: MaskCrops, instances: Tensor, boxes: Tensor, side: int, samples: int) -> Tensor:
    """Do the work of `crop_to_boxes` for a few RoIs, on a grid of `side` x `side` pixels."""
    steps = (torch.arange(side, device=boxes.device) + 0.5) / side
    x = (boxes[:, 0:1] + (boxes[:, 2:3] - boxes[:, 0:1]) * steps).floor().long()  # (R, side)
    y = (boxes[:, 1:2] + (boxes[:, 3:4] - boxes[:, 1:2]) * steps).floor().long()
    x0, y0, x1, y1 = crops.boxes[instances].unbind(1)
    inside_x = (x >= x0[:, None]) & (x < x1[:, None])
    inside_y = (y >= y0[:, None]) & (y < y1[:, None])
    rows = 8 * crops.starts[instances][:, None] + (y - y0[:, None]) * (x1 - x0)[:, None]
    index = rows[:, :, None] + (x - x0[:, None])[:, None, :]  # (R, side, side), in bits
    octets = crops.bits[(index >> 3).clamp_(0, crops.bits.numel() - 1)]
    values = (octets >> (7 - (index & 7)).to(torch.uint8)) & 1
    values &= (inside_y[:, :, None] & inside_x[:, None, :]).to(torch.uint8)
    cells = functional.avg_pool2d(values.float()[:, None], samples)[:, 0]  # (R, S, S)
    return cells >= 0.5


def boundary(masks: Tensor) -> Tensor:
    """Return the contour band, about two pixels wide: dilation xor erosion with a 3 x 3 cross.

    Pixels beyond the map count as empty for the dilation and as set for the erosion, so the border of a crop is no
    boundary. Source: recordings of the official code, 0 mismatches.

    Args:
        masks: (R, S, S) bool.

    Returns:
        (R, S, S) bool.
    """
    return _dilate(masks) ^ ~_dilate(~masks)


def _dilate(masks: Tensor) -> Tensor:
    padded = functional.pad(masks, (1, 1, 1, 1))
    return masks | padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1] | padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]
