"""Read projects and exported annotations of the VGG Image Annotator, VIA 1 and 2: one JSON file for many photos."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.image_headers import image_size
from bcnet_core.importers.folders import (
    OBJECT,
    add_instance,
    add_unlabeled,
    glance_at_jsons,
    image_record,
    number_classes,
    pair,
    photos_in,
    read_jsons,
    relative_name,
    settle_splits,
)
from bcnet_core.importers.labelme_shapes import ShapeError, ellipse, read_points
from bcnet_core.importers.source import Format, Source

PROJECT = "_via_img_metadata"
"""Key of a project, under which its entries stand; an export of annotations has nothing but entries."""
CLASS_NAMES = ("class", "label", "category", "name", "type", "object", "species")
"""Names of the attribute that is the class, where regions have several."""


class _Entry(NamedTuple):
    """A photo of a file: the file, the path that it gives the photo, and the regions in it."""

    file: Path
    photo: Path
    regions: list[Any]


def _entries(content: Any) -> list[Record] | None:  # noqa: ANN401  (as read from json)
    """Return the entries of a file, one a photo; None if it is no file of VIA."""
    if isinstance(content, dict) and isinstance(content.get(PROJECT), dict):
        content = content[PROJECT]
    elif not isinstance(content, dict) or not content:
        return None
    entries = list(content.values())
    fits = all(
        isinstance(one, dict) and isinstance(one.get("filename"), str) and isinstance(one.get("regions"), list | dict)
        for one in entries
    )
    return entries if fits else None


def _is_via(content: Any) -> bool:  # noqa: ANN401  (as read from json)
    return _entries(content) is not None


def _recognize(path: Path) -> bool:
    return any(_is_via(content) for content in glance_at_jsons(path))


def _read(path: Path, images: Path | None) -> Source:
    """Read a file of VIA, or a folder with one for each split; classes are the values of one attribute, sorted."""
    folder = images or (path if path.is_dir() else path.parent)
    source = Source([], [], [])
    files = read_jsons(path, _is_via, "the VGG Image Annotator", source.findings)
    entries = [entry for file, content in files for entry in _photos_of(file, content)]
    attribute = _class_attribute([region for entry in entries for region in entry.regions])
    options = {file: _options(content, attribute) for file, content in files}
    photos = photos_in(folder)
    pairs, _, _ = pair([*dict.fromkeys(entry.photo for entry in entries)], photos, ((str, str),))
    for number, entry in enumerate(entries, start=1):
        photo = pairs.get(entry.photo)
        record = image_record(number, photo, folder, name=relative_name(entry.photo, folder))
        if photo is not None:
            with suppress(BCNetError):  # a damaged photo, whose image is left out
                record["height"], record["width"] = image_size(photo)  # VIA's files have none
        source.images.append(record)
        for position, region in enumerate(entry.regions, start=1):
            place = f"{relative_name(entry.file, path)}: region {position} of {entry.photo.name}"
            try:
                label = _label(region, attribute, options[entry.file])
                polygon = _polygon(region)
            except ShapeError as error:
                source.findings.add(error.kind, place)
                continue
            add_instance(source, record, place, category_id=label, segmentation=[polygon])
    number_classes(source)
    if path.is_dir():
        add_unlabeled(source.findings, photos, pairs.values(), folder)
    return settle_splits(source)


def _photos_of(file: Path, content: Any) -> Iterator[_Entry]:  # noqa: ANN401  (as read from json)
    """Yield the photos of a file; VIA 1 has the regions of each in an object by their numbers."""
    for one in _entries(content) or []:
        regions = one["regions"]
        listed = list(regions.values()) if isinstance(regions, dict) else regions
        yield _Entry(file, file.parent / one["filename"].replace("\\", "/"), listed)


def _class_attribute(regions: Sequence[Any]) -> str | None:
    """Return the attribute of the regions that is their class; None if no region has any attribute.

    Raises:
        BCNetError: if there are several, and it cannot be told which.
    """
    used = Counter(name for region in regions for name in _attributes(region))
    if len(used) <= 1:
        return next(iter(used), None)
    for wanted in CLASS_NAMES:
        for name in used:
            if name.strip().lower() == wanted:
                return name
    names = ", ".join(f"`{name}`" for name, _ in used.most_common(5))
    raise data_error(
        f"the regions have several attributes, {names}, and it cannot be told which one is the class",
        "call that one `class` in VIA, or in the file",
    )


def _attributes(region: Any) -> dict[str, Any]:  # noqa: ANN401  (as read from json)
    """Return the attributes of a region that have a value."""
    attributes = region.get("region_attributes") if isinstance(region, dict) else None
    return {key: one for key, one in attributes.items() if _chosen(one)} if isinstance(attributes, dict) else {}


def _chosen(value: Any) -> list[str]:  # noqa: ANN401  (as read from json)
    """Return the values of an attribute: one of text, of a list or a radio button, those that are ticked of several."""
    if isinstance(value, dict):
        return [str(key) for key, is_ticked in value.items() if is_ticked in (True, "true", 1)]
    text = str(value).strip() if isinstance(value, str | int) else ""
    return [text] if text else []


def _options(content: Any, attribute: str | None) -> dict[str, str]:  # noqa: ANN401  (as read from json)
    """Return what a project says that the options of an attribute mean, by their ids."""
    found: Any = content
    for key in ("_via_attributes", "region", attribute, "options"):
        found = found.get(key) if isinstance(found, dict) else None
    options = found.items() if isinstance(found, dict) else ()
    return {key: text.strip() for key, text in options if isinstance(text, str) and text.strip()}


def _label(region: Any, attribute: str | None, options: dict[str, str]) -> str:  # noqa: ANN401
    """Return the class of a region.

    Raises:
        ShapeError: if it has none, or several.
    """
    if attribute is None:
        return str(OBJECT["name"])
    chosen = _chosen(_attributes(region).get(attribute))
    if not chosen:
        raise ShapeError("label_missing")
    if len(chosen) > 1:
        raise ShapeError("label_several")
    return options.get(chosen[0], chosen[0])


def _polygon(region: Any) -> list[float]:  # noqa: ANN401  (as read from json)
    """Return the outline of a region as a flat polygon [x0, y0, x1, y1, ...] in pixels.

    Raises:
        ShapeError: if it has no area, too few points, or cannot be read.
    """
    shape = region.get("shape_attributes") if isinstance(region, dict) else None
    if not isinstance(shape, dict):
        raise ShapeError("shape_unreadable")
    kind = str(shape.get("name"))
    if kind in {"point", "polyline"}:
        raise ShapeError("shape_without_area")
    if kind == "polygon":
        points = read_points(_zipped(shape.get("all_points_x"), shape.get("all_points_y")))
        if len(points) < 3:
            raise ShapeError("shape_short")
        return [side for point in points for side in point]
    if kind == "rect":
        x, y, width, height = _numbers(shape, "x", "y", "width", "height")
        if width <= 0 or height <= 0:
            raise ShapeError("shape_without_area")
        return [x, y, x + width, y, x + width, y + height, x, y + height]
    if kind == "circle":
        x, y, radius = _numbers(shape, "cx", "cy", "r")
        return ellipse((x, y), radius, radius)
    if kind == "ellipse":
        x, y, wide, high = _numbers(shape, "cx", "cy", "rx", "ry")
        (turn,) = _numbers({"theta": 0, **shape}, "theta")
        return ellipse((x, y), wide, high, degrees=math.degrees(turn))
    raise ShapeError("shape_unknown")


def _zipped(xs: Any, ys: Any) -> Iterable[tuple[Any, Any]]:  # noqa: ANN401  (as read from json)
    """Return points of which VIA keeps the coordinates in two lists."""
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
        raise ShapeError("shape_unreadable")
    return zip(xs, ys, strict=True)


def _numbers(shape: dict[str, Any], *keys: str) -> list[float]:
    """Return values of a shape as numbers that may be coordinates."""
    return [x for x, _ in read_points([(shape.get(key), 0) for key in keys])]


VIA = Format("via", "VGG Image Annotator (VIA)", _recognize, _read)
