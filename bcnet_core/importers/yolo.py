"""Read YOLO segmentation: one text file a photo, one line an object, coordinates as shares of the photo's size.

The format: https://docs.ultralytics.com/datasets/segment. Photos without a label file are background, and are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.image_headers import image_size
from bcnet_core.importers.findings import Findings
from bcnet_core.importers.folders import (
    GLANCES,
    add_instance,
    files_in,
    image_record,
    pair,
    photos_in,
    relative_name,
    settle_splits,
    without_suffix,
)
from bcnet_core.importers.source import SPLIT, Format, Source
from bcnet_core.importers.yolo_config import CONFIG_SUFFIXES, YoloConfig, listed_photos, read_classes, read_config

FARTHEST_SHARE = 1.0
"""Share of the photo's size by which an outline may leave it; pixels are mistaken for shares otherwise."""
LARGEST_GLANCE = 65_536
"""Bytes of a text file that are looked at to see whether it has labels."""


def _recognize(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() in CONFIG_SUFFIXES and _config_of(path) is not None
    if _config_of(path) is not None:
        return True
    return any(_has_labels(file) for file in islice(_text_files(path), GLANCES))


def _read(path: Path, images: Path | None) -> Source:
    """Read a data set by its `data.yaml`, the folder that holds it, or a folder of photos and label files alone.

    Boxes are annotations without a mask. With `images`, the paths in `data.yaml` are looked for there.
    """
    root = path if path.is_dir() else path.parent
    folder = images or root
    config = _config_of(path)
    findings = Findings()
    photos = photos_in(folder)
    labels = sorted({*_text_files(root), *_text_files(folder)})
    pairs, ambiguous, left = pair(labels, photos, ((_photo_spelling, without_suffix), (without_suffix, without_suffix)))
    for kind, files in (("label_ambiguous", ambiguous), ("label_without_photo", left)):
        for file in filter(_has_labels, files):  # others are lists of classes or photos, notes, ...
            findings.add(kind, relative_name(file, root))
    if not pairs:
        raise data_error(f"`{path}` holds no label file of YOLO that fits a photo", *_way_out(images))
    splits = {} if config is None else listed_photos(config, photos, folder, findings)
    label_of = {photo: label for label, photo in pairs.items()}
    source = Source([], [], [], findings=findings)
    for photo in photos:
        record = image_record(len(source.images) + 1, photo, folder)
        if splits:
            if photo not in splits:
                findings.add("photo_unlisted", record["file_name"])
                continue
            record[SPLIT] = splits[photo]
        with suppress(BCNetError):  # a damaged photo, which is left out with its labels
            record["height"], record["width"] = image_size(photo)
        source.images.append(record)
        if photo in label_of:
            _read_labels(label_of[photo], record, relative_name(label_of[photo], root), source)
    names = config.names if config is not None and config.names else read_classes([root, folder])
    source.categories.extend(_categories(names, source))
    return settle_splits(source)


def _way_out(images: Path | None) -> list[str]:
    return ["name the folder of the photos: --images DIR"] if images is None else []


def _config_of(path: Path) -> YoloConfig | None:
    """Return the content of a `data.yaml`, or of the one in a folder; None if there is none."""
    if path.is_file():
        return read_config(path)
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in CONFIG_SUFFIXES)
    return next((config for file in files if (config := read_config(file)) is not None), None)


def _text_files(folder: Path) -> list[Path]:
    return files_in(folder, {".txt"})


def _has_labels(path: Path) -> bool:
    """Return whether the first line of a text file is a class and four or more shares."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_GLANCE).decode("utf-8-sig", errors="replace")
    except OSError:
        return False
    numbers = _numbers(text.strip().partition("\n")[0].split())
    return len(numbers) >= 5 and numbers[0] >= 0 and numbers[0].is_integer() and _are_shares(numbers[1:])


def _photo_spelling(label: Path) -> str:
    """Return the path that the photo of a label file has beside it: `images` instead of the last `labels`."""
    parts = [*label.with_suffix("").parts]
    for position in range(len(parts) - 2, -1, -1):
        if parts[position].lower() == "labels":
            parts[position] = "images"
            break
    return str(Path(*parts))


def _read_labels(path: Path, image: Record, name: str, source: Source) -> None:
    """Add the instances of one photo to a source; lines that are none are findings."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        source.findings.add("label_file_damaged", name)
        return
    sizes = (image.get("width", 1), image.get("height", 1))
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{name}: line {number}"
        values = _numbers(line.split())
        shares = values[1:]
        if len(shares) < 4 or len(shares) % 2 or not values[0].is_integer():
            source.findings.add("label_line_unreadable", place)
        elif not _are_shares(shares):
            source.findings.add("label_line_beyond", place)
        else:
            pixels = [round(share * sizes[position % 2], 3) for position, share in enumerate(shares)]
            shape = _box(pixels) if len(pixels) == 4 else {"segmentation": [pixels]}
            add_instance(source, image, place, category_id=int(values[0]) + 1, **shape)


def _box(values: list[float]) -> Record:
    """Return a box without a mask, given its center and size."""
    x, y, width, height = values
    return {"bbox": [x - width / 2, y - height / 2, width, height], "segmentation": []}


def _numbers(words: Iterable[str]) -> list[float]:
    """Return the numbers of a line; none if one is not finite or not a number."""
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def _are_shares(values: Iterable[float]) -> bool:
    return all(-FARTHEST_SHARE <= value <= 1 + FARTHEST_SHARE for value in values)


def _categories(names: dict[int, str], source: Source) -> list[Record]:
    """Return the classes; those without any names are called by their number."""
    if not names:
        names = {one["category_id"] - 1: str(one["category_id"] - 1) for one in source.annotations}
        for number in sorted(names):
            source.findings.add("category_unnamed", number)
    return [{"id": number + 1, "name": name} for number, name in sorted(names.items())]


YOLO = Format("yolo", "YOLO segmentation (also Ultralytics, Roboflow)", _recognize, _read)
