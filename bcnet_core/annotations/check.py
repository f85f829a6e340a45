"""Check the stored occluder regions of a bilayer file, including the official one, against its own masks.

Reports whether every region can be read, whether it stays in the box of its instance, and its IoU with the exact
region.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from bcnet_core import masks
from bcnet_core.annotations.build import AnnotationId, ImageRecords, describe_groups, map_images
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, Record, read_mask
from bcnet_core.annotations.occluder import OccluderRule, derive_occluders, pixel_corners, record_boxes
from bcnet_core.errors import data_error
from bcnet_core.masks import RLE
from bcnet_core.reporting import Reporter

Finding = Literal["no key", "unreadable", "outside", "absent", "unexpected", "inexact"]
"""Fault of an annotation, see `FINDINGS`."""

FINDINGS: dict[Finding, str] = {
    "no key": f"have no `{OCCLUDER_KEY}`",
    "unreadable": "have an occluder that cannot be read",
    "outside": "have an occluder that leaves their box",
    "absent": "have none where the rule finds one",
    "unexpected": "have one where the rule finds none",
    "inexact": "have one whose IoU with the exact region is below 0.9",
}

INVALID: tuple[Finding, ...] = ("no key", "unreadable", "outside")
"""Findings that make a file invalid; the others describe its quality."""

MARGIN = 1
"""Pixels that an occluder may reach beyond its box, as the official contours do."""

INEXACT_BELOW = 0.9
"""IoU with the exact region below which a stored region counts as inexact."""


@dataclass(frozen=True)
class CheckSummary:
    """Counts of a file that `check_occluders` read, and its faults; crowds are instances too.

    Attributes:
        with_occluder: number of annotations with a readable, non-empty occluder.
        ious: IoUs of stored and exact regions where both exist, in image order.
        farthest: largest distance in pixels by which an occluder leaves its box; 0 if all stay inside.
        findings: annotations by fault, in image order.
    """

    images: int
    instances: int
    with_occluder: int
    ious: list[float]
    farthest: int
    findings: dict[Finding, list[AnnotationId]]

    def iou_figures(self) -> dict[str, float]:
        """Return mean, median and least of the IoUs; empty if there are none."""
        if not self.ious:
            return {}
        return {"mean": float(np.mean(self.ious)), "median": float(np.median(self.ious)), "least": min(self.ious)}

    def as_json(self) -> Record:
        """Return the summary as written to reports and printed by `--json`."""
        return {
            "images": self.images, "instances": self.instances, "with_occluder": self.with_occluder,
            "iou": self.iou_figures(), "farthest_beyond_box": self.farthest,
            "findings": describe_groups(self.findings, FINDINGS),
        }  # fmt: skip


class _Verdict(NamedTuple):
    """Findings about one annotation; `iou` is None if one of the two regions is empty."""

    findings: list[Finding]
    present: bool = False
    iou: float | None = None
    beyond: int = 0


def check_occluders(
    coco: CocoFile, *, rule: OccluderRule, workers: int = 1, reporter: Reporter | None = None
) -> CheckSummary:
    """Compare the occluders of a bilayer file with the regions that a rule derives from its masks and boxes.

    `workers` and `reporter` are those of `annotate_coco`.

    Raises:
        BCNetError: if a worker process dies.
    """
    findings: dict[Finding, list[AnnotationId]] = {finding: [] for finding in FINDINGS}
    keys = ("bbox", "iscrowd", "segmentation", OCCLUDER_KEY)
    seen: list[_Verdict] = []
    with map_images(coco, keys, partial(_judge_image, rule=rule), workers=workers, reporter=reporter) as judged:
        for positions, verdicts in judged:
            seen += verdicts
            for position, verdict in zip(positions, verdicts, strict=True):
                annotation = coco.annotations[position]
                for finding in verdict.findings:
                    findings[finding].append(AnnotationId(annotation["id"], annotation["image_id"]))
    return CheckSummary(
        images=len(coco.images),
        instances=len(seen),
        with_occluder=sum(verdict.present for verdict in seen),
        ious=[verdict.iou for verdict in seen if verdict.iou is not None],
        farthest=max((verdict.beyond for verdict in seen), default=0),
        findings={finding: those for finding, those in findings.items() if those},
    )


def require_valid(coco: CocoFile, summary: CheckSummary) -> None:
    """Raise an error if a check found that a file is not a valid bilayer file.

    Raises:
        BCNetError: listing the `INVALID` findings.
    """
    faults = [
        f"{len(summary.findings[one]):,} annotations {FINDINGS[one]}" for one in INVALID if one in summary.findings
    ]
    if faults:
        raise data_error(
            f"`{coco.path}` is not a valid bilayer file: {', '.join(faults)}",
            "make one: bcnet annotate IN.json -o OUT.json",
        )


def _judge_image(image: ImageRecords, *, rule: OccluderRule) -> list[_Verdict]:
    height, width, records = image
    rles = [read_mask(record, height, width)[0] for record in records]
    regions = derive_occluders(records, rles, height, width, rule=rule)
    corners = pixel_corners(record_boxes(records), height, width)
    return [
        _judge(record, region, box, height, width)
        for record, region, box in zip(records, regions, corners, strict=True)
    ]


def _judge(record: Record, exact: RLE | None, box: tuple[int, int, int, int], height: int, width: int) -> _Verdict:
    if OCCLUDER_KEY not in record:
        return _Verdict(["no key"])
    try:
        stored = masks.from_segmentation(record[OCCLUDER_KEY], height, width)
    except (ValueError, TypeError):
        return _Verdict(["unreadable"])
    if stored is None or masks.area(stored) == 0:
        return _Verdict([] if exact is None else ["absent"])
    x, y, across, down = masks.bounding_box(stored).astype(int).tolist()
    beyond = max(0, box[0] - x, box[1] - y, x + across - box[2], y + down - box[3])
    findings: list[Finding] = ["outside"] if beyond > MARGIN else []
    iou = None if exact is None else masks.iou(stored, exact)
    if iou is None:
        findings.append("unexpected")
    elif iou < INEXACT_BELOW:
        findings.append("inexact")
    return _Verdict(findings, present=True, iou=iou, beyond=beyond)
