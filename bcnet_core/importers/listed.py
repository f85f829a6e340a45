"""Clean the images and categories of a data set: ids, names, and the size that masks are drawn on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from bcnet_core.annotations.coco import Record
from bcnet_core.annotations.faults import MOST_PIXELS, is_id
from bcnet_core.importers.findings import KINDS, Findings
from bcnet_core.importers.parts import id_key
from bcnet_core.importers.shapes import leaves, to_whole
from bcnet_core.importers.source import SPLIT, Photo

Size = tuple[int, int]
"""Height and width in pixels."""

BEYOND = 1.0
"""Pixels by which an outline may reach beyond its image."""


class Images(NamedTuple):
    """Clean image records.

    Attributes:
        records: valid records.
        photos: the photo of each, if photos were looked at.
        owners: position in `records` by the id of the source, see `id_key`; None for an image that is left out.
    """

    records: list[Record]
    photos: list[Photo]
    owners: dict[Hashable, int | None]


def clean_images(
    images: Sequence[Record],
    photos: Sequence[Photo] | None,
    annotations: Mapping[Hashable, Sequence[Record]],
    findings: Findings,
) -> Images:
    """Make valid records of the images of a source.

    Args:
        images: records with a `file_name`.
        photos: their photos, or None if nobody looked at them.
        annotations: the annotations of each image by `id_key`; they tell which of two sizes was drawn on.
        findings: counts what is repaired and left out.
    """
    keys = [id_key(image.get("id")) for image in images]
    names: dict[Hashable, set[str]] = {}
    for key, image in zip(keys, images, strict=True):
        names.setdefault(key, set()).add(image["file_name"])
    turned = _is_turned(images, keys, photos, annotations)
    result, first_of, fresh = Images([], [], {}), dict[Hashable, int](), _fresh_ids(keys)
    for position, (key, image) in enumerate(zip(keys, images, strict=True)):
        photo = photos[position] if photos is not None else None
        name, same = image["file_name"] or image.get("id"), (image["file_name"] or key, image.get(SPLIT))
        size, kinds = _choose_size(image, photo, annotations.get(key, ()), turned=turned)
        if key is not None and len(names[key]) > 1:
            size, kinds = None, ["image_id_twice"]
        elif photo is not None and photo.flaw is not None:
            size, kinds = (
                (None, [photo.flaw]) if KINDS[photo.flaw].effect == "left_out" else (size, [photo.flaw, *kinds])
            )
        elif same in first_of:
            kinds = ["image_twice"]
        for kind in kinds:
            findings.add(kind, name)
        if size is None or same in first_of:
            result.owners.setdefault(key, None if size is None else first_of[same])
            continue
        number = key if isinstance(key, int) and is_id(key) else next(fresh)
        if type(image.get("id")) is not int:
            findings.add("image_ids", name)
        first_of[same] = result.owners[key] = len(result.records)
        result.records.append({**image, "id": number, "height": size[0], "width": size[1]})
        if photo is not None:
            result.photos.append(photo)
    return result


def _fresh_ids(keys: Sequence[Hashable]) -> count[int]:
    return count(max((key for key in keys if isinstance(key, int) and is_id(key)), default=0) + 1)


def _listed_size(image: Record) -> Size | None:
    height, width = to_whole(image.get("height")), to_whole(image.get("width"))
    return (height, width) if height and width and height > 0 and width > 0 else None


def _is_turned(
    images: Sequence[Record],
    keys: Sequence[Hashable],
    photos: Sequence[Photo] | None,
    annotations: Mapping[Hashable, Sequence[Record]],
) -> bool:
    """Return whether masks are drawn on upright photos, while the sizes that are listed are those of stored ones.

    One tool writes a file, so all photos are read alike: those whose masks fit only one way decide.
    """
    votes = 0
    for image, key, photo in zip(images, keys, photos or (), strict=photos is not None):
        if photo.stored != photo.upright and _listed_size(image) == photo.stored:
            stored, upright = (_fits(annotations.get(key, ()), size) for size in (photo.stored, photo.upright))
            votes += int(upright) - int(stored)
    return votes > 0


def _fits(annotations: Sequence[Record], size: Size) -> bool:
    """Return whether all masks stay in an image of this size."""
    for annotation in annotations:
        mask = annotation.get("segmentation")
        if isinstance(mask, dict):
            if mask.get("size") != [*size]:
                return False
            continue
        coordinates = [*leaves(mask)]
        if max(coordinates[::2], default=0) > size[1] + BEYOND or max(coordinates[1::2], default=0) > size[0] + BEYOND:
            return False
    return True


def _choose_size(
    image: Record, photo: Photo | None, annotations: Sequence[Record], *, turned: bool
) -> tuple[Size | None, list[str]]:
    """Return the size that the masks of an image are drawn on, and the faults of the one that is listed."""
    listed = _listed_size(image)
    written = [] if is_id(image.get("height")) and is_id(image.get("width")) else ["size_numbers"]
    if photo is None or photo.stored == (0, 0):
        small = listed is not None and listed[0] * listed[1] <= MOST_PIXELS
        return (listed, written) if small else (None, ["size_missing"])
    if listed is None:
        return photo.upright, ["size_unlisted"]
    if listed != photo.upright and photo.upright in (listed[::-1], photo.stored[::-1]):
        drawn_upright = _fits(annotations, photo.upright)
        if (turned if listed == photo.stored else not _fits(annotations, listed)) and drawn_upright:
            return photo.upright, ["size_turned"]
    return (listed, written) if listed in (photo.stored, photo.upright) else (None, ["size_other"])


class Categories(NamedTuple):
    """Clean category records, and the new id by that of the source, see `id_key`; None where it has two meanings."""

    records: list[Record]
    ids: dict[Hashable, int | None]


def clean_categories(categories: Sequence[Record], used: Counter[Hashable], findings: Findings) -> Categories:
    """Make valid records of the categories of a source.

    Categories of one name become the first of them. The name of a project, which Roboflow lists as a category that no
    annotation has and all others have as `supercategory`, is dropped.

    Args:
        categories: records with `id` and `name`.
        used: number of annotations by category, see `id_key`.
        findings: counts what is repaired and left out.
    """
    keys = [id_key(category.get("id")) for category in categories]
    fresh, by_name = _fresh_ids(keys), dict[str, int]()
    result = Categories([], {})
    for position, (key, category) in enumerate(zip(keys, categories, strict=True)):
        name = str(category.get("name"))
        if not used[key] and _is_project(position, categories):
            findings.add("category_project", name)
        elif key in result.ids and by_name.get(name) != result.ids[key]:
            findings.add("category_id_twice", name)
            result.ids[key] = None
        elif name in by_name:
            findings.add("category_twice", name)
            result.ids[key] = by_name[name]
        else:
            number = key if isinstance(key, int) and is_id(key) else next(fresh)
            if type(category.get("id")) is not int:
                findings.add("category_ids", name)
            by_name[name] = result.ids[key] = number
            result.records.append({**category, "id": number, "name": name})
    kept = {number for number in result.ids.values() if number is not None}
    return result._replace(records=[one for one in result.records if one["id"] in kept])


def _is_project(position: int, categories: Sequence[Record]) -> bool:
    name = categories[position].get("name")
    others: list[Any] = [one.get("supercategory") for at, one in enumerate(categories) if at != position]
    return bool(others) and all(one == name for one in others)
