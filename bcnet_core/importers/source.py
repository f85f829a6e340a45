"""The form in which every format is read: COCO's three lists, perhaps in a dialect, which `clean` then repairs."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bcnet_core.annotations.coco import Record
from bcnet_core.importers.findings import Findings

PHOTO = "_photo"
"""Key of an image record: the `Path` of its photo, where the format says where it is; never written."""
SPLIT = "_split"
"""Key of an image record: "train" or "val", where the source is split already; never written."""


@dataclass
class Source:
    """A data set as a reader found it.

    Records have COCO's keys, but need not be valid: ids may be missing or text, masks in any shape, boxes missing.
    Readers translate what only they know (names of keys, meaning of masks) and leave repairs to `clean`.

    Attributes:
        images: records with at least `file_name`; `id`, `width` and `height` where the format has them.
        annotations: records with `image_id` (an `id` of `images`), `category_id` and `segmentation`.
        categories: records with `id` and `name`.
        header: what else stands at the top level: `info`, `licenses`, unknown keys; written as it is.
        findings: what the reader could not take, by kind.
        places: where each annotation stands in the source, such as "a.txt: line 3", for messages; empty if ids say so.
        verbatim: whether the records stand in a COCO file exactly as they are here, so that a training can read them.
        imported: whether an import wrote them, which has settled what their crowd flags mean.
    """

    images: list[Record]
    annotations: list[Record]
    categories: list[Record]
    header: Record = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    places: list[str] = field(default_factory=list)
    verbatim: bool = False
    imported: bool = False


class Photo(NamedTuple):
    """The photo of an image record.

    Attributes:
        path: where it was found.
        stored: (height, width) in pixels as it is stored.
        upright: (height, width) in pixels after its EXIF orientation was applied.
        flaw: the kind of fault of the photo or of its name, see `KINDS`; the image is left out if the effect of that
            kind says so. The sizes are (0, 0) where they are unknown.
    """

    path: Path
    stored: tuple[int, int]
    upright: tuple[int, int]
    flaw: str | None = None


class Cleaned(NamedTuple):
    """A valid COCO data set, made of a `Source`.

    Attributes:
        images: records with whole `id`, `file_name`, `width` and `height`.
        annotations: records that `read_coco` accepts, whose boxes are those of their masks.
        categories: records with whole `id` and a `name` that no other has.
        photos: those of `images`, in order; empty if photos were not looked at.
        findings: everything that was repaired, left out, or is worth telling, those of the reader included.
        instances: number of annotations of the source that are meant as instances, wrongly flagged ones included.
    """

    images: list[Record]
    annotations: list[Record]
    categories: list[Record]
    photos: list[Photo]
    findings: Findings
    instances: int


class Format(NamedTuple):
    """A format that can be imported.

    Attributes:
        name: value of `--from`.
        title: the name that users know it by, for help texts and messages.
        recognize: returns whether a file or folder is of this format, at a glance (names, and the head of one file).
        read: reads the file or folder; the second argument is the folder of photos that the user gave, or None.
            Raises `BCNetError` (exit code 3) where nothing can be read at all.
    """

    name: str
    title: str
    recognize: Callable[[Path], bool]
    read: Callable[[Path, Path | None], Source]


def spelling(name: str) -> str:
    """Return the name of a category in the one spelling that equal names share, without spaces around it."""
    return unicodedata.normalize("NFC", name.strip())
