"""The detectors: a backbone and heads, from images to losses or detections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList

from bcnet_core.annotations.coco import Record, category_names
from bcnet_core.config.runtime import PLAIN
from bcnet_core.config.schema import LossConfig, Recipe
from bcnet_core.data.dataset import Targets
from bcnet_core.data.transforms import resize as resize_image
from bcnet_core.data.transforms import target_size
from bcnet_core.distributed import largest_of_processes
from bcnet_core.errors import usage_error
from bcnet_core.files.image_headers import image_size
from bcnet_core.files.images import as_image
from bcnet_core.model.backbones import Backbone, build_backbone
from bcnet_core.model.boxes import boxes_in_image, given_proposals, scale_boxes
from bcnet_core.model.faster_rcnn import TwoStageHeads
from bcnet_core.model.mask_branch import Found, Proposals
from bcnet_core.model.one_stage import OneStageHeads
from bcnet_core.model.pixels import NormalizePixels
from bcnet_core.model.precision import computing_in
from bcnet_core.model.recipe_heads import build_one_stage, build_two_stage
from bcnet_core.structures import Detections

MOST_ROIS = 512
"""Given boxes that go through the mask head together, so that memory is bounded whatever their number."""


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
        runtime: how `predict` computes; `predict_inside` takes one image at a time.
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

        H and W are multiples of the backbone's `size_divisor`. In training they are those of the largest image in any
        process, so that what is drawn and normalized does not depend on how images are spread (collective).
        """
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        largest = [max(side) for side in zip(*sizes, strict=True)]
        height, width = self.padded_size(*(largest_of_processes(largest, self.device) if self.training else largest))
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
            BCNetError: if an array is no such image, a path cannot be read, or a GPU has too little memory.
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
        sizes = [image_size(Path(one)) if isinstance(one, str | Path) else as_image(one).shape[:2] for one in images]
        return batches_of_a_size([self.network_size(*size, resize=resize) for size in sizes], self.runtime.batch)

    def _predict_together(self, images: Sequence[NDArray[np.uint8]], *, resize: bool) -> list[Detections]:
        batch = self.prepare(*images, resize=resize)
        with computing_in(self.runtime.precision, batch.tensors):
            found = self.heads.detect(self.backbone(batch.tensors), batch)
        return [
            to_detections(one, size, (image.shape[0], image.shape[1]))
            for one, size, image in zip(found, batch.image_sizes, images, strict=True)
        ]

    @torch.no_grad()
    def predict_inside(
        self,
        images: Sequence[NDArray[np.uint8] | str | Path],
        boxes: Sequence[ArrayLike | Tensor],
        *,
        scores: Sequence[ArrayLike | Tensor] | None = None,
        labels: Sequence[ArrayLike | Tensor] | None = None,
        resize: bool = True,
    ) -> list[Detections]:
        """Predict the masks of images inside given boxes, of any objects: the mask head knows no classes.

        Images go through the network together as in `predict`.

        Args:
            images: (H, W, 3) uint8 RGB arrays, or paths.
            boxes: (N, 4) of each image, xyxy in pixels of the image. The part of a box outside the image is cut off; a
                box without an extent in it has an empty mask.
            scores: (N,) of each image; 1 if None.
            labels: (N,) integers of each image, which may count other categories than the detector's; 0 if None.
            resize: whether to resize to the detector's `min_size` and `max_size` first.

        Returns:
            One `Detections` per image, one detection per box in the order of the boxes.

        Raises:
            BCNetError: if an array is no image or are no such boxes, a path cannot be read, or a GPU has too little
                memory.
        """
        if self.training:
            raise RuntimeError("call eval() before predict_inside()")
        given = given_proposals(boxes, scores, labels, images=len(images), device=self.device)
        found: dict[int, Detections] = {}
        for places in self._batches(images, resize=resize):
            together, own = [as_image(images[place]) for place in places], [given[place] for place in places]
            found |= zip(places, self._predict_inside_together(together, own, resize=resize), strict=True)
        return [found[place] for place in range(len(images))]

    def _predict_inside_together(
        self, images: Sequence[NDArray[np.uint8]], given: Sequence[Proposals], *, resize: bool
    ) -> list[Detections]:
        batch, sizes = self.prepare(*images, resize=resize), [(image.shape[0], image.shape[1]) for image in images]
        boxes = [boxes_in_image(one.boxes, size, size) for one, size in zip(given, sizes, strict=True)]
        scaled = torch.cat([scale_boxes(*one) for one in zip(boxes, sizes, batch.image_sizes, strict=True)])
        owners = torch.cat([torch.full_like(one.labels, index) for index, one in enumerate(given)])
        chunks = zip(torch.split(scaled, MOST_ROIS), torch.split(owners, MOST_ROIS), strict=True)
        with computing_in(self.runtime.precision, batch.tensors):
            features = self.backbone(batch.tensors)
            parts = [self.heads.masks(features, *chunk) for chunk in chunks]
        maps = {name: torch.cat([part[name] for part in parts]).sigmoid() for name in parts[0]}
        return [
            Detections(box, one.scores, one.labels, size, {name: own[owners == index] for name, own in maps.items()})
            for index, (box, one, size) in enumerate(zip(boxes, given, sizes, strict=True))
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


def batches_of_a_size(sizes: Sequence[tuple[int, int]], most: int) -> list[list[int]]:
    """Return the positions of sizes as groups of equal sizes, each of at most so many."""
    positions: dict[tuple[int, int], list[int]] = {}
    for position, size in enumerate(sizes):
        positions.setdefault(size, []).append(position)
    return [group[first : first + most] for group in positions.values() for first in range(0, len(group), most)]


def to_detections(found: Found, network_size: tuple[int, int], image_size: tuple[int, int]) -> Detections:
    """Scale the instances of the network's input to an image's own size.

    Args:
        found: the instances.
        network_size: height and width of the network's input without padding, pixels.
        image_size: height and width of the image, pixels.
    """
    boxes, scores, labels = found.proposals
    maps = {name: logits.sigmoid() for name, logits in found.logits.items()}
    return Detections(boxes_in_image(boxes, network_size, image_size), scores, labels, image_size, maps)


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
