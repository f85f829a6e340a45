"""Which images to look at first: those that were segmented worst."""

from __future__ import annotations

from collections.abc import Sequence

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.config.choices import Judgement
from bcnet_core.errors import usage_error
from bcnet_core.evaluation.image_scores import image_precisions, mean_ious


def worst_images(
    coco: CocoFile, results: Sequence[Record], records: Sequence[Record], count: int, *, by: Judgement, score: float
) -> list[Record]:
    """The images that were segmented worst, the worst first.

    Args:
        coco: ground truth.
        results: of the images, with masks.
        records: the images to choose from.
        count: how many are taken.
        by: "iou", the mean over the true instances of the IoU with the best detection; "ap", the image's own AP.
        score: detections below it do not count for "iou"; AP looks at all of them.

    Raises:
        BCNetError: if no image has a true instance with a mask.
    """
    scores = mean_ious(coco, results, score=score) if by == "iou" else image_precisions(coco, results)
    known = [record for record in records if record["id"] in scores]
    if not known:
        raise usage_error(f"`{coco.path}` has no instance with a mask to judge by", "leave out --worst")
    return sorted(known, key=lambda record: scores[record["id"]])[:count]
