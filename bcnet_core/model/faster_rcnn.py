"""Faster R-CNN with the bilayer mask branch, on torchvision's parts: the paper's two-stage version.

torchvision gives proposals, sampling, box coding and box losses. What differs from its Mask R-CNN: RoIs are pooled with
aligned RoIAlign, anchors are not rounded and lie at the exact strides of their levels, and the masks have two layers.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork

from bcnet_core.data.dataset import Targets
from bcnet_core.model.fcos import Proposals
from bcnet_core.model.global_batch import global_divisor
from bcnet_core.model.mask_branch import MaskBranch
from bcnet_core.model.one_stage import Found, with_maps
from bcnet_core.model.pooler import pool_rois
from bcnet_core.model.rois import RoIs, jittered_rois
from bcnet_core.model.rpn import SeededSampler, build_rpn

BOX_SIZE = 7
"""Side of the RoI features that the box head reads."""


class AlignedRoIPool(nn.Module):
    """`pool_rois` where torchvision's RoI heads call a pooler.

    Args:
        strides: of the levels to pool from.
        size: side of the result.
    """

    def __init__(self, strides: tuple[int, ...], size: int) -> None:
        super().__init__()
        self.strides, self.size = strides, size

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: object) -> Tensor:
        """Pool the (R, 4) boxes of each image to (sum of R, C, size, size); `image_shapes` is not needed."""
        levels = list(features.values())[: len(self.strides)]
        images = torch.cat([torch.full_like(box[:, 0], index, dtype=torch.int64) for index, box in enumerate(boxes)])
        return pool_rois(levels, torch.cat(boxes), images, strides=self.strides, size=self.size)


class BilayerRoIHeads(RoIHeads):  # type: ignore[misc]  # torchvision has no types
    """torchvision's second stage, with two mask layers for its one.

    A target is a dict of `boxes` (N, 4), `labels` (N,) with 0 for the background, `bilayer` (our `Targets`), `seed`.

    Args:
        masks: the mask branch.
        mask_proposals: which boxes train the masks: the positive proposals, or the ground truth, jittered.
        mask_rois_per_image: of these, most of an image; 0 takes all.
        settings: of torchvision's `RoIHeads`.
    """

    def __init__(
        self,
        *,
        masks: MaskBranch,
        mask_proposals: Literal["decoded", "jittered"],
        mask_rois_per_image: int,
        **settings: Any,  # noqa: ANN401  (they are torchvision's)
    ) -> None:
        super().__init__(**settings)
        self.masks, self.mask_proposals, self.mask_rois_per_image = masks, mask_proposals, mask_rois_per_image

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Any]] | None = None,
    ) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """Refine proposals, and look at both layers inside them.

        Args:
            features: the pyramid by level, (B, C, H / stride, W / stride) each.
            proposals: of each image, (P, 4) float xyxy in pixels of the network's input.
            image_shapes: height and width of each image before padding.
            targets: of each image, in training.

        Returns:
            In training no detections and the unweighted losses; otherwise a dict with `found` for each image, and no
            losses.
        """
        if targets is None:
            scores, deltas = self._box_outputs(features, proposals, image_shapes)
            detections = self.postprocess_detections(scores, deltas, proposals, image_shapes)
            found = [Proposals(box, score, label - 1) for box, score, label in zip(*detections, strict=True)]
            return [{"found": one} for one in with_maps(self.masks, list(features.values()), found)], {}
        proposals, instances, labels, deltas_wanted = self.select_training_samples(proposals, targets)
        scores, deltas = self._box_outputs(features, proposals, image_shapes)
        scale = len(scores) / global_divisor(len(scores), scores.device)
        if len(scores):
            classification, box = fastrcnn_loss(scores, deltas, labels, deltas_wanted)
        else:  # a mean over nothing is not a number
            classification, box = scores.sum(), deltas.sum()
        rois = self._mask_rois(proposals, instances, labels, targets)
        bilayer = [target["bilayer"] for target in targets]
        return [], {
            "classification": classification * scale,
            "box": box * scale,
            **self.masks.losses(list(features.values()), rois, bilayer),
        }

    def _box_outputs(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """The (R, K + 1) class logits and (R, 4 (K + 1)) box deltas of all proposals, float32."""
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        scores, deltas = self.box_predictor(self.box_head(pooled))
        return scores.float(), deltas.float()

    def _mask_rois(
        self, proposals: list[Tensor], instances: list[Tensor], labels: list[Tensor], targets: list[dict[str, Any]]
    ) -> RoIs:
        bilayer, seeds = [target["bilayer"] for target in targets], [target["seed"] for target in targets]
        if self.mask_proposals == "jittered":
            return jittered_rois(bilayer, seeds, most=self.mask_rois_per_image)
        boxes, images, instances_of, keys = [], [], [], []
        first = 0
        for index, (label, target) in enumerate(zip(labels, bilayer, strict=True)):
            draws = torch.rand((len(label), 2), generator=torch.Generator().manual_seed(seeds[index])).to(label.device)
            kept = label.nonzero()[:, 0]
            if self.mask_rois_per_image:
                kept = kept[draws[kept, 0].argsort()[: self.mask_rois_per_image]].sort().values
            boxes.append(proposals[index][kept])
            images.append(torch.full_like(kept, index))
            instances_of.append(instances[index][kept] + first)
            keys.append(draws[kept, 1])
            first += len(target.boxes)
        return RoIs(torch.cat(boxes), torch.cat(images), torch.cat(instances_of), torch.cat(keys))


class TwoStageHeads(nn.Module):
    """Proposals, then boxes and the maps of both layers.

    Args:
        rpn: torchvision's region proposal network.
        roi_heads: the second stage.
    """

    def __init__(self, rpn: RegionProposalNetwork, roi_heads: BilayerRoIHeads) -> None:
        super().__init__()
        self.rpn, self.roi_heads = rpn, roi_heads

    @property
    def masks(self) -> MaskBranch:
        """The mask branch, inside of the second stage."""
        masks: MaskBranch = self.roi_heads.masks
        return masks

    def forward(
        self, features: list[Tensor], images: ImageList, targets: list[Targets], seeds: list[int]
    ) -> dict[str, Tensor]:
        """The unweighted losses of a batch.

        Args:
            features: the pyramid, (B, C, H / stride, W / stride) each.
            images: the network's input, with the sizes before padding.
            targets: of each image.
            seeds: of each image; every random choice follows from them.

        Returns:
            Scalars `proposal_objectness`, `proposal_box`, `classification`, `box` and those of the mask head, each with
            a graph.
        """
        named = {str(level): x for level, x in enumerate(features)}
        wanted = [
            {"boxes": target.boxes, "labels": target.labels + 1, "bilayer": target, "seed": seed}
            for target, seed in zip(targets, seeds, strict=True)
        ]
        samplers: list[SeededSampler] = [self.rpn.fg_bg_sampler, self.roi_heads.fg_bg_sampler]
        for sampler in samplers:
            sampler.seeds = seeds
        proposals, first = self.rpn(images, named, wanted)
        _, second = self.roi_heads(named, proposals, images.image_sizes, wanted)
        scale = samplers[0].drawn / global_divisor(samplers[0].drawn, features[0].device)
        return {
            "proposal_objectness": first["loss_objectness"] * scale,
            "proposal_box": first["loss_rpn_box_reg"] * scale,
            **second,
        }

    def detect(self, features: list[Tensor], images: ImageList) -> list[Found]:
        """Find the instances of a batch.

        Args:
            features: the pyramid.
            images: the network's input, with the sizes before padding; boxes are clipped to these.

        Returns:
            What was found in each image, best first.
        """
        named = {str(level): x for level, x in enumerate(features)}
        proposals, _ = self.rpn(images, named)
        results, _ = self.roi_heads(named, proposals, images.image_sizes)
        return [result["found"] for result in results]


def build_two_stage_heads(
    *,
    masks: MaskBranch,
    channels: int,
    num_classes: int,
    strides: tuple[int, ...],
    anchor_scale: int,
    proposals_per_image: int,
    box_rois_per_image: int,
    mask_proposals: Literal["decoded", "jittered"],
    mask_rois_per_image: int,
    score_threshold: float,
    nms_iou: float,
    candidates_per_level: int,
    detections_per_image: int,
) -> TwoStageHeads:
    """Put torchvision's parts together; what is not an argument is as in Faster R-CNN with FPN (Lin et al., 2017).

    Args:
        masks: the mask branch; boxes are pooled from the levels that it pools from.
        channels: of the pyramid.
        num_classes: K, without the background.
        strides: of the levels that propose.
        anchor_scale: side of an anchor in strides.
        proposals_per_image: that the second stage looks at.
        box_rois_per_image: of these, RoIs that train the box head, at most a quarter of them positive.
        mask_proposals: see `BilayerRoIHeads`.
        mask_rois_per_image: see `BilayerRoIHeads`.
        score_threshold: class probability that a detection needs.
        nms_iou: IoU above which the weaker of two boxes of a class goes.
        candidates_per_level: proposals of a level before NMS; twice as many in training.
        detections_per_image: most detections of an image.
    """
    rpn = build_rpn(
        channels=channels,
        strides=strides,
        anchor_scale=anchor_scale,
        candidates_per_level=candidates_per_level,
        proposals=proposals_per_image,
    )
    roi_heads = BilayerRoIHeads(
        masks=masks,
        mask_proposals=mask_proposals,
        mask_rois_per_image=mask_rois_per_image,
        box_roi_pool=AlignedRoIPool(masks.strides, BOX_SIZE),
        box_head=TwoMLPHead(channels * BOX_SIZE**2, 1024),
        box_predictor=FastRCNNPredictor(1024, num_classes + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=0,  # and the next: of the sampler, which is ours
        positive_fraction=0.0,
        bbox_reg_weights=None,
        score_thresh=score_threshold,
        nms_thresh=nms_iou,
        detections_per_img=detections_per_image,
    )
    roi_heads.fg_bg_sampler = SeededSampler(batch_size_per_image=box_rois_per_image, positive_fraction=0.25)
    return TwoStageHeads(rpn, roi_heads)
