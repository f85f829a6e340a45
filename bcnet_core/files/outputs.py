"""Outputs that are complete or absent: locked, written beside the target, flushed to disk, renamed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.files.workers import deferred_signals

LOCK_SECONDS = 1.0
"""How long to wait for a lock: a process that was killed a moment ago may still be exiting."""
MAX_TRIES = 10
"""How often to try a lock whose folder is not there."""
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""Errors of file systems without locks, as some network file systems are mounted."""


def check_not_input(path: Path, *inputs: Path) -> None:
    """Reject an output that would overwrite an input, also through a link."""
    place = _resolve(path)
    for source in inputs:
        other = _resolve(source)
        if place == other or (place.exists() and other.exists() and place.samefile(other)):
            raise usage_error(f"`{path}` is the input itself", "choose another output")


def check_apart(folder: Path, *inputs: Path) -> None:
    """Reject an output folder that is an input, contains one or lies inside one, also through a link."""
    place = _resolve(folder)
    for source in inputs:
        other = _resolve(source)
        if other.is_relative_to(place):
            raise usage_error(
                f"`{folder}` holds the input `{source}`, which would be replaced", "choose another output"
            )
        if place.is_relative_to(other):
            raise usage_error(f"`{folder}` lies in the input `{source}`", "choose another output")


def check_not_among(folder: Path, *photos: Path) -> None:
    """Reject a folder of written pictures inside a folder of photos: whatever reads it next would take both."""
    place = _resolve(folder)
    for source in photos:
        if place.is_relative_to(_resolve(source)):
            raise usage_error(
                f"`{folder}` lies in `{source}`, where its pictures would be taken for photos", "choose another output"
            )


def check_distinct(*paths: Path) -> None:
    """Reject outputs that lead to the same file."""
    places = [_resolve(path) for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise usage_error(f"two outputs would be written to `{path}`", "give each a name of its own")


def check_output_file(path: Path, *, overwrite: bool = False) -> None:
    """Reject an output that cannot be a file or, unless `overwrite`, exists already."""
    _resolve(path)
    if path.is_dir():
        raise usage_error(f"`{path}` is a folder, a file is to be written", f"name a file in it: -o {path}/NAME")
    if path.exists() and not path.is_file():
        raise usage_error(f"`{path}` is not a regular file", "choose another output")
    if not overwrite and (path.exists() or path.is_symlink()):
        raise usage_error(f"`{path}` exists already", "write over it: --overwrite", "or choose another output")


def check_output_folder(path: Path, *, overwrite: bool = False) -> None:
    """Reject an output that cannot be a folder or, unless `overwrite`, is one with something in it."""
    _resolve(path)
    if path.exists() and not path.is_dir():
        raise usage_error(f"`{path}` is a file, a folder is to be written", "choose another output")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise usage_error(f"`{path}` exists already", "write over it: --overwrite", "or choose another output")


def _resolve(path: Path) -> Path:
    """Follow the links of a path, which need not exist but must be possible: no circle of links, no overlong name."""
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise usage_error(f"`{path}` cannot be used: {reason}", "choose another path") from None
    return path.resolve()


@contextmanager
def reserve_outputs(*paths: Path, check: Callable[[Path], None]) -> Iterator[None]:
    """Check outputs and lock them until the block ends, so that no other process writes them."""
    for path in paths:
        check(path)
    with ExitStack() as stack:
        for path in sorted(paths, key=Path.resolve):  # the same order in every process, so that one of them wins
            with write_errors(path):
                stack.enter_context(locked_output(path))
        for path in paths:
            check(path)  # another process may have written it in the meantime
        yield


@contextmanager
def waited_output(path: Path, waiting: Callable[[], None]) -> Iterator[Path]:
    """Lock an output that several processes may want; wait for one that writes it, after a call of `waiting`."""
    with write_errors(path), ExitStack() as stack:
        told, missed = False, 0
        while True:
            try:
                place = stack.enter_context(locked_output(path))
                break
            except BCNetError:  # it is busy
                if not told:
                    waiting()
                told = True
            except FileNotFoundError:  # the other process has just removed its lock, or the folder that stayed empty
                if (missed := missed + 1) > MAX_TRIES:
                    raise
        yield place


@contextmanager
def locked_output(path: Path) -> Iterator[Path]:
    """Lock a file or folder until the block ends, and clear what a killed process left of it.

    Missing parent directories are created, and removed again if they stay empty. Blocks for the same output may be
    nested within a thread. Yields the path behind its links; what the system refuses is an OSError.
    """
    place = path.resolve()
    missing = [folder for folder in place.parents if not folder.exists()]
    busy = usage_error(
        f"`{path}` is being written by another process", "wait until it has ended, or choose another output"
    )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(place.with_name(f".{place.name}.lock"), busy):
            clear_partial(place)
            yield place
    finally:
        for folder in missing:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


@contextmanager
def hold_lock(path: Path, busy: BCNetError) -> Iterator[None]:
    """Hold a lock file until the block ends, then remove it; raise `busy` if another process has it.

    The system frees the lock of a process that is killed.
    """
    lock = FileLock(path, timeout=LOCK_SECONDS, is_singleton=True, fallback_to_soft=False)  # singleton: may be nested
    try:
        try:
            with deferred_signals():
                lock.acquire()
        except Timeout:
            if not path.exists():  # nobody has it: it cannot be created, which filelock retries in a folder like /proc
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
            raise busy from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            path.unlink(missing_ok=True)  # writing without a lock is better than not at all
        yield
    finally:
        with deferred_signals():
            if lock.is_locked and lock.lock_counter == 1:
                path.unlink(missing_ok=True)
            lock.release()


def partial_path(place: Path) -> Path:
    """Return where an output is written until it is complete; the suffix stays, because some writers go by it."""
    return place.with_name(f".part.{place.name}")


def _backup_path(place: Path) -> Path:
    """Return where a folder is kept while another one takes its place."""
    return place.with_name(f".old.{place.name}")


def is_leftover(path: Path) -> bool:
    """Return whether a killed process may have left a file of this name beside an output."""
    return path.name.startswith((".part.", ".old.")) or (path.name.startswith(".") and path.suffix == ".lock")


def clear_partial(place: Path) -> None:
    """Remove what is half-written of an output; restore a folder that was moved away but not replaced."""
    part, backup = partial_path(place), _backup_path(place)
    if backup.exists() and not place.exists():
        backup.replace(place)
    for leftover in (part, backup):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors of the block into one that names `path`."""
    try:
        yield
    except OSError as error:
        raise BCNetError(
            f"cannot write `{path}`: {error.strerror or error}",
            "check the path, its permissions and the free disk space",
        ) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that replaces it when the block succeeds.

    Missing parent directories are created. If the block raises, nothing is left behind; leftovers of a killed process
    are removed by the next one that writes `path`. A link stays: its target is replaced.
    """
    with write_errors(path), locked_output(path) as place:
        temporary = partial_path(place)
        try:
            temporary.touch(exist_ok=False)
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            temporary.replace(place)
        finally:
            with deferred_signals():
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a temporary directory beside `path` that takes its place when the block succeeds.

    An existing `path` is replaced as a whole (call `check_output_folder` first). If the block raises, nothing is left
    behind and an existing `path` stays as it was. A folder cannot be exchanged in one step: a process that is killed
    between the two renames leaves none, and the next one that writes `path` restores the old one.
    """
    with write_errors(path), locked_output(path) as place:
        part = partial_path(place)
        try:
            part.mkdir()
            yield part
            with deferred_signals():
                if place.exists():
                    place.replace(_backup_path(place))
                part.replace(place)
        finally:
            with deferred_signals():
                clear_partial(place)
