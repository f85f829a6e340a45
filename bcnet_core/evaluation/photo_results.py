"""Results of one photo at a time, and the names of files that hold those of one photo each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bcnet_core.annotations.coco import Record
from bcnet_core.errors import usage_error


class PhotoResults(NamedTuple):
    """Results of one photo.

    Attributes:
        image: its entry in a COCO file's `images`; `file_name` is a path from the working directory.
        name: path of files that hold these results, without a suffix, in the folder of their format; see `photo_names`.
        results: COCO results as they are in memory, see `bcnet_core.evaluation.results`.
    """

    image: Record
    name: str
    results: Sequence[Record]


WritePhoto = Callable[[PhotoResults], int]
"""Writes the results of a photo, and returns the number of those that the format cannot hold."""


def prepared(path: Path) -> Path:
    """Make the folder of a file about a photo, and return the path of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def photo_names(images: Sequence[Record]) -> dict[int, str]:
    """Return the path of the files about every image, without a suffix, by image id.

    It is the path of the image, relative to the folder that all images have in common.

    Raises:
        BCNetError: if two images have the same; they differ in their suffix.
    """
    paths = {image["id"]: Path(os.path.abspath(image["file_name"])) for image in images}  # noqa: PTH100  (without links)
    top = os.path.commonpath([path.parent for path in paths.values()])
    names: dict[str, int] = {}
    for image_id, path in paths.items():
        own = path.relative_to(top)
        name = (own if path.is_dir() else own.with_suffix("")).as_posix()  # a clip may be a folder of frames: cam.v1
        if name in names:
            raise usage_error(
                f"`{paths[names[name]].name}` and `{path.name}` would both be written to a file named `{name}`",
                "predict one of them into another output",
            )
        names[name] = image_id
    return {image_id: name for name, image_id in names.items()}
