"""How well each image was segmented: what to look at first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, segmentation_rle
from bcnet_core.evaluation.coco import ground_truth
from bcnet_core.evaluation.matched import MatchedResults
from bcnet_core.masks import RLE


def mean_ious(coco: CocoFile, results: Sequence[Record], *, score: float) -> dict[int, float]:
    """For each image the mean, over its true instances, of the IoU with the best detection of the same category.

    Args:
        coco: ground truth; crowds and instances without a mask do not count.
        results: COCO results with masks, as `read_results` gives them or a detector.
        score: detections below it do not count.

    Returns:
        By image id, in [0, 1]; images without such an instance are left out, since nothing can be missed there.
    """
    found: dict[tuple[int, int], list[RLE]] = {}
    for result in results:
        if result["score"] >= score:
            found.setdefault((result["image_id"], result["category_id"]), []).append(result_rle(result))
    scores = {}
    images = {image["id"]: image for image in coco.images}
    for image_id, records in coco.annotations_by_image().items():
        ious = []
        for one in records:
            rle = segmentation_rle(one, images[image_id])
            if one.get("iscrowd", 0) or rle is None or not masks.area(rle):
                continue
            candidates = found.get((image_id, one["category_id"]), [])
            ious.append(max((masks.iou(candidate, rle) for candidate in candidates), default=0.0))
        if ious:
            scores[image_id] = sum(ious) / len(ious)
    return scores


def image_precisions(coco: CocoFile, results: Sequence[Record]) -> dict[int, float]:
    """The mask AP of each image on its own, over the categories that are in it.

    Args:
        coco: ground truth.
        results: COCO results with masks.

    Returns:
        By image id, in [0, 1]; images without a true instance are left out.

    Raises:
        BCNetError: if the ground truth lacks masks.
    """
    matched = MatchedResults(ground_truth(coco), results, "segm")
    precisions = {image: matched.precision(np.array([place])) for place, image in enumerate(matched.image_ids)}
    return {image: precision for image, precision in precisions.items() if precision >= 0}


def result_rle(result: Record, key: str = "segmentation") -> RLE:
    """The mask of a result, whether its `counts` are text, as in a file, or bytes."""
    segmentation = result[key]
    counts = segmentation["counts"]
    return {"size": segmentation["size"], "counts": counts.encode() if isinstance(counts, str) else counts}
