"""The section `model` of a recipe."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, model_validator

from bcnet_core.config.choices import (
    BACKBONES,
    NMS,
    TIMM,
    BackboneName,
    BackboneStyle,
    BoxHead,
    DetectorName,
    Geometry,
    MaskProposals,
    MaskSize,
    MaskSizeOrAuto,
    OccluderSampling,
)
from bcnet_core.config.numbers import WRITTEN_OUT, Channels, Convs, Numbers, Positive, PositiveOrAuto, Share

LEAST_DETECTIONS = 100
"""Least number of detections of an image that `auto` means: as many as COCO counts."""
MARGIN = 1.5
"""Detections that `auto` keeps for each object of the fullest training image."""
LEAST_MASK_SIZE: MaskSize = 28
"""Side of the published maps."""


def _known_backbone(name: str) -> str:
    if name not in BACKBONES and not re.fullmatch(rf"{TIMM}[\w.-]+", name):
        raise ValueError(f"model.backbone is one of {', '.join(BACKBONES)}, or {TIMM}NAME, not `{name}`")
    return name


class ModelConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """The detector and its bilayer mask head; the defaults are those of the FCOS R50 release, with its bugs fixed."""

    detector: DetectorName = Field("fcos", description="detector that proposes the boxes")
    init: str | None = Field(
        None,
        description="weights to start from: a name of `bcnet weights list`, a URL, a file or a run; see --init-from",
    )
    backbone: Annotated[BackboneName, AfterValidator(_known_backbone)] = Field(
        "r50",
        description="feature extractor: a ResNet, ResNeXt-101 32x8d, a tiny one with GroupNorm for CPUs, or timm/NAME",
    )
    backbone_style: BackboneStyle = Field(
        "caffe",
        description="ImageNet weights it fits: torchvision (RGB, stride in the 3x3) or MSRA (BGR, in the 1x1)",
    )
    channels_last: bool = Field(
        default=True, description="memory layout of batches and weights; channels last is faster on most machines"
    )
    frozen_stages: int = Field(
        2, ge=0, le=5, description="frozen stages of the feature extractor: 2 freezes the stem and the first stage"
    )
    frozen_norm: bool = Field(
        default=True,
        description="keep the backbone's BatchNorm as its weights have it; false: train it outside frozen stages",
    )
    channels: Channels = Field(
        256, multiple_of=32, description="channels of the feature pyramid, the FCOS towers and the mask head"
    )
    tower_convs: Convs = Field(4, description="3x3 convolutions in each FCOS tower")
    geometry: Geometry = Field(
        "exact",
        description="positions of anchors, locations and pooled boxes: exact, or as torchvision's published detectors "
        "expect them (rounded anchors, unaligned box RoIs)",
    )
    anchor_scale: Numbers = Field(
        (8,), description="sides of Faster R-CNN's anchors, in strides of their level; one or several"
    )
    proposals_per_image: Positive = Field(1000, description="proposals for Faster R-CNN's second stage")
    rpn_convs: Convs = Field(1, description="3x3 convolutions in the head that proposes boxes (Faster R-CNN)")
    box_rois_per_image: Positive = Field(512, description="RoIs that train Faster R-CNN's box head")
    box_head: BoxHead = Field(
        "linear", description="Faster R-CNN's box head: two linear layers, or four 3x3 convolutions and a linear layer"
    )
    box_head_channels: Channels = Field(1024, description="width of the linear layers of Faster R-CNN's box head")
    layers: int = Field(2, ge=1, le=2, description="layers of the mask head; 1 has no occluder layer")
    mask_convs: Convs = Field(4, description="3x3 convolutions in each layer of the mask head")
    mask_channels: Channels | None = Field(
        None, description="channels of a mask head with one layer; none: those of the feature pyramid"
    )
    mask_size: Annotated[MaskSizeOrAuto, WRITTEN_OUT] = Field(
        28,
        description="cells a side of the maps that the mask head predicts; more than 28 suit thin and large objects; "
        "auto: 28, or 56 where 28 draw the training masks with a mean IoU below 0.95",
    )
    attention: bool = Field(default=True, description="non-local block in each layer of the mask head")
    zero_init_residual: bool = Field(
        default=False, description="start non-local blocks as identities; false: as published"
    )
    boundary: bool = Field(default=True, description="predict boundaries beside the masks")
    amodal: bool = Field(
        default=False,
        description="predict the whole mask of every instance, hidden parts included, up to the border of the image; "
        "it trains on instances with an amodal_segmentation, and with data.copy_paste on those that nothing hides",
    )
    mask_proposals: MaskProposals = Field(
        "decoded",
        description="boxes that train the mask head: proposals and ground truth; ground truth, jittered; "
        "or, for FCOS, proposals decoded without the stride (official)",
    )
    mask_rois_per_image: int = Field(64, ge=0, description="most RoIs per image that train the mask head; 0: all")
    occluder_sampling: OccluderSampling = Field(
        "balanced",
        description="RoIs of the occluder losses: those with an occluder and as many without (balanced), those alone "
        "(nonempty), or those and the first of the batch (official)",
    )
    mask_scoring: bool = Field(
        default=False,
        description="multiply the score of a detection by the mean probability of its mask's cells, as SOLO does",
    )
    score_threshold: Share = Field(0.03, description="smallest class probability of a candidate")
    nms: NMS = Field(
        "box",
        description="how duplicates are found: NMS by the boxes, Soft-NMS, or NMS by the predicted masks, for objects "
        "that lie across each other",
    )
    nms_iou: Share = Field(
        0.6,
        description="IoU (of boxes, or of masks with nms=mask) above which the lower-scoring of two detections of a "
        "class is dropped; Soft-NMS does not use it",
    )
    class_agnostic_nms: bool = Field(
        default=False, description="class-agnostic NMS: duplicates are dropped whatever their classes are"
    )
    candidates_per_level: Positive = Field(1000, description="candidates kept per pyramid level before NMS")
    detections_per_image: PositiveOrAuto = Field(
        100,
        description="most detections per image; the run's own scores count them all, and no fewer than COCO's 100; "
        "auto: half as many again as a training image has objects, at least 100, from twice as many proposals",
    )

    @property
    def most_detections(self) -> int:
        """Most detections per image as a number; `auto` is its least until a training set decides."""
        return LEAST_DETECTIONS if self.detections_per_image == "auto" else self.detections_per_image

    @property
    def map_side(self) -> MaskSize:
        """Side of the maps as a number; `auto` is the published one until a training set decides."""
        return LEAST_MASK_SIZE if self.mask_size == "auto" else self.mask_size

    def for_training_set(self, *, objects: int, mask_size: MaskSize = LEAST_MASK_SIZE) -> ModelConfig:
        """Return a copy in which nothing is `auto`, and which proposes and keeps enough for its detections.

        Args:
            objects: largest number of objects of a training image.
            mask_size: side of the maps that suits its masks.
        """
        update: dict[str, int] = {}
        if self.mask_size == "auto":
            update["mask_size"] = mask_size
        if self.detections_per_image == "auto":
            enough = math.ceil(MARGIN * objects / 10) * 10
            update |= {
                "detections_per_image": max(LEAST_DETECTIONS, enough),
                "proposals_per_image": max(self.proposals_per_image, 2 * enough),
                "candidates_per_level": max(self.candidates_per_level, 2 * enough),
            }
        return self.model_copy(update=update)

    @model_validator(mode="after")
    def _parts_fit(self) -> ModelConfig:
        if self.detector != "fcos" and self.mask_proposals == "official":
            raise ValueError("mask_proposals=official is for FCOS, whose release works so; choose decoded or jittered")
        if self.mask_channels is not None and self.layers > 1:
            raise ValueError("model.mask_channels is for a head with one layer: model.layers=1")
        return self
