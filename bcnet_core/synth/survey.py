"""Which objects of a COCO file are complete, so that they can be cut out and pasted elsewhere.

COCO does not say what hides what. So an object counts as complete only if nothing can hide it: it keeps away from the
border and from every other annotated mask, and is in one piece.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, read_mask
from bcnet_core.annotations.parallel import ImageRecords, map_images
from bcnet_core.masks import RLE
from bcnet_core.reporting import Reporter

Flaw = Literal["unmasked", "crowd", "small", "cropped", "pieces", "touched"]
"""Why an object is not taken: see `FLAWS`."""

FLAWS: dict[Flaw, str] = {
    "unmasked": "no readable mask",
    "crowd": "a crowd",
    "small": "too small",
    "cropped": "at the border of its image",
    "pieces": "in several pieces: something hides a part",
    "touched": "touches another object, which may hide it",
}

BORDER = 2
"""Pixels from the border within which an object may be cropped by it."""

GAP = 2
"""Pixels between the masks of two objects that do not touch: annotators leave such seams."""

MAIN_PIECE = 0.98
"""The share of its pixels that an object has in one piece at least; the rest are slips of the annotator."""


class Survey(NamedTuple):
    """What a COCO file offers.

    Attributes:
        complete: positions of annotations whose objects are complete.
        flaws: how many others are left out, by reason.
        covered: share of every image that annotated masks cover, in the order of the file.
    """

    complete: list[int]
    flaws: dict[Flaw, int]
    covered: list[float]


def survey(coco: CocoFile, *, min_area: int, workers: int = 1, reporter: Reporter | None = None) -> Survey:
    """Find the complete objects of a COCO file; looks at no image.

    Args:
        coco: the file.
        min_area: pixels that an object has at least.
        workers: processes, as in `annotate_coco`.
        reporter: hears the progress in images.
    """
    complete: list[int] = []
    flaws = dict.fromkeys(FLAWS, 0)
    covered = []
    keys = ("iscrowd", "segmentation")
    work = partial(_survey_image, min_area=min_area)
    with map_images(coco, keys, work, workers=workers, reporter=reporter) as found:
        for positions, (seen, share) in found:
            covered.append(share)
            for position, flaw in zip(positions, seen, strict=True):
                if flaw is None:
                    complete.append(position)
                else:
                    flaws[flaw] += 1
    return Survey(complete, flaws, covered)


def _survey_image(image: ImageRecords, *, min_area: int) -> tuple[list[Flaw | None], float]:
    height, width, records = image
    rles = [read_mask(record, height, width)[0] for record in records]
    present = [rle for rle in rles if rle is not None]
    share = masks.area(masks.union(present)) / (height * width) if present else 0.0
    boxes = np.array([[0.0] * 4 if rle is None else masks.bounding_box(rle) for rle in rles]).reshape(-1, 4)
    return [
        _flaw(number, rles, boxes, crowd=bool(record.get("iscrowd", 0)), min_area=min_area)
        for number, record in enumerate(records)
    ], share


def _flaw(
    number: int, rles: list[RLE | None], boxes: NDArray[np.float64], *, crowd: bool, min_area: int
) -> Flaw | None:
    """Why the object is not complete, or None; the cheap questions first."""
    rle = rles[number]
    if rle is None:
        return "unmasked"
    if crowd:
        return "crowd"
    if masks.area(rle) < min_area:
        return "small"
    height, width = rle["size"]
    x, y, across, down = boxes[number].astype(int).tolist()
    if min(x, y) < BORDER or x + across > width - BORDER or y + down > height - BORDER:
        return "cropped"
    window = slice(max(y - GAP, 0), y + down + GAP), slice(max(x - GAP, 0), x + across + GAP)
    mask = masks.decode(rle)[window].astype(np.uint8)
    if not _in_one_piece(mask):
        return "pieces"
    start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    beside = (start < (x + across + GAP, y + down + GAP)) & (end > (x - GAP, y - GAP))
    near = beside[:, 0] & beside[:, 1]
    near[number] = False
    wide = cv2.dilate(mask, np.ones((2 * GAP + 1, 2 * GAP + 1), np.uint8)).astype(bool)
    others = (rles[other] for other in near.nonzero()[0].tolist())
    touched = any((masks.decode(other)[window] & wide).any() for other in others if other is not None)
    return "touched" if touched else None


def _in_one_piece(mask: NDArray[np.uint8]) -> bool:
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return bool(areas.max() >= MAIN_PIECE * areas.sum())
