"""Repair one annotation: its crowd flag, mask, box, area and whole mask."""

from __future__ import annotations

from typing import Any, NamedTuple

from bcnet_core import masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, Record
from bcnet_core.importers.amodal import mend_whole
from bcnet_core.importers.shapes import Box, Mask, box_of, is_near, leaves, read_shape, to_number, to_whole
from bcnet_core.importers.source import AMODAL_KEY

SHARES_BELOW = 1.05
"""Largest coordinate of an outline whose coordinates are shares of the sides of its image."""
SAME_BOX = 0.5
"""IoU with the box of its mask below which a box is another's; 0.1 % of COCO's own are below 0.8."""
DROPPED = (AMODAL_KEY, OCCLUDER_KEY)
"""Keys whose value is dropped if it cannot be read."""
KEYS = ("segmentation", "bbox", "area", "iscrowd", *DROPPED)
"""Keys of an annotation whose values are repaired in worker processes."""

FLAGGED = "flagged"
"""Value of `iscrowd` that a worker process gets for an instance that is flagged by mistake."""

Changes = dict[str, Any]


class Task(NamedTuple):
    """The annotations of one image, reduced to `KEYS`; its sides are in pixels.

    Attributes:
        shares: whether outlines may have shares of the sides as coordinates.
    """

    height: int
    width: int
    records: list[Record]
    shares: bool


class Repair(NamedTuple):
    """Kinds of faults of an annotation, and new values by key; None if it is left out.

    `iscrowd` is always among the values. A value of None is to be dropped.
    """

    kinds: tuple[str, ...]
    changes: Changes | None


def repair_image(task: Task) -> list[Repair]:
    """Find the faults of the annotations of one image, and how each is repaired."""
    return [_repair(record, task) for record in task.records]


def _repair(record: Record, task: Task) -> Repair:
    kinds: list[str] = []
    changes: Changes = {}
    crowd = changes["iscrowd"] = _read_flag(record.get("iscrowd", 0), kinds)
    box = _read_box(record.get("bbox"))
    mask = _read_mask(record.get("segmentation"), task, box)
    if mask.rle is None:
        return Repair((*kinds, *mask.kinds), None)
    kinds += mask.kinds
    if mask.segmentation is not record["segmentation"]:
        changes["segmentation"] = mask.segmentation
    tight = box_of(mask.rle)
    flaw = _box_flaw(box, tight, crowd=bool(crowd), height=task.height, width=task.width)
    if flaw is not None:
        kinds.append(flaw)
        changes["bbox"] = [float(side) for side in tight]
    elif any(isinstance(side, str) for side in record["bbox"]):
        kinds.append("box_text")
        changes["bbox"] = [*box] if box else None
    area = record.get("area")
    if isinstance(area, bool) or not isinstance(area, int | float) or not area > 0 or "coordinates_shares" in kinds:
        changes["area"] = float(masks.area(mask.rle))
        if "coordinates_shares" not in kinds:
            kinds.append("area_missing")
    if AMODAL_KEY in record:
        kinds += _repair_whole(record, mask, task, changes)
    if OCCLUDER_KEY in record and not _is_mask(record[OCCLUDER_KEY], task):
        kinds.append("occluder_unreadable")
        changes[OCCLUDER_KEY] = None
    return Repair(tuple(dict.fromkeys(kinds)), changes)


def _is_mask(value: Any, task: Task) -> bool:  # noqa: ANN401
    try:
        masks.from_segmentation(value, task.height, task.width)
    except (ValueError, TypeError):
        return False
    return True


def _read_flag(flag: Any, kinds: list[str]) -> int:  # noqa: ANN401
    """Return a crowd flag as 0 or 1."""
    if flag == FLAGGED:
        kinds.append("crowd_flag")
        return 0
    crowd = to_whole(int(flag) if isinstance(flag, bool) else flag)
    if crowd not in (0, 1):
        kinds.append("flag_odd")
    return int(crowd == 1)


def _read_mask(value: Any, task: Task, box: Box | None) -> Mask:  # noqa: ANN401
    shares = task.shares and isinstance(value, list) and max(leaves(value), default=0) <= SHARES_BELOW
    return read_shape(value, task.height, task.width, box=box, scale=shares)


def _read_box(value: Any) -> Box | None:  # noqa: ANN401
    """Return a box of four finite numbers, or None."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    sides = [number for number in map(to_number, value) if number is not None and abs(number) < 1e9]
    return (sides[0], sides[1], sides[2], sides[3]) if len(sides) == 4 else None


def _box_flaw(box: Box | None, tight: Box, *, crowd: bool, height: int, width: int) -> str | None:
    """Return the kind of fault of a box beside the tight box of its mask; the sizes are those of the image."""
    if box is None:
        return "box_missing"
    if crowd or is_near(box, tight):
        return None
    if _overlap(box, (0, 0, width, height)) <= 0:
        return "box_zero"
    shared = _overlap(box, tight)
    return "box_loose" if shared >= SAME_BOX * (box[2] * box[3] + tight[2] * tight[3] - shared) else "box_other"


def _overlap(first: Box, second: Box) -> float:
    """Return the area that two boxes share, in square pixels."""
    across, down = (
        min(first[side] + first[side + 2], second[side] + second[side + 2]) - max(first[side], second[side])
        for side in (0, 1)
    )
    return max(across, 0) * max(down, 0)


def _repair_whole(record: Record, mask: Mask, task: Task, changes: Changes) -> list[str]:
    """Repair the whole mask of an annotation, whose visible one is read."""
    whole = _read_mask(record[AMODAL_KEY], task, None)
    mended = {AMODAL_KEY: whole.segmentation}
    assert mask.rle is not None
    kinds = mend_whole(mended, mask.rle, task.height, task.width)
    if AMODAL_KEY not in mended or mended[AMODAL_KEY] is not record[AMODAL_KEY]:
        changes[AMODAL_KEY] = mended.get(AMODAL_KEY)
    return [*(kind for kind in whole.kinds if whole.rle is not None), *kinds]
