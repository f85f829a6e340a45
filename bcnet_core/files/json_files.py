"""Input files from anywhere, and JSON files: read safely, written complete or not at all.

Special files and decompression bombs are rejected before they are read. A fault in a JSON file is reported with its
place, and only what JSON can hold is written.
"""

from __future__ import annotations

import gc
import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.outputs import atomic_file

MOST_BYTES = 4 * 2**30
"""Largest input that is read whole: nine times the annotations of COCO, which take ten times that in memory."""
MOST_EXPANSION = 100
"""Most times its size that a gzipped file may expand to; COCO files reach 3 or 4, whitespace 1,000."""
ALWAYS_ALLOWED = 100_000_000
"""Bytes that a gzipped file of any size may expand to."""


def check_regular_file(path: Path) -> None:
    """Reject a pipe, a device or a socket, as reading one may wait, or go on, forever; a missing file is an OSError."""
    path.stat()
    if not (path.is_file() or path.is_dir()):
        raise data_error(f"`{path}` is a pipe or a device, not a file", "write what it gives to a file first")


def read_whole(path: Path) -> bytes | bytearray:
    """Read the bytes of a file, unpacked if its name ends in `.gz`.

    One that cannot be read is an OSError, or if gzipped also an EOFError or a zlib.error.
    """
    check_regular_file(path)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise _too_large(path, f"has {size / 2**30:.1f} GiB")
    if path.suffix != ".gz":
        return path.read_bytes()
    content = bytearray()
    with path.open("rb") as packed, gzip.GzipFile(fileobj=packed) as file:
        while part := file.read(2**24):
            content += part
            if len(content) > MOST_BYTES:
                raise _too_large(path, "unpacks to more")
            if len(content) > max(ALWAYS_ALLOWED, MOST_EXPANSION * packed.tell()):
                raise data_error(
                    f"`{path}` unpacks to more than {MOST_EXPANSION} times its size, as no data does",
                    "if you trust it, unpack it yourself",
                )
    return content


def _too_large(path: Path, how: str) -> BCNetError:
    return data_error(f"`{path}` {how}, more than the {MOST_BYTES // 2**30} GiB that are read", "split it")


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def json_stem(path: Path) -> str:
    """Return the name of a JSON file without `.json` or `.json.gz`."""
    return Path(path.name.removesuffix(".gz")).stem


def read_json(path: Path) -> Any:  # noqa: ANN401  (whatever JSON holds)
    """Read a JSON file, gzipped if its name ends in `.gz`; an error says where it breaks off."""
    try:
        if path.is_dir():
            raise data_error(f"`{path}` is a directory, not a json file")
        data = read_whole(path)
        with paused_collector():
            return json.loads(data)
    except FileNotFoundError:
        raise data_error(f"`{path}` does not exist", *_neighbors(path)) from None
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


def begins_list(path: Path) -> bool:
    """Return whether a JSON file, gzipped or not, begins as a list; False if it cannot be read, as reading it tells."""
    with suppress(OSError, EOFError, zlib.error):
        check_regular_file(path)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")  # a byte order mark, white space
    return False


def _neighbors(path: Path) -> list[str]:
    """Return a hint that lists the JSON files in the same folder, or says that the folder is missing too."""
    if not path.parent.is_dir():
        return [f"its folder `{path.parent}` does not exist either"]
    found = sorted(other.name for other in path.parent.glob("[!.]*.json*"))[:6]
    return ["json files there: " + " · ".join(found)] if found else []


@contextmanager
def paused_collector() -> Iterator[None]:
    """Pause Python's collector of reference cycles, which triples the time that reading a large JSON file takes."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401  (whatever JSON can hold)
    """Write `value` as compact JSON, atomically, gzipped if the name ends in `.gz`; equal values give equal bytes."""
    write_together({path: value})


def write_together(outputs: dict[Path, Any]) -> None:
    """Write several files, each given as its bytes or a value for `write_json`; an error leaves none of them.

    The first is renamed into its place last. A process that is killed in that very moment may leave others behind,
    each of them complete.
    """
    with ExitStack() as stack:
        parts = {path: stack.enter_context(atomic_file(path)) for path in outputs}
        for path, temporary in parts.items():
            value = outputs[path]
            with temporary.open("wb") as out:
                out.writelines([value] if isinstance(value, bytes) else _encode(value, path))
                out.flush()
                os.fsync(out.fileno())  # a full disk may show only now, before the first file is in its place


def json_size(path: Path, value: Any) -> int:  # noqa: ANN401
    """Return how many bytes `write_json` would write to `path`."""
    return sum(map(len, _encode(value, path)))


def _encode(value: Any, path: Path) -> Iterator[bytes]:  # noqa: ANN401
    """Yield the bytes of a JSON file piece by piece, so that a large one is not held in memory as one text."""
    packer = zlib.compressobj(level=6, wbits=31) if path.suffix == ".gz" else None  # 31: gzip, the largest window
    try:
        for part in _json_parts(value):
            yield packer.compress(part) if packer else part
        if packer:
            yield packer.flush()
    except ValueError:
        place, number = next(_not_finite(value))
        raise data_error(
            f"`{path}` cannot be written: `{place}` is {number}, which json has no number for",
            "put a number or null there in the input",
        ) from None
    except RecursionError:
        raise data_error(
            f"`{path}` cannot be written: it is nested too deeply", "leave the nested part out of the input"
        ) from None


def _not_finite(value: Any) -> Iterator[tuple[str, float]]:  # noqa: ANN401
    """Yield the numbers that are not finite, and where they are."""
    pending = [("", value)]
    while pending:
        place, one = pending.pop()
        if isinstance(one, float) and not math.isfinite(one):
            yield place.removeprefix("."), one
        elif isinstance(one, dict):
            pending += ((f"{place}.{key}", item) for key, item in one.items())
        elif isinstance(one, list | tuple):
            pending += ((f"{place}[{index}]", item) for index, item in enumerate(one))


def _json_parts(value: Any) -> Iterator[bytes]:  # noqa: ANN401
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
