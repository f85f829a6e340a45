"""Find the file behind a source of weights: a path, or a URL that is downloaded once."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit
from urllib.request import Request, url2pathname, urlopen

from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.files.outputs import atomic_file
from bcnet_core.reporting import Reporter
from bcnet_core.weights.files import read_weight_file


def fetch(source: str, reporter: Reporter) -> Path:
    """Return the file that a path or a URL means.

    A download from an http(s) URL is kept in `$XDG_CACHE_HOME/bcnet/weights` (or `~/.cache/bcnet/weights`) once it has
    proved readable, and is not repeated. A file:// URL is the file itself.

    Args:
        source: a path, or an http://, https:// or file:// URL.
        reporter: receives a message before a download.

    Raises:
        BCNetError: if the URL is of another kind, the download fails or is no weight file, or another process is
            downloading it.
    """
    scheme, _, rest = source.partition("://")
    if not rest:
        return Path(source)
    if scheme == "file":
        return Path(url2pathname(urlsplit(source).path))
    if scheme not in {"http", "https"}:
        raise usage_error(f"`{source}` is no URL that can be fetched", "give a path, or an http(s):// or file:// URL")
    target = cached(source)
    if target.exists():
        reporter.info(f"fetched before: {target}")
        return target
    reporter.info(f"fetching {source} to {target}")
    with atomic_file(target) as temporary:
        _download(source, temporary)
    return target


def cached(url: str) -> Path:
    """Return where the file behind a URL is kept; different URLs with the same file name are kept apart."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bcnet" / "weights"
    name = re.sub(r"[^\w.-]", "_", PurePosixPath(unquote(urlsplit(url).path)).name).strip(".")
    return folder / hashlib.sha256(url.encode()).hexdigest()[:16] / (name or "weights")


def _download(url: str, path: Path) -> None:
    """Download a weight file and read it once: neither a broken connection nor a login page is an HTTP error."""
    try:
        request = Request(url, headers={"User-Agent": "bcnet"})
        with urlopen(request) as response, path.open("wb") as file:
            shutil.copyfileobj(response, file)
        read_weight_file(path)
    except BCNetError as error:
        message = error.message.replace(str(path), url)
        raise BCNetError(message, *error.hints, exit_code=error.exit_code) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        hint = "check the address and the network, or fetch it by other means and give the file"
        raise BCNetError(f"cannot fetch `{url}`: {error}", hint) from None
