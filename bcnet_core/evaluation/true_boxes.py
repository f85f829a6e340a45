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
from torch import Tensor
from torch.nn import functional

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, segmentation_rle
from bcnet_core.annotations.occluder import occluder_regions
from bcnet_core.errors import data_error
from bcnet_core.files.images import read_listed
from bcnet_core.masks import RLE
from bcnet_core.masks.crops import crop_rles
from bcnet_core.masks.paste import paste_rles
from bcnet_core.model.detectors import Detector
from bcnet_core.model.targets import boundary, crop_to_boxes
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
        occludee_boundary: (N,) float64, `boundary_f` of layer 2's boundary; nan where the head has none.
        occluder_boundary: (N,) float64, the same of layer 1; nan where the region is empty, too.
    """

    images: NDArray[np.int64]
    visible: NDArray[np.float64]
    occludee: NDArray[np.float64]
    occluder: NDArray[np.float64]
    occludee_boundary: NDArray[np.float64]
    occluder_boundary: NDArray[np.float64]

    def means(self) -> dict[str, float]:
        """The mean of each of the four scores over the instances that have it; without those that none has."""
        columns = {name: getattr(self, name) for name in self._fields[2:]}
        there = {name: values[~np.isnan(values)] for name, values in columns.items()}
        return {name: float(values.mean()) for name, values in there.items() if len(values)}


@torch.no_grad()
def score_true_boxes(detector: Detector, coco: CocoFile, image_dir: Path, *, reporter: Reporter) -> TrueBoxScores:
    """Predict the masks of every instance inside its true box, and compare them with the true ones.

    Crowds, instances without a mask and boxes without an extent are left out.

    Args:
        detector: in evaluation mode.
        coco: annotations; an occluder region that is not stored is derived from the masks.
        image_dir: the folder of the images.
        reporter: told of the progress.

    Raises:
        BCNetError: if an image cannot be read, or no instance can be scored.
    """
    grouped = coco.annotations_by_image()
    rows: list[tuple[float, ...]] = []
    with reporter.progress("true boxes", len(coco.images)) as progress:
        for position, image in enumerate(coco.images):
            annotations = grouped[image["id"]]
            scored = [index for index, one in enumerate(annotations) if _is_scored(one)]
            if scored:
                rles = [segmentation_rle(one, image) for one in annotations]
                truth = list(zip(rles, occluder_regions(annotations, rles, image), strict=True))
                instances = [annotations[index] for index in scored]
                chosen = [truth[index] for index in scored]
                scores = _score_image(detector, image, instances, chosen, image_dir)
                rates = (1 - one.get("occlusion_rate", np.nan) for one in instances)
                rows += [(position, rate, *score) for rate, score in zip(rates, scores, strict=True)]
            progress.advance()
    if not rows:
        raise data_error(f"`{coco.path}` has no instance with a box and a mask")
    images, *rest = zip(*rows, strict=True)
    return TrueBoxScores(np.array(images), *(np.array(column) for column in rest))


def _is_scored(annotation: Record) -> bool:
    extent = annotation["bbox"][2] > 0 and annotation["bbox"][3] > 0
    return extent and not annotation.get("iscrowd", 0) and bool(annotation.get("segmentation"))


def _score_image(
    detector: Detector,
    image: Record,
    instances: Sequence[Record],
    truth: Sequence[tuple[RLE | None, RLE | None]],
    image_dir: Path,
) -> list[tuple[float, ...]]:
    """The IoU of both layers and the F-score of both boundaries, instance by instance."""
    height, width = image["height"], image["width"]
    pixels = read_listed(image_dir, image)
    batch = detector.prepare(pixels)
    new_height, new_width = batch.image_sizes[0]
    x, y, w, h = torch.tensor([one["bbox"] for one in instances], dtype=torch.float32).unbind(1)
    boxes = torch.stack([x, y, x + w, y + h], dim=1).to(detector.device)
    scale = boxes.new_tensor([new_width / width, new_height / height]).repeat(2)
    features = detector.backbone(batch.tensors)
    first = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    logits = detector.heads.masks(features, boxes * scale, first)
    rles, regions = zip(*truth, strict=True)
    columns = (
        _mask_ious(logits.occludee_mask, boxes, rles, height, width),
        _mask_ious(logits.occluder_mask, boxes, regions, height, width),
        _boundary_scores(logits.occludee_boundary, boxes, rles),
        _boundary_scores(logits.occluder_boundary, boxes, regions),
    )
    return list(zip(*columns, strict=True))


def _mask_ious(
    logits: Tensor | None, boxes: Tensor, true: Sequence[RLE | None], height: int, width: int
) -> list[float]:
    if logits is None:
        return [np.nan] * len(true)
    found = paste_rles(logits.sigmoid(), boxes, height, width)
    return [
        np.nan if other is None or masks.area(other) == 0 else masks.iou(one, other)
        for one, other in zip(found, true, strict=True)
    ]


def _boundary_scores(logits: Tensor | None, boxes: Tensor, true: Sequence[RLE | None]) -> list[float]:
    if logits is None:
        return [np.nan] * len(true)
    crops = crop_to_boxes(crop_rles(true), torch.arange(len(true)), boxes.cpu(), size=logits.shape[-1])
    scores: list[float] = boundary_f(logits.cpu() >= 0, boundary(crops)).tolist()
    return scores


def boundary_f(predicted: Tensor, true: Tensor) -> Tensor:
    """How well boundaries agree, give or take one cell: the F-score of the cells of one that are near the other.

    Args:
        predicted: (N, S, S) bool.
        true: (N, S, S) bool.

    Returns:
        (N,) float64 in [0, 1]; nan where there is no true boundary.
    """

    def share(cells: Tensor, others: Tensor) -> Tensor:
        near = functional.max_pool2d(others.float()[:, None], 3, 1, 1)[:, 0] > 0
        return (cells & near).sum((1, 2)).double() / cells.sum((1, 2)).clamp(min=1)

    precision, recall = share(predicted, true), share(true, predicted)
    score = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return torch.where(true.any(2).any(1), score, torch.nan)
