"""Input files from anywhere: special files and decompression bombs are rejected before they are read."""

from __future__ import annotations

import gzip
from pathlib import Path

from bcnet_core.errors import BCNetError, data_error

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
