"""Files of a data set that is a folder: which there are, which photo a label file belongs to, and which split."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from bcnet_core import masks
from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.image_headers import SUFFIXES
from bcnet_core.files.json_files import read_json
from bcnet_core.files.matching import match_by_ending
from bcnet_core.importers.findings import Findings
from bcnet_core.importers.source import PHOTO, SPLIT, Source

GLANCES = 5
"""Files that are looked into to recognize a format: one of another kind may lie beside those that are meant."""
LARGEST_GLANCE = 2**26
"""Bytes of the largest JSON file that is looked into: a file for one photo is smaller."""
OBJECT: Record = {"id": 1, "name": "object"}
"""The class of instances in formats without classes."""
SPLITS = {
    "train": re.compile(r"train(ing)?[-_]?\d*", re.IGNORECASE),
    "val": re.compile(r"val(id(ation)?)?[-_]?\d*", re.IGNORECASE),
    "test": re.compile(r"test(ing)?[-_]?\d*", re.IGNORECASE),
}
"""Names of folders that hold a split."""

Spelling = Callable[[Path], str]
"""Returns the path under which a file is compared with others."""


def files_in(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Return the files below a folder that have one of these suffixes, sorted; hidden ones are not looked at."""
    wanted = frozenset(suffixes)
    return sorted(path for path in _walk(folder) if path.suffix.lower() in wanted)


def photos_in(folder: Path) -> list[Path]:
    """Return the images below a folder, sorted."""
    return files_in(folder, SUFFIXES)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, also behind links to folders, each folder once."""
    seen: set[tuple[int, int]] = set()
    for place, inner, files in os.walk(folder, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above
            inner.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))


def glance_at_jsons(path: Path) -> Iterator[Any]:
    """Yield the contents of a JSON file, or of the first few in a folder, as far as they can be read."""
    files = (file for file in ([path] if path.is_file() else _walk(path)) if file.suffix.lower() == ".json")
    for _, file in zip(range(GLANCES), files, strict=False):
        with suppress(BCNetError, OSError):
            if file.stat().st_size <= LARGEST_GLANCE:
                yield read_json(file)


def read_jsons(
    source: Path, is_format: Callable[[Any], bool], title: str, findings: Findings
) -> list[tuple[Path, Record]]:
    """Read the JSON files of a format that has one a photo; damaged ones and those of other formats are findings.

    Raises:
        BCNetError: if none is left.
    """
    found, first_error = [], None
    for path in [source] if source.is_file() else files_in(source, {".json"}):
        try:
            content = read_json(path)
        except BCNetError as error:
            first_error = first_error or error
            findings.add("label_file_damaged", relative_name(path, source))
            continue
        if is_format(content):
            found.append((path, content))
        else:
            findings.add("label_file_foreign", relative_name(path, source))
    if not found:
        raise first_error or data_error(f"`{source}` holds no json file of {title}")
    return found


def relative_name(path: Path, folder: Path) -> str:
    """Return the name of a file for records and messages: its path relative to a folder, or its own name outside."""
    return path.relative_to(folder).as_posix() if path != folder and path.is_relative_to(folder) else path.name


def without_suffix(path: Path) -> str:
    """Return a path without its suffix: the spelling in which a photo and its label file agree."""
    return str(path.with_suffix(""))


def pair(
    labels: Sequence[Path],
    photos: Sequence[Path],
    spellings: Sequence[tuple[Spelling, Spelling]] = ((without_suffix, without_suffix),),
) -> tuple[dict[Path, Path], list[Path], list[Path]]:
    """Find the photo of every label file by the longest ending that their paths share.

    Args:
        labels: the label files.
        photos: the photos; one that is found is not that of another label file.
        spellings: of label files and of photos, tried in this order on what is left.

    Returns:
        The photos by label file, the label files that fit several photos (or a photo that fits several), and the label
        files that fit none.
    """
    pairs: dict[Path, Path] = {}
    ambiguous: list[Path] = []
    left, free = list(labels), list(photos)
    for label_spelling, photo_spelling in spellings:
        matches = match_by_ending([*map(label_spelling, left)], [*map(photo_spelling, free)])
        users = Counter(one for match in matches for one in match)
        for label, match in zip(left, matches, strict=True):
            if len(match) == 1 and users[match[0]] == 1:
                pairs[label] = free[match[0]]
            elif match:
                ambiguous.append(label)
        left = [label for label, match in zip(left, matches, strict=True) if not match]
        free = [photo for position, photo in enumerate(free) if position not in users]
    return pairs, ambiguous, left


def pair_named(names: Mapping[Path, str], photos: Sequence[Path]) -> dict[Path, Path]:
    """Find the photo of every label file that names it, in one way or another.

    The name of the label file counts more than the name in it, which tools and scripts keep when files are renamed or
    copied; of several photos with that name, the one that the label file names is taken.

    Args:
        names: of photos, by label file; relative to it, perhaps with backslashes.
        photos: paths of all photos.
    """

    def named(label: Path) -> str:
        return os.path.normpath(label.parent / names[label].replace("\\", "/"))

    def named_like_itself(label: Path) -> str:
        return named(label) if Path(named(label)).stem == label.stem else ""

    spellings = ((named_like_itself, str), (without_suffix, without_suffix), (named, str))
    return pair([*names], photos, spellings)[0]


def split_of(path: PurePath) -> str | None:
    """Return "train", "val" or "test" if a folder of this relative path is named so, the outermost one."""
    for part in path.parts[:-1]:
        for split, pattern in SPLITS.items():
            if pattern.fullmatch(part):
                return split
    return None


def image_record(number: int, photo: Path | None, folder: Path, *, name: str = "") -> Record:
    """Return the record of a photo in a folder, in the split that its path names; `name` is for one not found."""
    name = name if photo is None else relative_name(photo, folder)
    split = split_of(PurePath(name))
    known = {PHOTO: photo} if photo is not None else {}
    return {"id": number, "file_name": name, **known} | ({} if split is None else {SPLIT: split})


def add_instance(source: Source, image: Record, place: str, **values: Any) -> None:  # noqa: ANN401
    """Add an instance to a source, with the box and area of its mask, which these formats do not have.

    Args:
        source: what is read so far.
        image: the record of its photo.
        place: where the instance stands, for messages.
        values: its `category_id`, its `segmentation`, and what else is known of it.
    """
    record: Record = {"id": len(source.annotations) + 1, "image_id": image["id"], **values}
    if "height" in image:
        with suppress(ValueError):  # a mask that cannot be read, which is found where masks are read
            rle = masks.from_segmentation(values["segmentation"], image["height"], image["width"])
            if rle is not None and masks.area(rle):
                record |= {"bbox": masks.bounding_box(rle).tolist(), "area": masks.area(rle)}
    source.annotations.append(record)
    source.places.append(place)


def number_classes(source: Source, known: Iterable[str] = ()) -> None:
    """List the classes of a source whose annotations have names as `category_id`, sorted, and number them.

    Those that are known are listed even if no annotation has them.
    """
    names = sorted({one["category_id"] for one in source.annotations}.union(known))
    source.categories.extend({"id": number, "name": name} for number, name in enumerate(names, start=1))
    numbers = {category["name"]: category["id"] for category in source.categories}
    for one in source.annotations:
        one["category_id"] = numbers[one["category_id"]]


def add_unlabeled(findings: Findings, photos: Iterable[Path], labeled: Iterable[Path], folder: Path) -> None:
    """Add the photos that no label file belongs to."""
    known = set(labeled)
    for photo in photos:
        if photo not in known:
            findings.add("photo_unlabeled", relative_name(photo, folder))


def settle_splits(source: Source) -> Source:
    """Decide what becomes of the splits that the images name.

    A test split is left out where there is a training and a validation split, and validates where there is no other;
    a source in which all is of one split is not split.
    """
    splits = {image.get(SPLIT) for image in source.images}
    if {"train", "val", "test"} <= splits:
        tested = {image["id"]: image["file_name"] for image in source.images if image.get(SPLIT) == "test"}
        for name in tested.values():
            source.findings.add("image_of_test", name)
        source.images[:] = [image for image in source.images if image["id"] not in tested]
        kept = [position for position, one in enumerate(source.annotations) if one["image_id"] not in tested]
        source.annotations[:] = [source.annotations[position] for position in kept]
        source.places[:] = [source.places[position] for position in kept]
    is_split = "train" in splits and bool(splits & {"val", "test"})
    for image in source.images:
        split = image.pop(SPLIT, None)
        if is_split and split is not None:
            image[SPLIT] = "train" if split == "train" else "val"
    return source
