"""Images with more objects than a detector keeps or scores count: some of them can never be found."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from bcnet_core.annotations.coco import CocoFile
from bcnet_core.reporting import Reporter

MOST_DETECTIONS = 100
"""Best detections that COCO counts: its scores those of each category in an image, its server those of an image."""


def detections_to_count(kept: int) -> int:
    """Return how many detections scores count for a detector that keeps so many: COCO's 100, or all of them if more."""
    return max(MOST_DETECTIONS, kept)


def most_objects(coco: CocoFile) -> int:
    """Return the largest number of objects of an image; crowd regions do not count."""
    return max(_counts(coco, "image").values(), default=0)


def report_crowding(coco: CocoFile, *, reporter: Reporter, kept: int | None = None, counted: int, way_out: str) -> bool:
    """Warn of objects that can never be found, since there are too many in an image; crowd regions do not count.

    Args:
        coco: ground truth.
        reporter: gets the warning; or, where only another detector than one that keeps all might miss some, a note.
        kept: number of detections of an image that the detector keeps; None if it is not known.
        counted: number of detections of each category in an image that scores count.
        way_out: the setting or option that raises the limit; `{most}` is replaced by the number of objects.

    Returns:
        Whether there was anything to report.
    """
    images = _counts(coco, "image")
    most, total = max(images.values(), default=0), images.total()
    if kept is not None and most > kept:
        limit, limited, value = f"the detector keeps {kept:,} detections an image", images, kept
    elif most > counted:
        limit = f"scores count the {counted:,} best detections of each category in an image"
        limited, value = _counts(coco, "category"), counted
    else:
        return False
    own = max(limited.values())
    start = f"`{coco.path}` has up to {most:,} objects in an image"
    if own <= value:
        reporter.info(f"{start}, at most {own:,} of one category: {limit}, which is enough")
        return True
    beyond = sum(max(count - value, 0) for count in limited.values())
    reporter.warning(
        f"{start}, but {limit}: {beyond:,} of {total:,} objects ({beyond / total:.1%}) cannot be found; "
        + way_out.format(most=own)
    )
    return True


def _counts(coco: CocoFile, of: Literal["image", "category"]) -> Counter[tuple[int, int | None]]:
    """Count the objects of each image, or of each category in an image."""
    instances = (one for one in coco.annotations if not one.get("iscrowd", 0))
    return Counter((one["image_id"], None if of == "image" else one["category_id"]) for one in instances)
