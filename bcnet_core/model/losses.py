"""Targets and losses of the bilayer mask head (BCNet section 3.3), on the device of the RoIs.

Every loss is a scalar that always exists and always carries a graph. Sums are divided by counts over *all* processes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from bcnet_core.config.choices import OccluderSampling
from bcnet_core.data.dataset import Targets
from bcnet_core.distributed import global_divisor, smallest_of_all
from bcnet_core.maps import Region, map_specs
from bcnet_core.masks.crops import MaskCrops, concatenate
from bcnet_core.model.rois import RoIs

CHUNK_PIXELS = 2**19
"""Pixels of masks that are looked up at once, which bounds the memory to some 30 MB."""


def bilayer_targets(
    targets: list[Targets], rois: RoIs, *, size: int, names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Crop the true masks to the RoIs and draw their boundaries.

    Args:
        targets: of each image.
        rois: of the batch.
        size: S, the side of the maps.
        names: of the maps that are wanted; None for all.

    Returns:
        (R, S, S) bool maps by name; an instance without an occluder has empty occluder maps, one without a whole mask
        an empty amodal map.
    """
    placement = torch.stack([target.placement for target in targets])[rois.images]  # (R, 4)
    scale, shift = placement[:, 0::2].repeat(1, 2), placement[:, 1::2].repeat(1, 2)
    source = (rois.boxes - shift) / scale  # a mirrored image gives x0 > x1, which reads the crop backwards
    crops: dict[Region, list[MaskCrops]] = {
        "occludee": [target.occludees for target in targets],
        "occluder": [target.occluders for target in targets],
        "amodal": [target.wholes for target in targets],
    }
    wanted = {spec.region for spec in map_specs(names)}
    return target_maps(
        {
            region: crop_to_boxes(concatenate(parts), rois.instances, source, size=size)
            for region, parts in crops.items()
            if region in wanted
        },
        names,
    )


def target_maps(masks: Mapping[Region, Tensor], names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Make the true maps of each region from its mask.

    Args:
        masks: (R, S, S) bool by region.
        names: of the maps that are wanted; None for all.

    Returns:
        (R, S, S) bool by name, for the maps of these regions.
    """
    return {
        spec.name: masks[spec.region] if spec.kind == "mask" else boundary(masks[spec.region])
        for spec in map_specs(names)
        if spec.region in masks
    }


def crop_to_boxes(
    crops: MaskCrops, instances: Tensor, boxes: Tensor, *, size: int, samples: int | None = None
) -> Tensor:
    """Sample one mask per box on an S x S grid; a mask is empty outside of its crop.

    Each cell looks at `samples` x `samples` pixels and is set if at least half of them are.

    Args:
        crops: the masks of all instances.
        instances: (R,) int64, the mask of each box.
        boxes: (R, 4) float, xyxy in source pixels.
        size: S.
        samples: per cell and axis; by default three, or one where cells are as small as most pixels (S > 56).

    Returns:
        (R, S, S) bool.
    """
    if len(boxes) == 0 or crops.bits.numel() == 0:
        return torch.zeros((len(boxes), size, size), dtype=torch.bool, device=boxes.device)
    samples = samples or (3 if size <= 56 else 1)
    side = size * samples
    chunk = max(CHUNK_PIXELS // side**2, 1)
    parts = zip(torch.split(instances, chunk), torch.split(boxes, chunk), strict=True)
    return torch.cat([_sample(crops, which, where, side, samples) for which, where in parts])


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
    """Return the contour band: dilation xor erosion with a 3 x 3 cross, once for every 28 cells of the side.

    The band is about two cells wide at 28 x 28 and four at 56 x 56, the same share of the box. Cells beyond the map
    count as empty for the dilation and as set for the erosion, so the border of a crop is no boundary. Source at
    28 x 28: recordings of the official code, 0 mismatches.

    Args:
        masks: (R, S, S) bool.

    Returns:
        (R, S, S) bool.
    """
    outer, inner = masks, ~masks
    for _ in range(band_cells(masks.shape[-1])):
        outer, inner = _dilate(outer), _dilate(inner)
    return outer ^ ~inner


def band_cells(size: int) -> int:
    """Return the cells that a boundary reaches to either side of the contour, on a map of `size` cells a side."""
    return max(size // 28, 1)


def _dilate(masks: Tensor) -> Tensor:
    padded = functional.pad(masks, (1, 1, 1, 1))
    return masks | padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1] | padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]


def bilayer_losses(
    logits: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    keys: Tensor,
    *,
    sampling: OccluderSampling = "balanced",
    dice: float = 0,
) -> dict[str, Tensor]:
    """Compute the binary cross-entropy of each map, averaged over pixels and RoIs.

    With `dice`, masks have a dice loss beside it, averaged over those of the same RoIs whose true mask is not empty.

    Args:
        logits: (R, S, S) float by name; R may be 0.
        targets: (R, S, S) bool by name, for each of the logits.
        keys: (R,) random numbers that decide which RoIs without an occluder are drawn.
        sampling: which RoIs enter the occluder terms, see `occluder_rois`.
        dice: weight of the dice loss beside the cross-entropy.

    Returns:
        Unweighted scalars by the names of the logits.
    """
    specs = map_specs(logits)
    rois: dict[Region, Tensor] = {"occludee": torch.arange(len(keys), device=keys.device)}
    if any(spec.region == "occluder" for spec in specs):
        rois["occluder"] = occluder_rois(targets["occluder_mask"], keys, sampling=sampling)
    if "amodal_mask" in logits:  # a whole mask is never empty: that stands for one that is unknown
        rois["amodal"] = targets["amodal_mask"].flatten(1).any(1).nonzero()[:, 0]
    losses = {}
    for spec in specs:
        maps = logits[spec.name], targets[spec.name], rois[spec.region]
        losses[spec.name] = _mean_bce(*maps)
        if dice and spec.kind == "mask":
            losses[spec.name] = losses[spec.name] + dice * _mean_dice(*maps)
    return losses


def occluder_rois(occluder_masks: Tensor, keys: Tensor, *, sampling: OccluderSampling) -> Tensor:
    """Return the RoIs that train layer 1.

    With k RoIs whose occluder crop is not empty: "balanced" takes these and up to k empty ones at random (the paper:
    half of the RoIs are occlusion cases), where k and the draw are those of the whole batch over all processes;
    "nonempty" takes only these; "official" takes these and then the first k RoIs of this process, like the released
    code, counting some twice.

    Args:
        occluder_masks: (R, S, S) bool.
        keys: (R,) random numbers; the empty RoIs with the smallest are drawn.
        sampling: the rule.

    Returns:
        (M,) int64 indices into the RoIs; none if k is 0.
    """
    occluded = occluder_masks.flatten(1).any(1)
    nonempty = occluded.nonzero()[:, 0]
    match sampling:
        case "nonempty":
            return nonempty
        case "official":
            return torch.cat([nonempty, torch.arange(len(nonempty), device=nonempty.device)])
        case "balanced":
            empty = (~occluded).nonzero()[:, 0]
            drawn = empty[smallest_of_all(keys[empty], len(nonempty))]
            return torch.cat([nonempty, drawn])


def _mean_bce(logits: Tensor, target: Tensor, rois: Tensor) -> Tensor:
    """Average over the pixels and chosen RoIs of all processes; zero, with a graph, if none is chosen."""
    pixels = functional.binary_cross_entropy_with_logits(logits[rois], target[rois].float(), reduction="sum")
    return pixels / (global_divisor(len(rois), logits.device) * logits.shape[-1] * logits.shape[-2])


def _mean_dice(logits: Tensor, target: Tensor, rois: Tensor) -> Tensor:
    """Average 1 - 2 |p t| / (|p^2| + |t|) over the chosen RoIs of all processes whose target is not empty.

    Every mask counts the same, however few of its cells are set, as it does not in the cross-entropy's average over
    cells. It is zero, with a graph, if there is none. Source: V-Net (Milletari et al., 2016).
    """
    rois = rois[target[rois].flatten(1).any(1)]
    shares, truth = logits[rois].sigmoid().flatten(1), target[rois].flatten(1).float()
    overlap = 2 * (shares * truth).sum(1) / (shares.square() + truth).sum(1)
    return (1 - overlap).sum() / global_divisor(len(rois), logits.device)
