"""detectron2's Mask R-CNN behind our backbone, losses and evaluation; imported only where detectron2 is installed."""

from __future__ import annotations

import warnings

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from bcnet_core.config.schema import Recipe
from bcnet_core.data.dataset import Targets
from bcnet_core.model.detectors import Detector
from bcnet_core.model.mask_branch import Found, Proposals
from benchmarks.crowds.peers import CERTAIN, POOLED_LEVELS, PeerSettings, draw_masks

# What detectron2 does in a way that today's torch advises against, which no user of it can change.
warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
with warnings.catch_warnings():  # it imports pkg_resources, which warns of its own end
    warnings.simplefilter("ignore")
    from detectron2.model_zoo import get_config

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
"""detectron2's own config of a Mask R-CNN; what is no setting of `PeerSettings` is as there."""


class Detectron2Heads(nn.Module):
    """The proposals, boxes and masks of detectron2's Mask R-CNN, with the interface of `TwoStageHeads`.

    Args:
        config: of a Mask R-CNN.
        levels: strides of the pyramid by the names of its levels, pixels.
        channels: of the pyramid.
    """

    def __init__(self, config: CfgNode, *, levels: dict[str, int], channels: int) -> None:
        super().__init__()
        shapes = {name: ShapeSpec(channels=channels, stride=stride) for name, stride in levels.items()}
        self.rpn, self.roi_heads, self.levels = RPN(config, shapes), StandardROIHeads(config, shapes), tuple(levels)

    def forward(
        self, features: list[Tensor], images: ImageList, targets: list[Targets], seeds: list[int]
    ) -> dict[str, Tensor]:
        """Return the losses of a batch, named as those of `TwoStageHeads`; the seeds decide all random choices."""
        torch.manual_seed(seeds[0])
        named, wanted = self._named(features), []
        height, width = images.tensors.shape[-2:]
        for one, size in zip(targets, images.image_sizes, strict=True):
            masks = BitMasks(draw_masks(one, height, width))
            wanted.append(Instances(size, gt_boxes=Boxes(one.boxes), gt_classes=one.labels, gt_masks=masks))
        with EventStorage():  # they log into it
            proposals, first = self.rpn(images, named, wanted)
            _, second = self.roi_heads(images, named, proposals, wanted)
        return {
            "proposal_objectness": first["loss_rpn_cls"],
            "proposal_box": first["loss_rpn_loc"],
            "classification": second["loss_cls"],
            "box": second["loss_box_reg"],
            "occludee_mask": second["loss_mask"],
        }

    def detect(self, features: list[Tensor], images: ImageList) -> list[Found]:
        """Find the instances of each image, best first."""
        named = self._named(features)
        proposals, _ = self.rpn(images, named)
        found, _ = self.roi_heads(images, named, proposals)
        return [
            Found(Proposals(one.pred_boxes.tensor, one.scores, one.pred_classes), _logits(one.pred_masks))
            for one in found
        ]

    def masks(self, features: list[Tensor], boxes: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Return the (R, 28, 28) mask logits inside R boxes of one image, of the class that the box head finds."""
        heads, named = self.roi_heads, self._named(features)
        pooled = heads.box_pooler([named[name] for name in heads.box_in_features], [Boxes(boxes)])
        scores, _ = heads.box_predictor(heads.box_head(pooled))
        given = Instances((0, 0), pred_boxes=Boxes(boxes), pred_classes=scores[:, :-1].argmax(1))  # last: background
        (found,) = heads.forward_with_given_boxes(named, [given])
        return _logits(found.pred_masks)

    def _named(self, features: list[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.levels, features, strict=True))


def _logits(probabilities: Tensor) -> dict[str, Tensor]:
    return {"occludee_mask": probabilities[:, 0].logit(CERTAIN)}


def build_heads(detector: Detector, recipe: Recipe, settings: PeerSettings) -> Detectron2Heads:
    """Build detectron2's proposals, boxes and masks for the backbone of a detector."""
    config = get_config(CONFIG)
    levels = {f"p{2 + level}": stride for level, stride in enumerate(detector.backbone.strides)}
    config.MODEL.ANCHOR_GENERATOR.SIZES = [list(sides) for sides in settings.anchors]
    rpn, heads = config.MODEL.RPN, config.MODEL.ROI_HEADS
    rpn.IN_FEATURES, heads.IN_FEATURES = list(levels), list(levels)[:POOLED_LEVELS]
    rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST = settings.candidates
    rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST = settings.proposals
    heads.NUM_CLASSES, heads.BATCH_SIZE_PER_IMAGE = len(detector.categories), settings.box_rois
    heads.SCORE_THRESH_TEST, heads.NMS_THRESH_TEST = settings.score_threshold, settings.nms_iou
    config.MODEL.ROI_BOX_HEAD.FC_DIM, config.MODEL.ROI_MASK_HEAD.CONV_DIM = (
        settings.box_channels,
        settings.mask_channels,
    )
    config.TEST.DETECTIONS_PER_IMAGE = settings.detections
    return Detectron2Heads(config, levels=levels, channels=recipe.model.channels)
