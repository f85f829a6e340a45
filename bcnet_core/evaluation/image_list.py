"""From what a user names, files, folders and patterns, to the `images` of a COCO file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.errors import data_error, usage_error
from bcnet_core.images import image_size

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
"""Of the files that are taken from a folder."""


def find_images(names: Sequence[str]) -> list[Path]:
    """The image files that a command line means, each once, in the order of the names.

    Args:
        names: files; folders, of which every image is taken, in subfolders too, sorted; patterns with `*` or `?`.

    Raises:
        BCNetError: if one names nothing.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
        elif path.exists():
            files = [path]
        else:
            files = sorted(one for one in _matching(path) if one.is_file())
        if not files:
            what = "holds no image" if path.is_dir() else "names no file"
            raise data_error(f"`{name}` {what}", "give image files, folders of them, or a pattern: 'photos/*.jpg'")
        found |= dict.fromkeys(files)
    return list(found)


def _matching(path: Path) -> list[Path]:
    """The files that a pattern fits."""
    parts = path.parts
    first = next((index for index, part in enumerate(parts) if any(mark in part for mark in "*?[")), None)
    if first is None:
        return []
    return list(Path(*parts[:first]).glob(str(Path(*parts[first:]))))


def image_records(paths: Sequence[Path], known: CocoFile | None) -> list[Record]:
    """The entries of a COCO file for some images: `id`, `file_name` (as given), `width`, `height`.

    Args:
        paths: of the images.
        known: a COCO file whose ids are taken, by the name of the file without its folders; else they count from 1.

    Raises:
        BCNetError: if an image cannot be read, is not in `known`, or two have the same name there.
    """
    ids = {} if known is None else {Path(image["file_name"]).name: image["id"] for image in known.images}
    records, taken = [], set()
    for number, path in enumerate(paths, start=1):
        if known is not None and path.name not in ids:
            raise data_error(f"`{path}` is not among the {len(ids):,} images of `{known.path}`")
        own = ids.get(path.name, number)
        if own in taken:
            raise usage_error(
                f"two of the images are called `{path.name}`", "predict them one by one, or without --ids-from"
            )
        taken.add(own)
        height, width = image_size(path)
        records.append({"id": own, "file_name": str(path), "width": width, "height": height})
    return records
