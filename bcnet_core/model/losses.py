"""The four losses of the bilayer mask head (BCNet section 3.3).

Every term is a scalar that always exists and always carries a graph. Sums are divided by counts over *all* processes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bcnet_core.config.choices import OccluderSampling
from bcnet_core.model.global_batch import global_divisor, smallest_of_all
from bcnet_core.model.head import BilayerLogits
from bcnet_core.model.targets import BilayerTargets


def bilayer_losses(
    logits: BilayerLogits, targets: BilayerTargets, keys: Tensor, *, sampling: OccluderSampling = "balanced"
) -> dict[str, Tensor]:
    """Binary cross-entropy of the four maps, averaged over pixels and RoIs.

    Args:
        logits: (R, S, S) maps; R may be 0.
        targets: four (R, S, S) bool maps.
        keys: (R,) random numbers that decide which RoIs without an occluder are drawn.
        sampling: which RoIs enter the two occluder terms, see `occluder_rois`.

    Returns:
        Scalars `occludee_mask`, `occludee_boundary`, `occluder_mask`, `occluder_boundary`, unweighted,
        of those maps that there are.
    """
    everyone = torch.arange(len(keys), device=keys.device)
    chosen = occluder_rois(targets.occluder_mask, keys, sampling=sampling)
    return {
        name: _mean_bce(maps, getattr(targets, name), chosen if "occluder" in name else everyone)
        for name, maps in logits._asdict().items()
        if maps is not None
    }


def occluder_rois(occluder_masks: Tensor, keys: Tensor, *, sampling: OccluderSampling) -> Tensor:
    """The RoIs that train layer 1.

    With k RoIs whose occluder crop is not empty: "balanced" takes these and up to k empty ones at random (the paper:
    half of the RoIs are occlusion cases), k and the draw being those of the whole batch, however many processes share
    it; "nonempty" takes only these; "official" takes these and then the first k RoIs of this process, as the released
    code does, counting some twice.

    Args:
        occluder_masks: (R, S, S) bool.
        keys: (R,) random numbers; the empty RoIs with the smallest are drawn.
        sampling: the rule.

    Returns:
        (M,) int64 indices into the RoIs; none where k is 0.
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
    """The mean over pixels and chosen RoIs of all processes; zero, with a graph, where none is chosen."""
    pixels = functional.binary_cross_entropy_with_logits(logits[rois], target[rois].float(), reduction="sum")
    return pixels / (global_divisor(len(rois), logits.device) * logits.shape[-1] * logits.shape[-2])
