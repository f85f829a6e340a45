"""The same detector in the other backend: brought there, and run on one picture in both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bcnet_core.annotations.coco import Record, coco_categories, read_coco
from bcnet_core.config.choices import Backend
from bcnet_core.errors import usage_error
from bcnet_core.files.outputs import atomic_file
from bcnet_core.integrations.detectron2.predicting import build_stored
from bcnet_core.integrations.detectron2.stored import Stored, read_stored, to_torchvision
from bcnet_core.model.detectors import build_detector
from bcnet_core.structures import Predictor
from bcnet_core.weights.checkpoint import DETECTRON2_KEY, Checkpoint, save_checkpoint, save_content
from bcnet_core.weights.loading import load_weights

MOST_PIXELS, MOST_PROBABILITY = 0.01, 1e-4
"""By how much the boxes and the maps of two instances that are alike may differ."""
NOISE = (480, 640)
"""Height and width of the picture that is compared on where none is given."""


class Difference(NamedTuple):
    """How far two detectors are apart on one picture.

    Attributes:
        found: instances that each of the two finds.
        alike: of those, how many have a counterpart, within `MOST_PIXELS` and `MOST_PROBABILITY`.
        boxes: the largest difference of a coordinate of those, pixels.
        masks: the largest difference of a probability in their maps.
    """

    found: tuple[int, int]
    alike: int
    boxes: float
    masks: float


@dataclass(frozen=True)
class ConvertedDetector:
    """A detector under the names of the other backend.

    Attributes:
        checkpoint: of ours, where it goes to the torchvision backend.
        content: what detectron2's checkpointer reads, where it goes there.
        config: the yaml of its config there.
        difference: of the two on one picture.
    """

    checkpoint: Checkpoint | None
    content: dict[str, Any]
    config: str
    difference: Difference


def convert_detector(
    path: Path,
    to: Backend,
    *,
    config: Path | None = None,
    categories: Path | None = None,
    picture: NDArray[np.uint8] | None = None,
) -> ConvertedDetector:
    """Bring a detector to the other backend, and compare the two.

    Args:
        path: a file, or the folder of a run.
        to: the backend that it goes to.
        config: the config of a checkpoint that detectron2 trained without `bcnet`.
        categories: a COCO file with the categories of such a checkpoint; None means COCO's 80.
        picture: (H, W, 3) uint8 RGB to compare on; None takes noise.

    Raises:
        BCNetError: if the file cannot be read, belongs to that backend already, or is a detector that the other does
            not have.
    """
    stored = read_stored(path, config=config, categories=_categories(categories))
    if stored.native == (to == "detectron2"):
        other = "torchvision" if to == "detectron2" else "detectron2"
        raise usage_error(f"`{stored.path}` is a checkpoint of the {to} backend already", f"to the other: --to {other}")
    checkpoint = to_torchvision(stored)
    detector = build_detector(stored.recipe, checkpoint.categories)
    load_weights(detector, stored.recipe, checkpoint, stored.path)
    image = np.random.default_rng(0).integers(0, 256, (*NOISE, 3), np.uint8) if picture is None else picture
    difference = compare(detector.eval(), build_stored(stored, device="cpu"), image)
    if to == "torchvision":
        return ConvertedDetector(checkpoint, {}, "", difference)
    return ConvertedDetector(None, _content(stored), stored.origin.config, difference)


def write_converted(converted: ConvertedDetector, path: Path, config: Path | None = None) -> None:
    """Write a converted detector.

    Args:
        converted: to be written.
        path: of the checkpoint, of ours or of detectron2.
        config: of detectron2's config.

    Raises:
        BCNetError: if it cannot be written.
    """
    if converted.checkpoint is not None:
        save_checkpoint(path, converted.checkpoint)
        return
    assert config is not None
    with atomic_file(config) as text:
        text.write_text(converted.config, encoding="utf-8")
        save_content(path, converted.content)


def compare(first: Predictor, second: Predictor, image: NDArray[np.uint8]) -> Difference:
    """Run two detectors on a picture, and compare what they find.

    Where scores are equal their order is a matter of rounding, and so is which of them are kept. So each instance is
    compared with the nearest one of its class.
    """
    (one,), (other,) = first.predict([image]), second.predict([image])
    found = (len(one.boxes), len(other.boxes))
    if 0 in found:
        return Difference(found, 0, 0.0, 0.0)
    boxes = (one.boxes[:, None] - other.boxes).abs().amax(2)  # (N, M)
    boxes, nearest = boxes.masked_fill(one.labels[:, None] != other.labels, torch.inf).min(1)
    maps = [(part - other.maps[name][nearest]).abs().amax((1, 2)) for name, part in one.maps.items()]
    masks = torch.stack(maps).amax(0)
    alike = (boxes <= MOST_PIXELS) & (masks <= MOST_PROBABILITY)
    most = (float(part[alike].amax()) if alike.any() else 0.0 for part in (boxes, masks))
    return Difference(found, int(alike.sum()), *most)


def _categories(path: Path | None) -> list[Record]:
    """Categories by their ids, which is detectron2's label order."""
    given = coco_categories() if path is None else read_coco(path, need_annotations=False).categories
    return sorted(given, key=lambda category: int(category["id"]))


def _content(stored: Stored) -> dict[str, Any]:
    return {"model": stored.tensors, "iteration": stored.steps - 1, DETECTRON2_KEY: stored.origin.state_dict()}
