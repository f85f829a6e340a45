"""The mask branch of both detectors: RoIs in, maps of both layers out, or their losses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bcnet_core.config.choices import OccluderSampling
from bcnet_core.data.dataset import Targets
from bcnet_core.distributed import GlobalBatchNorm2d
from bcnet_core.model.head import BilayerMaskHead
from bcnet_core.model.losses import bilayer_losses, bilayer_targets
from bcnet_core.model.rois import RoIs, pool_rois

CACHED_ROIS = 32
"""RoIs that a CPU processes together in evaluation, so that the features between two layers stay in its cache."""


class Proposals(NamedTuple):
    """The boxes found in one image, best first: (D, 4) boxes xyxy, (D,) scores, (D,) int64 labels."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Found(NamedTuple):
    """The instances of one image: boxes in pixels of the network's input, and the (D, S, S) logits of each map."""

    proposals: Proposals
    logits: dict[str, Tensor]


class MaskBranch(nn.Module):
    """A bilayer mask head with its pooling and its losses.

    Args:
        head: RoI features to maps.
        strides: of the pyramid levels that RoIs are pooled from, finest first; coarser levels are ignored.
        occluder_sampling: which RoIs enter the occluder losses.
        dice: weight of the dice loss of the masks, see `bilayer_losses`.
        mask_scoring: whether the masks have a say in the scores, see `score_masks`.
    """

    def __init__(
        self,
        head: BilayerMaskHead,
        *,
        strides: tuple[int, ...],
        occluder_sampling: OccluderSampling,
        dice: float = 0,
        mask_scoring: bool = False,
    ) -> None:
        super().__init__()
        self.head, self.strides, self.occluder_sampling = head, strides, occluder_sampling
        self.dice, self.mask_scoring = dice, mask_scoring

    def forward(self, features: list[Tensor], boxes: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Predict the maps of R RoIs.

        Args:
            features: the pyramid, (B, C, H / stride, W / stride) each.
            boxes: (R, 4) float xyxy in pixels of the network's input.
            images: (R,) int64, the image of each box.

        Returns:
            (R, S, S) float32 logits by name, with S the head's `mask_size`, also under autocast.
        """
        levels = features[: len(self.strides)]
        return predict_maps(self.head, pool_rois(levels, boxes, images, strides=self.strides, size=self.head.roi_size))

    def losses(self, features: list[Tensor], rois: RoIs, targets: list[Targets]) -> dict[str, Tensor]:
        """Return the unweighted losses of the maps of R RoIs, by name; each is a scalar with a graph.

        Args:
            features: the pyramid, (B, C, H / stride, W / stride) each.
            rois: of the batch; there may be none.
            targets: of each image.
        """
        logits = self(features, rois.boxes, rois.images)
        wanted = bilayer_targets(targets, rois, size=self.head.mask_size, names=self.head.outputs)
        return bilayer_losses(logits, wanted, rois.keys, sampling=self.occluder_sampling, dice=self.dice)

    def find(self, features: list[Tensor], proposals: list[Proposals]) -> list[Found]:
        """Predict the maps inside the boxes of all images at once.

        Args:
            features: the pyramid, (B, C, H / stride, W / stride) each.
            proposals: of each image.

        Returns:
            The instances of each image, best first.
        """
        found = self._maps_of(features, proposals)
        return [score_masks(one) for one in found] if self.mask_scoring else found

    def _maps_of(self, features: list[Tensor], proposals: list[Proposals]) -> list[Found]:
        images = torch.cat([torch.full_like(one.labels, index) for index, one in enumerate(proposals)])
        logits = self(features, torch.cat([one.boxes for one in proposals]), images)
        if len(proposals) == 1:  # lengths are not numbers yet while a detector is exported
            return [Found(proposals[0], logits)]
        parts = {name: maps.split([len(one.boxes) for one in proposals]) for name, maps in logits.items()}
        return [Found(one, {name: part[index] for name, part in parts.items()}) for index, one in enumerate(proposals)]


def score_masks(found: Found) -> Found:
    """Multiply the score of every instance by the confidence of its mask, and order the instances anew."""
    boxes, scores, labels = found.proposals
    scores, order = (scores * mask_confidence(found.logits["occludee_mask"].sigmoid())).sort(descending=True)
    proposals = Proposals(boxes[order], scores, labels[order])
    return Found(proposals, {name: maps[order] for name, maps in found.logits.items()})


def mask_confidence(probabilities: Tensor) -> Tensor:
    """Return the mean probability of the cells that belong to each mask (maskness: Wang et al., "SOLO", 2020).

    A class probability says nothing of the mask; with it, AP ranks a sharp mask above a blurred one of the same box.

    Args:
        probabilities: (R, S, S) float in [0, 1].

    Returns:
        (R,) float; 0 for a mask without a cell.
    """
    inside = probabilities > 0.5
    return (probabilities * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)


def predict_maps(head: BilayerMaskHead, pooled: Tensor) -> dict[str, Tensor]:
    """Predict the maps of R pooled RoIs.

    Args:
        head: in training or evaluation mode.
        pooled: (R, C, S, S) float, from aligned RoIAlign, with S the head's `roi_size`.

    Returns:
        (R, M, M) float32 logits by name, with M the head's `mask_size`. Without a RoI they are empty; in training they
        still carry the graph of the weights.
    """
    if head.training and len(pooled) == 0 and not _shares_statistics(head):  # batch statistics of nothing are undefined
        weights = sum(parameter.sum() for parameter in head.parameters()) * 0
        empty = pooled.new_zeros((0, head.mask_size, head.mask_size)) + weights
        return dict.fromkeys(head.outputs, empty)
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    whole = head.training or pooled.is_cuda or tracing  # batch statistics are those of all RoIs
    parts = [head(some) for some in ([pooled] if whole else torch.split(pooled, CACHED_ROIS))]
    maps = {name: torch.cat([part[name] for part in parts]).float() for name in head.outputs}
    if "amodal_mask" in maps and not head.training:  # what is seen belongs to the whole
        maps["amodal_mask"] = torch.maximum(maps["amodal_mask"], maps["occludee_mask"])
    return maps


def _shares_statistics(head: BilayerMaskHead) -> bool:
    """Return whether other processes wait for this one's part of their batch statistics, even if it has no RoI."""
    return any(isinstance(module, GlobalBatchNorm2d) for module in head.modules())
