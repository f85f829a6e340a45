"""Starts of a training: from what a user names (run, file, URL, published weights) to a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bcnet_core.annotations.coco import Record
from bcnet_core.config.schema import Recipe
from bcnet_core.errors import data_error
from bcnet_core.model.detectors import build_detector
from bcnet_core.reporting import Reporter
from bcnet_core.weights import sources
from bcnet_core.weights.checkpoint import Checkpoint, find_checkpoint
from bcnet_core.weights.downloads import cached, fetch, place_of
from bcnet_core.weights.importing import import_weights
from bcnet_core.weights.loading import load_weights
from bcnet_core.weights.sources import ORIGINS, Published, find_packaged, find_published, nearest, published


@dataclass(frozen=True)
class WeightSource:
    """Weights that a user has named.

    Attributes:
        path: the file or run directory; of what has to be downloaded, its place in the cache.
        url: address to download it from; None for what is on this machine.
        published: row of the published weights, None for others.
    """

    path: Path
    url: str | None = None
    published: Published | None = None

    @property
    def backbone(self) -> str | None:
        """Return timm/NAME for a file of timm, which does not say which model it is of."""
        return self.published.name if self.published and self.published.origin == "timm" and self.url else None


def find_source(source: str) -> WeightSource:
    """Find what a source of weights means, without downloading it; a path that exists wins over a name.

    Raises:
        BCNetError: if it is no URL, and neither a file, a run directory nor a name of published weights.
    """
    if Path(source).exists():
        return WeightSource(Path(source))
    if "://" in source:
        return WeightSource(place_of(source), None if source.startswith("file:") else source)
    if not source.startswith(ORIGINS):
        like = nearest(source, (row.name for row in published()))
        raise data_error(
            f"`{source}` does not exist",
            *([f"nearest names: {', '.join(like)}"] if like else []),
            "give a run directory, a checkpoint or weight file, a URL, or a name of bcnet weights list",
        )
    row = find_published(source)
    packaged = find_packaged(source)
    return WeightSource(cached(row.url), row.url, row) if packaged is None else WeightSource(packaged, None, row)


def describe_start(source: str) -> str:
    """Say what a training would start from, and what it would download."""
    found = find_source(source)
    if found.url is None:
        return f"would start from {found.path}"
    if found.path.exists():
        return f"would start from {source}, fetched before: {found.path}"
    size = f" ({found.published.size / 1e6:.0f} MB)" if found.published and found.published.size else ""
    return f"would fetch {found.url}{size} to {found.path}"


def fetch_start(source: str, reporter: Reporter) -> Path:
    """Download a source of weights into the cache, unless it is there or on this machine; return the file or folder.

    Raises:
        BCNetError: if the source is unknown, or cannot be fetched.
    """
    found = find_source(source)
    if found.url is not None:
        return fetch(found.url, reporter, digest=found.published.digest if found.published else None)
    if found.published is not None:
        reporter.info(f"`{source}`: {found.path}, which the package {sources.PACKAGED[source][0]} ships")
    return found.path


def read_start(source: str) -> tuple[Checkpoint, Path]:
    """Read a source of weights from this machine or the cache; `fetch_start` has put it there.

    Returns:
        The checkpoint, without optimizer state, and its file.

    Raises:
        BCNetError: if it is not there, or cannot be read.
    """
    found = find_source(source)
    if found.url is not None and not found.path.exists():
        raise data_error(
            f"`{source}` is not in the cache, at `{found.path}`", "has the cache been cleared? Begin again"
        )
    path = find_checkpoint(found.path)
    return import_weights(path, backbone=found.backbone)[0], path


def preview_start(source: str, recipe: Recipe, categories: Sequence[Record], reporter: Reporter) -> None:
    """Report what a training of a recipe on these categories would take from a source, or what it would download.

    Raises:
        BCNetError: if the training could not start from it.
    """
    found = find_source(source)
    if found.url is not None and not found.path.exists():
        reporter.info(describe_start(source))
        return
    load_weights(build_detector(recipe, categories), recipe, *read_start(source)).report(source, reporter)
