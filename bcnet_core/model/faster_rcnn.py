"""Faster R-CNN with the bilayer mask branch, on torchvision's parts: the paper's two-stage version.

torchvision provides proposals, sampling, box coding and box losses. Differences from its Mask R-CNN: the masks have two
layers, their RoIs are pooled with aligned RoIAlign, and so are those of the boxes, anchors are not rounded and lie at
the exact strides of their levels. Weights of torchvision's detectors expect the boxes otherwise, as the geometry
"torchvision" has them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork

from bcnet_core.config.choices import BoxHead, Geometry, MaskProposals
from bcnet_core.data.dataset import Targets
from bcnet_core.distributed import global_divisor
from bcnet_core.model.mask_branch import Found, MaskBranch
from bcnet_core.model.rois import RoIs, choose_rois, jittered_rois, pool_rois, random_numbers
from bcnet_core.model.rpn import SeededSampler
from bcnet_core.model.suppression import Suppression, class_boxes

BOX_SIZE = 7
"""Side of the RoI features that the box head reads."""
BOX_CONVS = 4
"""3x3 convolutions of a box head that has any."""


class TwoStageHeads(nn.Module):
    """Proposals, then boxes and the maps of both layers.

    Args:
        rpn: torchvision's region proposal network.
        roi_heads: torchvision's second stage, see `build_roi_heads`; the mask branch becomes its part `masks`.
        suppression: which candidates of the box head become detections.
        masks: the mask branch; boxes are pooled from the levels that it pools from.
        mask_proposals: boxes that train the masks: the positive proposals, or the ground truth, jittered.
        mask_rois_per_image: largest number of these in an image; 0 takes all.
        geometry: how the boxes are pooled, see `pool_rois`. The masks are pooled aligned whatever it is, because their
            targets are cropped so.
    """

    def __init__(
        self,
        *,
        rpn: RegionProposalNetwork,
        roi_heads: RoIHeads,
        suppression: Suppression,
        masks: MaskBranch,
        mask_proposals: MaskProposals,
        mask_rois_per_image: int,
        geometry: Geometry,
    ) -> None:
        super().__init__()
        self.rpn, self.roi_heads, self.geometry = rpn, roi_heads, geometry
        self.suppression = suppression
        self.roi_heads.masks = masks
        self.mask_proposals, self.mask_rois_per_image = mask_proposals, mask_rois_per_image

    @property
    def masks(self) -> MaskBranch:
        """The mask branch of the second stage."""
        masks: MaskBranch = self.roi_heads.masks
        return masks

    def forward(
        self, features: list[Tensor], images: ImageList, targets: list[Targets], seeds: list[int]
    ) -> dict[str, Tensor]:
        """Return the unweighted losses of a batch.

        Args:
            features: the pyramid, (B, C, H / stride, W / stride) each.
            images: the network's input, with the sizes before padding.
            targets: of each image.
            seeds: of each image; every random choice follows from them.

        Returns:
            Scalars `proposal_objectness`, `proposal_box`, `classification`, `box` and those of the mask head, each with
            a graph.
        """
        sampler: SeededSampler = self.rpn.fg_bg_sampler
        sampler.seeds = self.roi_heads.fg_bg_sampler.seeds = seeds
        wanted = [{"boxes": one.boxes, "labels": one.labels + 1} for one in targets]  # 0 is the background
        proposals, first = self.rpn(images, _named(features), wanted)
        first_scale = sampler.drawn / global_divisor(sampler.drawn, features[0].device)
        proposals, instances, labels, deltas_wanted = self.roi_heads.select_training_samples(proposals, wanted)
        scores, deltas = self.box_outputs(features, *_joined(proposals))
        scale = len(scores) / global_divisor(len(scores), scores.device)
        if len(scores):
            classification, box = fastrcnn_loss(scores, deltas, labels, deltas_wanted)
        else:  # the mean of nothing is not a number
            classification, box = scores.sum(), deltas.sum()
        matches = [torch.where(label > 0, instance, -1) for label, instance in zip(labels, instances, strict=True)]
        return {
            "proposal_objectness": first["loss_objectness"] * first_scale,
            "proposal_box": first["loss_rpn_box_reg"] * first_scale,
            "classification": classification * scale,
            "box": box * scale,
            **self.masks.losses(features, self._mask_rois(proposals, matches, targets, seeds), targets),
        }

    def detect(self, features: list[Tensor], images: ImageList) -> list[Found]:
        """Find the instances of a batch.

        Args:
            features: the pyramid.
            images: the network's input; boxes are clipped to the sizes before padding.

        Returns:
            The instances of each image, best first.
        """
        proposals, _ = self.rpn(images, _named(features))
        scores, deltas = self.box_outputs(features, *_joined(proposals))
        candidates = class_boxes(
            scores, deltas, proposals, images.image_sizes,
            decode=self.roi_heads.box_coder.decode, score_threshold=self.suppression.score_threshold,
        )  # fmt: skip
        found = self.masks.find(features, [self.suppression.by_boxes(one) for one in candidates])
        return [self.suppression.by_masks(one, size) for one, size in zip(found, images.image_sizes, strict=True)]

    def box_outputs(self, features: list[Tensor], boxes: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (R, K + 1) class logits and (R, 4 (K + 1)) box deltas of R proposals, float32.

        Args:
            features: the pyramid.
            boxes: (R, 4) float xyxy in pixels of the network's input.
            images: (R,) int64, the image of each box.
        """
        strides = self.masks.strides
        pooled = pool_rois(
            features[: len(strides)], boxes, images, strides=strides, size=BOX_SIZE, geometry=self.geometry
        )
        scores, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        return scores.float(), deltas.float()

    def _mask_rois(
        self, proposals: list[Tensor], matches: list[Tensor], targets: list[Targets], seeds: list[int]
    ) -> RoIs:
        if self.mask_proposals == "jittered":
            return jittered_rois(targets, seeds, most=self.mask_rois_per_image)
        draws = [random_numbers(seed, (len(one), 2), one.device) for one, seed in zip(matches, seeds, strict=True)]
        return choose_rois(proposals, matches, draws, targets, most=self.mask_rois_per_image)


def build_roi_heads(
    *,
    channels: int,
    num_classes: int,
    box_head: BoxHead,
    box_head_channels: int,
    rois_per_image: int,
) -> RoIHeads:
    """Build the second stage; what is not an argument is as in Faster R-CNN with FPN (Lin et al., 2017).

    Args:
        channels: of the pyramid.
        num_classes: K, without the background.
        box_head: "linear" for two fully connected layers, "conv" for four 3x3 convolutions and one such layer.
        box_head_channels: width of the fully connected layers.
        rois_per_image: proposals of an image that train the box head, at most a quarter of them positive.
    """
    roi_heads = RoIHeads(
        box_roi_pool=None,  # `TwoStageHeads` pools
        box_head=TwoMLPHead(channels * BOX_SIZE**2, box_head_channels)
        if box_head == "linear"
        else FastRCNNConvFCHead((channels, BOX_SIZE, BOX_SIZE), [channels] * BOX_CONVS, [box_head_channels]),
        box_predictor=FastRCNNPredictor(box_head_channels, num_classes + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=0,  # this and the next are the sampler's, which is replaced below
        positive_fraction=0.0,
        bbox_reg_weights=None,
        score_thresh=0.0,  # this and the next two are for its detections, which `Suppression` chooses
        nms_thresh=0.0,
        detections_per_img=0,
    )
    roi_heads.fg_bg_sampler = SeededSampler(batch_size_per_image=rois_per_image, positive_fraction=0.25)
    return roi_heads


def _joined(boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the boxes of all images, and the image of each."""
    return torch.cat(boxes), torch.cat(
        [torch.full_like(one[:, 0], i, dtype=torch.int64) for i, one in enumerate(boxes)]
    )


def _named(features: list[Tensor]) -> dict[str, Tensor]:
    return {str(level): x for level, x in enumerate(features)}
