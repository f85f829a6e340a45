"""Checking a bilayer file, also the official one, against what its own masks say.

Three questions: can every occluder be read, does it stay in the box of its instance, and how far is it from the exact
region that the rule finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from bcnet_core import masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, Record
from bcnet_core.annotations.occluder import OccluderRule, derive_from_records, pixel_corners, record_boxes
from bcnet_core.annotations.scan import AnnotationId, ImageRecords, every_image, read_mask
from bcnet_core.masks import RLE
from bcnet_core.reporting import Reporter

Finding = Literal["no key", "unreadable", "outside", "absent", "unexpected", "inexact"]
"""What can be wrong with an annotation: see `FINDINGS`."""

FINDINGS: dict[Finding, str] = {
    "no key": f"have no `{OCCLUDER_KEY}`",
    "unreadable": "have an occluder that cannot be read",
    "outside": "have an occluder that leaves their box",
    "absent": "have none where the rule finds one",
    "unexpected": "have one where the rule finds none",
    "inexact": "have one whose IoU with the exact region is below 0.9",
}

INVALID: tuple[Finding, ...] = ("no key", "unreadable", "outside")
"""The findings that make a file invalid; the others say how good it is."""

MARGIN = 1
"""Pixels that an occluder may reach beyond its box: the official contours run through the pixels around a region."""

INEXACT_BELOW = 0.9


@dataclass(frozen=True)
class CheckSummary:
    """What `check_occluders` found.

    Attributes:
        images: in the file.
        instances: annotations in the file, crowds included.
        with_occluder: annotations whose occluder can be read and has a pixel.
        ious: of those for which the rule finds a region, the IoU of the two, in the order of the file.
        farthest: pixels that an occluder reaches beyond its box, at most; 0 where all stay inside.
        findings: what is wrong -> the annotations, in the order of the file.
    """

    images: int
    instances: int
    with_occluder: int
    ious: list[float]
    farthest: int
    findings: dict[Finding, list[AnnotationId]]

    def iou_figures(self) -> dict[str, float]:
        """Mean, median and least of the IoUs; empty where there are none."""
        if not self.ious:
            return {}
        return {"mean": float(np.mean(self.ious)), "median": float(np.median(self.ious)), "least": min(self.ious)}


class _Verdict(NamedTuple):
    """What is said of one annotation; no IoU where one of the two regions is empty."""

    findings: tuple[Finding, ...]
    present: bool = False
    iou: float | None = None
    beyond: int = 0


def check_occluders(
    coco: CocoFile, *, rule: OccluderRule, workers: int = 1, reporter: Reporter | None = None
) -> CheckSummary:
    """Compare the occluders of a bilayer file with the regions that a rule finds from its masks and boxes.

    Args:
        coco: the file; annotations may lack the occluder key, which is then a finding.
        rule: that the file is held against.
        workers: as in `annotate_coco`.
        reporter: hears the progress in images.

    Raises:
        BCNetError: if a worker process dies.
    """
    findings: dict[Finding, list[AnnotationId]] = {}
    keys = ("bbox", "iscrowd", "segmentation", OCCLUDER_KEY)
    seen: list[_Verdict] = []
    with every_image(coco, keys, partial(_judge, rule=rule), workers, reporter) as judged:
        for positions, verdicts in judged:
            seen += verdicts
            for position, verdict in zip(positions, verdicts, strict=True):
                annotation = coco.annotations[position]
                for finding in verdict.findings:
                    findings.setdefault(finding, []).append(AnnotationId(annotation["id"], annotation["image_id"]))
    return CheckSummary(
        images=len(coco.images),
        instances=len(seen),
        with_occluder=sum(verdict.present for verdict in seen),
        ious=[verdict.iou for verdict in seen if verdict.iou is not None],
        farthest=max((verdict.beyond for verdict in seen), default=0),
        findings={finding: findings[finding] for finding in FINDINGS if finding in findings},
    )


def _judge(image: ImageRecords, *, rule: OccluderRule) -> list[_Verdict]:
    height, width, records = image
    rles = [read_mask(record, height, width)[0] for record in records]
    regions = derive_from_records(records, rles, height, width, rule=rule)
    corners = pixel_corners(record_boxes(records), height, width)
    return [
        _judge_one(record, region, box, height, width)
        for record, region, box in zip(records, regions, corners, strict=True)
    ]


def _judge_one(record: Record, exact: RLE | None, box: tuple[int, int, int, int], height: int, width: int) -> _Verdict:
    if OCCLUDER_KEY not in record:
        return _Verdict(("no key",))
    try:
        stored = masks.from_segmentation(record[OCCLUDER_KEY], height, width)
    except (ValueError, TypeError):
        return _Verdict(("unreadable",))
    if stored is None or masks.area(stored) == 0:
        return _Verdict(() if exact is None else ("absent",))
    x, y, across, down = masks.bounding_box(stored).astype(int).tolist()
    beyond = max(0, box[0] - x, box[1] - y, x + across - box[2], y + down - box[3])
    outside: tuple[Finding, ...] = ("outside",) if beyond > MARGIN else ()
    if exact is None:
        return _Verdict((*outside, "unexpected"), present=True, beyond=beyond)
    iou = masks.iou(stored, exact)
    inexact: tuple[Finding, ...] = ("inexact",) if iou < INEXACT_BELOW else ()
    return _Verdict((*outside, *inexact), present=True, iou=iou, beyond=beyond)
