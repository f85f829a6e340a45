"""The Mask R-CNN of other libraries behind our backbone, with the settings it usually has and with ours."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bcnet_core.config.schema import Recipe
from bcnet_core.data.dataset import Targets
from bcnet_core.model.detectors import Detector
from bcnet_core.model.losses import crop_to_boxes

CERTAIN = 1e-6
"""Probabilities this close to 0 or 1 are rounded before they become logits."""
USUAL_CHANNELS = 256
"""Channels of the pyramid that the usual settings are for."""
POOLED_LEVELS = 4
"""Levels that RoIs are pooled from; a fifth proposes only."""


class PeerSettings(NamedTuple):
    """The settings of a Mask R-CNN that decide how it is trained and what it finds.

    Attributes:
        anchors: sides of the anchors of each level, pixels.
        candidates: candidates of a level that are kept before NMS, in training and in test.
        proposals: proposals of an image that are kept after it, likewise.
        box_rois: RoIs of an image that train the box head.
        box_channels: width of the box head.
        mask_channels: width of the mask head.
        score_threshold: least class probability of a detection.
        nms_iou: IoU above which the weaker of two boxes of a class is dropped.
        detections: largest number of detections of an image.
    """

    anchors: tuple[tuple[float, ...], ...]
    candidates: tuple[int, int]
    proposals: tuple[int, int]
    box_rois: int
    box_channels: int
    mask_channels: int
    score_threshold: float
    nms_iou: float
    detections: int


def usual_settings(detector: Detector, recipe: Recipe, *, proposals: tuple[int, int]) -> PeerSettings:
    """Return the settings that torchvision and detectron2 have for Mask R-CNN with a feature pyramid.

    Widths and numbers of boxes are for a pyramid of 256 channels; one of a quarter gets a quarter of each.

    Args:
        detector: its backbone is used.
        recipe: its `model.channels` scale the settings.
        proposals: proposals in training and in test, in which the two differ.
    """
    share = recipe.model.channels / USUAL_CHANNELS

    def scaled(number: int) -> int:
        return round(number * share)

    return PeerSettings(
        anchors=tuple((8 * stride,) for stride in detector.backbone.strides),
        candidates=(scaled(2000), scaled(1000)),
        proposals=(scaled(proposals[0]), scaled(proposals[1])),
        box_rois=scaled(512),
        box_channels=scaled(1024),
        mask_channels=scaled(256),
        score_threshold=0.05,
        nms_iou=0.5,
        detections=100,
    )


def own_settings(detector: Detector, recipe: Recipe) -> PeerSettings:
    """Return the settings of a recipe of a Faster R-CNN as those of a peer."""
    model = recipe.model
    return PeerSettings(
        anchors=tuple(tuple(scale * stride for scale in model.anchor_scale) for stride in detector.backbone.strides),
        candidates=(2 * model.candidates_per_level, model.candidates_per_level),
        proposals=(model.proposals_per_image,) * 2,
        box_rois=model.box_rois_per_image,
        box_channels=model.box_head_channels,
        mask_channels=model.channels,
        score_threshold=model.score_threshold,
        nms_iou=model.nms_iou,
        detections=model.most_detections,
    )


def draw_masks(targets: Targets, height: int, width: int) -> Tensor:
    """Sample the masks of N instances at the pixel centers of the network's input: (N, height, width) bool."""
    side = max(height, width)
    scale, shift = targets.placement[0::2].repeat(2), targets.placement[1::2].repeat(2)
    square = (scale.new_tensor([0, 0, side, side]) - shift) / scale
    instances = torch.arange(len(targets.boxes), device=scale.device)
    drawn = crop_to_boxes(targets.occludees, instances, square.expand(len(instances), 4), size=side, samples=1)
    return drawn[:, :height, :width]
