"""The formats that can be imported. A new one is a module with a `Format`, and its line here."""

from __future__ import annotations

from pathlib import Path

from bcnet_core.errors import data_error, usage_error
from bcnet_core.files.json_files import check_regular_file
from bcnet_core.importers.coco import COCO
from bcnet_core.importers.label_images import MASKS
from bcnet_core.importers.labelme import LABELME
from bcnet_core.importers.mask_files import MASK_FILES
from bcnet_core.importers.sa1b import SA1B
from bcnet_core.importers.source import Format
from bcnet_core.importers.via import VIA
from bcnet_core.importers.yolo import YOLO

FORMATS: tuple[Format, ...] = (SA1B, LABELME, VIA, YOLO, COCO, MASK_FILES, MASKS)
"""In the order in which they are tried on a source whose format is not given: the most specific first."""

ARCHIVES = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"}
"""Suffixes of archives, in which tools hand out their exports."""


def choose_format(path: Path, name: str = "auto") -> Format:
    """Return the format of a data set: the one of this name, or with "auto" the first that recognizes the source.

    Raises:
        BCNetError: if the source does not exist or is an archive, if no format has this name, or none recognizes it.
    """
    by_name = {one.name: one for one in FORMATS}
    if name != "auto" and name not in by_name:
        raise usage_error(f"no format is called `{name}`", "formats: " + " · ".join(["auto", *by_name]))
    if not path.exists():
        raise data_error(f"`{path}` does not exist", "give the json file, or the folder of the data set")
    check_regular_file(path)
    if name != "auto":
        return by_name[name]
    for one in FORMATS:
        if one.recognize(path):
            return one
    if path.is_file() and path.suffix.lower() in ARCHIVES:
        raise data_error(f"`{path}` is an archive", "unpack it, and give the folder")
    raise data_error(
        f"`{path}` is in none of the formats that are read",
        *(f"{one.title}: --from {one.name}" for one in FORMATS),
    )
