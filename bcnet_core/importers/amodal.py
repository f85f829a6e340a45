"""Translate amodal sets, which know the hidden parts of objects: KINS, KINS-2020, COCOA, COCOA-cls, D2SA and others.

They hold the whole mask in `segmentation` (`a_segm`, `amodal_seg`) and the visible one in another key; here
`segmentation` is the visible mask, and the whole one is in `amodal_segmentation`. Sources: the KINS paper (arXiv
1905.05736), the amodalAPI of COCOA (arXiv 1509.01329), D2SA and COCOA-cls (arXiv 1804.08864).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import Any, NamedTuple

from bcnet_core import masks
from bcnet_core.annotations.amodal import lacks
from bcnet_core.annotations.coco import AMODAL_KEY, FRONT_OF, Record
from bcnet_core.importers.parts import Part, id_key
from bcnet_core.masks import RLE


class Dialect(NamedTuple):
    """The keys of an amodal dialect.

    Attributes:
        visible: key of the visible mask, by which the dialect is recognized.
        whole: key of the whole mask.
        whole_box: key of the box of the whole mask.
        sparse: whether the visible mask is only written where something hides a part of the object.
    """

    visible: str
    whole: str
    whole_box: str
    sparse: bool


DIALECTS = (
    Dialect("inmodal_seg", "segmentation", "bbox", sparse=False),  # KINS
    Dialect("i_segm", "a_segm", "a_bbox", sparse=False),  # KINS-2020
    Dialect("visible_seg", "amodal_seg", "amodal_bbox", sparse=False),  # AIStron
    Dialect("visible_seg", "segmentation", "bbox", sparse=False),
    Dialect("visible_segmentation", "segmentation", "bbox", sparse=False),
    Dialect("inmodal_segmentation", "segmentation", "bbox", sparse=False),
    Dialect("modal_segmentation", "segmentation", "bbox", sparse=False),
    Dialect("visible_mask", "segmentation", "bbox", sparse=True),  # COCOA, COCOA-cls, D2SA, UOAIS
)
DERIVED = (
    "inmodal_bbox",
    "i_bbox",
    "visible_bbox",
    "modal_bbox",
    "i_area",
    "a_area",
    "invisible_mask",
    "occluded_mask",
)
"""Keys that follow from the two masks, and would contradict them after a repair."""
WHOLE_BOX = "amodal_bbox"
"""Key of the box of a whole mask, inside the image."""


def is_amodal(annotations: Sequence[Record]) -> bool:
    """Return whether annotations are in an amodal dialect: COCOA's records of regions, or two masks an object."""
    return _has_regions(annotations) or _dialect(annotations) is not None


def translate(part: Part) -> None:
    """Translate the annotations of a file that `is_amodal`, in place.

    Every annotation gets the visible mask as `segmentation`, with its box and area, and the whole mask as
    `amodal_segmentation`; where the order is known, `front_of` lists the ids of what the object hides a part of.
    """
    sizes = {id_key(image.get("id")): (image.get("height"), image.get("width")) for image in part.images}
    if _has_regions(part.annotations):
        part.annotations = _flatten_regions(part)
        part.categories = [{"id": 1, "name": "object"}]
    dialect = _dialect(part.annotations) or DIALECTS[-1]
    for number, annotation in enumerate(part.annotations):
        _translate(annotation, dialect, sizes.get(id_key(annotation.get("image_id"))))
        name = part.places[number] if part.places else annotation.get("id")
        part.findings.add("amodal_in_segmentation", name)
    by_image: dict[Any, list[Record]] = {}
    for annotation in part.annotations:
        if {"ico_id", "oco_id"} <= annotation.keys():
            by_image.setdefault(id_key(annotation.get("image_id")), []).append(annotation)
    for image_id, records in by_image.items():
        _order_clusters(records, sizes.get(image_id))
    _order_by_constraints(part.annotations)


def _has_regions(annotations: Sequence[Record]) -> bool:
    return any(isinstance(one.get("regions"), list) for one in annotations)


def _dialect(annotations: Iterable[Record]) -> Dialect | None:
    """Return the dialect of which any annotation has the visible mask, and best the whole one too."""
    keys: set[str] = set()
    for annotation in annotations:
        keys |= annotation.keys()
    fitting = [dialect for dialect in DIALECTS if dialect.visible in keys]
    return next((dialect for dialect in fitting if dialect.whole in keys), next(iter(fitting), None))


def _flatten_regions(part: Part) -> list[Record]:
    """Return one annotation an object of COCOA's records, which hold all regions of an image.

    Left out, and counted, are regions of stuff, and the records of further annotators of an image. The outline is one
    flat polygon. `depth_constraint` is "1-2,1-3": the first region of the list is in front of the second and the third.
    """
    annotations: list[Record] = []
    annotated: set[Any] = set()
    for record in part.annotations:
        regions = record.get("regions")
        if not isinstance(regions, list):
            continue
        image_id = id_key(record.get("image_id"))
        again = image_id in annotated
        annotated.add(image_id)
        numbered: dict[int, Record] = {}
        for number, region in enumerate(regions, start=1):
            name = f"annotation {record.get('id')}, region {number}"
            known = region if isinstance(region, dict) else {}
            if again:
                part.findings.add("amodal_annotator", name)
            elif known.get("isStuff"):
                part.findings.add("amodal_stuff", name)
            else:
                whole = known.get("segmentation")
                numbered[number] = {
                    **known,
                    "id": len(annotations) + 1,
                    "image_id": record.get("image_id"),
                    "category_id": 1,
                    "segmentation": [whole] if isinstance(whole, list) and _is_flat(whole) else whole,
                }
                annotations.append(numbered[number])
                part.places.append(name)
        _write_order(numbered, record.get("depth_constraint"))
    return annotations


def _is_flat(polygon: list[Any]) -> bool:
    return bool(polygon) and not isinstance(polygon[0], list)


def _order_by_constraints(annotations: Sequence[Record]) -> None:
    """Write the order of D2SA and COCOA-cls, which keep COCOA's record and region beside every annotation."""
    by_image: dict[Any, list[Record]] = {}
    for annotation in annotations:
        if {"amodal_base", "amodal_region"} <= annotation.keys():
            by_image.setdefault(id_key(annotation.get("image_id")), []).append(annotation)
    for records in by_image.values():
        numbered: dict[int, Record] = {}
        constraint = None
        for record in records:
            base, region = record["amodal_base"], record["amodal_region"]
            if isinstance(base, dict) and isinstance(region, dict) and isinstance(region.get("order"), int):
                numbered[region["order"]] = record
                constraint = base.get("depth_constraint")
        _write_order(numbered, constraint)


def _write_order(regions: dict[int, Record], constraint: Any) -> None:  # noqa: ANN401
    """Write `front_of` from a constraint "1-2,1-3" on numbered regions, some of which may be left out."""
    hidden: dict[int, list[Any]] = {}
    for pair in constraint.split(",") if isinstance(constraint, str) else ():
        front, _, back = pair.partition("-")
        if front.strip().isdecimal() and back.strip().isdecimal() and {int(front), int(back)} <= regions.keys():
            hidden.setdefault(int(front), []).append(regions[int(back)].get("id"))
    for number, ids in hidden.items():
        regions[number][FRONT_OF] = ids


def _order_clusters(annotations: Sequence[Record], size: Any) -> None:  # noqa: ANN401
    """Write the order of KINS: `ico_id` is the rank of an object in its cluster `oco_id`, the nearest first.

    Ranks tell which of two is nearer, and the masks whether it hides a part of the other.
    """
    clusters: dict[Any, list[Record]] = {}
    for annotation in annotations:
        if isinstance(annotation["ico_id"], int | float):
            clusters.setdefault(id_key(annotation["oco_id"]), []).append(annotation)
    for members in clusters.values():
        if len({member["ico_id"] for member in members}) < 2:
            continue
        visible, whole = ([_mask(member.get(key), size) for member in members] for key in ("segmentation", AMODAL_KEY))
        hidden: dict[int, list[Any]] = {}
        for front, back in permutations(range(len(members)), 2):
            seen, full = visible[front], whole[back]
            if seen is None or full is None or members[front]["ico_id"] >= members[back]["ico_id"]:
                continue
            if masks.area(masks.intersection(seen, full)) > 0:
                hidden.setdefault(front, []).append(members[back].get("id"))
        for front, ids in hidden.items():
            members[front][FRONT_OF] = ids


def _translate(annotation: Record, dialect: Dialect, size: Any) -> None:  # noqa: ANN401
    whole, visible = annotation.pop(dialect.whole, None), annotation.pop(dialect.visible, None)
    whole_box = annotation.pop(dialect.whole_box, None)
    for key in DERIVED:
        annotation.pop(key, None)
    hides_nothing = visible is None and dialect.sparse
    annotation["segmentation"] = whole if hides_nothing else visible
    if whole is not None:
        annotation[AMODAL_KEY] = whole
    if whole_box is not None:
        annotation[WHOLE_BOX] = whole_box
    if hides_nothing and whole_box is not None:
        annotation["bbox"] = whole_box
        return
    mask = _mask(annotation["segmentation"], size)
    if mask is None:
        annotation.pop("area", None)
    else:
        annotation |= {"bbox": masks.bounding_box(mask).tolist(), "area": float(masks.area(mask))}


def _mask(segmentation: Any, size: Any) -> RLE | None:  # noqa: ANN401
    """Return a mask, or None if it or the size of its image cannot be read, which is for `clean` to tell."""
    if size is None or not all(isinstance(side, int) and side > 0 for side in size):
        return None
    try:
        return masks.from_segmentation(segmentation, *size)
    except (ValueError, TypeError):
        return None


def mend_whole(annotation: Record, visible: RLE, height: int, width: int) -> list[str]:
    """Make the whole mask of an annotation contain the visible one and end at the border of the image, in place.

    The box of the whole mask follows if there is one.

    Args:
        annotation: a record with an `amodal_segmentation`, which is dropped if it cannot be read.
        visible: the mask of its `segmentation`.
        height: image height in pixels.
        width: image width in pixels.

    Returns:
        The kinds of faults that were mended. A seam of up to 2 % of the visible mask, as two rasterizers leave it, is
        filled but is no fault.
    """
    segmentation = annotation[AMODAL_KEY]
    try:
        whole = masks.from_segmentation(segmentation, height, width)
    except (ValueError, TypeError):
        whole = None
    if whole is None:
        del annotation[AMODAL_KEY]
        annotation.pop(WHOLE_BOX, None)
        return ["amodal_unreadable"]
    kinds = ["amodal_beyond"] if isinstance(segmentation, list) and _beyond(segmentation, height, width) else []
    if lacks(whole, visible):
        kinds.append("amodal_short")
    united = masks.union([whole, visible])
    if kinds or masks.area(united) > masks.area(whole):
        annotation[AMODAL_KEY] = masks.to_json(united)
        if WHOLE_BOX in annotation:
            annotation[WHOLE_BOX] = masks.bounding_box(united).tolist()
    return kinds


def _beyond(polygons: list[list[float]], height: int, width: int) -> bool:
    """Return whether a polygon reaches more than a pixel beyond the image."""
    return any(
        min(polygon) < -1 or max(polygon[::2]) > width + 1 or max(polygon[1::2]) > height + 1
        for polygon in polygons
        if len(polygon) >= 2
    )
