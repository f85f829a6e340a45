"""The detectors, composed from their parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList

from bcnet_core.annotations.coco import Record, category_names
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.runtime import PLAIN
from bcnet_core.config.schema import LossConfig, Recipe
from bcnet_core.data.dataset import Targets
from bcnet_core.data.transforms import resize as resize_image
from bcnet_core.data.transforms import target_size
from bcnet_core.errors import usage_error
from bcnet_core.files.images import as_image, size_of
from bcnet_core.model.backbones import Backbone, build_backbone
from bcnet_core.model.faster_rcnn import TwoStageHeads, build_roi_heads
from bcnet_core.model.fcos import FCOSHead
from bcnet_core.model.head import BilayerMaskHead
from bcnet_core.model.mask_branch import MaskBranch
from bcnet_core.model.one_stage import OneStageHeads
from bcnet_core.model.pixels import NormalizePixels
from bcnet_core.model.precision import computing_in
from bcnet_core.model.prediction import batches_of_a_size, to_detections
from bcnet_core.model.rpn import StridedAnchors, build_rpn
from bcnet_core.model.suppression import Suppression
from bcnet_core.structures import Detections


class Detector(nn.Module):
    """FCOS or Faster R-CNN with a bilayer mask head.

    Called with training data it returns its weighted losses; `predict` is for everyone else.

    Args:
        backbone: images to a pyramid.
        heads: the pyramid to losses, or to instances.
        categories: the COCO categories, in label order.
        min_size: shorter side that `predict` resizes images to, pixels.
        max_size: bound of the longer side.
        loss_weights: by the names of the terms.
        amodal_boxes: whether its boxes enclose whole objects, hidden parts included.
        channels_last: whether batches are laid out in memory with channels last; the weights should match.

    Attributes:
        runtime: how `predict` computes.
        is_amodal: whether it has learned of the hidden parts of objects: from its boxes, or by predicting whole masks.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        heads: OneStageHeads | TwoStageHeads,
        categories: Sequence[Record],
        min_size: int,
        max_size: int,
        loss_weights: LossConfig,
        amodal_boxes: bool = False,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.backbone, self.heads, self.normalize = backbone, heads, NormalizePixels(backbone.pixels)
        self.categories = list(categories)
        self.min_size, self.max_size, self.loss_weights = min_size, max_size, loss_weights
        self.amodal_boxes, self.runtime = amodal_boxes, PLAIN
        self.is_amodal = amodal_boxes or "amodal_mask" in heads.masks.head.outputs
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    @property
    def class_names(self) -> list[str]:
        """The category names, in label order."""
        return category_names(self.categories)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.normalize.mean.device

    def forward(self, images: list[Tensor], targets: list[Targets], seeds: list[int]) -> dict[str, Tensor]:
        """Return the weighted losses of a batch; training minimizes their sum.

        Args:
            images: of any sizes, each (3, h, w) uint8 RGB.
            targets: of each image.
            seeds: of each image, for every random choice.

        Returns:
            Scalars, each with a graph: those of the boxes (FCOS: `classification`, `box`, `centerness`; Faster R-CNN:
            `proposal_objectness`, `proposal_box`, `classification`, `box`) and of each map that the mask head predicts,
            by its name.
        """
        batch = self.preprocess(images)
        losses: dict[str, Tensor] = self.heads(self.backbone(batch.tensors), batch, targets, seeds)
        return {name: loss * getattr(self.loss_weights, name) for name, loss in losses.items()}

    def preprocess(self, images: Sequence[Tensor]) -> ImageList:
        """Normalize (3, h, w) uint8 RGB images and pad them right and below to one (B, 3, H, W) float batch.

        H and W are multiples of the backbone's `size_divisor`.
        """
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        height, width = self.padded_size(*(max(side) for side in zip(*sizes, strict=True)))
        padded = [
            functional.pad(self.normalize(image.to(self.device)), (0, width - w, 0, height - h))
            for image, (h, w) in zip(images, sizes, strict=True)
        ]
        return ImageList(torch.stack(padded).contiguous(memory_format=self.memory_format), sizes)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the batch that an image of this size is padded to."""
        divisor = self.backbone.size_divisor
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor

    @torch.no_grad()
    def predict(self, images: Sequence[NDArray[np.uint8] | str | Path], *, resize: bool = True) -> list[Detections]:
        """Find the instances of images.

        Images that have the same size in the network go through it together, up to `runtime.batch` of them. Sums are
        then taken in another order: boxes and scores differ in their last digits from those of an image alone.

        Args:
            images: (H, W, 3) uint8 RGB arrays, or paths.
            resize: whether to resize to the detector's `min_size` and `max_size` first.

        Returns:
            One `Detections` per image, in pixels of that image.

        Raises:
            BCNetError: if an array is no such image, or a path cannot be read.
        """
        if self.training:
            raise RuntimeError("call eval() before predict()")
        if isinstance(images, str | Path) or getattr(images, "ndim", 4) == 3:
            raise usage_error("predict takes a list of images, this is one", "put it into a list: predict([image])")
        found: dict[int, Detections] = {}
        for places in self._batches(images, resize=resize):
            together = [as_image(images[place]) for place in places]
            found |= zip(places, self._predict_together(together, resize=resize), strict=True)
        return [found[place] for place in range(len(images))]

    def _batches(self, images: Sequence[NDArray[np.uint8] | str | Path], *, resize: bool) -> list[list[int]]:
        if self.runtime.batch == 1:  # files are not opened twice
            return [[place] for place in range(len(images))]
        return batches_of_a_size(
            [self.network_size(*size_of(image), resize=resize) for image in images], self.runtime.batch
        )

    def _predict_together(self, images: Sequence[NDArray[np.uint8]], *, resize: bool) -> list[Detections]:
        batch = self.prepare(*images, resize=resize)
        with computing_in(self.runtime.precision, self.device):
            found = self.heads.detect(self.backbone(batch.tensors), batch)
        return [
            to_detections(one, size, (image.shape[0], image.shape[1]))
            for one, size, image in zip(found, batch.image_sizes, images, strict=True)
        ]

    def prepare(self, *images: NDArray[np.uint8], resize: bool = True) -> ImageList:
        """Turn (H, W, 3) uint8 RGB images into a batch.

        Args:
            images: of any sizes.
            resize: whether to resize them to the detector's `min_size` and `max_size` first.
        """
        resized = [resize_image(one, *self.network_size(*one.shape[:2], resize=resize)) for one in images]
        return self.preprocess([torch.from_numpy(np.array(one.transpose(2, 0, 1))) for one in resized])

    def network_size(self, height: int, width: int, *, resize: bool = True) -> tuple[int, int]:
        """Return the height and width that an image of this size has in the network, without padding."""
        if not resize:
            return height, width
        return target_size(height, width, min_size=self.min_size, max_size=self.max_size)


def build_detector(recipe: Recipe, categories: Sequence[Record]) -> Detector:
    """Build the detector of a recipe, with fresh weights from torch's global generator.

    Args:
        recipe: its `model`, `loss` and input sizes are used.
        categories: the COCO categories of the data, in label order.

    Returns:
        The detector on the CPU, in training mode.
    """
    model = recipe.model
    backbone = build_backbone(
        model.backbone,
        out_channels=model.channels,
        style=model.backbone_style,
        levels="p3_p7" if model.detector == "fcos" else "p2_p6",
        frozen_stages=model.frozen_stages,
        frozen_norm=model.frozen_norm,
    )
    build_heads = build_one_stage if model.detector == "fcos" else build_two_stage
    detector = Detector(
        backbone=backbone,
        heads=build_heads(model, recipe.loss, backbone.strides, len(categories)),
        categories=categories,
        min_size=recipe.data.min_size,
        max_size=recipe.data.max_size,
        loss_weights=recipe.loss,
        amodal_boxes=recipe.amodal_boxes,
        channels_last=model.channels_last,
    )
    return detector.to(memory_format=detector.memory_format)


def build_mask_branch(model: ModelConfig, strides: tuple[int, ...]) -> MaskBranch:
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
        mask_size=model.mask_size,
    )
    return MaskBranch(head, strides=strides, occluder_sampling=model.occluder_sampling, mask_scoring=model.mask_scoring)


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
        masks=build_mask_branch(model, strides),
        mask_proposals=model.mask_proposals,
        mask_rois_per_image=model.mask_rois_per_image,
        suppression=build_suppression(model),
        candidates_per_level=model.candidates_per_level,
        normalizer=loss.normalizer,
        giou=loss.giou,
    )


def build_two_stage(model: ModelConfig, loss: LossConfig, strides: tuple[int, ...], num_classes: int) -> TwoStageHeads:
    """Build Faster R-CNN's heads of a recipe, over a pyramid of these strides."""
    masks = build_mask_branch(model, strides[:4])  # P6 proposes, but nothing is pooled from it
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
