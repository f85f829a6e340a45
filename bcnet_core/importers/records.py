"""Number the images and categories of a source: whole ids, one record a file, one category a name."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from bcnet_core.annotations.coco import MOST_PIXELS, Record, is_id
from bcnet_core.importers.findings import Findings
from bcnet_core.importers.shapes import to_whole

Key = int | str
"""An id as a source has it, so that `1`, `1.0` and "1" are the same."""


def to_key(value: Any) -> Key | None:  # noqa: ANN401  (as read from json)
    """Return what an id is compared by; None if it is none."""
    if type(value) is int:
        return value
    whole = to_whole(value)
    return whole if whole is not None else value if isinstance(value, str) and value else None


class CategoryTable(NamedTuple):
    """The categories of a cleaned set, and their ids by those of the source."""

    records: list[Record]
    ids: dict[Key, int]


def number_categories(categories: Iterable[Any], used: Container[Key | None], findings: Findings) -> CategoryTable:
    """Merge categories of one name, drop what is no class, and give whole ids; `used` has those of annotations."""
    named: dict[Key, Record] = {}
    shared: set[Key] = set()
    for index, record in enumerate(categories):
        key = to_key(record.get("id")) if isinstance(record, dict) else None
        if key is None:
            findings.add("category_odd", f"categories[{index}]")
            continue
        if not isinstance(record.get("name"), str) or not record["name"]:
            name = record.get("name")
            if name in (None, "") or isinstance(name, list | dict):
                findings.add("category_unnamed", record["id"])
                name = key
            record = {**record, "name": str(name)}
        if key not in named:
            named[key] = record
        elif named[key]["name"] != record["name"]:
            shared.add(key)
        else:
            findings.add("category_twice", record["name"])
    for key in shared:
        findings.add("category_id_twice", named.pop(key)["id"])
    _drop_root(named, used, findings)
    fresh = max((key for key in named if isinstance(key, int)), default=0) + 1
    records: list[Record] = []
    ids: dict[Key, int] = {}
    by_name: dict[str, int] = {}
    for key, record in named.items():
        if record["name"] in by_name:
            findings.add("category_twice", record["id"])
            ids[key] = by_name[record["name"]]
            continue
        number = key if isinstance(key, int) else fresh
        fresh += not isinstance(key, int)
        if not is_id(record["id"]):
            findings.add("category_ids", record["id"])
            record = {**record, "id": number}
        records.append(record)
        ids[key] = by_name[record["name"]] = number
    return CategoryTable(records, ids)


def _drop_root(named: dict[Key, Record], used: Container[Key | None], findings: Findings) -> None:
    """Drop Roboflow's category 0, which has the name of the project, is the parent of all others and is never used."""
    root = named.get(0)
    others = [record for key, record in named.items() if key != 0]
    if root is not None and 0 not in used and others:
        if all(record.get("supercategory") == root["name"] for record in others):
            findings.add("category_root", named.pop(0)["name"])


@dataclass
class ImageTable:
    """The images of a source that can be told apart.

    Attributes:
        records: with whole ids and a file name; their sizes may be missing.
        positions: where each of them is in the source.
        sizes: (height, width) in pixels that each record says; None if it says none.
        is_raw: whether training reads each record as it stood.
        by_key: position in `records` by the id in the source.
        merged: positions in `records` of images that several records of the source described.
    """

    records: list[Record] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int] | None] = field(default_factory=list)
    is_raw: list[bool] = field(default_factory=list)
    by_key: dict[Key, int] = field(default_factory=dict)
    merged: set[int] = field(default_factory=set)

    def find(self, value: Any) -> int | None:  # noqa: ANN401
        """Return the position in `records` of the image that an annotation belongs to, by id or by file name."""
        key = to_key(value)
        if key is None:
            return None
        if (found := self.by_key.get(key)) is not None or isinstance(key, int):
            return found
        if not hasattr(self, "_by_name"):
            self._by_name: dict[str, int | None] = {}
            for position, record in enumerate(self.records):
                path = PurePosixPath(record["file_name"].replace("\\", "/"))
                for name in {record["file_name"], path.name, path.stem}:
                    self._by_name[name] = None if name in self._by_name else position
        return self._by_name.get(key)


def number_images(images: Iterable[Any], findings: Findings, *, derived: bool) -> ImageTable:
    """Merge records of one file, leave out what cannot be told apart, and give whole ids and sizes.

    Args:
        images: the records of a source.
        findings: receives the faults.
        derived: whether a reader made the records, so that sizes that are missing are no faults.
    """
    keyed: list[tuple[int, Key | None, Record]] = []
    names: dict[Key, set[str]] = {}
    for position, record in enumerate(images):
        if not isinstance(record, dict):
            findings.add("image_odd", f"images[{position}]")
        elif not isinstance(record.get("file_name"), str) or not record["file_name"]:
            findings.add("image_unnamed", record.get("id", f"images[{position}]"))
        else:
            key = to_key(record.get("id"))
            keyed.append((position, key, record))
            if key is not None:
                names.setdefault(key, set()).add(record["file_name"])
    fresh = max((key for _, key, _ in keyed if isinstance(key, int)), default=0) + 1
    table = ImageTable()
    by_file: dict[str, int] = {}
    for position, key, record in keyed:
        if key is not None and len(names[key]) > 1:
            findings.add("image_id_twice", record["file_name"])
            continue
        size = _size(record)
        first = by_file.get(record["file_name"])
        if first is not None and (size is None or table.sizes[first] in (None, size)):
            findings.add("file_name_twice", record["file_name"])
            table.merged.add(first)
            if key is not None:
                table.by_key[key] = first
            continue
        number = key if isinstance(key, int) else fresh
        fresh += not isinstance(key, int)
        if not is_id(record.get("id")):
            if not derived:
                findings.add("image_ids", record.get("id", record["file_name"]))
            record = {**record, "id": number}
        odd = size is not None and not all(type(record[side]) is int for side in ("height", "width"))
        if size is not None and odd:
            findings.add("image_sizes", record["file_name"])
            record = {**record, "height": size[0], "width": size[1]}
        by_file.setdefault(record["file_name"], len(table.records))
        if key is not None:
            table.by_key[key] = len(table.records)
        table.records.append(record)
        table.positions.append(position)
        table.sizes.append(size)
        table.is_raw.append(is_id(key) and size is not None and not odd)
    return table


def _size(record: Record) -> tuple[int, int] | None:
    """Return the height and width that a record says, if they are those of an image."""
    height, width = to_whole(record.get("height")), to_whole(record.get("width"))
    if height is None or width is None or min(height, width) <= 0 or height * width > MOST_PIXELS:
        return None
    return height, width
