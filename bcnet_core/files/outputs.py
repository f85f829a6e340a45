"""Outputs that are complete or absent: write beside the target, flush to disk, rename."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.files.claims import claimed, clear, old_of, part_of
from bcnet_core.files.workers import undisturbed


def refuse_input(path: Path, *inputs: Path) -> None:
    """Refuse to write over an input, under whatever name: no command changes what it reads.

    Raises:
        BCNetError: if `path` is one of `inputs`, also through a link.
    """
    for source in inputs:
        place = _real(path)
        same = place == _real(source)
        if same or (place.exists() and source.exists() and place.samefile(source)):
            raise usage_error(f"`{path}` is the input itself", "choose another output")


def refuse_around(folder: Path, *inputs: Path) -> None:
    """Refuse to write a folder that holds an input, or that would lie in a folder of inputs.

    Raises:
        BCNetError: if `folder` is one of `inputs`, above one, or inside one, also through a link.
    """
    place = _real(folder)
    for source in inputs:
        other = _real(source)
        if place == other or place in other.parents:
            raise usage_error(
                f"`{folder}` holds the input `{source}`, which would be replaced", "choose another output"
            )
        if other in place.parents:
            raise usage_error(f"`{folder}` lies in the input `{source}`", "choose another output")


def refuse_same(*paths: Path) -> None:
    """Refuse to write two outputs to one file.

    Raises:
        BCNetError: if two of the paths lead to the same file.
    """
    places = [_real(path) for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise usage_error(f"two outputs would be written to `{path}`", "give each a name of its own")


def _real(path: Path) -> Path:
    """Where a path leads to.

    Raises:
        BCNetError: if it leads round in a circle, or cannot be a path.
    """
    circle, reason = "its links lead round in a circle", None
    try:
        place = path.resolve()
        place.exists()
        if any(part.is_symlink() for part in (place, *place.parents)):  # as Python 3.13 leaves them
            reason = circle
    except OSError as error:
        reason = error.strerror
    except RuntimeError:
        reason = circle
    except ValueError as error:
        reason = str(error)
    if reason is not None:
        raise usage_error(f"`{path}` cannot be used: {reason}", "choose another path")
    return place


def refuse_existing(path: Path, *, overwrite: bool = False) -> None:
    """Refuse to write a file where something is already, or where no file can be.

    Raises:
        BCNetError: if `path` exists and `overwrite` is false; in any case if it is a folder or a device, or lies in
            what is no folder.
    """
    try:
        _refuse_below_file(path)
        if path.is_dir():
            raise usage_error(f"`{path}` is a folder, a file is to be written", f"name a file in it: -o {path}/NAME")
        if path.exists() and not path.is_file():
            raise usage_error(f"`{path}` is not a regular file", "choose another output")
        taken = path.exists() or path.is_symlink()
    except OSError as error:
        raise usage_error(f"`{path}` cannot be written: {error.strerror}", "choose another output") from None
    if taken and not overwrite:
        raise usage_error(f"`{path}` exists already", "write over it: --overwrite", "or choose another output")


def refuse_existing_folder(path: Path, *, overwrite: bool = False) -> None:
    """Refuse to write a folder where something is already; an empty folder is nothing.

    Raises:
        BCNetError: if `path` is a folder with something in it and `overwrite` is false, is anything but a folder, or
            lies in what is no folder.
    """
    _real(path)
    _refuse_below_file(path)
    if path.exists() and not path.is_dir():
        raise usage_error(f"`{path}` is a file, a folder is to be written", "choose another output")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise usage_error(f"`{path}` exists already", "write over it: --overwrite", "or choose another output")


def _refuse_below_file(path: Path) -> None:
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise usage_error(f"`{path}` cannot be written: `{parent}` is a file", "choose another output")


@contextmanager
def _told_if_unwritable(path: Path) -> Iterator[None]:
    """Turn the system's errors of the block into one that names `path`."""
    try:
        yield
    except OSError as error:
        raise BCNetError(
            f"cannot write `{path}`: {error.strerror or error}",
            "check the path, its permissions and the free disk space",
        ) from error


@contextmanager
def claim_together(*paths: Path) -> Iterator[None]:
    """Be the only process that writes some outputs until the block ends, as `claims.claimed` says.

    Raises:
        BCNetError: if another process writes one of them, or one cannot be written.
    """
    with ExitStack() as stack:
        for path in sorted(paths, key=Path.resolve):  # two processes claim in one order, so that one of them wins
            with _told_if_unwritable(path):
                stack.enter_context(claimed(path))
        yield


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that replaces `path` when the block ends well.

    Missing parent directories are made. If the block raises, nothing is left behind; what a process that is killed
    leaves, the next one that writes `path` removes. A link stays: what it leads to is replaced.

    Raises:
        BCNetError: if the directory cannot be written, the disk is full, or another process writes `path`.
    """
    with _told_if_unwritable(path), claimed(path) as place:
        temporary = part_of(place)
        try:
            temporary.touch(exist_ok=False)
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            temporary.replace(place)
        finally:
            with undisturbed():
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a temporary directory beside `path` that takes its place when the block ends well.

    An existing `path` is replaced as a whole (call `refuse_existing_folder` first). If the block raises, nothing is
    left behind and an existing `path` stays as it was. A folder cannot be exchanged in one go: a process that is killed
    between the two renames leaves none, and the next one that writes `path` brings the old one back.

    Raises:
        BCNetError: if the parent cannot be written, the disk is full, or another process writes `path`.
    """
    with _told_if_unwritable(path), claimed(path) as place:
        try:
            part_of(place).mkdir()
            yield part_of(place)
            with undisturbed():
                if place.exists():
                    place.replace(old_of(place))
                part_of(place).replace(place)
        finally:
            with undisturbed():
                clear(place)
