"""Repair the annotations of one image: masks, boxes, areas, and the size of the image where they prove it wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from bcnet_core import masks
from bcnet_core.annotations.coco import AMODAL_KEY, OCCLUDER_KEY, Record
from bcnet_core.annotations.faults import MOST_PIXELS, record_flaw
from bcnet_core.annotations.instances import mask_omission, region_readable
from bcnet_core.importers.amodal import WHOLE_BOX, mend_whole
from bcnet_core.importers.boxes import box_fault, polygon_box, read_box
from bcnet_core.importers.records import Size
from bcnet_core.importers.shapes import Box, Mask, box_of, is_near, leaves, read_shape, to_number, to_whole
from bcnet_core.masks import RLE

KEYS = ("segmentation", "bbox", "area", AMODAL_KEY, WHOLE_BOX, OCCLUDER_KEY)
"""Keys of an annotation that are repaired here."""
SPECK = 4
"""Pixels of the largest mask that coordinates between 0 and 1 may give."""
BEYOND_PIXELS, BEYOND_SHARE = 2, 0.01
"""How far a polygon may reach beyond its image before it counts as that of another size: the larger of both."""


class ImageTask(NamedTuple):
    """The part of one image's records that a worker process needs.

    Attributes:
        own: the size that the record says; None if it says none.
        stored: size of the photo as it is stored; None if it was not looked at.
        upright: size of the photo after its EXIF orientation.
        shares: whether all polygons of the source have coordinates from 0 to 1.
        annotations: its annotations, reduced to `KEYS`.
    """

    own: Size | None
    stored: Size | None
    upright: Size | None
    shares: bool
    annotations: list[Record]


class Mended(NamedTuple):
    """Result of repairing an annotation.

    Attributes:
        changes: new values by key; None removes the key.
        kinds: its faults, see `KINDS`.
        is_left_out: whether it cannot be repaired.
        trains: whether a training takes it as it stood.
    """

    changes: Record
    kinds: tuple[str, ...]
    is_left_out: bool
    trains: bool


class MendedImage(NamedTuple):
    """Result of repairing an image.

    Attributes:
        size: its size; None if it cannot be known.
        size_kind: what was wrong with the size, if anything.
        turns: whether the photo is stored turned, and nothing says whether the annotations are, too.
        annotations: one for each of the annotations; None if it is sound and trains.
    """

    size: Size | None
    size_kind: str | None
    turns: bool
    annotations: list[Mended | None]


def mend_image(task: ImageTask) -> MendedImage:
    """Repair the size and the annotations of an image."""
    size, kind, turns = choose_size(task)
    if size is None:
        return MendedImage(None, kind, turns, [])
    polygons = [one["segmentation"] for one in task.annotations if isinstance(one.get("segmentation"), list)]
    shares = task.shares or (len(polygons) > 1 and all_are_shares(polygons))
    mended: list[Mended | None] = []
    for record in task.annotations:
        if not shares and size == task.own and _is_sound(record, *size):
            mended.append(None)
        else:
            mended.append(_mend(record, size, task.own, shares=shares))
    return MendedImage(size, kind, turns, mended)


# --- the size of an image


def choose_size(task: ImageTask) -> tuple[Size | None, str | None, bool]:
    """Return the size of an image, what was wrong with it, and whether its photo is turned without any evidence."""
    own, stored, upright = task.own, task.stored, task.upright
    if upright is None or stored is None:
        return _size_without_photo(own, task.annotations)
    if own == upright == stored:
        return own, None, False
    if own is None:
        turned = stored != upright and _fit(task.annotations, stored) and not _fit(task.annotations, upright)
        return (stored if turned else upright), "size_missing", False
    if own not in (stored, upright):
        wrong = _fit(task.annotations, upright) and (own[::-1] == upright or not _fit(task.annotations, own))
        kind = "size_swapped" if own[::-1] == upright else "size_wrong"
        return (upright, kind, False) if wrong else (None, "size_of_photo", False)
    other = upright if own == stored else stored
    if not _fit(task.annotations, own) and _fit(task.annotations, other):
        return other, "size_swapped", False
    return own, None, own == stored and _fit(task.annotations, upright)


def _size_without_photo(own: Size | None, annotations: list[Record]) -> tuple[Size | None, str | None, bool]:
    if own is None:
        sizes = set(_rle_sizes(annotations))
        only = sizes.pop() if len(sizes) == 1 else None
        fits = only is not None and min(only) > 0 and only[0] * only[1] <= MOST_PIXELS and _fit(annotations, only)
        return (only, "size_missing", False) if fits else (None, "size_unknown", False)
    polygons = [one for one in annotations if isinstance(one.get("segmentation"), list)]
    if polygons and own[0] != own[1] and not _fit(polygons, own) and _fit(annotations, own[::-1]):
        return own[::-1], "size_swapped", False
    return own, None, False


def _fit(annotations: list[Record], size: Size) -> bool:
    """Return whether all masks can be masks in an image of this size."""
    limits = [side + max(BEYOND_PIXELS, BEYOND_SHARE * side) for side in size]
    for record in annotations:
        segmentation = record.get("segmentation")
        if isinstance(segmentation, list):
            x, y = _farthest(segmentation)
            if x > limits[1] or y > limits[0]:
                return False
    return all(found == size for found in _rle_sizes(annotations))


def _farthest(segmentation: list[Any]) -> tuple[float, float]:
    """Return the largest x and y of polygons in any shape; (0, 0) if they cannot be told apart."""
    try:
        x, y = max(max(one[::2]) for one in segmentation), max(max(one[1::2]) for one in segmentation)
        return x + 0.0, y + 0.0
    except (TypeError, ValueError):
        flat = list(leaves(segmentation))
        return (0, 0) if len(flat) % 2 or not flat else (max(flat[::2]), max(flat[1::2]))


def _rle_sizes(annotations: list[Record]) -> Iterator[Size]:
    for record in annotations:
        segmentation = record.get("segmentation")
        if isinstance(segmentation, dict):
            size = segmentation.get("size")
            sides = [to_whole(side) for side in size] if isinstance(size, list) and len(size) == 2 else [None]
            if None not in sides:
                yield sides[0] or 0, sides[1] or 0


# --- one annotation


def _is_sound(record: Record, height: int, width: int) -> bool:
    """Return whether an annotation has nothing to repair, at the least cost."""
    segmentation, box, area = (record.get(key) for key in ("segmentation", "bbox", "area"))
    if len(record) > 3 or type(box) is not list or len(box) != 4 or not {int, float}.issuperset(map(type, box)):
        return False
    if not isinstance(area, int | float) or not 0 < area < float("inf") or min(box[2:]) <= 0:
        return False
    try:
        rle = masks.from_segmentation(segmentation, height, width)
    except (ValueError, TypeError):
        return False
    if rle is None or masks.area(rle) <= SPECK:
        return False
    own = (box[0], box[1], box[2], box[3])
    if isinstance(segmentation, list):
        full = min(map(len, segmentation)) >= 6
        return full and (is_near(polygon_box(segmentation, height, width), own) or is_near(box_of(rle), own))
    return is_near(box_of(rle), own)


def _mend(record: Record, size: Size, own: Size | None, *, shares: bool) -> Mended | None:
    height, width = size
    trains = own is not None and _trains(record, *own)
    box = read_box(record.get("bbox"))
    segmentation = record.get("segmentation")
    mask = read_shape(segmentation, height, width, box=box, scale=shares and isinstance(segmentation, list))
    if not shares and (mask.rle is None or masks.area(mask.rle) <= SPECK) and _is_share(segmentation):
        scaled = read_shape(segmentation, height, width, box=box, scale=True)
        if scaled.rle is not None and box is not None and is_near(_true_box(scaled, *size), box):
            mask = scaled
        elif scaled.rle is not None and max(leaves(segmentation), default=0) > 0:
            return Mended({}, ("coordinates_unclear",), is_left_out=True, trains=trains)
    if mask.rle is None:
        return Mended({}, mask.kinds, is_left_out=True, trains=trains)
    changes: Record = {} if mask.segmentation is segmentation else {"segmentation": mask.segmentation}
    kinds = list(mask.kinds)
    fault = _mend_box(record, box, mask, size, changes)
    if fault in ("box_turned", "mask_percent"):
        return Mended({}, (fault,), is_left_out=True, trains=trains)
    area = to_number(record.get("area"))
    if area is None or area <= 0 or "coordinates_shares" in kinds:
        changes["area"] = masks.area(mask.rle)
        fault_of_area = "area_missing" if "coordinates_shares" not in kinds else None
    elif area is not record["area"]:
        changes["area"], fault_of_area = area, "area_missing"
    else:
        fault_of_area = None
    kinds += [kind for kind in (fault, fault_of_area) if kind is not None]
    kinds += _mend_regions(record, mask.rle, size, changes, shares=shares)
    if not (changes or kinds) and trains:
        return None
    return Mended(changes, tuple(dict.fromkeys(kinds)), is_left_out=False, trains=trains)


def _trains(record: Record, height: int, width: int) -> bool:
    listed = {"id": 0, "image_id": 0, "category_id": 0, **record}
    listed.pop(AMODAL_KEY, None)  # most trainings do not read it
    return record_flaw(listed, {0}, {0}) is None and mask_omission(record, height, width) is None


def _mend_box(record: Record, box: Box | None, mask: Mask, size: Size, changes: Record) -> str | None:
    """Return the fault of a box, after its repair was added to the changes."""
    assert mask.rle is not None
    true = box_of(mask.rle)
    fault = box_fault(box, true, *size)
    if fault is not None and box is not None and is_near(_true_box(mask, *size), box) and fault != "box_zero":
        fault = None
    if fault == "box_turned" and isinstance(mask.segmentation, dict) and size[0] != size[1]:
        fault = "box_other"  # runs along the rows would have shown the box
    if fault == "box_other" and box is not None and AMODAL_KEY in record:
        whole = read_shape(record[AMODAL_KEY], *size, box=None, scale=False)
        fault = "box_whole" if whole.rle is not None and is_near(box_of(whole.rle), box) else fault
    if fault is not None:
        changes["bbox"] = list(true)
    elif box is not None and list(box) != record["bbox"]:
        changes["bbox"] = list(box)
        fault = "box_missing"
    return fault


def _true_box(mask: Mask, height: int, width: int) -> Box:
    if isinstance(mask.segmentation, list):
        return polygon_box(mask.segmentation, height, width)
    assert mask.rle is not None
    return box_of(mask.rle)


def _mend_regions(record: Record, visible: RLE, size: Size, changes: Record, *, shares: bool) -> list[str]:
    """Return the faults of the whole mask and of the occluder region, after their repairs were added to the changes."""
    kinds = []
    if AMODAL_KEY in record:
        value = record[AMODAL_KEY]
        whole = read_shape(value, *size, box=None, scale=shares and isinstance(value, list))
        mended: Record = {**record, AMODAL_KEY: whole.segmentation}
        kinds += [*(whole.kinds if whole.rle is not None else ()), *mend_whole(mended, visible, *size)]
        changes |= {key: mended.get(key) for key in (AMODAL_KEY, WHOLE_BOX) if mended.get(key) != record.get(key)}
    if OCCLUDER_KEY in record and not region_readable(record, *size, key=OCCLUDER_KEY):
        changes[OCCLUDER_KEY] = None
        kinds.append("occluder_unreadable")
    return kinds


def _is_share(segmentation: Any) -> bool:  # noqa: ANN401
    """Return whether a mask is polygons all of whose coordinates are from 0 to 1."""
    if not isinstance(segmentation, list) or not segmentation:
        return False
    return all(-0.01 <= value <= 1.01 for value in leaves(segmentation))


def all_are_shares(segmentations: Iterable[Any]) -> bool:
    """Return whether there are polygons, and all of their coordinates are from 0 to 1."""
    polygons = (one for one in segmentations if isinstance(one, list) and one)
    first = next(polygons, None)
    return first is not None and _is_share(first) and all(map(_is_share, polygons))
