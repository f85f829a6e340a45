"""The detectors, put together from their parts: the one composition file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bcnet_core.annotations.coco import Record, category_names
from bcnet_core.config.schema import LossConfig, Recipe
from bcnet_core.data.dataset import Targets
from bcnet_core.data.images import read_image
from bcnet_core.data.transforms import resize, target_size
from bcnet_core.errors import usage_error
from bcnet_core.model.backbones import TinyBackbone, build_backbone
from bcnet_core.model.bilayer_head import BilayerLogits, BilayerMaskHead
from bcnet_core.model.fcos import FCOSHead, Proposals, fcos_losses, select
from bcnet_core.model.losses import OccluderSampling, bilayer_losses
from bcnet_core.model.paste import paste_masks
from bcnet_core.model.pooler import pool_rois
from bcnet_core.model.targets import bilayer_targets, jittered_rois
from bcnet_core.structures import Detections

PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of ImageNet, RGB, for values from 0 to 255."""
SIZE_DIVISOR = 32
MASK_SIZE = 28


class Detector(nn.Module):
    """FCOS with a bilayer mask head.

    Called with training data it returns its weighted losses; `predict` is for everyone else.

    Args:
        backbone: images to a pyramid.
        box_head: the pyramid to boxes.
        mask_head: RoI features to the maps of both layers.
        categories: the COCO categories, in label order.
        min_size: shorter side that `predict` resizes images to, pixels.
        max_size: bound of the longer side.
        score_threshold: class probability that a candidate needs.
        nms_iou: IoU above which the weaker of two boxes of a class goes.
        candidates_per_level: kept before NMS.
        detections_per_image: kept after it.
        mask_rois_per_image: RoIs of an image that train the mask head at the most.
        occluder_sampling: which of them enter the occluder losses.
        loss_weights: by the names of the terms.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        backbone: TinyBackbone,
        box_head: FCOSHead,
        mask_head: BilayerMaskHead,
        categories: Sequence[Record],
        min_size: int,
        max_size: int,
        score_threshold: float,
        nms_iou: float,
        candidates_per_level: int,
        detections_per_image: int,
        mask_rois_per_image: int,
        occluder_sampling: OccluderSampling,
        loss_weights: LossConfig,
    ) -> None:
        super().__init__()
        self.backbone, self.box_head, self.mask_head = backbone, box_head, mask_head
        self.categories = list(categories)
        self.min_size, self.max_size = min_size, max_size
        self.score_threshold, self.nms_iou = score_threshold, nms_iou
        self.candidates_per_level, self.detections_per_image = candidates_per_level, detections_per_image
        self.mask_rois_per_image, self.occluder_sampling = mask_rois_per_image, occluder_sampling
        self.loss_weights = loss_weights
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)

    @property
    def class_names(self) -> list[str]:
        """The category names, in label order."""
        return category_names(self.categories)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.pixel_mean.device

    def forward(self, images: list[Tensor], targets: list[Targets], seeds: list[int]) -> dict[str, Tensor]:
        """The weighted losses of a batch; their sum is what training minimises.

        Args:
            images: of any sizes, each (3, h, w) uint8 RGB.
            targets: of each image.
            seeds: of each image, for the choice of RoIs.

        Returns:
            Scalars `classification`, `box`, `centerness`, `occludee_mask`, `occludee_boundary`, `occluder_mask` and
            `occluder_boundary`, each with a graph.
        """
        features = self.backbone(self.preprocess(images))
        losses = fcos_losses(self.box_head(features), [t.boxes for t in targets], [t.labels for t in targets])
        rois = jittered_rois(targets, seeds, most=self.mask_rois_per_image)
        logits = self._mask_logits(features, rois.boxes, rois.images)
        wanted = bilayer_targets(targets, rois, size=MASK_SIZE)
        losses |= bilayer_losses(logits, wanted, rois.keys, sampling=self.occluder_sampling)
        return {name: loss * getattr(self.loss_weights, name) for name, loss in losses.items()}

    def preprocess(self, images: Sequence[Tensor]) -> Tensor:
        """Normalise (3, h, w) uint8 RGB images and pad them right and below to (B, 3, H, W) float, sides of 32 n."""
        height, width = (
            -(-max(image.shape[axis] for image in images) // SIZE_DIVISOR) * SIZE_DIVISOR for axis in (1, 2)
        )
        batch = self.pixel_mean.new_zeros((len(images), 3, height, width))
        for slot, image in zip(batch, images, strict=True):
            slot[:, : image.shape[1], : image.shape[2]] = (image.to(self.device) - self.pixel_mean) / self.pixel_std
        return batch.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def predict(
        self, images: Sequence[NDArray[np.uint8] | str | Path], *, resize_images: bool = True
    ) -> list[Detections]:
        """Find the instances of images.

        Args:
            images: (H, W, 3) uint8 RGB arrays, or paths.
            resize_images: whether to resize to the detector's `min_size` and `max_size` first.

        Returns:
            One `Detections` an image, in pixels of that image.

        Raises:
            BCNetError: if an array is no such image, or a path cannot be read.
        """
        if self.training:
            raise RuntimeError("call eval() before predict()")
        return [self._predict_one(_as_image(image), resize_images=resize_images) for image in images]

    def _predict_one(self, image: NDArray[np.uint8], *, resize_images: bool) -> Detections:
        height, width = image.shape[:2]
        new_height, new_width = height, width
        if resize_images:
            new_height, new_width = target_size(height, width, min_size=self.min_size, max_size=self.max_size)
        network_input = torch.from_numpy(np.array(resize(image, new_height, new_width).transpose(2, 0, 1)))
        features = self.backbone(self.preprocess([network_input]))
        (found,) = select(
            self.box_head(features),
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
            candidates_per_level=self.candidates_per_level,
            most=self.detections_per_image,
        )
        logits = self._mask_logits(features, found.boxes, torch.zeros_like(found.labels))
        scale = found.boxes.new_tensor([width / new_width, height / new_height]).repeat(2)
        limit = found.boxes.new_tensor([width, height]).repeat(2)
        boxes = (found.boxes * scale).clamp(min=0).minimum(limit)
        return _detections(found._replace(boxes=boxes), logits, height, width)

    def _mask_logits(self, features: list[Tensor], boxes: Tensor, images: Tensor) -> BilayerLogits:
        """The four (R, 28, 28) logit maps of R RoIs; without any RoI, empty maps that keep the graph of the weights."""
        if len(boxes) == 0:  # batch statistics of nothing are undefined
            weights = sum(parameter.sum() for parameter in self.mask_head.parameters()) * 0
            return BilayerLogits(*(features[0].new_zeros((0, MASK_SIZE, MASK_SIZE)) + weights for _ in range(4)))
        pooled = pool_rois(features, boxes, images, strides=self.backbone.strides, size=MASK_SIZE // 2)
        logits: BilayerLogits = self.mask_head(pooled)
        return logits


def build_detector(recipe: Recipe, categories: Sequence[Record]) -> Detector:
    """Build the detector of a recipe, with fresh weights from torch's global generator.

    Args:
        recipe: its `model`, `loss` and input sizes are used.
        categories: the COCO categories of the data, in label order.

    Returns:
        The detector on the CPU, in training mode.
    """
    model = recipe.model
    backbone = build_backbone(model.backbone, out_channels=model.channels)
    box_head = FCOSHead(
        channels=model.channels,
        num_classes=len(categories),
        convs=model.tower_convs,
        strides=backbone.strides,
    )
    detector = Detector(
        backbone=backbone,
        box_head=box_head,
        mask_head=BilayerMaskHead(model.channels),
        categories=categories,
        min_size=recipe.data.min_size,
        max_size=recipe.data.max_size,
        score_threshold=model.score_threshold,
        nms_iou=model.nms_iou,
        candidates_per_level=model.candidates_per_level,
        detections_per_image=model.detections_per_image,
        mask_rois_per_image=model.mask_rois_per_image,
        occluder_sampling=model.occluder_sampling,
        loss_weights=recipe.loss,
    )
    return detector.to(memory_format=torch.channels_last)


def _as_image(image: NDArray[np.uint8] | str | Path) -> NDArray[np.uint8]:
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise usage_error(f"an image is an (H, W, 3) uint8 RGB array, this one is {image.shape} {image.dtype}")
    return image


def _detections(found: Proposals, logits: BilayerLogits, height: int, width: int) -> Detections:
    maps = {name: getattr(logits, name).sigmoid() for name in BilayerLogits._fields}
    masks = paste_masks(maps["occludee_mask"], found.boxes, height, width)
    return Detections(found.boxes, found.scores, found.labels, masks, **maps)
