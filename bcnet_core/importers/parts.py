"""Join the COCO files of a folder to one set: splits, classes by name, ids that clash, photos beside the files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from bcnet_core.annotations.coco import FRONT_OF, Record
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.images import image_path
from bcnet_core.importers.findings import Findings
from bcnet_core.importers.shapes import to_whole
from bcnet_core.importers.source import PHOTO, SPLIT, Source, spelling

SPLIT_WORD = re.compile(r"(?<![a-z])(train|training|valid|val|validation|dev|test|testing)(?![a-z])")
SPLITS = {
    "train": "train", "training": "train", "valid": "val", "val": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Words for splits in the names of files and folders."""
ANNOTATION_FOLDERS = {"annotations", "annotation", "labels", "json", "jsons"}
"""Names of folders that hold annotations alone; the photos are beside such a folder."""
PHOTO_FOLDERS = {"images", "data", "imgs", "photos", "jpegimages", "image_2"}
Key = int | str
"""An id by which records of a source are compared."""
LARGEST_ID = 2**62
"""Number from which on new ids do not count: they would soon have more than 64 bits."""
LOOKED_AT = 20
"""Images of a file by which the folder of its photos is recognized."""


@dataclass
class Part:
    """One COCO file, read but not cleaned; its lists hold objects, and every image has a `file_name`, perhaps empty."""

    path: Path
    images: list[Record]
    annotations: list[Record]
    categories: list[Record]
    header: Record
    findings: Findings
    places: list[str] = field(default_factory=list)


def join(parts: Sequence[Part], root: Path, photos: Path | None) -> Source:
    """Join the COCO files of a folder.

    Classes are the same where their names are; image and annotation ids are kept unless two files share one. Images of
    a test split are left out where there is a training and a validation split, and validate where there is no other.

    Args:
        parts: the files, in order; changed in place.
        root: the folder that they were found in.
        photos: folder of the photos, if the user gave one.

    Raises:
        BCNetError: if two files list the same photos.
    """
    findings = Findings()
    subfolders = cache(_subfolders)
    for part in parts:
        findings.extend(part.findings)
        _find_photos(part, root, photos, subfolders)
    _refuse_twins(parts, root)
    parts = _mark_splits(parts, root, findings)
    categories = _join_categories(parts)
    places = _join_places(parts)
    if _clash(part.images for part in parts) or _clash(part.annotations for part in parts):
        _renumber(parts)
    header: Record = {}
    for part in parts:
        header = {**part.header, **header}
    return Source(
        images=[image for part in parts for image in part.images],
        annotations=[annotation for part in parts for annotation in part.annotations],
        categories=categories,
        header=header,
        findings=findings,
        places=places,
    )


def _join_places(parts: Sequence[Part]) -> list[str]:
    """Return where each annotation stands, if the ids of any file do not say so."""
    if not any(part.places for part in parts):
        return []
    places: list[str] = []
    for part in parts:
        places += part.places or [f"annotation {one.get('id')}" for one in part.annotations]
    return places


def split_of(path: Path, root: Path) -> str | None:
    """Return "train", "val" or "test" if the name of a file says so, or else that of a folder below the root."""
    stem = path.name.lower().removesuffix(".gz").removesuffix(".json")
    folders = [folder.lower() for folder in reversed(path.relative_to(root).parts[:-1])]
    return next((split for split in map(_split_word, (stem, *folders)) if split), None)


def _split_word(name: str) -> str | None:
    """Return the one split that a name speaks of."""
    words = {SPLITS[word] for word in SPLIT_WORD.findall(name.lower())}
    return words.pop() if len(words) == 1 else None


def _mark_splits(parts: Sequence[Part], root: Path, findings: Findings) -> Sequence[Part]:
    """Write the split into the images where files have several; return the parts without a superfluous test split."""
    splits = [split_of(part.path, root) for part in parts]
    if "train" not in splits or not {"val", "test"} & set(splits):
        return parts
    kept = []
    for part, split in zip(parts, splits, strict=True):
        if split == "test" and "val" in splits:
            for image in part.images:
                findings.add("image_of_test", image["file_name"])
            continue
        for image in part.images:
            image[SPLIT] = "train" if split in {"train", None} else "val"
        kept.append(part)
    return kept


def _find_photos(part: Part, root: Path, photos: Path | None, subfolders: Callable[[Path], list[str]]) -> None:
    """Write the paths of the photos into the images if one of the usual folders has them under these names."""
    for folder in _photo_folders(part.path, root, photos, subfolders):
        if any(_photo(folder, image) for image in part.images[:LOOKED_AT]):
            for image in part.images:
                path = _photo(folder, image)
                if path is not None:
                    image[PHOTO] = path
            return


def _photo(folder: Path, image: Record) -> Path | None:
    """Return the photo of an image if it is in a folder, under the name that the image has."""
    with suppress(BCNetError, OSError, ValueError):
        path = image_path(folder, image["file_name"])
        return path if path.is_file() else None
    return None


def _photo_folders(
    path: Path, root: Path, photos: Path | None, subfolders: Callable[[Path], list[str]]
) -> Iterator[Path]:
    """Yield the folders in which the photos of an annotation file usually are, those for its split first."""
    base = path.parent.parent if path.parent.name.lower() in ANNOTATION_FOLDERS else path.parent
    tops = [photos or base]
    tops += [tops[0] / name for name in subfolders(tops[0]) if name.lower() in PHOTO_FOLDERS]
    stem = path.name.lower().removesuffix(".gz").removesuffix(".json")
    subset = re.sub(r"^_?(instances|annotations?|coco|labels)[_-]|[_-]?(annotations?|coco|labels)$", "", stem)
    word = re.search(SPLIT_WORD.pattern + r"\d*", stem)
    own = {subset, word[0]} if word else {subset}
    split = split_of(path, root)
    splits = [split, "test"] if split == "val" else [split]  # KINS validates on KITTI's testing
    for top in tops:
        names = sorted(subfolders(top))
        ranked = [name for name in names if name.lower() in own]
        ranked += [name for one in splits if one for name in names if _split_word(name) == one]
        for name in ranked:
            yield top / name
            yield from (top / name / inner for inner in subfolders(top / name) if inner.lower() in PHOTO_FOLDERS)
    yield from tops


def _subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []


def _refuse_twins(parts: Sequence[Part], root: Path) -> None:
    """Raise an error if two files list the same photos: to join their annotations would be a guess.

    Some photos in both splits are left to the import, which takes them out of validation. If it is most of them, names
    of photos repeat, as in CVAT's exports of several videos, where one photo has overwritten another.
    """
    owners: dict[Hashable, int] = {}
    shared: dict[tuple[int, int], list[str]] = {}
    splits = [split_of(part.path, root) for part in parts]
    for number, part in enumerate(parts):
        for image in part.images:
            key = image.get(PHOTO) or (part.path.parent, splits[number], image["file_name"] or id(image))
            first = owners.setdefault(key, number)
            if first != number:
                shared.setdefault((first, number), []).append(image["file_name"])
    for (first, second), names in shared.items():
        fewer = min(len(parts[first].images), len(parts[second].images))
        if splits[first] == splits[second] or 2 * len(names) > fewer:
            one, other = (str(parts[number].path.relative_to(root)) for number in (first, second))
            raise data_error(
                f"`{one}` and `{other}` in `{root}` list the same photos, such as `{names[0]}`",
                "import one of the files, or move the other out of the folder",
            )


def _join_categories(parts: Sequence[Part]) -> list[Record]:
    """Join the categories by name, and write the ids of the joined ones into the annotations.

    A name that one file lists twice stays twice, for `clean` to find.
    """
    joined: list[Record] = []
    by_name: dict[str, Any] = {}
    taken: set[Hashable] = set()
    for part in parts:
        new_ids: dict[Hashable, Any] = {}
        added: dict[str, Any] = {}
        for category in part.categories:
            name, old = spelling(str(category.get("name"))), id_key(category.get("id"))
            if name in by_name:
                new_ids[old] = by_name[name]
                continue
            new = category.get("id") if old not in taken else free_id(taken)
            joined.append({**category, "id": new})
            taken.add(id_key(new))
            new_ids[old] = new
            added.setdefault(name, new)
        by_name |= added
        for annotation in part.annotations:
            old = annotation.get("category_id")
            if id_key(new_ids.get(id_key(old), old)) != id_key(old):
                annotation["category_id"] = new_ids[id_key(old)]
    return joined


def _clash(lists: Iterable[Iterable[Record]]) -> bool:
    """Return whether an id occurs in two of several lists; one that occurs twice in the same list does not count."""
    seen: set[Hashable] = set()
    for records in lists:
        ids = {id_key(record["id"]) for record in records if "id" in record}
        if seen & ids:
            return True
        seen |= ids
    return False


def _renumber(parts: Sequence[Part]) -> None:
    """Number images and annotations through; what shares an id within one file still shares it afterwards."""
    image_ids, annotation_ids = count(1), count(1)
    for part in parts:
        new_images: dict[Hashable, int] = {}
        new_annotations: dict[Hashable, int] = {}

        def renumber(record: Record, key: str, new: dict[Hashable, int], ids: count[int]) -> None:
            old = id_key(record.get(key))
            if old is not None:
                if old not in new:
                    new[old] = next(ids)
                record[key] = new[old]

        for image in part.images:
            renumber(image, "id", new_images, image_ids)
        for annotation in part.annotations:
            renumber(annotation, "image_id", new_images, image_ids)
            renumber(annotation, "id", new_annotations, annotation_ids)
        rewrite_order(part.annotations, new_annotations)


def rewrite_order(annotations: Iterable[Record], new_ids: Mapping[Hashable, int]) -> None:
    """Replace the ids of `front_of` by new ones, in place; those without a new one are no longer there.

    Args:
        annotations: records, of which any may have `front_of`.
        new_ids: new ids by the `id_key` of the old ones.
    """
    for annotation in annotations:
        if isinstance(annotation.get(FRONT_OF), list):
            hidden = [new_ids[id_key(one)] for one in annotation[FRONT_OF] if id_key(one) in new_ids]
            annotation[FRONT_OF] = hidden
            if not hidden:
                del annotation[FRONT_OF]


def id_key(value: Any) -> Key | None:  # noqa: ANN401  (as read from json)
    """Return a key under which ids that mean the same are equal: 1, 1.0 and "1"; None for what is no id."""
    if type(value) is int:
        return value
    whole = to_whole(value)
    if whole is not None:
        return whole
    return value if isinstance(value, str) and value else None


def free_id(keys: Iterable[Hashable]) -> int:
    """Return an id from which on none of these keys is an id."""
    return max((key for key in keys if isinstance(key, int) and key < LARGEST_ID), default=0) + 1
