"""COCO scores. The arithmetic is a library's, never our own: faster-coco-eval, or pycocotools, the reference."""

from __future__ import annotations

import contextlib
import io
import reprlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal, NamedTuple, get_args

import faster_coco_eval
import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, segmentation_rle
from bcnet_core.errors import data_error, usage_error

Kind = Literal["bbox", "segm", "boundary"]
"""What is compared: boxes, masks, or masks and their boundaries (Boundary IoU, Cheng et al., CVPR 2021)."""

Backend = Literal["faster-coco-eval", "pycocotools"]
"""The library that scores; both give the same numbers."""
BACKENDS: tuple[Backend, ...] = get_args(Backend)

IGNORED_AREA = 1e11
"""Of an instance that is neither to be found nor to be missed: beyond every range of sizes that COCO scores."""


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


class Evaluation(NamedTuple):
    """Scores, and where they come from.

    Attributes:
        scores: over all categories.
        categories: of each category by its id.
    """

    scores: Scores
    categories: dict[int, Scores]


def backend_name(backend: Backend) -> str:
    """The library and its version, as a table names it."""
    return f"{backend} {version(backend)}"


def ground_truth(coco: CocoFile, *, need_masks: bool = True) -> Record:
    """Ground truth as the scorer needs it: every annotation with a mask, an area and an id of its own.

    The ids are numbered anew from 1, since the scorer takes 0 for "no match" and confuses two of the same.

    Args:
        coco: instances with boxes and masks; crowds are ignored regions, as in COCO.
        need_masks: whether an annotation without a mask is an error; it is none where only boxes are scored.

    Raises:
        BCNetError: if an annotation has no mask, or one that cannot be read.
    """
    images = {image["id"]: image for image in coco.images}
    annotations = []
    for number, annotation in enumerate(coco.annotations, start=1):
        rle = segmentation_rle(annotation, images[annotation["image_id"]])
        if rle is None and need_masks:
            raise data_error(
                f"annotation {annotation['id']} of `{coco.path}` has no mask, so masks cannot be scored against it",
                "drop it from the file, or give it a segmentation",
            )
        box = annotation["bbox"]
        area = annotation.get("area", box[2] * box[3] if rle is None else masks.area(rle))
        if type(area) not in {int, float} or not 0 <= area < np.inf:
            raise data_error(
                f"annotation {annotation['id']} of `{coco.path}` has an `area` of {reprlib.repr(area)}",
                "its pixels belong there; without the key they are counted",
            )
        kept = {key: annotation[key] for key in ("image_id", "category_id", "bbox")}
        kept |= {"id": number, "area": area, "iscrowd": annotation.get("iscrowd", 0)}
        annotations.append(kept if rle is None else {**kept, "segmentation": rle})
    return {"images": coco.images, "categories": coco.categories, "annotations": annotations}


def ignoring(truth: Record, kept: NDArray[np.bool_]) -> Record:
    """The same ground truth where only some instances count.

    What finds one of the others is neither right nor wrong, and nobody is blamed for missing one.

    Args:
        truth: from `ground_truth`.
        kept: (N,) for each annotation whether it counts.
    """
    annotations = [
        one if keep else {**one, "area": IGNORED_AREA}
        for one, keep in zip(truth["annotations"], kept.tolist(), strict=True)
    ]
    return {**truth, "annotations": annotations}


def evaluate(
    truth: Record,
    results: Sequence[Record],
    kind: Kind,
    *,
    image_ids: Sequence[int] | None = None,
    backend: Backend = "faster-coco-eval",
) -> Scores:
    """Score results against ground truth.

    Args:
        truth: from `ground_truth`.
        results: COCO results; may be empty.
        kind: what is compared. For "segm" the size of a detection is that of its mask, not of its box.
        image_ids: count only these images; all where None.
        backend: the library.

    Returns:
        COCO's twelve numbers.

    Raises:
        BCNetError: if the library does not know this kind.
    """
    return evaluate_categories(truth, results, kind, image_ids=image_ids, backend=backend).scores


def evaluate_categories(
    truth: Record,
    results: Sequence[Record],
    kind: Kind,
    *,
    image_ids: Sequence[int] | None = None,
    backend: Backend = "faster-coco-eval",
) -> Evaluation:
    """`evaluate`, with the scores of every category besides."""
    if image_ids is not None and not image_ids:
        return Evaluation(Scores(*[-1.0] * len(Scores._fields)), {})
    evaluation = prepare(truth, results, kind, backend=backend)
    if image_ids is not None:
        evaluation.params.imgIds = sorted(image_ids)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision, recall = (np.asarray(evaluation.eval[name]) for name in ("precision", "recall"))
    categories = {
        int(category): _of_category(precision[:, :, index], recall[:, index])
        for index, category in enumerate(evaluation.params.catIds)
    }
    return Evaluation(Scores(*(float(value) for value in evaluation.stats[:12])), categories)


def check_kind(kind: Kind, backend: Backend) -> None:
    """Refuse what a library does not know.

    Raises:
        BCNetError: naming the one that does.
    """
    if backend == "pycocotools" and kind == "boundary":
        raise usage_error("pycocotools knows no boundary AP", "--backend-eval faster-coco-eval does")


def prepare(truth: Record, results: Sequence[Record], kind: Kind, *, backend: Backend) -> Any:  # noqa: ANN401
    """The library's own evaluation object, before its first step; it shares nothing with what it is given."""
    check_kind(kind, backend)
    own = {**truth, "annotations": [dict(one) for one in truth["annotations"]]}
    with contextlib.redirect_stdout(io.StringIO()):
        if backend == "pycocotools":
            reference, coco, scorer = pycocotools.coco.COCO(), pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval
            reference.dataset = own
            reference.createIndex()
        else:
            coco, scorer = faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster
            reference = coco(own)
        found = coco()
        found.dataset = {**own, "annotations": _detections(results, kind)}
        found.createIndex()
        return scorer(reference, found, kind)


def _detections(results: Sequence[Record], kind: Kind) -> list[Record]:
    """Results as the libraries keep them once they have loaded them, sizes those of what is compared."""
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


def _of_category(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> Scores:
    """What the library says of one category, read as its summary reads it.

    Args:
        precision: (thresholds, recalls, sizes, most) with -1 where nothing is to be found.
        recall: (thresholds, sizes, most).
    """
    every, small, medium, large = range(4)
    return Scores(
        *(mean_found(precision[thresholds, :, every, -1]) for thresholds in (slice(None), 0, 5)),
        *(mean_found(precision[:, :, size, -1]) for size in (small, medium, large)),
        *(mean_found(recall[:, every, most]) for most in range(3)),
        *(mean_found(recall[:, size, -1]) for size in (small, medium, large)),
    )  # fmt: skip


def mean_found(values: NDArray[np.float64]) -> float:
    """The mean of what the libraries accumulate, without the -1 of where nothing is to be found; -1 of that alone."""
    there = values[values > -1]
    return float(there.mean()) if there.size else -1.0
