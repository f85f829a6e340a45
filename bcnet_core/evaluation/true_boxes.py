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
from bcnet_core.maps import map_specs
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
        scores: (N,) float64 for each map that the head predicts: under `occludee` and `occluder` the IoU of the masks,
            pasted into the image, with the visible mask and the occluder region; under the names of boundaries
            `boundary_f`. nan where there is nothing to compare with.
    """

    images: NDArray[np.int64]
    visible: NDArray[np.float64]
    scores: dict[str, NDArray[np.float64]]

    def means(self) -> dict[str, float]:
        """Return the mean of each score over the instances that have it; without those that none has."""
        there = {name: values[~np.isnan(values)] for name, values in self.scores.items()}
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
    positions: list[int] = []
    visible: list[float] = []
    scores: list[dict[str, list[float]]] = []
    with reporter.progress("true boxes", len(coco.images)) as progress:
        for position, image in enumerate(coco.images):
            annotations = grouped[image["id"]]
            scored = [index for index, one in enumerate(annotations) if _is_scored(one)]
            if scored:
                rles = [segmentation_rle(one, image) for one in annotations]
                truth = list(zip(rles, occluder_regions(annotations, rles, image), strict=True))
                instances = [annotations[index] for index in scored]
                chosen = [truth[index] for index in scored]
                scores.append(_score_image(detector, image, instances, chosen, image_dir))
                visible += [1 - one.get("occlusion_rate", np.nan) for one in instances]
                positions += [position] * len(scored)
            progress.advance()
    if not scores:
        raise data_error(f"`{coco.path}` has no instance with a box and a mask")
    columns = {name: np.concatenate([part[name] for part in scores]) for name in scores[0]}
    return TrueBoxScores(np.array(positions), np.array(visible), columns)


def _is_scored(annotation: Record) -> bool:
    extent = annotation["bbox"][2] > 0 and annotation["bbox"][3] > 0
    return extent and not annotation.get("iscrowd", 0) and bool(annotation.get("segmentation"))


def _score_image(
    detector: Detector,
    image: Record,
    instances: Sequence[Record],
    truth: Sequence[tuple[RLE | None, RLE | None]],
    image_dir: Path,
) -> dict[str, list[float]]:
    """Score each map of the instances of one image; the masks come first."""
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
    true = {"occludee": rles, "occluder": regions}
    specs = map_specs(logits)
    ious: dict[str, list[float]] = {
        spec.layer: _mask_ious(logits[spec.name], boxes, true[spec.layer], height, width)
        for spec in specs
        if spec.kind == "mask"
    }
    return ious | {
        spec.name: _boundary_scores(logits[spec.name], boxes, true[spec.layer])
        for spec in specs
        if spec.kind == "boundary"
    }


def _mask_ious(logits: Tensor, boxes: Tensor, true: Sequence[RLE | None], height: int, width: int) -> list[float]:
    found = paste_rles(logits.sigmoid(), boxes, height, width)
    return [
        np.nan if other is None or masks.area(other) == 0 else masks.iou(one, other)
        for one, other in zip(found, true, strict=True)
    ]


def _boundary_scores(logits: Tensor, boxes: Tensor, true: Sequence[RLE | None]) -> list[float]:
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
