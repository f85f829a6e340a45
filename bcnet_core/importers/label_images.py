"""Read label images: one image a photo, in which every value but 0 is an instance.

They may be of 8, 16 or 32 bits, have a palette, or a color an instance. The rules for what a value means are those of
the sets that use them: 255 is the border of VOC where 254 is not used too; names that end in `_instanceIds` follow
Cityscapes; and with a file `classes.txt`, a value is 1000 * class + instance.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.images import FORMATS, read_values
from bcnet_core.importers.findings import Findings
from bcnet_core.importers.folders import (
    OBJECT,
    add_instance,
    add_unlabeled,
    image_record,
    pair,
    relative_name,
    settle_splits,
)
from bcnet_core.importers.label_files import SPELLINGS, find_label_files, images_and_labels
from bcnet_core.importers.source import Format, Source

CLASSES = "classes.txt"
"""File beside the label images with one class name a line, which says that values are 1000 * class + instance."""
CLASS_STEP = 1000
BORDER = 255
"""Value of the border around objects in VOC's 8-bit images, which belongs to none."""
GLANCED = 100
"""Label images by whose names the format is recognized."""
MOST_INSTANCES = 20_000
"""Values in an image above which it is a photo, or labels that were smoothed."""
CITYSCAPES = {
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 29: "caravan", 30: "trailer", 31: "train",
    32: "motorcycle", 33: "bicycle",
}  # fmt: skip
"""Classes of Cityscapes that have instances, by label id."""


class _Labels(NamedTuple):
    """The masks of one label image by value; `bytewise` if a value is 8 bits, so that 255 may be a border."""

    size: tuple[int, int]
    rles: dict[int, masks.RLE]
    bytewise: bool


def _recognize(path: Path) -> bool:
    """Return whether a folder holds label images, by their names and by the first of them."""
    if not path.is_dir():
        return False
    try:
        found, labels = images_and_labels(path)
        if len(labels) < len(found):  # else the photos are in a folder of their own
            files = find_label_files(path, None)
            labels = [*pair(files.labels[:GLANCED], files.photos, SPELLINGS)[0]]
        return bool(labels) and read_values(labels[0]).ndim == 2
    except BCNetError:
        return False


def _read(path: Path, images: Path | None) -> Source:
    """Read a folder of label images, whose photos lie beside them or in a folder of their own."""
    files = find_label_files(path, images)
    findings = Findings()
    pairs, ambiguous, left = pair(files.labels, files.photos, SPELLINGS)
    for kind, unpaired in (("label_ambiguous", ambiguous), ("label_without_photo", left)):
        for file in unpaired:
            findings.add(kind, relative_name(file, path))
    if not pairs:
        raise data_error(
            f"none of the {len(files.labels):,} label images in `{path}` is named like a photo",
            "name photo.jpg's photo.png or photo_mask.png",
            "if every object has a file of its own: --from mask-files",
        )
    names = _class_names(path)
    found = _read_all(sorted(pairs), path, findings)
    source = Source([], [], [], findings=findings)
    for file, labels in found.items():
        number = len(source.images) + 1
        record = image_record(number, pairs[file], files.folder)
        record["height"], record["width"] = labels.size
        source.images.append(record)
        name = relative_name(file, path)
        for value, rle in labels.rles.items():
            meaning = _meaning(value, file, names)
            if value == BORDER and labels.bytewise and BORDER - 1 not in labels.rles:
                findings.add("label_border", name)
            elif meaning is not None:
                add_instance(source, record, f"{name}: {value}", **meaning, segmentation=masks.to_json(rle))
    source.categories.extend(_categories(names, {one["category_id"] for one in source.annotations}))
    add_unlabeled(findings, files.photos, pairs.values(), files.folder)
    return settle_splits(source)


def _class_names(path: Path) -> list[str] | None:
    """Return the class names of label images whose values have classes; None if there is no file of them."""
    file = path / CLASSES
    if not file.is_file():
        return None
    return [line.strip() for line in file.read_text("utf-8-sig", errors="replace").splitlines() if line.strip()]


def _read_all(files: Sequence[Path], folder: Path, findings: Findings) -> dict[Path, _Labels]:
    """Read label images; those that cannot be read are findings.

    Raises:
        BCNetError: if none can be read, or all are black and white.
    """
    found: dict[Path, _Labels] = {}
    errors = []
    for file in files:
        try:
            found[file] = _read_labels(file)
        except BCNetError as error:  # noqa: PERF203  (each file has its own)
            errors.append(error)
            findings.add("label_image_unreadable", relative_name(file, folder))
    if not found:
        raise errors[0]
    _refuse_binary(folder, found.values())
    return found


def _read_labels(path: Path) -> _Labels:
    """Read one label image.

    Raises:
        BCNetError: if it cannot be read, or its values are no labels.
    """
    if path.suffix.lower() in FORMATS["JPEG"]:
        raise data_error(f"`{path}` is a JPEG, which changes the values of labels", "save label images as PNG or TIFF")
    values = read_values(path)
    bytewise = values.dtype.itemsize == 1
    if values.ndim == 3:
        values, bytewise = _one_channel(values)
    whole = values.astype(np.int64)
    if not np.array_equal(whole, values) or whole.min() < 0:
        raise data_error(
            f"`{path}` has values that are no whole numbers from 0", "save the labels as 16-bit PNG or TIFF"
        )
    if whole.max() > MOST_INSTANCES and len(np.unique(whole)) > MOST_INSTANCES:
        raise data_error(f"`{path}` has more than {MOST_INSTANCES:,} values: it is a photo, or was smoothed")
    return _Labels((whole.shape[0], whole.shape[1]), masks.from_labels(whole), bytewise)


def _one_channel(values: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """Return one number a color, 0 for black and for what is transparent, and whether all colors are gray."""
    channels = values.shape[2]
    colors = values[..., : 3 if channels >= 3 else 1].astype(np.int64)
    opaque = values[..., -1] > 0 if channels in {2, 4} else np.ones(values.shape[:2], dtype=bool)
    gray = bool((colors == colors[..., :1]).all())
    numbers = colors[..., 0] if gray else colors @ np.array([65536, 256, 1])
    return np.where(opaque, numbers, 0), gray


def _refuse_binary(folder: Path, found: Collection[_Labels]) -> None:
    """Refuse images of one and the same value: where objects touch, they do not say where one ends."""
    values = {value for labels in found for value in labels.rles}
    if len(values) == 1:
        raise data_error(
            f"the images in `{folder}` have one value, {values.pop()}, so they do not tell objects apart",
            "if each image is the mask of one object: --from mask-files",
            "if objects never touch, number them (skimage.measure.label) and save that as 16-bit PNG or TIFF",
        )


def _meaning(value: int, file: Path, names: list[str] | None) -> Record | None:
    """Return the category, and the crowd flag if there are classes, of a value; None for Cityscapes' stuff."""
    if file.stem.lower().endswith("_instanceids"):
        label = value // CLASS_STEP if value >= CLASS_STEP else value
        crowd = {"iscrowd": int(value < CLASS_STEP)}
        return {"category_id": label, **crowd} if label in CITYSCAPES else None
    if names is not None:
        return {"category_id": value // CLASS_STEP + 1}  # one that is not listed is found where classes are read
    return {"category_id": OBJECT["id"]}


def _categories(names: list[str] | None, used: set[int]) -> list[Record]:
    if names is not None:
        return [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    if used - {OBJECT["id"]}:
        return [{"id": label, "name": name} for label, name in CITYSCAPES.items()]
    return [dict(OBJECT)]


MASKS = Format("masks", "label images (PNG, TIFF)", _recognize, _read)
