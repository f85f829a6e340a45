"""Downloads of weight files: once, into a cache, checked before they are kept."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, url2pathname, urlopen

from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.files.outputs import atomic_file, waited_output
from bcnet_core.reporting import Reporter, SilentReporter
from bcnet_core.weights.files import read_weight_file

CHUNK = 2**20
"""Bytes read at once, the unit of the progress."""
TIMEOUT = 60.0
"""Seconds without a byte after which a server is given up."""


def fetch(source: str, reporter: Reporter, *, digest: str | None = None) -> Path:
    """Return the file that a path or a URL means.

    A download from an http(s) URL is kept in `$XDG_CACHE_HOME/bcnet/weights` (or `~/.cache/bcnet/weights`) once it has
    proved readable, and is not repeated. While another process downloads the same, this one waits. A file:// URL is
    the file itself.

    Args:
        source: path or URL.
        reporter: receives what is fetched, and the progress.
        digest: how the digest of a download begins, like "sha256:73cbd019"; also checked of a file that somebody has
            put into the cache.

    Raises:
        BCNetError: if the URL is of another kind, or the download fails, is no weight file or has another digest.
    """
    target = place_of(source)
    if target != cached(source):
        return target
    if not target.exists():
        with waited_output(target, lambda: reporter.info(f"another process is writing {target}; waiting for it")):
            if not target.exists():
                reporter.info(f"fetching {source} to {target}")
                with atomic_file(target) as temporary:
                    _download(source, temporary, target, reporter)
                    _check(temporary, digest, source)
                return target
    _check_digest(target, digest, str(target), f"remove it, and it is fetched again from {source}")
    reporter.info(f"fetched before: {target}")
    return target


def place_of(source: str) -> Path:
    """Return the file that a path or a URL means; of a download, its place in the cache.

    Raises:
        BCNetError: if the URL is of another kind.
    """
    scheme, _, rest = source.partition("://")
    if not rest:
        return Path(source)
    if scheme == "file":
        return Path(url2pathname(urlsplit(source).path))
    if scheme not in {"http", "https"}:
        raise usage_error(
            f"`{source}` is not a URL that can be fetched", "give a path, or an http(s):// or file:// URL"
        )
    return cached(source)


def cached(url: str) -> Path:
    """Return where the file behind a URL is kept; different URLs with the same file name are kept apart."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bcnet" / "weights"
    name = re.sub(r"[^\w.-]", "_", PurePosixPath(unquote(urlsplit(url).path)).name).strip(".")
    return folder / hashlib.sha256(url.encode()).hexdigest()[:16] / (name or "weights")


def _download(url: str, path: Path, target: Path, reporter: Reporter) -> None:
    """Download a URL to `path`, which becomes `target`."""
    with path.open("wb") as file:
        for chunk in _chunks(url, target, reporter):
            file.write(chunk)


def _chunks(url: str, target: Path, reporter: Reporter) -> Iterator[bytes]:
    """Yield the bytes behind a URL and report the progress, if the server tells the size.

    Raises:
        BCNetError: if they cannot be had, or the connection breaks off; it names `target`, the place for a file that
            is fetched by other means.
    """
    try:
        with urlopen(Request(url, headers={"User-Agent": "bcnet"}), timeout=TIMEOUT) as response:
            size, done = int(response.headers.get("Content-Length") or 0), 0
            shown = reporter if size else SilentReporter()
            with shown.progress(f"MB of {target.name}", -(-size // CHUNK)) as progress:
                while chunk := response.read(CHUNK):
                    done += len(chunk)
                    progress.advance()
                    yield chunk
        if done < size:
            raise ConnectionError(f"the connection broke off after {done:,} of {size:,} bytes")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason: object = error
        if isinstance(error, HTTPError):
            error.close()  # it is the server's answer, too
        elif isinstance(error, URLError):
            reason = error.reason
        raise BCNetError(
            f"cannot fetch `{url}`: {reason}; fetch it by other means, and put it at `{target}`",
            f"check the address and the network, or on a machine that has one: curl -L --create-dirs -o {target} {url}",
        ) from None


def _check(path: Path, digest: str | None, url: str) -> None:
    """Check a download, and read it once: a login page is not an HTTP error."""
    _check_digest(path, digest, url, "fetch it again, or tell its publisher")
    try:
        read_weight_file(path)
    except BCNetError as error:
        message = error.message.replace(str(path), url)
        raise BCNetError(message, *error.hints, exit_code=error.exit_code) from None


def _check_digest(path: Path, digest: str | None, name: str, hint: str) -> None:
    """Require the digest of a file to begin as published."""
    if digest is None:
        return
    kind, _, expected = digest.partition(":")
    with path.open("rb") as file:
        found = _digest(file, kind)
    if not found.startswith(expected):
        raise data_error(
            f"`{name}` is not the file that was published: its {kind} begins with {found[: len(expected)]}, "
            f"not {expected}",
            hint,
        )


def _digest(file: BinaryIO, kind: str) -> str:
    """Return the digest of a file in hexadecimal."""
    digest = hashlib.new(kind, usedforsecurity=False)
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
