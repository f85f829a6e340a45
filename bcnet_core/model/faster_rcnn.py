"""Faster R-CNN with the bilayer mask branch, on torchvision's parts: the paper's two-stage version.

torchvision provides proposals, sampling, box coding and box losses. Differences from its Mask R-CNN: the masks have two
layers, their RoIs are pooled with aligned RoIAlign, and so are those of the boxes, anchors are not rounded and lie at
the exact strides of their levels. Weights of torchvision's detectors expect the boxes otherwise, as the geometry
"torchvision" has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from bcnet_core.config.choices import BoxHead, Geometry, MaskProposals
from bcnet_core.data.dataset import Targets
from bcnet_core.distributed import global_divisor
from bcnet_core.model.mask_branch import Found, MaskBranch, Proposals
from bcnet_core.model.rois import RoIs, choose_rois, jittered_rois, level_steps, pool_rois, random_numbers

BOX_SIZE = 7
"""Side of the RoI features that the box head reads."""
BOX_CONVS = 4
"""3x3 convolutions of a box head that has any."""


class TwoStageHeads(nn.Module):
    """Proposals, then boxes and the maps of both layers.

    Args:
        rpn: torchvision's region proposal network.
        roi_heads: torchvision's second stage, see `build_roi_heads`; the mask branch becomes its part `masks`.
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
        masks: MaskBranch,
        mask_proposals: MaskProposals,
        mask_rois_per_image: int,
        geometry: Geometry,
    ) -> None:
        super().__init__()
        self.rpn, self.roi_heads, self.geometry = rpn, roi_heads, geometry
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
        scores, deltas = self._box_outputs(features, proposals)
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
        scores, deltas = self._box_outputs(features, proposals)
        detections = self.roi_heads.postprocess_detections(scores, deltas, proposals, images.image_sizes)
        found = [Proposals(box, score, label - 1) for box, score, label in zip(*detections, strict=True)]
        return self.masks.find(features, found)

    def _box_outputs(self, features: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the (R, K + 1) class logits and (R, 4 (K + 1)) box deltas of all proposals, float32."""
        images = torch.cat([torch.full_like(box[:, 0], index, dtype=torch.int64) for index, box in enumerate(boxes)])
        strides = self.masks.strides
        pooled = pool_rois(
            features[: len(strides)], torch.cat(boxes), images,
            strides=strides, size=BOX_SIZE, geometry=self.geometry,
        )  # fmt: skip
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
    score_threshold: float,
    nms_iou: float,
    detections_per_image: int,
) -> RoIHeads:
    """Build the second stage; what is not an argument is as in Faster R-CNN with FPN (Lin et al., 2017).

    Args:
        channels: of the pyramid.
        num_classes: K, without the background.
        box_head: "linear" for two fully connected layers, "conv" for four 3x3 convolutions and one such layer.
        box_head_channels: width of the fully connected layers.
        rois_per_image: proposals of an image that train the box head, at most a quarter of them positive.
        score_threshold: least class probability of a detection.
        nms_iou: IoU above which the weaker of two boxes of a class is dropped.
        detections_per_image: largest number of detections of an image.
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
        score_thresh=score_threshold,
        nms_thresh=nms_iou,
        detections_per_img=detections_per_image,
    )
    roi_heads.fg_bg_sampler = SeededSampler(batch_size_per_image=rois_per_image, positive_fraction=0.25)
    return roi_heads


def _named(features: list[Tensor]) -> dict[str, Tensor]:
    return {str(level): x for level, x in enumerate(features)}


ASPECT_RATIOS = (0.5, 1.0, 2.0)


class SeededSampler(BalancedPositiveNegativeSampler):  # type: ignore[misc]  # torchvision has no types
    """torchvision's sampler, seeded for each image: the draw for an image does not depend on the other images.

    Attributes:
        seeds: one for each image of the batch; set before each call.
        drawn: number of anchors or proposals that the last call chose.
    """

    seeds: Sequence[int] = ()
    drawn: int = 0

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return masks of the chosen positives and negatives of each image; see torchvision."""
        positives: list[Tensor] = []
        negatives: list[Tensor] = []
        with torch.random.fork_rng(devices=[one.device for one in matched_idxs[:1] if one.is_cuda]):
            for labels, seed in zip(matched_idxs, self.seeds, strict=True):
                torch.manual_seed(seed)
                (positive,), (negative,) = super().__call__([labels])
                positives.append(positive)
                negatives.append(negative)
        self.drawn = int(sum(mask.sum() for mask in (*positives, *negatives)))
        return positives, negatives


class StridedAnchors(AnchorGenerator):  # type: ignore[misc]  # torchvision has no types
    """Anchors centered at the corners of feature cells, in float32 also under autocast.

    torchvision rounds the anchors to whole pixels and divides the padded image by the size of a level, which is not its
    stride where a level was rounded up; weights of detectron2 expect neither.

    Args:
        strides: of the levels, pixels.
        scales: sides of the anchors of a place, in strides; each has all aspect ratios.
        geometry: "exact" for anchors as they are, at the strides, or "torchvision".
    """

    def __init__(self, strides: tuple[int, ...], *, scales: tuple[int, ...], geometry: Geometry) -> None:
        self.strides, self.geometry = strides, geometry  # before torchvision generates the anchors
        sides = tuple(tuple(scale * stride for scale in scales) for stride in strides)
        super().__init__(sides, (ASPECT_RATIOS,) * len(strides))

    def generate_anchors(
        self,
        scales: list[int],
        aspect_ratios: list[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008  (torchvision's signature)
    ) -> Tensor:
        """Return the (A, 4) xyxy anchors around the origin.

        Those of the exact geometry are not rounded, and all ratios of one side lie together, as in detectron2; in
        torchvision's order, all sides of one ratio do.
        """
        if self.geometry == "torchvision":
            rounded: Tensor = super().generate_anchors(scales, aspect_ratios, dtype, device)
            return rounded
        height = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        half_width = (sides[:, None] / height).flatten() / 2
        half_height = (sides[:, None] * height).flatten() / 2
        return torch.stack([-half_width, -half_height, half_width, half_height], dim=1)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the (M, 4) float32 anchors of all levels, the same for each image."""
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        steps = level_steps(feature_maps, self.strides, self.geometry)
        strides = [[torch.tensor(side, device=device) for side in step] for step in steps]
        anchors = torch.cat(self.grid_anchors([list(x.shape[-2:]) for x in feature_maps], strides))
        return [anchors] * len(image_list.image_sizes)


class FullPrecisionRPNHead(RPNHead):  # type: ignore[misc]  # torchvision has no types
    """torchvision's head of the proposals, with float32 outputs also under autocast.

    torchvision decodes boxes in the precision of their deltas, and bfloat16 cannot tell pixels beyond 256 apart.
    """

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the (B, A, H, W) objectness and (B, 4 A, H, W) deltas of every level."""
        objectness, deltas = super().forward(x)
        return [part.float() for part in objectness], [part.float() for part in deltas]


def build_rpn(
    *,
    channels: int,
    convs: int,
    anchors: AnchorGenerator,
    candidates_per_level: int,
    proposals: int,
) -> RegionProposalNetwork:
    """Build a region proposal network; what is not an argument is as in Faster R-CNN with FPN (Lin et al., 2017).

    Args:
        channels: of the pyramid.
        convs: 3x3 convolutions of its head.
        anchors: of the levels that propose.
        candidates_per_level: candidates of a level that are kept before NMS; twice as many in training.
        proposals: proposals of an image that are kept after it.
    """
    rpn = RegionProposalNetwork(
        anchors,
        FullPrecisionRPNHead(channels, anchors.num_anchors_per_location()[0], conv_depth=convs),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=0,  # this and the next are the sampler's, which is replaced below
        positive_fraction=0.0,
        pre_nms_top_n={"training": 2 * candidates_per_level, "testing": candidates_per_level},
        post_nms_top_n={"training": proposals, "testing": proposals},
        nms_thresh=0.7,
    )
    rpn.fg_bg_sampler = SeededSampler(batch_size_per_image=256, positive_fraction=0.5)
    return rpn
