"""Read label images: one image a photo, in which every value but 0 is an instance.

They may be of 8, 16 or 32 bits, have a palette, or a color an instance. The rules for what a value means are those of
the sets that use them: 255 is the border of VOC where 254 is not used too; names that end in `_instanceIds` follow
Cityscapes; and with a file `classes.txt`, a value is 1000 * class + instance.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.image_headers import FORMATS
from bcnet_core.files.images import read_values
from bcnet_core.importers.findings import Findings
from bcnet_core.importers.folders import (
    OBJECT,
    add_instance,
    add_unlabeled,
    image_record,
    number_classes,
    pair,
    relative_name,
    settle_splits,
)
from bcnet_core.importers.label_files import SPELLINGS, find_label_files, images_and_labels
from bcnet_core.importers.mask_files import MASK_FILES, has_several_masks
from bcnet_core.importers.source import Format, Source
from bcnet_core.importers.voc_classes import BORDER_COLOR, read_voc_classes

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
    """The (height, width) of a label image, its masks by value, and the value of a border, which may not occur."""

    size: tuple[int, int]
    rles: dict[int, masks.RLE]
    border: int | None


def _recognize(path: Path) -> bool:
    """Return whether a folder holds label images, by their names and by the first of them."""
    if not path.is_dir():
        return False
    try:
        found, labels = images_and_labels(path)
        if len(labels) < len(found):  # else the photos are in a folder of their own
            files = find_label_files(path, None)
            labels = [*pair(files.labels[:GLANCED], files.photos, SPELLINGS)[0]]
        return bool(labels and _read_labels(labels[0]))
    except BCNetError:
        return False


def _read(path: Path, images: Path | None) -> Source:
    """Read a folder of label images, whose photos lie beside them or in a folder of their own.

    A folder that has several masks for a photo, and no label image that is named like one, is read as mask files.
    """
    files = find_label_files(path, images)
    findings = Findings()
    pairs, ambiguous, left = pair(files.labels, files.photos, SPELLINGS)
    if not pairs:
        if has_several_masks(files):
            return MASK_FILES.read(path, images)
        raise data_error(
            f"none of the {len(files.labels):,} label images in `{path}` is named like a photo",
            "name photo.jpg's photo.png or photo_mask.png",
            "if every object has a file of its own: --from mask-files",
        )
    for kind, unpaired in (("label_ambiguous", ambiguous), ("label_without_photo", left)):
        for file in unpaired:
            findings.add(kind, relative_name(file, path))
    names = _class_names(path, pairs)
    found = _read_all(sorted(pairs), path, findings)
    source = Source([], [], [], findings=findings)
    for file, labels in found.items():
        record = image_record(len(source.images) + 1, pairs[file], files.folder)
        record["height"], record["width"] = labels.size
        source.images.append(record)
        _add_instances(source, record, file, labels, names=names, name=relative_name(file, path))
    if names is None:
        number_classes(source, CITYSCAPES.values() if any(map(_is_cityscapes, found)) else ())
    else:
        source.categories.extend({"id": number, "name": name} for number, name in enumerate(names, start=1))
    add_unlabeled(findings, files.photos, pairs.values(), files.folder)
    return settle_splits(source)


def _add_instances(
    source: Source, record: Record, file: Path, labels: _Labels, *, names: list[str] | None, name: str
) -> None:
    """Add the instances of one label image to a source."""
    rles = dict(labels.rles)
    if labels.border in rles and labels.border - 1 not in rles:
        del rles[labels.border]
        source.findings.add("label_border", name)
    voc = read_voc_classes(file, rles) if names is None else None
    for value, rle in rles.items():
        meaning = _meaning(value, file, names) if voc is None else {"category_id": voc[value]}
        if meaning is not None:
            add_instance(source, record, f"{name}: {value}", **meaning, segmentation=masks.to_json(rle))


def _class_names(path: Path, labels: Iterable[Path]) -> list[str] | None:
    """Return the class names of label images whose values have classes; None if there is no file of them."""
    for folder in (path, *sorted({file.parent for file in labels})):
        file = folder / CLASSES
        if file.is_file():
            lines = file.read_text("utf-8-sig", errors="replace").splitlines()
            return [line.strip() for line in lines if line.strip()]
    return None


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
    border = BORDER if values.dtype.itemsize == 1 else None
    if values.ndim == 3:
        values, is_gray = _one_channel(values)
        border = BORDER if is_gray else BORDER_COLOR
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    if not np.array_equal(whole, values) or whole.min() < 0:
        raise data_error(
            f"`{path}` has values that are no whole numbers from 0", "save the labels as 16-bit PNG or TIFF"
        )
    if whole.max() > MOST_INSTANCES and len(np.unique(whole)) > MOST_INSTANCES:
        raise data_error(f"`{path}` has more than {MOST_INSTANCES:,} values: it is a photo, or was smoothed")
    return _Labels((whole.shape[0], whole.shape[1]), masks.from_labels(whole), border)


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


def _is_cityscapes(file: Path) -> bool:
    return file.stem.lower().endswith("_instanceids")


def _meaning(value: int, file: Path, names: list[str] | None) -> Record | None:
    """Return the category, and the crowd flag where it is known, of a value; None for Cityscapes' stuff."""
    if names is not None:
        return {"category_id": value // CLASS_STEP + 1}  # one that is not listed is found where classes are read
    if _is_cityscapes(file):
        label = CITYSCAPES.get(value // CLASS_STEP if value >= CLASS_STEP else value)
        return None if label is None else {"category_id": label, "iscrowd": int(value < CLASS_STEP)}
    return {"category_id": OBJECT["name"]}


MASKS = Format("masks", "label images (PNG, TIFF)", _recognize, _read)
