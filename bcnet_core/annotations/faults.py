"""Faults of the records of a COCO file: those that make every command refuse it."""

from __future__ import annotations

import reprlib
from collections.abc import Container, Iterator
from typing import Any, Literal

MOST_PIXELS = 2**30
"""Pixels of the largest image allowed: COCO's run lengths have 32 bits."""

RecordFlaw = Literal["no_object", "no_id", "unlisted_image", "unlisted_category", "no_box", "odd_flag"]
"""Reason why an annotation cannot be used whatever its mask is, see `record_flaw`."""


def first_fault(content: dict[str, Any], *, check_annotations: bool) -> str | None:
    """Return the first fault and the number of others of its kind, None if there is none.

    Annotations are only looked at if images and categories have no fault, from which theirs would follow.
    """
    checks = (_image_faults, _category_faults, *([_annotation_faults] if check_annotations else []))
    for check in checks:
        found = list(check(content))
        if found:
            kind, first = found[0]
            others = sum(one == kind for one, _ in found) - 1
            return first + (f" (and {others:,} more such fault{'s' * (others > 1)})" if others else "")
    return None


def _image_faults(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the kind and the description of each fault."""
    known: set[int] = set()
    for index, image in enumerate(content["images"]):
        fault = _image_fault(image)
        if fault is None and image["id"] in known:
            fault = "repeated", f"the image id {image['id']} appears twice"
        if fault is not None:
            yield fault[0], f"images[{index}]: {fault[1]}"
        else:
            known.add(image["id"])


def _image_fault(image: Any) -> tuple[str, str] | None:  # noqa: ANN401
    if not isinstance(image, dict):
        return "object", "is not an object"
    if not is_id(image.get("id")):
        return "id", f"needs an integer `id`, has {reprlib.repr(image.get('id'))}"
    if not isinstance(image.get("file_name"), str):
        return "name", f"image {image['id']} has no `file_name`"
    if not all(is_id(image.get(side)) and image[side] > 0 for side in ("width", "height")):
        return "size", f"image {image['id']} needs a positive integer `width` and `height`"
    if image["width"] * image["height"] > MOST_PIXELS:
        size = f"{image['width']} x {image['height']}"
        return "large", f"image {image['id']} has {size} pixels, more than {MOST_PIXELS:,}"
    return None


def _category_faults(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    known: set[int] = set()
    for index, category in enumerate(content["categories"]):
        if not isinstance(category, dict) or not is_id(category.get("id")) or "name" not in category:
            yield "id", f"categories[{index}]: needs an integer `id` and a `name`"
        elif category["id"] in known:
            yield "repeated", f"categories[{index}]: the category id {category['id']} appears twice"
        else:
            known.add(category["id"])


def _annotation_faults(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    images, categories = ({one["id"] for one in content[name]} for name in ("images", "categories"))
    for index, annotation in enumerate(content.get("annotations", [])):
        flaw = record_flaw(annotation, images, categories)
        if flaw is not None:
            yield flaw, f"annotations[{index}]: {_describe_flaw(annotation, flaw)}"


def _describe_flaw(annotation: Any, flaw: RecordFlaw) -> str:  # noqa: ANN401
    if flaw == "no_object":
        return "is not an object"
    shown = {key: reprlib.repr(annotation.get(key)) for key in ("id", "image_id", "category_id", "bbox", "iscrowd")}
    if flaw == "no_id":
        return f"needs an integer `id`, has {shown['id']}"
    faults = {
        "unlisted_image": f"belongs to image {shown['image_id']}, which is not in the file",
        "unlisted_category": f"has category {shown['category_id']}, which is not in the file",
        "no_box": f"needs a `bbox` of four finite numbers [x, y, width, height], has {shown['bbox']}",
        "odd_flag": f"has an `iscrowd` of {shown['iscrowd']}, which is neither 0 nor 1",
    }
    return f"annotation {annotation['id']} {faults[flaw]}"


def record_flaw(annotation: Any, image_ids: Container[int], category_ids: Container[int]) -> RecordFlaw | None:  # noqa: ANN401
    """Return why an annotation cannot be used whatever its mask is, or None; the sets hold the ids that are listed."""
    if not isinstance(annotation, dict):
        return "no_object"
    if not is_id(annotation.get("id")):
        return "no_id"
    image, category, box = (annotation.get(key) for key in ("image_id", "category_id", "bbox"))
    if not is_id(image) or image not in image_ids:
        return "unlisted_image"
    if not is_id(category) or category not in category_ids:
        return "unlisted_category"
    if not isinstance(box, list) or len(box) != 4 or not all(_is_length(value) for value in box):
        return "no_box"
    return None if annotation.get("iscrowd", 0) in (0, 1) else "odd_flag"


def is_id(value: Any) -> bool:  # noqa: ANN401
    """Return whether a value from json is a whole number of at most 64 bits, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_length(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
