"""COCO scores. The arithmetic is faster-coco-eval's, never our own."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal, NamedTuple

from faster_coco_eval import COCO, COCOeval_faster, __version__

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, segmentation_rle
from bcnet_core.errors import data_error

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


def ground_truth(coco: CocoFile) -> Record:
    """Ground truth as the scorer needs it: every annotation with a mask, an area and an id of its own.

    The ids are numbered anew from 1, since the scorer takes 0 for "no match" and confuses two of the same.

    Args:
        coco: instances with boxes and masks; crowds are ignored regions, as in COCO.

    Raises:
        BCNetError: if an annotation has no mask, or one that cannot be read.
    """
    images = {image["id"]: image for image in coco.images}
    annotations = []
    for number, annotation in enumerate(coco.annotations, start=1):
        rle = segmentation_rle(annotation, images[annotation["image_id"]])
        if rle is None:
            raise data_error(
                f"annotation {annotation['id']} of `{coco.path}` has no mask, so masks cannot be scored against it",
                "drop it from the file, or give it a segmentation",
            )
        area, crowd = annotation.get("area", masks.area(rle)), annotation.get("iscrowd", 0)
        kept = {key: annotation[key] for key in ("image_id", "category_id", "bbox")}
        annotations.append({**kept, "id": number, "area": area, "iscrowd": crowd, "segmentation": masks.to_json(rle)})
    return {"images": coco.images, "categories": coco.categories, "annotations": annotations}


def evaluate(
    truth: Record, results: Sequence[Record], kind: Literal["bbox", "segm"], *, image_ids: Sequence[int] | None = None
) -> Scores:
    """Score results against ground truth.

    Args:
        truth: from `ground_truth`.
        results: COCO results; may be empty.
        kind: "bbox" or "segm". For "segm" the size of a detection is that of its mask, not of its box.
        image_ids: count only these images; all where None.

    Returns:
        COCO's twelve numbers.
    """
    reference = COCO(deepcopy(truth))
    ignored = "bbox" if kind == "segm" else "segmentation"
    scored = [{key: value for key, value in result.items() if key != ignored} for result in results]
    found = reference.loadRes(scored) if scored else COCO({**deepcopy(truth), "annotations": []})
    evaluation = COCOeval_faster(reference, found, kind)
    if image_ids is not None:
        evaluation.params.imgIds = sorted(image_ids)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return Scores(*(float(value) for value in evaluation.stats[:12]))
