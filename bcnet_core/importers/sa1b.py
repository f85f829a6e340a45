"""Read SA-1B's form: one JSON file a photo, with masks that have no class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bcnet_core.importers.findings import Findings
from bcnet_core.importers.folders import (
    OBJECT,
    add_unlabeled,
    glance_at_jsons,
    image_record,
    pair_named,
    photos_in,
    read_jsons,
    relative_name,
    settle_splits,
)
from bcnet_core.importers.source import Format, Source


def _is_sa1b(content: Any) -> bool:  # noqa: ANN401  (as read from json)
    if not isinstance(content, dict):
        return False
    image, annotations = content.get("image"), content.get("annotations")
    return isinstance(image, dict) and isinstance(image.get("file_name"), str) and isinstance(annotations, list)


def _recognize(path: Path) -> bool:
    return any(_is_sa1b(content) for content in glance_at_jsons(path))


def _read(path: Path, images: Path | None) -> Source:
    """Read a folder, or one file, of SA-1B; every mask is of the class `object`."""
    folder = images or (path if path.is_dir() else path.parent)
    source = Source([], [], [dict(OBJECT)], findings=Findings())
    files = read_jsons(path, _is_sa1b, "SA-1B's form", source.findings)
    photos = photos_in(folder)
    pairs = pair_named({file: content["image"]["file_name"] for file, content in files}, photos)
    for number, (file, content) in enumerate(files, start=1):
        own = content["image"]
        record = image_record(number, pairs.get(file), folder, name=own["file_name"])
        source.images.append({**{key: own[key] for key in ("width", "height") if key in own}, **record})
        for position, one in enumerate(content["annotations"], start=1):
            values = one if isinstance(one, dict) else {}  # no mask, which is counted where masks are read
            source.annotations.append(
                {**values, "id": len(source.annotations) + 1, "image_id": number, "category_id": OBJECT["id"]}
            )
            source.places.append(f"{relative_name(file, path)}: mask {position}")
    if path.is_dir():
        add_unlabeled(source.findings, photos, pairs.values(), folder)
    return settle_splits(source)


SA1B = Format("sa1b", "SA-1B", _recognize, _read)
