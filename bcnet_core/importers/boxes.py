"""Boxes of annotations: whether they are those of the masks, and by which convention they are not."""

from __future__ import annotations

from typing import Any

from bcnet_core.annotations.instances import clip_box
from bcnet_core.importers.shapes import Box, is_near, to_number

SAME_BOX = 0.5
"""IoU with the box of its mask below which a box is another's; 0.1 % of COCO's own are below 0.8."""
ROUNDED = 0.05
"""Share by which rounded coordinates may change a factor."""
LARGEST = 1e9
"""Coordinates beyond are taken for garbage."""


def read_box(value: Any) -> Box | None:  # noqa: ANN401  (as read from json)
    """Return a box of four finite numbers, which may be given as text; None if it is none."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    sides = [to_number(side) for side in value]
    numbers = [side for side in sides if side is not None and abs(side) < LARGEST]
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else None


def polygon_box(polygons: list[list[float]], height: int, width: int) -> Box:
    """Return the box of the points of polygons inside an image of this size, in pixels.

    The rasterizer drops spikes, so that the box of the pixels can be smaller; COCO's boxes are those of the points.
    """
    left, right = min(min(one[::2]) for one in polygons), max(max(one[::2]) for one in polygons)
    top, bottom = min(min(one[1::2]) for one in polygons), max(max(one[1::2]) for one in polygons)
    return clip_box((left, top, right - left, bottom - top), height, width)


def box_fault(box: Box | None, true: Box, height: int, width: int) -> str | None:
    """Return the kind of fault of a box that is not that of its mask, see `KINDS`; None if it is.

    Args:
        box: the box of an annotation.
        true: the box of its mask.
        height: height of the image in pixels.
        width: width of the image in pixels.
    """
    if box is None:
        return "box_missing"
    x, y, across, down = true
    conventions = (
        (true, None),
        ((x, y, x + across, y + down), "box_corners"),
        ((x, height - y - down, across, down), "box_mirrored"),
        ((width - x - across, y, across, down), "box_mirrored"),
        ((x + across / 2, y + down / 2, across, down), "box_center"),
        ((y, x, down, across), "box_turned"),
    )
    _, _, shown_across, shown_down = clip_box(box, height, width)
    if shown_across <= 0 or shown_down <= 0:
        return "box_zero"
    for meant, kind in conventions:
        if is_near(meant, box):
            return kind
    if max(map(abs, box)) <= 1 and is_near((box[0] * width, box[1] * height, box[2] * width, box[3] * height), true):
        return "box_shares"
    factor = (across / box[2], down / box[3]) if box[2] > 0 and box[3] > 0 else (1.0, 1.0)
    scaled = (box[0] * factor[0], box[1] * factor[1], box[2] * factor[0], box[3] * factor[1])
    if is_near(scaled, true):
        return "mask_percent" if _is_percent(factor, height, width) else "box_scaled"
    return "box_loose" if _iou(box, true) >= SAME_BOX else "box_other"


def _is_percent(factor: tuple[float, float], height: int, width: int) -> bool:
    """Return whether a mask is smaller than its box as one in percent or permille of the sides would be."""
    shrunk = factor[0] * width, factor[1] * height
    alike = any(max(abs(side / whole - 1) for side in shrunk) < ROUNDED for whole in (100, 1000))
    return alike and abs(height / width - 1) > 2 * ROUNDED  # else it may as well be of another size of the photo


def _iou(first: Box, second: Box) -> float:
    across, down = (
        min(first[side] + first[side + 2], second[side] + second[side + 2]) - max(first[side], second[side])
        for side in (0, 1)
    )
    shared = max(across, 0) * max(down, 0)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)
