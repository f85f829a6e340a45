"""The heads of a recipe's detector, composed from their parts."""

from __future__ import annotations

from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import LossConfig
from bcnet_core.model.faster_rcnn import TwoStageHeads, build_roi_heads
from bcnet_core.model.fcos import FCOSHead
from bcnet_core.model.head import BilayerMaskHead
from bcnet_core.model.mask_branch import MaskBranch
from bcnet_core.model.one_stage import OneStageHeads
from bcnet_core.model.rpn import StridedAnchors, build_rpn
from bcnet_core.model.suppression import Suppression


def build_mask_branch(model: ModelConfig, loss: LossConfig, strides: tuple[int, ...]) -> MaskBranch:
    """Build the mask branch of a recipe, pooling from levels of these strides."""
    head = BilayerMaskHead(
        model.channels,
        layers=model.layers,
        attention=model.attention,
        zero_init_residual=model.zero_init_residual,
        boundary=model.boundary,
        amodal=model.amodal,
        convs=model.mask_convs,
        width=model.mask_channels,
        mask_size=model.map_side,
    )
    return MaskBranch(
        head,
        strides=strides,
        occluder_sampling=model.occluder_sampling,
        dice=loss.mask_dice,
        mask_scoring=model.mask_scoring,
    )


def build_suppression(model: ModelConfig) -> Suppression:
    """Return a recipe's rule for duplicates."""
    return Suppression(
        nms=model.nms,
        iou=model.nms_iou,
        class_agnostic=model.class_agnostic_nms,
        score_threshold=model.score_threshold,
        most=model.most_detections,
    )


def build_one_stage(model: ModelConfig, loss: LossConfig, strides: tuple[int, ...], num_classes: int) -> OneStageHeads:
    """Build FCOS's heads of a recipe, over a pyramid of these strides."""
    return OneStageHeads(
        boxes=FCOSHead(
            channels=model.channels,
            num_classes=num_classes,
            convs=model.tower_convs,
            strides=strides,
            geometry=model.geometry,
        ),
        masks=build_mask_branch(model, loss, strides),
        mask_proposals=model.mask_proposals,
        mask_rois_per_image=model.mask_rois_per_image,
        suppression=build_suppression(model),
        candidates_per_level=model.candidates_per_level,
        normalizer=loss.normalizer,
        giou=loss.giou,
    )


def build_two_stage(model: ModelConfig, loss: LossConfig, strides: tuple[int, ...], num_classes: int) -> TwoStageHeads:
    """Build Faster R-CNN's heads of a recipe, over a pyramid of these strides."""
    masks = build_mask_branch(model, loss, strides[:4])  # P6 proposes, but nothing is pooled from it
    rpn = build_rpn(
        channels=model.channels,
        convs=model.rpn_convs,
        anchors=StridedAnchors(strides, scales=model.anchor_scale, geometry=model.geometry),
        candidates_per_level=model.candidates_per_level,
        proposals=model.proposals_per_image,
    )
    roi_heads = build_roi_heads(
        channels=model.channels,
        num_classes=num_classes,
        box_head=model.box_head,
        box_head_channels=model.box_head_channels,
        rois_per_image=model.box_rois_per_image,
    )
    return TwoStageHeads(
        rpn=rpn,
        roi_heads=roi_heads,
        suppression=build_suppression(model),
        masks=masks,
        mask_proposals=model.mask_proposals,
        mask_rois_per_image=model.mask_rois_per_image,
        geometry=model.geometry,
    )
