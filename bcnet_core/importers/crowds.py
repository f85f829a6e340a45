"""Tell real crowds, COCO's regions of many objects, from single objects that a tool flagged as crowds.

CVAT and Datumaro flag every mask that was drawn with the brush, supervision every mask in several pieces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bcnet_core.annotations.coco import Record

MOST_CROWDS = 0.25
"""Share of annotations from which on flags are no crowds: COCO has 1 %, its street scenes 2 %."""
FEW = 3
"""Flags that say nothing by their share of a small file."""
SUPERVISION = "common-objects"
"""Supercategory that supervision writes for every category."""


def to_flag(value: Any) -> bool | None:  # noqa: ANN401  (as read from json)
    """Return an `iscrowd` as a bool, False where it is missing; None if it is neither 0 nor 1."""
    if value is None or value in (0, "0", "false", "False"):
        return False
    return True if value in (1, "1", "true", "True") else None


def flags_are_crowds(annotations: Sequence[Record], categories: Sequence[Record]) -> bool:
    """Return whether annotations with `iscrowd` are real crowds; otherwise the flags mark single objects.

    They are not if the file is one of CVAT, Datumaro or supervision, by the keys that these write; if a quarter of all
    annotations is flagged; or if most of the flagged ones share their image and category with another flagged one,
    because COCO makes a single crowd of a category in an image.
    """
    flagged = [one for one in annotations if to_flag(one.get("iscrowd"))]
    if not flagged:
        return True
    tools = all(isinstance(one.get("attributes"), dict) for one in flagged)
    tools |= bool(categories) and all(one.get("supercategory") == SUPERVISION for one in categories)
    many = len(flagged) >= max(FEW, MOST_CROWDS * len(annotations)) or len(flagged) == len(annotations)
    if tools or many:
        return False
    groups = Counter((str(one.get("image_id")), str(one.get("category_id"))) for one in flagged)
    return 2 * sum(count for count in groups.values() if count > 1) <= len(flagged)
