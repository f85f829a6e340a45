"""Read the `data.yaml` of YOLO data sets: names of classes, and splits, whose paths seldom fit the machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from bcnet_core.errors import data_error
from bcnet_core.files.matching import match_by_ending
from bcnet_core.importers.findings import Findings
from bcnet_core.importers.folders import relative_name

CONFIG_SUFFIXES = {".yaml", ".yml"}
SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
"""Keys of `data.yaml`, and the splits that they are."""
CLASS_FILES = ("classes.txt", "obj.names", "labels/classes.txt")
"""Files with one class name a line, which Label Studio, labelImg and CVAT write."""
LARGEST_CONFIG = 2**22
"""Bytes of the largest `data.yaml` that is read; one with the 1,203 classes of LVIS has 30,000."""


class YoloConfig(NamedTuple):
    """Content of a `data.yaml`.

    Attributes:
        path: the file.
        base: the folder that the splits are relative to, as it is written.
        names: of the classes by number; empty if the file has none.
        splits: paths of folders or lists of photos by split, as they are written.
    """

    path: Path
    base: str
    names: dict[int, str]
    splits: dict[str, list[str]]


def read_config(path: Path) -> YoloConfig | None:
    """Read a `data.yaml`; None if a file is yaml of another kind.

    Raises:
        BCNetError: if the file describes keypoints, which have no masks.
    """
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            return None
        content = yaml.load(path.read_text("utf-8-sig"), yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return None
    if not isinstance(content, dict) or not content.keys() & {"names", "nc"} or not content.keys() & SPLIT_KEYS.keys():
        return None
    if "kpt_shape" in content:
        raise data_error(f"`{path}` describes keypoints, which have no masks", "export it as segmentation")
    splits: dict[str, list[str]] = {}
    for key, split in SPLIT_KEYS.items():
        value = content.get(key)
        entries = value if isinstance(value, list) else [value]
        splits.setdefault(split, []).extend(entry for entry in entries if isinstance(entry, str) and entry)
    return YoloConfig(path, str(content.get("path") or ""), _names(content.get("names")), splits)


def _names(value: Any) -> dict[int, str]:  # noqa: ANN401  (as read from yaml)
    if isinstance(value, list):
        return dict(enumerate(map(str, value)))
    if isinstance(value, dict) and all(str(key).isdecimal() for key in value):
        return {int(key): str(name) for key, name in value.items()}
    return {}


def read_classes(folders: Iterable[Path]) -> dict[int, str]:
    """Return the class names in the first of the usual files that exists; empty if there is none."""
    for folder in folders:
        for name in CLASS_FILES:
            if (folder / name).is_file():
                lines = (folder / name).read_text("utf-8-sig", errors="replace").splitlines()
                return dict(enumerate(line.strip() for line in lines if line.strip()))
    return {}


def listed_photos(
    config: YoloConfig, photos: Sequence[Path], folder: Path, findings: Findings
) -> dict[Path, str | None]:
    """Return the split of every photo that a `data.yaml` lists; None for all if both splits are the same photos.

    Raises:
        BCNetError: if neither the folder of the training set nor that of the validation set can be found.
    """
    members = {split: _members(config, paths, photos, folder) for split, paths in config.splits.items()}
    if not (members["train"] or members["val"]):
        written = " and ".join(f"`{path}`" for split in ("train", "val") for path in config.splits[split])
        raise data_error(
            f"`{config.path}` names {written or 'no split'}, where no photo is",
            "import the folder that holds the photos, or name it: --images DIR",
        )
    same = members["train"] == members["val"]  # examples validate on their training set
    for photo in sorted(members["train"] & members["val"] if not same else ()):
        findings.add("photo_in_both", relative_name(photo, folder))
    splits: dict[Path, str | None] = dict.fromkeys(members["test"], "test")
    splits |= dict.fromkeys(members["val"], "val")
    splits |= dict.fromkeys(members["train"], None if same else "train")
    return splits


def _members(config: YoloConfig, paths: Sequence[str], photos: Sequence[Path], folder: Path) -> set[Path]:
    """Return the photos of a split, given as folders, text files that list photos, or photos."""
    found: set[Path] = set()
    for written in paths:
        place = _find(f"{config.base}/{written}", folder)
        if place is not None and place.is_dir():
            found |= {photo for photo in photos if photo.is_relative_to(place)}
        elif place is not None and place.suffix.lower() == ".txt":
            lines = place.read_text("utf-8-sig", errors="replace").splitlines()
            matches = match_by_ending([line.strip() for line in lines], [str(photo) for photo in photos])
            found |= {photos[match[0]] for match in matches if len(match) == 1}
    return found


def _find(written: str, folder: Path) -> Path | None:
    """Return the longest ending of a path that exists in a folder: the rest is of the machine that wrote it.

    Roboflow writes `../train/images` for a folder beside `data.yaml`.
    """
    parts = [part for part in PurePosixPath(written.replace("\\", "/")).parts if part not in {"/", ".", ".."}]
    for start in range(len(parts) + (not parts)):
        place = folder.joinpath(*parts[start:])
        if place.exists():
            return place
    return None
