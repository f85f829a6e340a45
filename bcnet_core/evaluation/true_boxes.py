"""Masks inside true boxes: what the mask branch is worth, whatever the detector in front of it finds.

COCO's AP judges boxes, classes, scores and masks at once, and scatters by several points from one run to the next. The
IoU of the masks that are predicted inside the boxes of the ground truth scatters by less than one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, Record, segmentation_rle
from bcnet_core.errors import data_error
from bcnet_core.images import read_image
from bcnet_core.model.detectors import Detector
from bcnet_core.paste import paste_masks
from bcnet_core.reporting import Reporter


class TrueBoxScores(NamedTuple):
    """One row for each of N instances, in the order of images and annotations.

    Attributes:
        images: (N,) int64, the position of the image in the file.
        visible: (N,) float64, the share of the instance that is not hidden: 1 - `occlusion_rate`; nan where the
            annotation does not say.
        occludee: (N,) float64, IoU of layer 2's mask, pasted into the image, with the visible mask.
        occluder: (N,) float64, IoU of layer 1's mask with the occluder region, inside the box; nan where the region is
            empty, or the head has no such layer.
    """

    images: NDArray[np.int64]
    visible: NDArray[np.float64]
    occludee: NDArray[np.float64]
    occluder: NDArray[np.float64]


@torch.no_grad()
def score_true_boxes(detector: Detector, coco: CocoFile, image_dir: Path, *, reporter: Reporter) -> TrueBoxScores:
    """Predict the masks of every instance inside its true box, and compare them with the true ones.

    Crowds, instances without a mask and boxes without an extent are left out.

    Args:
        detector: in evaluation mode.
        coco: annotations, bilayer for the occluder's score.
        image_dir: the folder of the images.
        reporter: told of the progress.

    Raises:
        BCNetError: if an image cannot be read, or no instance can be scored.
    """
    grouped = coco.annotations_by_image()
    rows: list[tuple[int, float, float, float]] = []
    with reporter.progress("true boxes", len(coco.images)) as progress:
        for position, image in enumerate(coco.images):
            instances = [one for one in grouped[image["id"]] if _is_scored(one)]
            if instances:
                scores = _score_image(detector, image, instances, image_dir)
                rates = (1 - one.get("occlusion_rate", np.nan) for one in instances)
                rows += [(position, rate, *score) for rate, score in zip(rates, scores, strict=True)]
            progress.advance()
    if not rows:
        raise data_error(f"`{coco.path}` has no instance with a box and a mask")
    images, visible, occludee, occluder = zip(*rows, strict=True)
    return TrueBoxScores(np.array(images), np.array(visible), np.array(occludee), np.array(occluder))


def _is_scored(annotation: Record) -> bool:
    extent = annotation["bbox"][2] > 0 and annotation["bbox"][3] > 0
    return extent and not annotation.get("iscrowd", 0) and bool(annotation.get("segmentation"))


def _score_image(
    detector: Detector, image: Record, instances: Sequence[Record], image_dir: Path
) -> list[tuple[float, float]]:
    """The IoU of both layers, instance by instance."""
    height, width = image["height"], image["width"]
    pixels = read_image(image_dir / image["file_name"], expect_size=(height, width))
    batch = detector.prepare(pixels)
    new_height, new_width = batch.image_sizes[0]
    x, y, w, h = torch.tensor([one["bbox"] for one in instances], dtype=torch.float32).unbind(1)
    boxes = torch.stack([x, y, x + w, y + h], dim=1).to(detector.device)
    scale = boxes.new_tensor([new_width / width, new_height / height]).repeat(2)
    features = detector.backbone(batch.tensors)
    first = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    logits = detector.heads.masks(features, boxes * scale, first)
    occludees = paste_masks(logits.occludee_mask.sigmoid(), boxes, height, width).cpu().numpy()
    occluders = (
        None
        if logits.occluder_mask is None
        else paste_masks(logits.occluder_mask.sigmoid(), boxes, height, width).cpu().numpy()
    )
    return [
        (
            _iou(occludees[index], segmentation_rle(one, image)),
            np.nan
            if occluders is None or OCCLUDER_KEY not in one
            else _iou(occluders[index], segmentation_rle(one, image, key=OCCLUDER_KEY)),
        )
        for index, one in enumerate(instances)
    ]


def _iou(predicted: NDArray[np.bool_], true: masks.RLE | None) -> float:
    """The IoU with a true mask; nan where that is empty."""
    if true is None or masks.area(true) == 0:
        return np.nan
    wanted = masks.decode(true).astype(bool)
    return float((predicted & wanted).sum() / (predicted | wanted).sum())
