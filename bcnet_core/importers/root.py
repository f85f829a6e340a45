"""Write a data root: COCO files of training and validation, folders of their photos, and a record of the import."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.files.json_files import read_json, write_json
from bcnet_core.files.outputs import check_apart, check_output_folder
from bcnet_core.importers.source import PHOTO, SPLIT, Cleaned
from bcnet_core.importers.splits import SPLITS, SplitName
from bcnet_core.reporting import Reporter, SilentReporter

GENERATOR = "bcnet data import"
"""Value of `generator` in the record of an import."""
RECORD = "import.json"
"""Name of the record of an import in its data root."""
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}
"""Errors of file systems without links, as memory cards have."""


def annotation_file(root: Path, split: SplitName) -> Path:
    """Return the COCO file of a split."""
    return root / "annotations" / f"instances_{split}2017.json"


def photo_folder(root: Path, split: SplitName) -> Path:
    """Return the folder of the photos of a split."""
    return root / f"{split}2017"


def check_root(root: Path, *inputs: Path, overwrite: bool) -> None:
    """Check that a data root may be written.

    Raises:
        BCNetError: if it has no name, is, contains or lies in an input, or holds what may not be replaced: anything
            without `overwrite`, and otherwise what no import wrote.
    """
    if not root.name:
        raise usage_error(f"`{root}` cannot be created", "name a new folder: -o root")
    check_apart(root, *inputs)
    check_output_folder(root, overwrite=overwrite)
    if root.is_dir() and any(root.iterdir()) and (not is_imported(root) or _has_additions(root)):
        raise usage_error(
            f"`{root}` holds something other than what `{GENERATOR}` wrote, so it is not replaced",
            "remove it yourself, or choose another output",
        )


def is_imported(root: Path) -> bool:
    """Return whether a folder has the record of an import."""
    try:
        return bool(read_json(root / RECORD).get("generator") == GENERATOR)
    except (BCNetError, AttributeError):
        return False


def _has_additions(root: Path) -> bool:
    """Return whether an imported root has more than an import writes, photos aside."""
    places = [place(root, split) for split in SPLITS for place in (annotation_file, photo_folder)]
    own = {root / RECORD, root / "annotations", *places}
    found = {*root.iterdir(), *(root / "annotations").glob("*")}
    return not found <= own


def write_root(
    root: Path,
    cleaned: Cleaned,
    header: Record,
    splits: Sequence[SplitName],
    *,
    copy: bool = False,
    reporter: Reporter | None = None,
) -> None:
    """Write the annotations and photos of a data root, without its record.

    A photo is an absolute link to the file itself, or a copy. It has the name that its image record has, if that is the
    ending of the photo's path, and otherwise the shortest ending of that path that no other has.

    Args:
        root: an existing, empty folder.
        cleaned: the data set, with photos.
        header: what else stands at the top level of its COCO files.
        splits: the split of every image.
        copy: whether photos are copied.
        reporter: receiver of the progress in photos.

    Raises:
        BCNetError: if the file system of `root` has no links; its other refusals are OSErrors.
    """
    (root / "annotations").mkdir()
    split_of = {image["id"]: split for image, split in zip(cleaned.images, splits, strict=True)}
    progress = (reporter or SilentReporter()).progress("copied photos" if copy else "linked photos", len(splits))
    with progress as task:
        for split in dict.fromkeys(split for split in SPLITS if split in splits):
            chosen = [at for at, one in enumerate(splits) if one == split]
            paths = [cleaned.photos[at].path for at in chosen]
            names = _file_names([cleaned.images[at]["file_name"] for at in chosen], paths)
            for _ in _place_photos(photo_folder(root, split), names, paths, copy=copy):
                task.advance()
            images = [_named(cleaned.images[at], name) for at, name in zip(chosen, names, strict=True)]
            content = {
                **header,
                "images": images,
                "annotations": [one for one in cleaned.annotations if split_of[one["image_id"]] == split],
                "categories": cleaned.categories,
            }
            write_json(annotation_file(root, split), content)


def _named(image: Record, name: str) -> Record:
    return {**{key: value for key, value in image.items() if key not in {PHOTO, SPLIT}}, "file_name": name}


def _place_photos(folder: Path, names: Sequence[str], paths: Sequence[Path], *, copy: bool) -> Iterator[None]:
    """Link or copy files into a folder under their names, one a step."""
    for parent in {(folder / name).parent for name in names}:
        parent.mkdir(parents=True, exist_ok=True)
    for name, path in zip(names, paths, strict=True):
        if copy:
            shutil.copyfile(path, folder / name)
        else:
            _link(folder / name, path)
        yield


def _link(link: Path, path: Path) -> None:
    try:
        link.symlink_to(os.path.realpath(path))  # a link to a link would break where the first is removed
    except OSError as error:
        if error.errno in NO_LINKS:
            raise BCNetError(f"there can be no links in `{link.parent}`: {error.strerror}", "copy: --copy") from None
        raise


def _file_names(wanted: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Return distinct names for the photos of a split: those of their records where these name the files."""
    names: dict[int, str] = {}
    files: set[str] = set()  # without case, as on the file systems of Macs and Windows
    folders: set[str] = set()

    def take(position: int, name: str) -> bool:
        key = name.casefold()
        parents = {str(folder) for folder in PurePosixPath(key).parents} - {"."}
        if key in files or key in folders or parents & files:
            return False
        names[position] = name
        folders.update(parents)
        files.add(key)
        return True

    for position, (name, path) in enumerate(zip(wanted, paths, strict=True)):
        own = PurePosixPath(name)
        if not own.is_absolute() and ".." not in own.parts and path.parts[-len(own.parts) :] == own.parts:
            take(position, str(own))
    for position, path in enumerate(paths):
        if position not in names:
            any(take(position, name) for name in _possible_names(path))
    return [names[position] for position in range(len(paths))]


def _possible_names(path: Path) -> Iterator[str]:
    """Yield ever longer endings of a path, then its name with a number."""
    parts = path.absolute().parts[1:]
    for length in range(1, len(parts) + 1):
        yield str(PurePosixPath(*parts[-length:]))
    number = 2
    while True:
        yield f"{path.stem}-{number}{path.suffix}"
        number += 1
