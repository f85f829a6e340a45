"""Instance masks for detectron2, packed: a mask type that its samplers may copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes
from torch import Tensor

from bcnet_core import masks
from bcnet_core.masks import RLE
from bcnet_core.masks.crops import MaskCrops, concatenate, crop_rles
from bcnet_core.model.losses import crop_to_boxes


class CroppedMasks:
    """N instance masks in the frame of the network's input, with the methods that detectron2 calls on its mask types.

    detectron2 copies the masks of an image for each of its 512 sampled proposals: as `BitMasks` of 800 x 1333 pixels
    half a gigabyte per image, twice with the occluders. Copies of these share their pixels.
    """

    def __init__(self, crops: MaskCrops) -> None:
        self.crops = crops

    @classmethod
    def from_segmentations(cls, segmentations: Sequence[Any], height: int, width: int) -> CroppedMasks:
        """Pack segmentations as detectron2's `transform_instance_annotations` returns them.

        Args:
            segmentations: one entry per instance: (2 P,) float polygons, an (H, W) array, or None for an empty mask.
            height: height of the network's input, pixels.
            width: width of the network's input, pixels.
        """
        return cls(crop_rles(input_rles(segmentations, height, width)))

    @staticmethod
    def cat(parts: Sequence[CroppedMasks]) -> CroppedMasks:
        """Concatenate masks."""
        return CroppedMasks(concatenate([part.crops for part in parts]))

    def __len__(self) -> int:
        return len(self.crops.boxes)

    def __getitem__(self, item: int | slice | Tensor) -> CroppedMasks:
        """Choose masks by number, slice, (M,) int64 indices or (N,) bool; no pixel is copied."""
        chosen = [item] if isinstance(item, int) else item
        return CroppedMasks(self.crops._replace(boxes=self.crops.boxes[chosen], starts=self.crops.starts[chosen]))

    @property
    def device(self) -> torch.device:
        """The device of the pixels."""
        return self.crops.bits.device

    def to(self, device: torch.device | str) -> CroppedMasks:
        """Return these masks on `device`."""
        return CroppedMasks(self.crops.to(torch.device(device)))

    def nonempty(self) -> Tensor:
        """Return (N,) bool, whether each mask has a pixel."""
        return self.crops.boxes[:, 2] > self.crops.boxes[:, 0]

    def get_bounding_boxes(self) -> Boxes:
        """Return the tight boxes of the N masks, xyxy in pixels of the network's input."""
        return Boxes(self.crops.boxes.float())

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Crop each mask to its box, (N, 4) float xyxy, as the torchvision backend does; returns (N, S, S) bool."""
        instances = torch.arange(len(self), device=boxes.device)
        return crop_to_boxes(self.crops.to(boxes.device), instances, boxes, size=mask_size)


def input_rles(segmentations: Sequence[Any], height: int, width: int) -> list[RLE]:
    """Return the N masks of segmentations; see `CroppedMasks.from_segmentations`."""
    empty = masks.from_box(0, 0, 0, 0, height, width)
    return [
        masks.encode(one.astype(bool))
        if isinstance(one, np.ndarray) and one.ndim == 2
        else masks.from_segmentation([np.asarray(part).ravel().tolist() for part in one or ()], height, width) or empty
        for one in segmentations
    ]
