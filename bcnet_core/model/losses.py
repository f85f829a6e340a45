"""The losses of the bilayer mask head (BCNet section 3.3).

Every term is a scalar that always exists and always carries a graph. Sums are divided by counts over *all* processes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from bcnet_core.config.choices import OccluderSampling
from bcnet_core.maps import map_specs
from bcnet_core.model.global_batch import global_divisor, smallest_of_all


def bilayer_losses(
    logits: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    keys: Tensor,
    *,
    sampling: OccluderSampling = "balanced",
) -> dict[str, Tensor]:
    """Compute the binary cross-entropy of each map, averaged over pixels and RoIs.

    Args:
        logits: (R, S, S) float by name; R may be 0.
        targets: (R, S, S) bool by name, for each of the logits.
        keys: (R,) random numbers that decide which RoIs without an occluder are drawn.
        sampling: which RoIs enter the occluder terms, see `occluder_rois`.

    Returns:
        Unweighted scalars by the names of the logits.
    """
    specs = map_specs(logits)
    rois = {"occludee": torch.arange(len(keys), device=keys.device)}
    if any(spec.layer == "occluder" for spec in specs):
        rois["occluder"] = occluder_rois(targets["occluder_mask"], keys, sampling=sampling)
    return {spec.name: _mean_bce(logits[spec.name], targets[spec.name], rois[spec.layer]) for spec in specs}


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
