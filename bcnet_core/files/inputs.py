"""Inputs from anywhere, before anything is read of them: what has no end is refused, and so is what unpacks to one."""

from __future__ import annotations

import gzip
import stat
from pathlib import Path

from bcnet_core.errors import data_error

MOST_BYTES = 4 * 2**30
"""Of an input that is read whole: nine times the annotations of COCO, which take ten times that in memory."""
MOST_UNPACKED = 100
"""Times its size that a packed file may unpack to; COCO files unpack to three or four times, whitespace to 1,000."""
UNPACKED_ANYHOW = 100_000_000
"""Bytes up to which a packed file may unpack to anything."""
AT_ONCE = 2**24


def is_special(path: Path) -> bool:
    """Whether a path leads to a pipe, a device or a socket: reading those may wait, or go on, for ever.

    Raises:
        OSError: if it leads nowhere.
    """
    mode = path.stat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def check_regular_file(path: Path) -> None:
    """Refuse a pipe, a device or a socket.

    Raises:
        BCNetError: if it is one.
        OSError: if it leads nowhere.
    """
    if is_special(path):
        raise data_error(f"`{path}` is a pipe or a device, not a file", "write what it gives to a file first")


def read_whole(path: Path) -> bytes | bytearray:
    """The bytes of a file, unpacked where its name ends in `.gz`.

    Raises:
        BCNetError: if it is no file, or larger than memory should hold.
        OSError: if it cannot be read; of a packed file also EOFError and zlib.error.
    """
    check_regular_file(path)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise _too_large(path, f"has {size / 2**30:.1f} GiB")
    return _unpacked(path) if path.suffix == ".gz" else path.read_bytes()


def _unpacked(path: Path) -> bytearray:
    content = bytearray()
    with path.open("rb") as packed, gzip.GzipFile(fileobj=packed) as file:
        while part := file.read(AT_ONCE):
            content += part
            if len(content) > MOST_BYTES:
                raise _too_large(path, "unpacks to more")
            if len(content) > max(UNPACKED_ANYHOW, MOST_UNPACKED * packed.tell()):
                raise data_error(
                    f"`{path}` unpacks to more than {MOST_UNPACKED} times its size, as no data does",
                    "where you trust it, unpack it yourself",
                )
    return content


def _too_large(path: Path, how: str) -> Exception:
    return data_error(f"`{path}` {how}, more than the {MOST_BYTES // 2**30} GiB that are read", "split it")
