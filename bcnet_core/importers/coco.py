"""Read COCO json as tools write it: one file, or a folder with one file a split.

The reader finds the three lists and says which photos and which split a file means; the values are for `clean`.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.json_files import read_json
from bcnet_core.importers import amodal
from bcnet_core.importers.findings import Findings
from bcnet_core.importers.foreign import Foreign, name_of_json
from bcnet_core.importers.parts import Part, join
from bcnet_core.importers.root import is_imported
from bcnet_core.importers.source import Format, Source

HEAD = 65_536
"""Bytes of a file that are looked at to see whether it is COCO: its first list begins there."""
LISTS = {"images": "image_odd", "annotations": "record_odd", "categories": "category_odd"}
"""COCO's lists, and the kind of fault of a record that is no object."""
DEPTH = 3
"""Levels of folders below the source in which annotation files are looked for."""
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]:,]', re.DOTALL)
NAME_KEYS = (
    "file_name", "filename", "coco_url", "path", "image_path", "absolute_url", "url", "name",
    "filepath", "file_path", "image_name", "img_path", "image", "file", "fileName", "uri",
)  # fmt: skip
"""Keys that name the photo of an image record, the first that is there counts; LVIS has `coco_url` alone."""
OTHER_TASKS = re.compile(r"(captions|panoptic|stuff|person_keypoints|image_info)_")
"""Names of COCO's files that repeat the images of an `instances_` file for another task."""


def recognize(path: Path) -> bool:
    """Return whether a file is json, or a folder holds a json file with COCO's lists."""
    if path.is_dir():
        return any(_has_lists(file) for file in _json_files(path))
    return _is_json(path)


def read(path: Path, photos: Path | None) -> Source:
    """Read a COCO file, or all COCO files of a folder as one set; amodal dialects are translated.

    Args:
        path: a json file, or a folder.
        photos: folder of the photos, if the user gave one.

    Raises:
        BCNetError: if there are no instances in it, with the name of what it is if that is known; or if two files of a
            folder list the same photos.
    """
    if not path.is_dir():
        content = read_json(path)
        foreign = name_of_json(content)
        if foreign is not None:
            raise _not_coco(path, foreign)
        part = _part(path, content)
        verbatim = not part.findings and all(image["file_name"] for image in part.images)
        return Source(
            part.images, part.annotations, part.categories, part.header, part.findings, part.places, verbatim=verbatim,
            imported=is_imported(path.absolute().parent.parent),
        )  # fmt: skip
    parts, others = [], {}
    for file in _json_files(path):
        if _has_lists(file):
            content = read_json(file)
            foreign = name_of_json(content) or _repeats(file)
            if foreign is None:
                parts.append(_part(file, content))
            else:
                others[file] = foreign
    if not parts:
        raise _not_coco(*next(iter(others.items()), (path, Foreign("has no COCO file"))))
    source = join(parts, path, photos)
    source.imported = is_imported(path)
    for file in others:
        source.findings.add("file_left_out", str(file.relative_to(path)))
    return source


def _not_coco(path: Path, foreign: Foreign) -> BCNetError:
    return data_error(f"`{path}` {foreign.what}", *([foreign.way_out] if foreign.way_out else []))


def _repeats(path: Path) -> Foreign | None:
    """Return what a file of another task is if one of COCO's `instances_` files lists the same images beside it."""
    task = OTHER_TASKS.match(path.name)
    twin = path.with_name(path.name.replace(task[0], "instances_", 1)) if task else path
    return Foreign(f"repeats the images of `{twin.name}`") if twin != path and twin.is_file() else None


def _part(path: Path, content: Record) -> Part:
    """Return the lists of a file that has COCO's images and annotations."""
    lists = {name: _records(content.get(name) or []) for name in LISTS}
    findings = Findings()
    for name, odd in LISTS.items():
        if isinstance(content.get(name), dict):
            findings.add("list_as_object", f"{path.name}: {name}")
        for index, record in enumerate(lists[name]):
            if not isinstance(record, dict):
                findings.add(odd, f"{name}[{index}]")
    images, annotations, categories = (
        [record for record in records if isinstance(record, dict)] for records in lists.values()
    )
    header = {key: value for key, value in content.items() if key not in LISTS}
    part = Part(path, images, annotations, categories, header, findings)
    for image in part.images:
        if not isinstance(image.get("file_name"), str):
            image["file_name"] = _photo_name(image)
            if image["file_name"]:
                findings.add("photo_key", image["file_name"])
    if amodal.is_amodal(part.annotations):
        amodal.translate(part)
    if part.annotations and not part.categories:
        _list_categories(part)
    return part


def _records(value: Any) -> list[Any]:  # noqa: ANN401  (as read from json)
    """Return a list of records, which some tools write as an object by id, as LIVECell does for annotations."""
    if not isinstance(value, dict):
        return value if isinstance(value, list) else []
    if "id" in value and not any(isinstance(item, dict | list) for item in value.values()):
        return [value]
    records = []
    for key, item in value.items():
        if isinstance(item, list):  # by image
            records += [{"image_id": key, **one} if isinstance(one, dict) else one for one in item]
        else:
            records.append({"id": key, **item} if isinstance(item, dict) else item)
    return records


def _photo_name(image: Record) -> str:
    """Return the name of a photo from whichever key has it; of a URL, its path."""
    for key in NAME_KEYS:
        value = image.get(key)
        if isinstance(value, str) and value:
            return urlsplit(value).path.lstrip("/") or value if "://" in value else value
    return ""


def _list_categories(part: Part) -> None:
    """List the categories of a file without such a list, by their ids; they have no names."""
    ids = dict.fromkeys(str(one["category_id"]) for one in part.annotations if one.get("category_id") is not None)
    if not ids:
        part.categories = [{"id": 1, "name": "object"}]
        part.annotations = [{**one, "category_id": 1} for one in part.annotations]
        part.findings.add("category_unnamed", "object")
        return
    known = {str(one["category_id"]): one["category_id"] for one in part.annotations if "category_id" in one}
    for name in ids:
        part.categories.append({"id": known[name], "name": name})
        part.findings.add("category_unnamed", name)


def _json_files(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield the json files of a folder, those nearest to the top first; hidden ones and macOS's `._*` are none."""
    entries = sorted(entry for entry in _visible(folder))
    yield from (entry for entry in entries if _is_json(entry) and entry.is_file())
    if depth:
        for entry in entries:
            if not entry.suffix and entry.is_dir():
                yield from _json_files(entry, depth - 1)


def _visible(folder: Path) -> Iterable[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise data_error(f"cannot read the folder `{folder}`: {error.strerror or error}") from None


def _is_json(path: Path) -> bool:
    return PurePosixPath(path.name.lower()).suffix == ".json" or path.name.lower().endswith(".json.gz")


def _has_lists(path: Path) -> bool:
    """Return whether the head of a json file begins one of COCO's lists at its top level."""
    keys = set(_top_keys(_head(path)))
    return "images" in keys or ("annotations" in keys and not keys & {"image", "item", "shapes"})


def _head(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            return file.read(HEAD)
    except (OSError, EOFError, zlib.error):
        return b""


def _top_keys(head: bytes) -> Iterator[str]:
    """Yield the keys of lists and objects in the outermost object of json text that may break off."""
    depth, before = 0, (b"", b"")
    for token in TOKEN.findall(head):
        if token in (b"{", b"["):
            if depth == 1 and before[1] == b":":
                yield before[0][1:-1].decode(errors="replace")
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
        before = (before[1], token)


COCO = Format("coco", "COCO json (also LVIS, LIVECell, CVAT, Roboflow, KINS, COCOA, ...)", recognize, read)
