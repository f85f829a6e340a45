"""Number the images and categories of a source: whole ids, one record a file, one category a name."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from bcnet_core.annotations.coco import Record
from bcnet_core.annotations.faults import MOST_PIXELS, is_id
from bcnet_core.importers.findings import Findings
from bcnet_core.importers.parts import Key, free_id, id_key
from bcnet_core.importers.shapes import to_whole
from bcnet_core.importers.source import PHOTO, spelling

Size = tuple[int, int]
"""Height and width in pixels."""


class CategoryTable(NamedTuple):
    """The categories of a cleaned set, and their ids by those of the source and by name; None for an id of two of them.

    `are_whole` is whether all of them have whole numbers as ids in the source.
    """

    records: list[Record]
    ids: dict[Key, int | None]
    are_whole: bool


def number_categories(categories: Iterable[Record], used: Container[Key | None], findings: Findings) -> CategoryTable:
    """Merge categories of one name, drop what is no class, and give whole ids; `used` has those of annotations."""
    named, ambiguous = _named_categories(categories, findings)
    _drop_root(named, used, findings)
    fresh = free_id(named)
    records: list[Record] = []
    ids: dict[Key, int | None] = dict.fromkeys(ambiguous)
    by_name: dict[str, int] = {}
    for key, record in named.items():
        name = spelling(record["name"])
        if name in by_name:
            findings.add("category_twice", record["id"])
            ids[key] = by_name[name]
            continue
        number = key if isinstance(key, int) else fresh
        fresh += not isinstance(key, int)
        if not is_id(record["id"]):
            findings.add("category_ids", record["id"])
        records.append(record if is_id(record["id"]) else {**record, "id": number})
        ids[key] = by_name[name] = number
    for name, number in by_name.items():  # annotations may name their class; an id goes before a name
        if id_key(name) == name:
            ids.setdefault(name, number)
    return CategoryTable(records, ids, all(is_id(record["id"]) for record in named.values()))


def _named_categories(categories: Iterable[Record], findings: Findings) -> tuple[dict[Key, Record], set[Key]]:
    """Return the categories by their ids in the source, each with a name, and the ids that several names share."""
    named: dict[Key, Record] = {}
    shared: set[Key] = set()
    for index, record in enumerate(categories):
        key = id_key(record.get("id"))
        if key is None:
            findings.add("category_odd", f"categories[{index}]")
            continue
        name = record.get("name")
        if name in (None, "") or isinstance(name, list | dict):
            findings.add("category_unnamed", record["id"])
            name = key
        if key not in named:
            named[key] = (
                record if isinstance(name, str) and name is record.get("name") else {**record, "name": str(name)}
            )
        elif named[key]["name"] == str(name):
            findings.add("category_twice", record["id"])
        else:
            shared.add(key)
    for key in shared:
        findings.add("category_id_twice", named.pop(key)["id"])
    return named, shared


def _drop_root(named: dict[Key, Record], used: Container[Key | None], findings: Findings) -> None:
    """Drop Roboflow's category 0, which has the name of the project, is the parent of all others and is never used."""
    root = named.get(0)
    others = [record for key, record in named.items() if key != 0]
    if root is None or 0 in used or not others:
        return
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
        left_out: ids in the source of images that are listed, but left out.
    """

    records: list[Record] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sizes: list[Size | None] = field(default_factory=list)
    is_raw: list[bool] = field(default_factory=list)
    by_key: dict[Key, int] = field(default_factory=dict)
    merged: set[int] = field(default_factory=set)
    left_out: set[Key] = field(default_factory=set)
    _text_ids: set[str] = field(default_factory=set)
    _names: dict[str, int | None] = field(default_factory=dict)

    def add(self, position: int, record: Record, number: int, size: Size | None) -> None:
        """Add the record at a position of the source, with its new id and the size that it says."""
        if isinstance(record.get("id"), str):
            self._text_ids.add(record["id"])
        self.is_raw.append(is_id(record.get("id")) and size is not None and _has_whole_size(record))
        whole = {} if size is None else {"height": size[0], "width": size[1]}
        self.records.append(record if self.is_raw[-1] else {**record, **whole, "id": number})
        self.positions.append(position)
        self.sizes.append(size)

    def find(self, value: Any) -> int | None:  # noqa: ANN401
        """Return the position in `records` of the image that an annotation belongs to, by id or by file name."""
        key = id_key(value)
        if key is None:
            return None
        if isinstance(key, int) and isinstance(value, str) and value != str(key) and value not in self._text_ids:
            named = self._by_name(value)  # "0001" is a file name if there is one, and 1 otherwise
            return self.by_key.get(key) if named is None else named
        found = self.by_key.get(key)
        return found if found is not None or isinstance(key, int) else self._by_name(key)

    def _by_name(self, name: Any) -> int | None:  # noqa: ANN401
        if not self._names:
            for position, record in enumerate(self.records):
                path = PurePosixPath(record["file_name"].replace("\\", "/"))
                for one in {record["file_name"], path.name, path.stem}:
                    self._names[one] = None if one in self._names else position
        return self._names.get(name)


def number_images(images: Iterable[Record], findings: Findings) -> ImageTable:
    """Merge records of one file, leave out what cannot be told apart, and give whole ids and sizes."""
    table = ImageTable()
    keyed = _keyed_images(images, table.left_out, findings)
    fresh = free_id(key for _, key, _ in keyed)
    by_file: dict[tuple[str, Path | None], int] = {}
    for position, key, record in keyed:
        size, name = _size(record), record["file_name"]
        file = name, record.get(PHOTO)  # splits may have photos of equal names
        place = by_file.get(file)
        if place is not None and (size is None or table.sizes[place] in (None, size)):
            findings.add("file_name_twice", name)
            table.merged.add(place)
        else:
            place = by_file.setdefault(file, len(table.records))
            number = key if isinstance(key, int) else fresh
            fresh += not isinstance(key, int)
            table.add(position, record, number, size)
            _tell_repairs(record, size, findings)
        if key is not None:
            table.by_key[key] = place
    return table


def _keyed_images(
    images: Iterable[Record], left_out: set[Key], findings: Findings
) -> list[tuple[int, Key | None, Record]]:
    """Return position, id in the source and record of the images that have a name, and an id of their own or none.

    The ids of the others are added to `left_out`.
    """
    keyed: list[tuple[int, Key | None, Record]] = []
    names: dict[Key, set[str]] = {}
    for position, record in enumerate(images):
        key = id_key(record.get("id"))
        if not record["file_name"]:
            findings.add("image_unnamed", record.get("id", f"images[{position}]"))
            left_out.update([] if key is None else [key])
        else:
            keyed.append((position, key, record))
            if key is not None:
                names.setdefault(key, set()).add(record["file_name"])
    shared = {key for key, those in names.items() if len(those) > 1}
    left_out.difference_update(names)
    left_out.update(shared)
    for _, key, record in keyed:
        if key in shared:
            findings.add("image_id_twice", record["file_name"])
    return [one for one in keyed if one[1] not in shared]


def _tell_repairs(record: Record, size: Size | None, findings: Findings) -> None:
    if not is_id(record.get("id")):
        findings.add("image_ids", record.get("id", record["file_name"]))
    if size is not None and not _has_whole_size(record):
        findings.add("image_sizes", record["file_name"])


def _has_whole_size(record: Record) -> bool:
    return all(type(record.get(side)) is int for side in ("height", "width"))


def _size(record: Record) -> Size | None:
    """Return the height and width that a record says, if they are those of an image."""
    height, width = to_whole(record.get("height")), to_whole(record.get("width"))
    if height is None or width is None or min(height, width) <= 0 or height * width > MOST_PIXELS:
        return None
    return height, width
