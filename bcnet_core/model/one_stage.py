"""FCOS with the bilayer mask branch: the official release's detector, behind the backbone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from bcnet_core.config.choices import GIoU, MaskProposals, Normalizer
from bcnet_core.data.dataset import Targets
from bcnet_core.model.fcos import FCOSHead, Outputs, Proposals, distances_to_boxes, select
from bcnet_core.model.fcos_losses import fcos_losses
from bcnet_core.model.mask_branch import MaskBranch
from bcnet_core.model.rois import RoIs, jittered_rois, matched_rois


class Found(NamedTuple):
    """The instances of one image: boxes in pixels of the network's input, and the (D, 28, 28) logits of each map."""

    proposals: Proposals
    logits: dict[str, Tensor]


class OneStageHeads(nn.Module):
    """Dense boxes from every level, then the maps of both layers inside the best of them.

    Args:
        boxes: the FCOS head.
        masks: the mask branch.
        mask_proposals: which boxes train the masks: the head's own and the ground truth ("decoded"), the ground truth
            jittered, or the head's own decoded without the stride, as the official code does in training.
        mask_rois_per_image: of these, most of an image; 0 takes all.
        score_threshold: class probability that a candidate needs.
        nms_iou: IoU above which the weaker of two boxes of a class goes.
        candidates_per_level: kept before NMS.
        detections_per_image: kept after it.
        normalizer: see `fcos_losses`.
        giou: see `fcos_losses`.
    """

    def __init__(
        self,
        *,
        boxes: FCOSHead,
        masks: MaskBranch,
        mask_proposals: MaskProposals,
        mask_rois_per_image: int,
        score_threshold: float,
        nms_iou: float,
        candidates_per_level: int,
        detections_per_image: int,
        normalizer: Normalizer,
        giou: GIoU,
    ) -> None:
        super().__init__()
        self.boxes, self.masks = boxes, masks
        self.mask_proposals, self.mask_rois_per_image = mask_proposals, mask_rois_per_image
        self.score_threshold, self.nms_iou = score_threshold, nms_iou
        self.candidates_per_level, self.detections_per_image = candidates_per_level, detections_per_image
        self.normalizer, self.giou = normalizer, giou

    def forward(
        self, features: list[Tensor], images: ImageList, targets: list[Targets], seeds: list[int]
    ) -> dict[str, Tensor]:
        """The unweighted losses of a batch.

        Args:
            features: the pyramid, (B, C, H / stride, W / stride) each.
            images: the network's input; locations follow from the features, so it is not looked at.
            targets: of each image.
            seeds: of each image, for the choice of RoIs.

        Returns:
            Scalars `classification`, `box`, `centerness` and those of the mask head, each with a graph.
        """
        outputs = self.boxes(features)
        losses = fcos_losses(
            outputs,
            [target.boxes for target in targets],
            [target.labels for target in targets],
            normalizer=self.normalizer,
            giou=self.giou,
        )
        return losses | self.masks.losses(features, self.training_rois(outputs, targets, seeds), targets)

    @torch.no_grad()
    def training_rois(self, outputs: Outputs, targets: list[Targets], seeds: list[int]) -> RoIs:
        """The boxes that train the mask branch, chosen as `mask_proposals` says."""
        if self.mask_proposals == "jittered":
            return jittered_rois(targets, seeds, most=self.mask_rois_per_image)
        decoded = self.mask_proposals == "decoded"
        boxes = outputs.boxes() if decoded else distances_to_boxes(outputs.distances, outputs.locations)
        proposals = [found.boxes for found in self._select(outputs, boxes)]
        return matched_rois(proposals, targets, seeds, most=self.mask_rois_per_image)

    def detect(self, features: list[Tensor], images: ImageList) -> list[Found]:
        """Find the instances of a batch.

        Args:
            features: the pyramid.
            images: the network's input; not looked at, boxes may reach beyond it.

        Returns:
            What was found in each image, best first.
        """
        outputs = self.boxes(features)
        found = self._select(outputs, outputs.boxes())
        return with_maps(self.masks, features, found)

    def _select(self, outputs: Outputs, boxes: Tensor) -> list[Proposals]:
        return select(
            outputs,
            boxes,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
            candidates_per_level=self.candidates_per_level,
            most=self.detections_per_image,
        )


def with_maps(masks: MaskBranch, features: list[Tensor], found: list[Proposals]) -> list[Found]:
    """Predict the maps inside the boxes of all images at once, and hand them back to their images."""
    images = torch.cat([torch.full_like(one.labels, index) for index, one in enumerate(found)])
    logits = masks(features, torch.cat([one.boxes for one in found]), images)
    if len(found) == 1:  # and in an exported detector, where lengths are not numbers yet
        return [Found(found[0], logits)]
    results, start = [], 0
    for one in found:
        part = slice(start, start + len(one.boxes))
        results.append(Found(one, {name: maps[part] for name, maps in logits.items()}))
        start += len(one.boxes)
    return results
