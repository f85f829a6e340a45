"""One process at a time writes an output: a lock file beside it, which the system frees however the process ends."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path

from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.files.workers import undisturbed

LOCK_SECONDS = 1.0
"""How long a lock is waited for: a process that was killed a moment ago may still be ending."""

_claimed: ContextVar[frozenset[Path]] = ContextVar("_claimed", default=frozenset())
_descriptors: set[int] = set()


def part_of(place: Path) -> Path:
    """Where an output is written until it is complete; the name ends as its own does, which some writers go by."""
    return place.with_name(f".part.{place.name}")


def old_of(place: Path) -> Path:
    """Where a folder is while another one takes its place."""
    return place.with_name(f".old.{place.name}")


@contextmanager
def claimed(path: Path) -> Iterator[Path]:
    """Be the only process that writes an output, until the block ends.

    Within the block it may be claimed again, and so may what is in it where it is a folder.

    Missing parent directories are made, and removed again if they stay empty. What a killed process left of this
    output is cleared away.

    Args:
        path: a file or a folder, which need not be there.

    Yields:
        Where it is: behind its links.

    Raises:
        BCNetError: if another process, or another thread, has claimed it.
        OSError: if its folder cannot be written.
    """
    place = path.resolve()
    missing = [folder for folder in place.parents if not folder.exists()]
    ours = not _claimed.get().isdisjoint({place, *place.parents})
    busy = usage_error(
        f"`{path}` is being written by another process", "wait until it has ended, or choose another output"
    )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with nullcontext() if ours else locked(place.with_name(f".{place.name}.lock"), busy, owns=place):
            clear(place)
            yield place
    finally:
        for folder in missing:
            with suppress(OSError):  # it is not empty, as it should be
                folder.rmdir()


def clear(place: Path) -> None:
    """Remove what is half-written of an output; a folder that had to make room and was not replaced comes back."""
    part, old = part_of(place), old_of(place)
    if old.exists() and not place.exists():
        old.replace(place)
    for left in (part, old):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def is_left_over(path: Path) -> bool:
    """Whether a file is what a killed process leaves beside an output."""
    return path.name.startswith((".part.", ".old.")) or (path.name.startswith(".") and path.suffix == ".lock")


@contextmanager
def locked(path: Path, busy: BCNetError, *, owns: Path) -> Iterator[None]:
    """Hold a lock until the block ends; the file is made for it, and removed.

    Where the file system has no locks, its existence is the lock, and one that a killed process left has to be removed
    by a person.

    Args:
        path: the file; its folder exists.
        busy: what is raised if another process holds the lock, and goes on holding it for `LOCK_SECONDS`.
        owns: what is claimed by that: an output, or a folder of them.

    Raises:
        BCNetError: see `busy`.
        OSError: if the file cannot be made.
    """
    descriptor = _lock(path, busy)
    _descriptors.add(descriptor)
    before = _claimed.set(_claimed.get() | {owns.resolve()})
    try:
        yield
    finally:
        _claimed.reset(before)
        with undisturbed():
            if _is_at(path, descriptor):
                path.unlink(missing_ok=True)
            _descriptors.discard(descriptor)
            os.close(descriptor)


def _lock(path: Path, busy: BCNetError) -> int:
    """The descriptor of the locked file."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        descriptor, fresh = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):  # else the one who held it has just removed it
                return descriptor
        except BlockingIOError:
            pass
        except OSError:  # a file system without locks
            if fresh:
                return descriptor
            os.close(descriptor)
            raise BCNetError(
                f"{busy.message}, or was by one that was killed (its file system has no locks to tell)",
                f"if none is at work there: rm '{path}'",
                exit_code=busy.exit_code,
            ) from None
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise busy
        time.sleep(0.05)


def _open(path: Path) -> tuple[int, bool]:
    """Open the file, and say whether it was made for that."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_EXCL, 0o666), True
    except FileExistsError:
        return os.open(path, flags, 0o666), False


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file still has its name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def _let_go() -> None:
    """A forked process, a loader of images perhaps, may outlive the one that holds the locks."""
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_let_go)
