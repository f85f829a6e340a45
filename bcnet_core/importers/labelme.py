"""Read the files of labelme and of the tools that write the same form: AnyLabeling, X-AnyLabeling.

One JSON file a photo, with one shape an object, or several that `group_id` joins.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bcnet_core import masks
from bcnet_core.annotations.coco import Record
from bcnet_core.annotations.faults import MOST_PIXELS
from bcnet_core.errors import BCNetError
from bcnet_core.files.image_headers import image_size
from bcnet_core.importers.findings import Findings
from bcnet_core.importers.folders import (
    add_instance,
    add_unlabeled,
    glance_at_jsons,
    image_record,
    number_classes,
    pair_named,
    photos_in,
    read_jsons,
    relative_name,
    settle_splits,
)
from bcnet_core.importers.labelme_shapes import Outline, ShapeError, outline_of
from bcnet_core.importers.source import Format, Source


class _Instance(NamedTuple):
    """An instance: the place of its first shape, its label, and the polygon or mask of each of its shapes."""

    place: str
    label: str
    outlines: list[Outline]


def _is_labelme(content: Any) -> bool:  # noqa: ANN401  (as read from json)
    return (
        isinstance(content, dict)
        and isinstance(content.get("shapes"), list)
        and isinstance(content.get("imagePath", ""), str)
        and not {"images", "annotations"} & content.keys()
    )


def _recognize(path: Path) -> bool:
    return any(_is_labelme(content) for content in glance_at_jsons(path))


def _read(path: Path, images: Path | None) -> Source:
    """Read a folder of labelme files, or one of them; classes are the labels, sorted."""
    folder = images or (path if path.is_dir() else path.parent)
    findings = Findings()
    files = read_jsons(path, _is_labelme, "labelme", findings)
    photos = photos_in(folder)
    pairs = pair_named({file: content.get("imagePath", "") for file, content in files}, photos)
    source = Source([], [], [], findings=findings)
    for number, (file, content) in enumerate(files, start=1):
        photo = pairs.get(file)
        record = image_record(number, photo, folder, name=content.get("imagePath", "") or file.name)
        size = _size(content, photo)
        if size is not None:
            record["height"], record["width"] = size
        source.images.append(record)
        if photo is None and isinstance(content.get("imageData"), str):
            findings.add("photo_embedded", relative_name(file, path))
        for place, label, outlines in _instances(content["shapes"], relative_name(file, path), findings):
            add_instance(source, record, place, category_id=label, segmentation=_segmentation(outlines, size))
    number_classes(source)
    if path.is_dir():
        add_unlabeled(findings, photos, pairs.values(), folder)
    return settle_splits(source)


def _size(content: Record, photo: Path | None) -> tuple[int, int] | None:
    """Return the (height, width) that a file states, or else that of the photo; None if neither is known."""
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0 and height * width <= MOST_PIXELS:
        return height, width
    try:
        return None if photo is None else image_size(photo)
    except BCNetError:
        return None  # the photo is damaged, and its image left out


def _instances(shapes: list[Any], file: str, findings: Findings) -> Iterator[_Instance]:
    """Yield the instances of a file; shapes of one label and group are one, and those without a mask are findings."""
    groups: dict[tuple[str, Any], _Instance] = {}
    for position, shape in enumerate(shapes, start=1):
        place = f"{file}: shape {position}"
        try:
            label, outline = outline_of(shape)
        except ShapeError as error:
            findings.add(error.kind, place)
            continue
        group = shape.get("group_id")
        key = (label, position if group is None else f"group {group}")
        groups.setdefault(key, _Instance(place, label, [])).outlines.append(outline)
    yield from groups.values()


def _segmentation(outlines: list[Outline], size: tuple[int, int] | None) -> Any:  # noqa: ANN401  (as COCO json has it)
    """Return the polygons of an instance, or its mask if one of its shapes is a mask."""
    polygons = [outline for outline in outlines if isinstance(outline, list)]
    drawn = [outline for outline in outlines if not isinstance(outline, list)]
    if not drawn:
        return polygons
    if size is None:
        return []  # and no photo either, so that the image is left out
    rles = [masks.from_window(mask.pixels, mask.x, mask.y, *size) for mask in drawn]
    return masks.to_json(masks.union([*rles, *([masks.from_polygons(polygons, *size)] if polygons else [])]))


LABELME = Format("labelme", "labelme (also AnyLabeling, X-AnyLabeling)", _recognize, _read)
