"""Instance masks for detectron2's `Instances`, kept as packed crops.

detectron2 copies the masks of an image once for each of its 512 sampled proposals. As `BitMasks` of 800 x 1333 pixels
that is half a gigabyte an image, twice with the occluders; these share their pixels, and a copy is a list of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, PolygonMasks
from numpy.typing import NDArray
from torch import Tensor

from bcnet_core import masks
from bcnet_core.errors import usage_error
from bcnet_core.masks.crops import MaskCrops, concatenate, crop_rles
from bcnet_core.model.targets import crop_to_boxes


class CroppedMasks:
    """N masks in the frame of the network's input, with the methods that detectron2 asks of its own mask types.

    Args:
        crops: of the N masks; their pixels may belong to more masks than these.
    """

    def __init__(self, crops: MaskCrops) -> None:
        self.crops = crops

    @classmethod
    def from_segmentations(cls, segmentations: Sequence[Any], height: int, width: int) -> CroppedMasks:
        """Take masks as detectron2's `transform_instance_annotations` leaves them.

        Args:
            segmentations: of each instance polygons, (2 P,) float arrays of x and y; an (H, W) array; or None, which
                is empty.
            height: of the network's input, pixels.
            width: of the network's input, pixels.
        """
        return cls(crop_rles([_rle(one, height, width) for one in segmentations]))

    @classmethod
    def of(cls, given: Any, height: int, width: int) -> CroppedMasks:  # noqa: ANN401  (of detectron2's types)
        """The same masks, from whichever of detectron2's types.

        Args:
            given: `CroppedMasks`, `BitMasks` or `PolygonMasks`.
            height: of the network's input, pixels.
            width: of the network's input, pixels.

        Raises:
            BCNetError: if it is of another type.
        """
        if isinstance(given, CroppedMasks):
            return given
        if isinstance(given, BitMasks):
            return cls.from_segmentations(list(given.tensor.cpu().numpy()), height, width).to(given.device)
        if isinstance(given, PolygonMasks):
            return cls.from_segmentations(given.polygons, height, width)
        raise usage_error(
            f"masks of type {type(given).__name__} cannot train the bilayer head",
            "give BitMasks, PolygonMasks, or take BilayerDatasetMapper as the mapper of the training data",
        )

    @staticmethod
    def cat(parts: Sequence[CroppedMasks]) -> CroppedMasks:
        """The masks of several, one behind the other."""
        return CroppedMasks(concatenate([part.crops for part in parts]))

    def __len__(self) -> int:
        return len(self.crops.boxes)

    def __getitem__(self, item: int | slice | Tensor) -> CroppedMasks:
        """Some of the masks: one, a slice, (M,) int64 indices or an (N,) bool choice; no pixel is copied."""
        chosen = [item] if isinstance(item, int) else item
        return CroppedMasks(self.crops._replace(boxes=self.crops.boxes[chosen], starts=self.crops.starts[chosen]))

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.crops.bits.device

    def to(self, device: torch.device | str) -> CroppedMasks:
        """The same masks on `device`."""
        return CroppedMasks(self.crops.to(torch.device(device)))

    def nonempty(self) -> Tensor:
        """(N,) bool, whether each mask has a pixel."""
        return self.crops.boxes[:, 2] > self.crops.boxes[:, 0]

    def get_bounding_boxes(self) -> Boxes:
        """The tight boxes of the N masks, xyxy in pixels of the network's input."""
        return Boxes(self.crops.boxes.float())

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """What of each mask lies in its box, as the targets of the other backend are cropped.

        Args:
            boxes: (N, 4) float xyxy in pixels of the network's input.
            mask_size: S.

        Returns:
            (N, S, S) bool, on the device of the boxes.
        """
        everyone = torch.arange(len(self), device=boxes.device)
        return crop_to_boxes(self.crops.to(boxes.device), everyone, boxes, size=mask_size)


def _rle(segmentation: Any, height: int, width: int) -> masks.RLE | None:  # noqa: ANN401
    """The RLE of one segmentation, None where it is empty."""
    if segmentation is None:
        return None
    if isinstance(segmentation, np.ndarray) and segmentation.ndim == 2:
        bitmap: NDArray[np.bool_] = segmentation.astype(bool)
        return masks.encode(bitmap) if bitmap.any() else None
    return masks.from_segmentation([np.asarray(polygon).ravel().tolist() for polygon in segmentation], height, width)
