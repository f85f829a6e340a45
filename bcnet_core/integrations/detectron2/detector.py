"""A detector of detectron2 that finds like one of ours, for everything that takes what `load_detector` gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Instances
from numpy.typing import NDArray
from torch import Tensor, nn

from bcnet_core.annotations.coco import Record, category_names
from bcnet_core.data.transforms import resize as resize_image
from bcnet_core.data.transforms import target_size
from bcnet_core.distributed import choose_device
from bcnet_core.errors import usage_error
from bcnet_core.integrations.detectron2.mask_head import map_field
from bcnet_core.integrations.detectron2.stored import Stored, read_stored
from bcnet_core.maps import map_specs
from bcnet_core.model.detectors import as_image, boxes_in_image
from bcnet_core.structures import Detections


class Detectron2Detector:
    """A model of detectron2, with the `predict` of our `Detector`.

    Args:
        model: in evaluation mode, with detectron2's `inference`.
        categories: COCO categories in label order.
        bgr: whether the model wants its channels in this order.
        min_size: shorter side that `predict` resizes images to, pixels.
        max_size: bound of the longer side.
    """

    def __init__(
        self, model: nn.Module, *, categories: Sequence[Record], bgr: bool, min_size: int, max_size: int
    ) -> None:
        self.model, self.categories, self.bgr = model, list(categories), bgr
        self.min_size, self.max_size = min_size, max_size

    @property
    def class_names(self) -> list[str]:
        """The category names, in label order."""
        return category_names(self.categories)

    @torch.no_grad()
    def predict(self, images: Sequence[NDArray[np.uint8] | str | Path], *, resize: bool = True) -> list[Detections]:
        """Find the instances of images; see `bcnet_core.model.detectors.Detector.predict`.

        Args:
            images: (H, W, 3) uint8 RGB arrays, or paths.
            resize: whether to resize to `min_size` and `max_size` first.

        Returns:
            One `Detections` an image, in pixels of that image.

        Raises:
            BCNetError: if an array is no such image, a path cannot be read, or the model finds no masks.
        """
        return [self._predict_one(as_image(image), resize=resize) for image in images]

    def _predict_one(self, image: NDArray[np.uint8], *, resize: bool) -> Detections:
        height, width = image.shape[:2]
        new_height, new_width = height, width
        if resize:
            new_height, new_width = target_size(height, width, min_size=self.min_size, max_size=self.max_size)
        pixels = resize_image(image, new_height, new_width)
        channels = np.array((pixels[..., ::-1] if self.bgr else pixels).transpose(2, 0, 1))
        (found,) = self.model.inference([{"image": torch.from_numpy(channels)}], do_postprocess=False)  # type: ignore[operator]
        boxes = boxes_in_image(found.pred_boxes.tensor, (new_height, new_width), (height, width))
        return Detections(boxes, found.scores, found.pred_classes, (height, width), _maps(found))


def load_detectron2(path: Path, *, device: str) -> Detectron2Detector:
    """Load a detector that detectron2 trained, or one of ours, to be run by detectron2.

    Args:
        path: a file, or the folder of a run.
        device: "auto", "cpu", "cuda", ...

    Raises:
        BCNetError: if there is none, or it cannot be read.
    """
    return detector_of(read_stored(path), device=device)


def detector_of(stored: Stored, *, device: str) -> Detectron2Detector:
    """The detector of a file that was read."""
    cfg = stored.config
    return Detectron2Detector(
        stored.build(str(choose_device(device))),
        categories=stored.origin.categories,
        bgr=cfg.INPUT.FORMAT == "BGR",
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
    )


def _maps(found: Instances) -> dict[str, Tensor]:
    """Return the (N, S, S) maps of instances by name."""
    if not found.has("pred_masks"):
        raise usage_error("this detector finds boxes alone", "train one with masks: MODEL.MASK_ON True")
    return {spec.name: found.get(map_field(spec))[:, 0] for spec in map_specs() if found.has(map_field(spec))}
