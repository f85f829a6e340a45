"""Outputs that are complete or absent: write beside the target, flush to disk, rename."""

from __future__ import annotations

import gc
import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from bcnet_core.errors import BCNetError, usage_error


@contextmanager
def paused_collector() -> Iterator[None]:
    """Let Python's collector of reference cycles rest; it triples the time in which a large json is read."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


_ENCODER = json.JSONEncoder(separators=(",", ":"))


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
    try:
        place = path.resolve()
        place.exists()
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its links lead round in a circle"
        raise usage_error(f"`{path}` cannot be used: {reason}", "choose another path") from None
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
    """Make the parent of `path`, and turn the system's errors of the block into one that names `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise BCNetError(
            f"cannot write `{path}`: {error.strerror or error}",
            "check the path, its permissions and the free disk space",
        ) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that replaces `path` when the block ends well.

    Missing parent directories are made. If the block raises, nothing is left behind. A link stays: what it leads to is
    replaced.

    Raises:
        BCNetError: if the directory cannot be written or the disk is full.
    """
    path = path.resolve()
    with _told_if_unwritable(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            temporary.chmod(0o666 & ~_umask())
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a temporary directory beside `path` that takes its place when the block ends well.

    An existing `path` is replaced as a whole (call `refuse_existing_folder` first). If the block raises, nothing is
    left behind and an existing `path` stays as it was.

    Raises:
        BCNetError: if the parent cannot be written or the disk is full.
    """
    path = path.resolve()
    with _told_if_unwritable(path):
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        try:
            temporary.chmod(0o777 & ~_umask())
            yield temporary
            old = temporary.with_suffix(".old")
            if path.exists():
                path.replace(old)
            temporary.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401  (whatever json can hold)
    """Write `value` as compact json, atomically; gzipped where the name ends in `.gz`.

    The bytes depend on the value alone.
    """
    write_together({path: value})


def write_together(outputs: dict[Path, Any]) -> None:
    """Write several files, all of them or none.

    Args:
        outputs: for every file its bytes, or what `write_json` writes.

    Raises:
        BCNetError: if one of them cannot be written.
    """
    with ExitStack() as stack:
        parts = {path: stack.enter_context(atomic_file(path)) for path in outputs}
        for path, temporary in parts.items():
            with temporary.open("wb") as out:
                if isinstance(outputs[path], bytes):
                    out.write(outputs[path])
                else:
                    _write_json(out, outputs[path], packed=path.suffix == ".gz")


def json_size(path: Path, value: Any) -> int:  # noqa: ANN401
    """The bytes that `write_json` would write to `path`; nothing is written."""
    counter = _Counter()
    _write_json(counter, value, packed=path.suffix == ".gz")
    return counter.size


class _Counter:
    """Counts what is written to it."""

    size = 0

    def write(self, data: bytes, /) -> int:
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        pass


def _write_json(out: IO[bytes] | _Counter, value: Any, *, packed: bool) -> None:  # noqa: ANN401
    if packed:
        with gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=6, mtime=0) as compressed:
            compressed.writelines(_json_parts(value))
        return
    for part in _json_parts(value):
        out.write(part)


def _json_parts(value: Any) -> Iterator[bytes]:  # noqa: ANN401
    """Json text piece by piece, so that a large file is not held in memory as one text."""
    if isinstance(value, dict) and value and all(isinstance(key, str) for key in value):
        for number, (key, item) in enumerate(value.items()):
            yield b"," if number else b"{"
            yield _ENCODER.encode(key).encode() + b":"
            yield from _list_parts(item) if isinstance(item, list) else (_ENCODER.encode(item).encode(),)
        yield b"}"
    else:
        yield _ENCODER.encode(value).encode()


def _list_parts(items: list[Any]) -> Iterator[bytes]:
    yield b"["
    for start in range(0, len(items), 1000):
        yield (b"," if start else b"") + _ENCODER.encode(items[start : start + 1000]).encode()[1:-1]
    yield b"]"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
