"""COCO scores. AP is always computed by a library: faster-coco-eval, or pycocotools, the reference."""

from __future__ import annotations

import contextlib
import io
import reprlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import faster_coco_eval
import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, segmentation_rle
from bcnet_core.annotations.crowding import MOST_DETECTIONS
from bcnet_core.config.choices import Scorer
from bcnet_core.errors import data_error

ScoreKind = Literal["bbox", "segm", "boundary"]
"""Overlap that is scored: of boxes, of masks, or the smaller of mask and boundary IoU (Cheng et al., CVPR 2021)."""


class Scores(NamedTuple):
    """COCO's twelve numbers for one kind of overlap, in [0, 1]; -1 where the ground truth has no such object.

    AR1 and AR10 count the best detections of each category in an image, the others the best `max_dets`, which is
    100 in COCO.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    ARmost: float
    ARs: float
    ARm: float
    ARl: float


def score_names(max_dets: int) -> tuple[str, ...]:
    """Return the names of the twelve numbers, in which `ARmost` is named by the number of detections: AR100."""
    return tuple(f"AR{max_dets}" if name == "ARmost" else name for name in Scores._fields)


NO_SCORES = Scores(*[-1.0] * len(Scores._fields))


class Evaluation(NamedTuple):
    """Scores over all categories, and the scores of each category by its id."""

    scores: Scores
    categories: dict[int, Scores]


def ground_truth(coco: CocoFile, *, need_masks: bool = True) -> Record:
    """Convert annotations to what the scorers need: a mask, an area and a unique id for each.

    Ids are renumbered from 1, since the scorers read 0 as "no match" and mix up annotations with the same id. Crowds
    are ignored regions, as in COCO.

    Raises:
        BCNetError: if an annotation lacks a mask that is needed, or has one that cannot be read.
    """
    images = {image["id"]: image for image in coco.images}
    annotations = []
    for number, annotation in enumerate(coco.annotations, start=1):
        rle = segmentation_rle(annotation, images[annotation["image_id"]])
        if rle is None and need_masks:
            raise data_error(
                f"annotation {annotation['id']} of `{coco.path}` has no mask, so masks cannot be scored against it",
                "remove it from the file, or give it a segmentation",
            )
        box = annotation["bbox"]
        area = annotation.get("area", box[2] * box[3] if rle is None else masks.area(rle))
        if type(area) not in {int, float} or not 0 <= area < np.inf:
            raise data_error(
                f"annotation {annotation['id']} of `{coco.path}` has an `area` of {reprlib.repr(area)}",
                "`area` is a number of pixels; without the key the pixels are counted",
            )
        kept = {key: annotation[key] for key in ("image_id", "category_id", "bbox")}
        kept |= {"id": number, "area": area, "iscrowd": annotation.get("iscrowd", 0)}
        annotations.append(kept if rle is None else {**kept, "segmentation": rle})
    return {"images": coco.images, "categories": coco.categories, "annotations": annotations}


def evaluate(
    truth: Record,
    results: Sequence[Record],
    kind: ScoreKind,
    *,
    image_ids: Sequence[int] | None = None,
    scorer: Scorer = "faster-coco-eval",
    max_dets: int = MOST_DETECTIONS,
) -> Evaluation:
    """Score results against ground truth.

    Args:
        truth: from `ground_truth`.
        results: COCO results; may be empty.
        kind: overlap that is scored. For "segm" the size of a detection is that of its mask, not of its box.
        image_ids: ids of the only images that count; all if None.
        scorer: pycocotools has no boundary AP.
        max_dets: number of detections of each category in an image that count, those with the highest scores; more
            than 10.
    """
    if image_ids is not None and not image_ids:
        return Evaluation(NO_SCORES, {})
    evaluation = prepare(truth, results, kind, scorer)
    if image_ids is not None:
        evaluation.params.imgIds = sorted(image_ids)
    evaluation.params.maxDets = [1, 10, max_dets]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = (np.asarray(evaluation.eval[name]) for name in ("precision", "recall"))
    categories = {
        int(category): _summary(precision[:, :, index], recall[:, index])
        for index, category in enumerate(evaluation.params.catIds)
    }
    return Evaluation(_summary(precision, recall), categories)


def prepare(truth: Record, results: Sequence[Record], kind: ScoreKind, scorer: Scorer) -> Any:  # noqa: ANN401
    """Return the library's evaluation object before its first step; it shares no record with the arguments."""
    own = {**truth, "annotations": [dict(one) for one in truth["annotations"]]}
    with contextlib.redirect_stdout(io.StringIO()):
        if scorer == "pycocotools":
            reference, coco, evaluator = pycocotools.coco.COCO(), pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval
            reference.dataset = own
            reference.createIndex()
        else:
            coco, evaluator = faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster
            reference = coco(own)
        found = coco()
        found.dataset = {**own, "annotations": _detections(results, kind)}
        found.createIndex()
        return evaluator(reference, found, kind)


def _detections(results: Sequence[Record], kind: ScoreKind) -> list[Record]:
    """Return results as the libraries hold them after loading, with the area of what is scored."""
    key = "bbox" if kind == "bbox" else "segmentation"
    if kind == "bbox":
        areas = [result["bbox"][2] * result["bbox"][3] for result in results]
    else:
        areas = [masks.area(result["segmentation"]) for result in results]
    return [
        {**{name: result[name] for name in ("image_id", "category_id", "score", key)}, "id": number, "area": area}
        | {"iscrowd": 0}
        for number, (result, area) in enumerate(zip(results, areas, strict=True), start=1)
    ]


def _summary(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> Scores:
    """Summarize one category or all of them; -1 where there is nothing to find.

    The libraries' own summaries do the same, but pycocotools' has no AP where `max_dets` is not 100.

    Args:
        precision: (thresholds, recalls, sizes, most detections), or with the categories before the sizes.
        recall: (thresholds, sizes, most detections), or with the categories before the sizes.
    """
    every, small, medium, large = range(4)
    return Scores(
        *(mean_found(precision[thresholds, ..., every, -1]) for thresholds in (slice(None), 0, 5)),
        *(mean_found(precision[..., size, -1]) for size in (small, medium, large)),
        *(mean_found(recall[..., every, most]) for most in range(3)),
        *(mean_found(recall[..., size, -1]) for size in (small, medium, large)),
    )  # fmt: skip


def mean_found(values: NDArray[np.float64]) -> float:
    """Return the mean of accumulated values without the -1 entries; -1 if there are no others."""
    there = values[values > -1]
    return float(there.mean()) if there.size else -1.0
