"""The schema of a recipe: every setting with its type, default, range and meaning.

Unknown keys are errors, recipes are frozen. The descriptions are what `bcnet recipes show` prints.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, model_validator

from bcnet_core.config.choices import (
    BACKBONES,
    TIMM,
    BackboneName,
    BackboneStyle,
    BoxHead,
    DetectorName,
    Geometry,
    GIoU,
    MaskProposals,
    Normalizer,
    OccluderSampling,
    OccluderSource,
)
from bcnet_core.config.numbers import Channels, Convs, NonNegative, Pixels, Positive, Share
from bcnet_core.config.solver import SolverConfig


def _known_backbone(name: str) -> str:
    if name not in BACKBONES and not re.fullmatch(rf"{TIMM}[\w.-]+", name):
        raise ValueError(f"model.backbone is one of {', '.join(BACKBONES)}, or {TIMM}NAME, not `{name}`")
    return name


class DatasetConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """One COCO data set; both paths are relative to the data root."""

    annotations: Path = Field(description="COCO json file, plain or bilayer")
    images: Path = Field(description="folder that the file names in the json are relative to")


class DataConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Data sets, and how their images are prepared."""

    root: Path | None = Field(None, description="data root; usually given as --data-root or $BCNET_DATA")
    train: DatasetConfig = Field(
        DatasetConfig(annotations=Path("annotations/instances_train2017.json"), images=Path("train2017")),
        description="data set to train on",
    )
    val: DatasetConfig = Field(
        DatasetConfig(annotations=Path("annotations/instances_val2017.json"), images=Path("val2017")),
        description="data set to evaluate on",
    )
    test: DatasetConfig = Field(
        DatasetConfig(annotations=Path("annotations/image_info_test-dev2017.json"), images=Path("test2017")),
        description="image list of eval --test-dev",
    )
    occluders: OccluderSource = Field(
        "auto",
        description="occluder regions: derived from the masks, read from the file, or read where it has them (auto)",
    )
    allow_no_occluders: bool = Field(default=False, description="train although no instance has an occluder")
    min_size: Pixels = Field(600, description="shorter image side in pixels after resizing")
    max_size: Pixels = Field(900, description="limit of the longer image side in pixels after resizing")
    train_sizes: tuple[Pixels, ...] = Field(
        (), description="multi-scale training: shorter sides to draw from for each image; []: always min_size"
    )
    scale_jitter: tuple[float, float] | None = Field(
        None,
        description="large-scale jitter: the longer side is max_size times a random factor between these two, "
        "and a random window of at most max_size x max_size is cut out; none: no jitter",
    )
    flip: Share = Field(0.5, description="probability of a horizontal flip in training")
    group_aspects: bool = Field(
        default=True, description="batch wide images apart from others, for less padding; the order stays random"
    )
    workers: int = Field(
        2, ge=0, le=1024, description="data loader workers per training process; 0: load in the process itself"
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> DataConfig:
        for name, sizes in (("min_size", (self.min_size,)), ("train_sizes", self.train_sizes)):
            if any(size > self.max_size for size in sizes):
                raise ValueError(f"data.max_size ({self.max_size}) is smaller than data.{name} ({max(sizes)})")
        if self.scale_jitter is not None:
            least, most = self.scale_jitter
            if not 0 < least <= most <= 10:
                raise ValueError(f"data.scale_jitter is two factors above 0 and at most 10, not {least:g} and {most:g}")
            if self.train_sizes:
                raise ValueError("data.scale_jitter and data.train_sizes exclude each other: both choose the size")
        return self

    def locate(self, dataset: DatasetConfig) -> tuple[Path, Path]:
        """Return the annotation file and the image folder of a data set, under the data root."""
        root = self.root or Path()
        return root / dataset.annotations, root / dataset.images


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
    anchor_scale: Positive = Field(8, description="side of a Faster R-CNN anchor, in strides of its level")
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
    attention: bool = Field(default=True, description="non-local block in each layer of the mask head")
    boundary: bool = Field(default=True, description="predict boundaries beside the masks")
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
    score_threshold: Share = Field(0.03, description="smallest class probability of a candidate")
    nms_iou: Share = Field(
        0.6, description="box IoU above which the lower-scoring of two detections of a class is dropped"
    )
    candidates_per_level: Positive = Field(1000, description="candidates kept per pyramid level before NMS")
    detections_per_image: Positive = Field(
        100, description="most detections per image; the run's own scores count them all, and no fewer than COCO's 100"
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> ModelConfig:
        if self.detector != "fcos" and self.mask_proposals == "official":
            raise ValueError("mask_proposals=official is for FCOS, whose release works so; choose decoded or jittered")
        if self.mask_channels is not None and self.layers > 1:
            raise ValueError("model.mask_channels is for a head with one layer: model.layers=1")
        return self


class LossConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Forms and weights of the loss terms; the default weights are the official FCOS release's."""

    normalizer: Normalizer = Field(
        "floored", description="divisor of FCOS's class and centerness terms: positives, or at least 1 (floored)"
    )
    giou: GIoU = Field(
        "exact", description="FCOS's box term: GIoU, or the release's, which adds 1 to intersection and union"
    )
    classification: NonNegative = Field(1.0, description="weight of the class term")
    box: NonNegative = Field(
        1.25, description="weight of the box term: GIoU (FCOS), smooth L1 (Faster R-CNN, usually 1)"
    )
    centerness: NonNegative = Field(1.0, description="weight of the centerness term (FCOS)")
    proposal_objectness: NonNegative = Field(1.0, description="weight of the proposals' objectness (Faster R-CNN)")
    proposal_box: NonNegative = Field(1.0, description="weight of the proposals' boxes (Faster R-CNN)")
    occludee_mask: NonNegative = Field(1.0, description="weight of layer 2's mask")
    occluder_mask: NonNegative = Field(0.25, description="weight of layer 1's mask")
    occludee_boundary: NonNegative = Field(1.0, description="weight of layer 2's boundary (0.5 x 2 BCE in the release)")
    occluder_boundary: NonNegative = Field(1.0, description="weight of layer 1's boundary (0.5 x 2 BCE in the release)")


class Recipe(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """All settings that determine a training run."""

    seed: int = Field(0, ge=0, lt=2**63, description="seed of weights, order, augmentation and sampling")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    solver: SolverConfig = SolverConfig()

    @property
    def trains_occluders(self) -> bool:
        """Return whether there is an occluder layer with a loss."""
        return self.model.layers > 1 and self.loss.occluder_mask + self.loss.occluder_boundary > 0
