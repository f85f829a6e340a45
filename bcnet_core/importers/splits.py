"""Divide images into training and validation, so that no photo is in both."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from bcnet_core.annotations.coco import Record
from bcnet_core.errors import usage_error
from bcnet_core.importers.source import SPLIT

SplitName = Literal["train", "val"]
SPLITS: tuple[SplitName, ...] = ("train", "val")

DEFAULT_SHARE = 0.2
"""Share of validation where the source is not split and no share is asked for."""
TAIL = 2**16
"""Bytes at the end of files of one size that are compared before the files as a whole are."""


class Division(NamedTuple):
    """Images divided into training and validation.

    Attributes:
        names: the split of every image.
        moved: positions of images that the source has in validation, while their photo is in training too.
        by_source: whether the source was split already.
    """

    names: list[SplitName]
    moved: list[int]
    by_source: bool


def check_share(share: float | None) -> None:
    """Check a share of validation; None is the default.

    Raises:
        BCNetError: if it is not from 0 up to, but without, 1.
    """
    if share is not None and not 0 <= share < 1:
        raise usage_error(f"the share of validation is from 0 to below 1, not {share:g}", "a fifth: --val 0.2")


def divide(images: Sequence[Record], photos: Sequence[Path], *, share: float | None, seed: int) -> Division:
    """Divide images into training and validation; photos of equal content stay together.

    A source that is split keeps its split unless a share is given; a photo that it has on both sides is trained on. If
    that leaves nothing for validation, and where the source is not split, images are drawn: which ones depends on their
    ids and the seed alone, not on their order.

    Args:
        images: records with whole, distinct `id`, and `SPLIT` where the source is split.
        photos: their files.
        share: share of the images that goes to validation, 0 for none; None for the split of the source or
            `DEFAULT_SHARE`. If it is more than 0, each side gets an image, provided that there are two photos.
        seed: seed of the draw.
    """
    groups: dict[int, list[int]] = {}  # positions of the images of one photo
    for position, first in enumerate(same_content(photos)):
        groups.setdefault(first, []).append(position)
    if share is None:
        held_out = {position for position, image in enumerate(images) if image.get(SPLIT) == "val"}
        moved = {at for members in groups.values() if not held_out.issuperset(members) for at in members} & held_out
        if held_out - moved:
            return Division(_names(len(images), held_out - moved), sorted(moved), by_source=True)
    drawn = _draw(
        [(min(images[at]["id"] for at in members), members) for members in groups.values()],
        DEFAULT_SHARE if share is None else share,
        seed,
    )
    return Division(_names(len(images), drawn), [], by_source=False)


def _names(count: int, held_out: set[int]) -> list[SplitName]:
    return ["val" if position in held_out else "train" for position in range(count)]


def _draw(groups: list[tuple[int, list[int]]], share: float, seed: int) -> set[int]:
    """Draw groups, each with a number of its own, until they have a share of all members; return their members."""
    wanted = max(1, round(share * sum(len(members) for _, members in groups))) if share else 0
    chosen: set[int] = set()
    ordered = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}:{group[0]}".encode()).digest())
    for _, members in ordered[:-1]:  # training keeps one
        if len(chosen) >= wanted:
            break
        chosen.update(members)
    return chosen


def same_content(paths: Sequence[Path]) -> list[int]:
    """Return, for every file, the position of the first file of equal content."""
    stats = [path.stat() for path in paths]
    first_link: dict[tuple[int, int], int] = {}
    firsts = [first_link.setdefault((one.st_dev, one.st_ino), at) for at, one in enumerate(stats)]
    groups = [[*first_link.values()]]
    tests: tuple[Callable[[int], Hashable], ...] = (
        lambda at: stats[at].st_size,
        lambda at: _digest(paths[at], last=TAIL),
        lambda at: _digest(paths[at]),
    )
    for test in tests:
        parts: list[list[int]] = []
        for group in groups:
            alike: dict[Hashable, list[int]] = {}
            for at in group:
                alike.setdefault(test(at), []).append(at)
            parts += [part for part in alike.values() if len(part) > 1]
        groups = parts
    equal = {at: group[0] for group in groups for at in group}
    return [equal.get(first, first) for first in firsts]


def _digest(path: Path, *, last: int | None = None) -> bytes:
    with path.open("rb") as file:
        if last is not None:
            file.seek(max(0, file.seek(0, os.SEEK_END) - last))
        digest = hashlib.sha256()
        while part := file.read(2**20):
            digest.update(part)
    return digest.digest()
