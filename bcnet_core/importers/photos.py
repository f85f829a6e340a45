"""Find the photos of image records, whatever paths the records name, and decode each of them once."""

from __future__ import annotations

import filecmp
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError
from bcnet_core.files.image_headers import SUFFIXES
from bcnet_core.files.images import decode_image, image_path
from bcnet_core.files.matching import match_by_ending
from bcnet_core.files.workers import map_with_progress
from bcnet_core.importers.source import PHOTO, Photo
from bcnet_core.reporting import Reporter

CHUNK = 64
"""Photos per task of a worker process."""
WORTH_A_WORKER = 4
"""Tasks from which on a worker process saves more time than it takes to start."""
MOST_ALIKE = 8
"""Files of one name that are compared with each other, as copies of one photo; more are ambiguous."""
UPLOAD_MARK = re.compile(r"[0-9a-f]{8}-(?=.)")
"""Prefix that Label Studio gives to the name of an uploaded file."""

FileId = tuple[int, int]
"""Device and inode: links to one file have the same."""


class _Decoded(NamedTuple):
    """Sizes and flaw of a file, see `Photo`."""

    stored: tuple[int, int]
    upright: tuple[int, int]
    flaw: str | None


def find_photos(
    images: Sequence[Record], folder: Path | None, *, workers: int = 1, reporter: Reporter | None = None
) -> list[Photo]:
    """Find and decode the photo of every image record.

    A photo is the file under the key `PHOTO`; or the file in the folder that `file_name` names; or the one whose path
    shares the longest ending with `file_name`, which may be a path of another machine (also of Windows) or a URL. No
    photo is taken where two could be meant, or where it would be that of two names. Files that several records or
    links lead to are decoded once.

    Args:
        images: records with `file_name`, or with `PHOTO`.
        folder: folder of the photos; photos in subfolders are found, hidden files and folders are not looked at.
        workers: number of processes, 0 for one per CPU core, 1 for this process.
        reporter: receiver of the progress in files.

    Returns:
        The photos, aligned with the records. Their flaw is None or a kind of fault: "photo_missing",
        "photo_ambiguous", "photo_damaged", "photo_deep", "photo_dark", "photo_pages" or "photo_name".
    """
    places = _locate(images, folder)
    files: dict[FileId, Path] = {}
    ids: list[FileId | None] = []
    for path, _ in places:
        ids.append(None if path is None else _file_id(path))
        if path is not None and ids[-1] is not None:
            files.setdefault(ids[-1], path)
    with map_with_progress(
        _decode, files.values(), title="photos", count=len(files), chunk=CHUNK, workers=workers,
        most=len(files) // (CHUNK * WORTH_A_WORKER), reporter=reporter,
    ) as results:  # fmt: skip
        decoded = dict(zip(files, results, strict=True))
    photos = []
    for image, (path, flaw), file in zip(images, places, ids, strict=True):
        if path is None or file is None:
            reason = flaw if path is None else "photo_missing"  # a link to nothing
            photos.append(Photo(image.get(PHOTO) or Path(_name(image)), (0, 0), (0, 0), reason))
        else:
            found = decoded[file]
            photos.append(Photo(path, found.stored, found.upright, found.flaw or flaw))
    return photos


def _decode(path: Path) -> _Decoded:
    try:
        image = decode_image(path)
    except BCNetError:
        return _Decoded((0, 0), (0, 0), "photo_damaged")
    flaws = {"photo_deep": image.deep, "photo_dark": image.dark, "photo_pages": image.pages}
    return _Decoded(image.stored, image.upright, next((flaw for flaw, found in flaws.items() if found), None))


def _locate(images: Sequence[Record], folder: Path | None) -> list[tuple[Path | None, str | None]]:
    """Return the file of every image and the flaw of its name, or None and the reason why there is no file."""
    places: list[tuple[Path | None, str | None]] = [(None, "photo_missing")] * len(images)
    named: list[int] = []  # positions of the images whose file is looked for in the folder
    for position, image in enumerate(images):
        own = image.get(PHOTO)
        if own is not None and _is_file(own):
            places[position] = (own, None)
        elif own is None and folder is not None and _name(image):
            named.append(position)
            with suppress(BCNetError):
                direct = image_path(folder, _name(image))
                if _is_file(direct):
                    places[position] = (direct, None)
    if folder is not None and any(places[position][0] is None for position in named):
        found = _search([_name(images[position]) for position in named], folder)
        for position, place in zip(named, found, strict=True):
            if places[position][0] is None:
                places[position] = place
    return places


def _name(image: Record) -> str:
    name = image.get("file_name")
    return name if isinstance(name, str) else ""


def _search(names: Sequence[str], folder: Path) -> list[tuple[Path | None, str | None]]:
    """Find the files whose paths share the longest endings with these names."""
    found: list[tuple[Path | None, str | None]] = [(None, "photo_missing")] * len(names)
    paths = [*_walk(folder)]
    pending, names_of = [*range(len(names))], defaultdict[int, set[str]](set)
    for spell_name, spell_path in ((_plain, str), (_bare, _bare), (_bare, _without_suffix)):
        keys = [spell_name(names[position]) for position in pending]
        matches = match_by_ending(keys, [spell_path(path) for path in paths])
        for position, match in zip(pending, matches, strict=True):
            for one in match[:MOST_ALIKE]:
                names_of[one].add(_plain(names[position]))
        for position, match in zip(pending, matches, strict=True):
            if match:
                alone = all(len(names_of[one]) == 1 for one in match[:MOST_ALIKE])
                clear = alone and _are_same([folder / paths[one] for one in match])
                found[position] = (folder / paths[match[0]], "photo_name") if clear else (None, "photo_ambiguous")
        pending = [position for position, match in zip(pending, matches, strict=True) if not match]
        if not pending:
            break
    return found


def _are_same(paths: Sequence[Path]) -> bool:
    """Return whether all paths lead to one file, or to copies of one."""
    if len(paths) > MOST_ALIKE:
        return False
    with suppress(OSError):
        return all(path.samefile(paths[0]) or filecmp.cmp(path, paths[0], shallow=False) for path in paths[1:])
    return False


def _plain(name: str) -> str:
    """Return the path in a name that may be a URL: `/data/local-files/?d=a%2Fb/c.png` is `a/b/c.png`."""
    path, mark, query = name.partition("?")
    if mark:
        fields = (field.partition("=") for field in query.split("&"))
        path = next((value for key, _, value in fields if key == "d"), path)
    return unquote(path) if mark or "://" in name else name


def _bare(name: str) -> str:
    """Return a path without differences of case, and without the mark of an upload before the file's name."""
    path = PurePosixPath(_plain(name).replace("\\", "/"))
    return str(path.with_name(UPLOAD_MARK.sub("", path.name, count=1))).casefold() if path.name else ""


def _without_suffix(name: str) -> str:
    """Return a bare path without the suffix of an image: some names have none."""
    path = PurePosixPath(_bare(name))
    return str(path.with_suffix("")) if path.suffix in SUFFIXES else str(path)


def _walk(folder: Path) -> Iterator[str]:
    """Yield the paths of all files below a folder, relative to it, through links, without hidden ones."""
    seen: set[FileId | None] = set()
    for place, inner, files in os.walk(folder, followlinks=True):
        new = []
        for name in sorted(inner):
            if not name.startswith(".") and (identity := _file_id(Path(place, name))) not in seen:
                seen.add(identity)  # a link may lead to a folder above
                new.append(name)
        inner[:] = new
        inside = Path(place).relative_to(folder)
        yield from (str(inside / name) for name in sorted(files) if not name.startswith("."))


def _file_id(path: Path) -> FileId | None:
    with suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


def _is_file(path: Path) -> bool:
    with suppress(OSError, ValueError):
        return path.is_file()
    return False
