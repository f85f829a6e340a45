"""Json files: read with an error that says where, written complete or not at all, and only what json can hold."""

from __future__ import annotations

import gc
import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from bcnet_core.errors import data_error
from bcnet_core.files.inputs import read_whole
from bcnet_core.files.outputs import atomic_file

_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def read_json(path: Path) -> Any:  # noqa: ANN401  (whatever json holds)
    """Read a json file, gzipped where its name ends in `.gz`.

    Raises:
        BCNetError: if it is missing, no file, too large, or not json; the message says where it breaks off.
    """
    try:
        if path.is_dir():
            raise data_error(f"`{path}` is a directory, not a json file")
        data = read_whole(path)
        with paused_collector():
            return json.loads(data)
    except FileNotFoundError:
        raise data_error(f"`{path}` does not exist", *_neighbours(path)) from None
    except (OSError, EOFError, zlib.error) as error:
        raise data_error(f"cannot read `{path}`: {error}") from error
    except UnicodeDecodeError as error:
        raise data_error(f"`{path}` is not json: byte {error.start:,} is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise data_error(f"`{path}` is not json: {error.msg} in line {error.lineno}, column {error.colno}") from None
    except ValueError:  # a number of thousands of digits
        raise data_error(f"`{path}` has a number that is too long to be one") from None
    except RecursionError:
        raise data_error(f"`{path}` is nested too deeply") from None


def _neighbours(path: Path) -> list[str]:
    """A hint that lists the json files in the same folder, or says that the folder is missing too."""
    if not path.parent.is_dir():
        return [f"its folder `{path.parent}` does not exist either"]
    found = sorted(other.name for other in path.parent.glob("[!.]*.json*"))[:6]
    return ["json files there: " + " · ".join(found)] if found else []


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


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401  (whatever json can hold)
    """Write `value` as compact json, atomically; gzipped where the name ends in `.gz`.

    The bytes depend on the value alone.
    """
    write_together({path: value})


def write_together(outputs: dict[Path, Any]) -> None:
    """Write several files; an error leaves none of them.

    The first comes into its place last. Of a process that is killed in that very moment others may be there already,
    each of them complete.

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
                    _write_json(out, outputs[path], path)
                out.flush()
                os.fsync(out.fileno())  # a disk that is full may say so now, before the first is in its place


def json_size(path: Path, value: Any) -> int:  # noqa: ANN401
    """The bytes that `write_json` would write to `path`; nothing is written."""
    counter = _Counter()
    _write_json(counter, value, path)
    return counter.size


class _Counter:
    """Counts what is written to it."""

    size = 0

    def write(self, data: bytes, /) -> int:
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        pass


def _write_json(out: IO[bytes] | _Counter, value: Any, path: Path) -> None:  # noqa: ANN401
    if path.suffix == ".gz":
        with gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=6, mtime=0) as compressed:
            compressed.writelines(_json_parts(value, path))
        return
    for part in _json_parts(value, path):
        out.write(part)


def _json_parts(value: Any, path: Path) -> Iterator[bytes]:  # noqa: ANN401
    """Json text piece by piece, so that a large file is not held in memory as one text.

    Raises:
        BCNetError: if it holds what json cannot.
    """
    try:
        yield from _parts(value)
    except ValueError:
        place, number = next(_not_finite(value))
        raise data_error(
            f"`{path}` cannot be written: `{place}` is {number}, which json has no number for",
            "put a number or null there in the input",
        ) from None
    except RecursionError:
        raise data_error(
            f"`{path}` cannot be written: it is nested too deeply", "leave out of the input what is"
        ) from None


def _not_finite(value: Any) -> Iterator[tuple[str, float]]:  # noqa: ANN401
    """The numbers that are not finite, and where they are."""
    pending = [("", value)]
    while pending:
        place, one = pending.pop()
        if isinstance(one, float) and not math.isfinite(one):
            yield place.removeprefix("."), one
        elif isinstance(one, dict):
            pending += ((f"{place}.{key}", item) for key, item in one.items())
        elif isinstance(one, list | tuple):
            pending += ((f"{place}[{index}]", item) for index, item in enumerate(one))


def _parts(value: Any) -> Iterator[bytes]:  # noqa: ANN401
    if isinstance(value, dict) and value and all(isinstance(key, str) for key in value):
        for number, (key, item) in enumerate(value.items()):
            yield b"," if number else b"{"
            yield _ENCODER.encode(key).encode() + b":"
            yield from _list_parts(item) if isinstance(item, list) else (_ENCODER.encode(item).encode(),)
        yield b"}"
    elif isinstance(value, list):
        yield from _list_parts(value)
    else:
        yield _ENCODER.encode(value).encode()


def _list_parts(items: list[Any]) -> Iterator[bytes]:
    yield b"["
    for start in range(0, len(items), 1000):
        yield (b"," if start else b"") + _ENCODER.encode(items[start : start + 1000]).encode()[1:-1]
    yield b"]"
