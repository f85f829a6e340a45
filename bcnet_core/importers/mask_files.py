"""Read sets with one mask file an object: `ID/masks/*.png`, a folder of masks a photo, or photo_0.png, photo_1.png.

A folder between them that is named neither like the photo nor `masks` names the class: `masks/leaf/photo_0.png`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.images import read_values
from bcnet_core.files.matching import match_by_ending
from bcnet_core.importers.findings import Findings
from bcnet_core.importers.folders import (
    OBJECT,
    SPLITS,
    add_instance,
    add_unlabeled,
    image_record,
    number_classes,
    relative_name,
    settle_splits,
    without_suffix,
)
from bcnet_core.importers.label_files import LABEL_FOLDER, LabelFiles, bare_photo, find_label_files, images_and_labels
from bcnet_core.importers.source import Format, Source

NUMBERED = re.compile(r"(.+?)([ ._-]?(masks?|objects?|obj|instances?|inst))?[ ._-]?\d+", re.IGNORECASE)
"""Name of a mask beside its photo: that of the photo, perhaps a word, and a number."""
LAST_PART = re.compile(r"[ ._-]+[^ ._-]*$")
MOST_PARTS = 6
"""Parts that the name of a mask may have beyond that of its photo."""
SURE_SHARE = 0.5
"""Least share of the pixels of a mask that have its highest value; the others are its smoothed border."""


def _recognize(path: Path) -> bool:
    """Return whether a folder holds several black and white images for a photo."""
    if not path.is_dir():
        return False
    try:
        return has_several_masks(find_label_files(path, None))
    except BCNetError:
        return False


def has_several_masks(files: LabelFiles) -> bool:
    """Return whether a photo has several files of labels, of which the first is black and white."""
    owners = _owners(files)[0]
    if not owners:
        return False
    photo, count = Counter(owners.values()).most_common(1)[0]
    return count > 1 and len(np.unique(read_values(next(file for file in owners if owners[file] == photo)))) <= 2


def _read(path: Path, images: Path | None) -> Source:
    """Read a folder of mask files, whose photos lie in it or in a folder of their own."""
    files = (_numbered_files(path) if images is None else None) or find_label_files(path, images)
    owners, ambiguous = _owners(files)
    findings = Findings()
    for file in files.labels:
        if file not in owners:
            kind = "label_ambiguous" if file in ambiguous else "label_without_photo"
            findings.add(kind, relative_name(file, path))
    if not owners:
        raise data_error(f"none of the {len(files.labels):,} mask files in `{path}` is named like a photo")
    source = Source([], [], [], findings=findings)
    records: dict[Path, Record] = {}
    for file, photo in owners.items():
        name = relative_name(file, path)
        try:
            mask = _read_mask(file, name, findings)
        except BCNetError:
            findings.add("label_image_unreadable", name)
            continue
        if photo not in records:
            records[photo] = image_record(len(records) + 1, photo, files.folder)
            records[photo] |= {"height": mask.shape[0], "width": mask.shape[1]}
        add_instance(
            source, records[photo], name,
            category_id=_class_name(file, photo, files), segmentation=masks.to_json(masks.encode(mask)),
        )  # fmt: skip
    number_classes(source)
    source.images.extend(records.values())
    add_unlabeled(findings, files.photos, owners.values(), files.folder)
    return settle_splits(source)


def _numbered_files(path: Path) -> LabelFiles | None:
    """Return masks beside photos, named like them with a number; None if there are none, or labels by other names."""
    found, labels = images_and_labels(path)
    if labels:
        return None
    places = {without_suffix(file) for file in found}
    for file in found:
        match = NUMBERED.fullmatch(file.stem)
        if match is not None and without_suffix(file.with_name(f"{match[1]}{file.suffix}")) in places:
            labels.append(file)
    photos = [file for file in found if file not in set(labels)]
    return LabelFiles(labels, photos, path, path) if labels else None


def _owners(files: LabelFiles) -> tuple[dict[Path, Path], set[Path]]:
    """Return the photo of every mask, by the folders that it is in or by how its name begins; and those with several.

    A mask in `ID/masks` is also that of the only photo in a folder `ID` of the set.
    """
    owners: dict[Path, Path] = {}
    ambiguous: set[Path] = set()
    left: Sequence[Path] = files.labels
    for spelling in _spellings(files.root):
        for photo_spelling in (without_suffix, bare_photo):
            matches = match_by_ending([*map(spelling, left)], [*map(photo_spelling, files.photos)])
            for label, match in zip(left, matches, strict=True):
                if len(match) == 1:
                    owners[label] = files.photos[match[0]]
                elif match:
                    ambiguous.add(label)
            left = [label for label, match in zip(left, matches, strict=True) if not match]
    beside: dict[Path, list[Path]] = {}
    for photo in files.photos:
        for folder in photo.parents:
            beside.setdefault(folder, []).append(photo)
    for label in left:
        folder = label.parent.parent
        is_one_photo = folder != files.root and len(beside.get(folder, ())) == 1
        if is_one_photo and LABEL_FOLDER.fullmatch(label.parent.name):
            owners[label] = beside[folder][0]
    return {label: owners[label] for label in files.labels if label in owners}, ambiguous


def _spellings(root: Path) -> list[Callable[[Path], str]]:
    """Return the ways to write the path that the photo of a mask may have: folders first, then shorter names."""

    def folder(level: int) -> Callable[[Path], str]:
        return lambda label: str(label.parents[level]) if len(label.relative_to(root).parts) > level + 1 else ""

    def shortened(count: int) -> Callable[[Path], str]:
        def spell(label: Path) -> str:
            stem = label.stem
            for _ in range(count):
                stem = LAST_PART.sub("", stem)
            return str(label.with_name(stem)) if stem else ""

        return spell

    return [folder(0), folder(1), *map(shortened, range(MOST_PARTS))]


def _class_name(file: Path, photo: Path, files: LabelFiles) -> str:
    """Return the innermost folder of a mask that is named neither like its photo or a folder of it, nor `masks`."""
    known = {*photo.relative_to(files.folder).parts[:-1], photo.stem, Path(bare_photo(photo)).name}
    for part in reversed(file.relative_to(files.root).parts[:-1]):
        words = (LABEL_FOLDER, *SPLITS.values())
        if part not in known and not any(pattern.fullmatch(part) for pattern in words):
            return part
    return str(OBJECT["name"])


def _read_mask(path: Path, name: str, findings: Findings) -> NDArray[np.bool_]:
    """Read one mask as (H, W) bool; of one with a smoothed border, the pixels above half of its highest value.

    Raises:
        BCNetError: if it cannot be read, or has several values that are no border.
    """
    values = read_values(path)
    if values.ndim == 3:
        opaque = values[..., -1:] > 0 if values.shape[2] in {2, 4} else True
        values = (values[..., : 3 if values.shape[2] >= 3 else 1] * opaque).max(axis=2)
    inside = values > 0
    if len(np.unique(values)) <= 2:
        return inside
    highest = values.max()
    if np.count_nonzero(values == highest) < SURE_SHARE * np.count_nonzero(inside):
        raise data_error(f"`{path}` has several values: it is no mask of one object")
    findings.add("mask_smoothed", name)
    soft: NDArray[np.bool_] = values > highest / 2
    return soft


MASK_FILES = Format("mask-files", "one mask file an object (PNG, TIFF)", _recognize, _read)
