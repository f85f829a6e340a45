"""Masks inside true boxes: the quality of the mask branch, whatever the detector in front of it finds.

COCO's AP judges boxes, classes, scores and masks together, and varies by several points from run to run. The IoU of
masks that are predicted inside the boxes of the ground truth varies by less than one.
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
from bcnet_core.annotations.amodal import enclosing_boxes, whole_masks
from bcnet_core.annotations.coco import CocoFile, Record, segmentation_rle
from bcnet_core.annotations.occluder import occluder_regions
from bcnet_core.errors import data_error
from bcnet_core.evaluation.amodal import hidden_iou
from bcnet_core.evaluation.order import right_pairs, true_pairs
from bcnet_core.files.images import read_listed
from bcnet_core.maps import Region, map_specs
from bcnet_core.masks import RLE
from bcnet_core.masks.crops import crop_rles, paste_rles
from bcnet_core.masks.order import FrontPair
from bcnet_core.model.detectors import Detector
from bcnet_core.model.losses import band_cells, boundary, crop_to_boxes
from bcnet_core.reporting import Reporter


class TrueBoxScores(NamedTuple):
    """Scores of N instances, in the order of images and annotations.

    Attributes:
        images: (N,) int64, position of the image in the file.
        visible: (N,) float64, 1 - `occlusion_rate`; nan if the annotation has none.
        scores: (N,) float64 for each map that the head predicts. Under `occludee` and `occluder`: IoU of the mask,
            pasted into the image, with the visible mask and the occluder region. Under `amodal` and `hidden`: IoU with
            the whole mask, and with its hidden part where the true visible mask is given (C2F-Seg, ICCV 2023). Under
            the names of boundaries: `boundary_f`. nan where there is nothing to compare with.
        order: (P,) float64 for each pair of `order.true_pairs`, in the order of the images: 1 if the predicted maps
            tell who is in front, 0 if not; empty if the head predicts no whole masks.
    """

    images: NDArray[np.int64]
    visible: NDArray[np.float64]
    scores: dict[str, NDArray[np.float64]]
    order: NDArray[np.float64]

    def means(self) -> dict[str, float]:
        """Return the mean of each score over the instances that have it, without scores that no instance has.

        `order` is the mean over pairs.
        """
        present = {name: values[~np.isnan(values)] for name, values in {**self.scores, "order": self.order}.items()}
        return {name: float(values.mean()) for name, values in present.items() if len(values)}


def score_true_boxes(detector: Detector, coco: CocoFile, image_dir: Path, *, reporter: Reporter) -> TrueBoxScores:
    """Predict the masks of every instance inside its true box, and compare them with the true ones.

    Crowds, instances without a mask and empty boxes are left out. Occluder regions that are not stored are derived.

    Raises:
        BCNetError: if an image cannot be read, or no instance can be scored.
    """
    grouped = coco.annotations_by_image()
    positions: list[int] = []
    visible: list[float] = []
    scores: list[dict[str, list[float]]] = []
    order: list[bool] = []
    with reporter.progress("true boxes", len(coco.images)) as progress:
        for position, image in enumerate(coco.images):
            annotations = grouped[image["id"]]
            scored = [index for index, one in enumerate(annotations) if is_scored(one)]
            if scored:
                rles = [segmentation_rle(one, image) for one in annotations]
                wholes = whole_masks(annotations, rles, image) if detector.is_amodal else [None] * len(rles)
                regions = occluder_regions(annotations, rles, image, wholes=wholes)
                true: dict[Region, list[RLE | None]] = {
                    "occludee": [rles[index] for index in scored],
                    "occluder": [regions[index] for index in scored],
                    "amodal": [wholes[index] for index in scored],
                }
                records = [annotations[index] for index in scored]
                corners = enclosing_boxes(records, true["amodal"], amodal=detector.amodal_boxes)
                boxes = torch.tensor(corners, dtype=torch.float32)
                boxes[:, 2:] += boxes[:, :2]
                pairs = true_pairs(records, true["occludee"], true["amodal"])
                own, right = _score_image(detector, image, boxes, true, pairs, image_dir)
                scores.append(own)
                order += right
                visible += [1 - annotations[index].get("occlusion_rate", np.nan) for index in scored]
                positions += [position] * len(scored)
            progress.advance()
    if not scores:
        raise data_error(f"`{coco.path}` has no instance with a box and a mask")
    columns = {name: np.concatenate([part[name] for part in scores]) for name in scores[0]}
    return TrueBoxScores(np.array(positions), np.array(visible), columns, np.array(order, np.float64))


def is_scored(annotation: Record) -> bool:
    """Return whether an annotation has a mask and a box with an extent, and is no crowd."""
    extent = annotation["bbox"][2] > 0 and annotation["bbox"][3] > 0
    return extent and not annotation.get("iscrowd", 0) and bool(annotation.get("segmentation"))


def _score_image(
    detector: Detector,
    image: Record,
    boxes: Tensor,
    true: dict[Region, list[RLE | None]],
    pairs: Sequence[FrontPair],
    image_dir: Path,
) -> tuple[dict[str, list[float]], list[bool]]:
    """Score each map of the N instances of one image, the masks first, and the order of pairs.

    Args:
        detector: in evaluation mode.
        image: entry of `images`.
        boxes: (N, 4) float32 xyxy in pixels of the image.
        true: N masks for each region.
        pairs: true order of the instances.
        image_dir: folder of the images.
    """
    (found,) = detector.predict_inside([read_listed(image_dir, image)], [boxes])
    scores: dict[str, list[float]] = {}
    for spec in sorted(map_specs(found.maps), key=lambda spec: spec.kind == "boundary"):
        inside = found.maps[spec.name]
        if spec.kind == "mask":
            pasted = paste_rles(inside, found.boxes, *found.image_size)
            scores[spec.region] = [_iou(one, other) for one, other in zip(pasted, true[spec.region], strict=True)]
            if spec.region == "amodal":
                scores["hidden"] = [
                    np.nan if whole is None or seen is None else hidden_iou(one, whole, seen)
                    for one, whole, seen in zip(pasted, true["amodal"], true["occludee"], strict=True)
                ]
        else:
            band = inside.cpu() >= 0.5
            crops = crop_to_boxes(
                crop_rles(true[spec.region]), torch.arange(len(band)), found.boxes.cpu(), size=band.shape[-1]
            )
            scores[spec.name] = boundary_f(band, boundary(crops)).tolist()
    order = found.order
    return scores, [] if order is None else right_pairs(pairs, order)


def _iou(found: RLE, true: RLE | None) -> float:
    return np.nan if true is None or masks.area(true) == 0 else masks.iou(found, true)


def boundary_f(predicted: Tensor, true: Tensor) -> Tensor:
    """Return the (N,) float64 F-scores of (N, S, S) bool boundaries, in [0, 1]; nan where there is no true boundary.

    A cell counts as found if the other boundary is near: within one cell at 28 x 28, and the same share of the box on
    larger maps.
    """
    reach = band_cells(true.shape[-1])

    def share(cells: Tensor, others: Tensor) -> Tensor:
        near = functional.max_pool2d(others.float()[:, None], 2 * reach + 1, 1, reach)[:, 0] > 0
        return (cells & near).sum((1, 2)).double() / cells.sum((1, 2)).clamp(min=1)

    precision, recall = share(predicted, true), share(true, predicted)
    score = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return torch.where(true.any(2).any(1), score, torch.nan)
