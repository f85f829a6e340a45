"""COCO scores. The arithmetic is faster-coco-eval's, never our own."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal, NamedTuple

from faster_coco_eval import COCO, COCOeval_faster, __version__

from bcnet_core.annotations.coco import CocoFile, Record

BACKEND = f"faster-coco-eval {__version__}"


class Scores(NamedTuple):
    """The COCO numbers of one kind of overlap, in [0, 1]; -1 where the ground truth has no such object."""

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float


def evaluate(
    coco: CocoFile, results: Sequence[Record], kind: Literal["bbox", "segm"], *, image_ids: Sequence[int] | None = None
) -> Scores:
    """Score results against ground truth.

    Args:
        coco: the ground truth, with masks.
        results: COCO results; may be empty.
        kind: "bbox" or "segm". For "segm" the size of a detection is that of its mask, not of its box.
        image_ids: count only these images; all where None.
    """
    truth = COCO(deepcopy(coco.content))
    ignored = "bbox" if kind == "segm" else "segmentation"
    scored = [{key: value for key, value in result.items() if key != ignored} for result in results]
    found = truth.loadRes(scored) if scored else _nothing(coco)
    evaluation = COCOeval_faster(truth, found, kind)
    if image_ids is not None:
        evaluation.params.imgIds = sorted(image_ids)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return Scores(*(float(value) for value in evaluation.stats[:12]))


def _nothing(coco: CocoFile) -> COCO:
    """Results without a single detection, which `loadRes` cannot make."""
    return COCO({"images": deepcopy(coco.images), "categories": deepcopy(coco.categories), "annotations": []})
