"""Convert a detector to the other backend, and compare the two on one image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bcnet_core.annotations.coco import coco_categories, in_id_order, read_coco
from bcnet_core.config.choices import Backend
from bcnet_core.errors import usage_error
from bcnet_core.files.outputs import atomic_file
from bcnet_core.integrations.detectron2.predicting import build_stored
from bcnet_core.integrations.detectron2.stored import read_stored, to_torchvision
from bcnet_core.model.detectors import build_detector
from bcnet_core.structures import Predictor
from bcnet_core.weights.checkpoint import DETECTRON2_KEY, save_checkpoint, save_content
from bcnet_core.weights.loading import load_trained

MAX_PIXELS, MAX_PROBABILITY = 0.01, 1e-4
"""Largest difference of the boxes and of the maps of two instances that match."""
NOISE = (480, 640)
"""Height and width of the image to compare on if none is given."""


class Difference(NamedTuple):
    """Difference between the predictions of two detectors on one image.

    Attributes:
        found: number of instances that each of the two finds.
        alike: number of instances of the first with a match, within `MAX_PIXELS` and `MAX_PROBABILITY`.
        boxes: largest difference of a coordinate of those, in pixels.
        masks: largest difference of a probability in their maps.
    """

    found: tuple[int, int]
    alike: int
    boxes: float
    masks: float


def convert_detector(
    path: Path,
    to: Backend,
    *,
    config: Path | None = None,
    categories: Path | None = None,
    picture: NDArray[np.uint8] | None = None,
    outputs: Sequence[Path] = (),
) -> Difference:
    """Convert a detector to the other backend, and compare the two; see `bcnet_core.backends.convert`."""
    given = coco_categories() if categories is None else read_coco(categories, need_annotations=False).categories
    stored = read_stored(path, config=config, categories=in_id_order(given))
    if stored.native == (to == "detectron2"):
        other = "torchvision" if to == "detectron2" else "detectron2"
        raise usage_error(f"`{stored.path}` is a checkpoint of the {to} backend already", f"to the other: --to {other}")
    checkpoint = to_torchvision(stored)
    detector = build_detector(stored.recipe, checkpoint.categories)
    load_trained(detector, stored.recipe, checkpoint, stored.path)
    image = np.random.default_rng(0).integers(0, 256, (*NOISE, 3), np.uint8) if picture is None else picture
    difference = compare(detector.eval(), build_stored(stored, device="cpu"), image)
    if outputs and to == "torchvision":
        save_checkpoint(outputs[0], checkpoint)
    elif outputs:
        content = {"model": stored.tensors, "iteration": stored.steps - 1, DETECTRON2_KEY: stored.origin.state_dict()}
        with atomic_file(outputs[1]) as text:
            text.write_text(stored.origin.config, encoding="utf-8")
            save_content(outputs[0], content)
    return difference


def compare(first: Predictor, second: Predictor, image: NDArray[np.uint8]) -> Difference:
    """Run two detectors on an image, and compare each instance with the nearest one of its class.

    Not in order of score: among equal scores, the order and the choice of instances depend on rounding.
    """
    (one,), (other,) = first.predict([image]), second.predict([image])
    found = (len(one.boxes), len(other.boxes))
    if 0 in found:
        return Difference(found, 0, 0.0, 0.0)
    boxes = (one.boxes[:, None] - other.boxes).abs().amax(2)  # (N, M)
    boxes, nearest = boxes.masked_fill(one.labels[:, None] != other.labels, torch.inf).min(1)
    maps = [(part - other.maps[name][nearest]).abs().amax((1, 2)) for name, part in one.maps.items()]
    masks = torch.stack(maps).amax(0)
    alike = (boxes <= MAX_PIXELS) & (masks <= MAX_PROBABILITY)
    largest = (float(part[alike].amax()) if alike.any() else 0.0 for part in (boxes, masks))
    return Difference(found, int(alike.sum()), *largest)
