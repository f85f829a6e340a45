"""Tell images of labels from photos by their names, and find the photo of each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bcnet_core.errors import data_error
from bcnet_core.files.image_headers import SUFFIXES
from bcnet_core.importers.folders import photos_in, without_suffix

LABEL_FOLDER = re.compile(
    r".*masks?|.*labels?|.*instances?|annotations?|segmentation(object)?s?|gt(fine|coarse)?|ground[ _-]?truths?",
    re.IGNORECASE,
)
"""Names of folders that hold images of labels."""
LABELS_ALONE = re.compile(r"masks?|labels?|annotations?|instances?", re.IGNORECASE)
"""Names of folders that hold nothing but labels, also in folders of their own."""
PHOTO_FOLDER = re.compile(r"im(age|g)s?|jpe?gimages|leftimg8bit|photos?|pictures?|rgb", re.IGNORECASE)
"""Names of folders that hold photos."""
LABEL_ENDING = re.compile(
    r"[ ._-](gt(fine|coarse)_instanceids|((cp|inst)[_-])?masks?|labels?|annotations?|seg(mentation)?"
    r"|inst(ances?)?|gt)$",
    re.IGNORECASE,
)
"""Endings by which tools name the image of labels after its photo, such as cellpose's `_cp_masks`."""
PHOTO_ENDING = re.compile(r"[ ._-](leftimg8bit|image|img|im|photo|rgb)$", re.IGNORECASE)
"""Endings of photos that their images of labels do not have."""
NEITHER = re.compile(
    r"(^|.*/)segmentationclass(raw|aug)?/.*|.*_gt(fine|coarse)_(labelids|color|polygons)\.\w+|.*_(flows|outlines)_?(cp)?\.\w+",
    re.IGNORECASE,
)
"""Images of classes, drawings and other by-products of VOC, Cityscapes and cellpose."""


class LabelFiles(NamedTuple):
    """The images of a data set.

    Attributes:
        labels: images of labels, sorted.
        photos: the others, sorted.
        root: folder that holds the images of labels.
        folder: folder that holds the photos.
    """

    labels: list[Path]
    photos: list[Path]
    root: Path
    folder: Path


def find_label_files(source: Path, images: Path | None) -> LabelFiles:
    """Find images of labels and photos; without a folder of photos, the source holds both, in folders or by endings.

    Raises:
        BCNetError: if either is missing.
    """
    found, labels = images_and_labels(source)
    if images is None or images.resolve() == source.resolve():
        named = set(labels)
        photos = [path for path in found if path not in named]
    else:
        photos = photos_in(images)
        own = {path.resolve() for path in photos}
        alone = LABEL_FOLDER.fullmatch(source.resolve().name) and not images.resolve().is_relative_to(source.resolve())
        labels = [path for path in (found if alone else labels or found) if path.resolve() not in own]
    if not labels:
        raise data_error(*_no_labels(source))
    if not photos:
        way_out = () if images is not None else ("name the folder of the photos: --images DIR",)
        raise data_error(f"`{images or source}` holds no photo for the {len(labels):,} images of labels", *way_out)
    return LabelFiles(labels, photos, source, images or source)


def images_and_labels(source: Path) -> tuple[list[Path], list[Path]]:
    """Return all images of a folder, without by-products, and those that hold labels by their names."""
    if not source.is_dir():
        raise data_error(f"`{source}` is a file, but images of labels are read from a folder", "name their folder")
    found = [path for path in photos_in(source) if not NEITHER.fullmatch(path.relative_to(source).as_posix())]
    alone = _holds_labels_alone(source, found)
    return found, [path for path in found if alone or _is_label_file(path, source)]


def _no_labels(source: Path) -> tuple[str, ...]:
    if any(source.rglob("*_seg.npy")):
        return (
            f"`{source}` holds cellpose's `_seg.npy` files, which can run code when they are read",
            "save the masks as images: cellpose --save_png, or cellpose.io.save_masks(..., png=True)",
        )
    return (
        f"`{source}` holds no image of labels",
        "put them into a folder named `masks`, or name photo.png's photo_mask.png",
    )


def _holds_labels_alone(source: Path, found: Iterable[Path]) -> bool:
    """Return whether all images of a folder hold labels, by its name and by those of the folders in it."""
    name = source.resolve().name
    folders = {part for path in found for part in path.relative_to(source).parts[:-1]}
    divided = any(LABEL_FOLDER.fullmatch(part) or PHOTO_FOLDER.fullmatch(part) for part in folders)
    return bool(LABELS_ALONE.fullmatch(name) or (LABEL_FOLDER.fullmatch(name) and not divided))


def _is_label_file(path: Path, source: Path) -> bool:
    """Return whether the name of an image, or of its folder, says that it holds labels."""
    folders = path.relative_to(source).parts[:-1] or (source.resolve().name,)
    return LABEL_ENDING.search(path.stem) is not None or any(map(LABEL_FOLDER.fullmatch, folders))


def bare_label(path: Path) -> str:
    """Return the path of an image of labels without its endings: that of its photo without suffix, or near it."""
    stem = LABEL_ENDING.sub("", path.stem)
    inner = Path(stem)
    return str(path.with_name(inner.stem if inner.suffix.lower() in SUFFIXES else stem))


def bare_photo(path: Path) -> str:
    """Return the path of a photo without its suffix and endings."""
    return str(path.with_name(PHOTO_ENDING.sub("", path.stem)))


SPELLINGS = ((without_suffix, without_suffix), (bare_label, without_suffix), (bare_label, bare_photo))
"""Spellings of images of labels and of photos, see `pair`."""
