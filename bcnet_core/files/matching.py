"""Match file names with paths by their endings: a json and a folder seldom agree on where a path begins."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import takewhile
from urllib.parse import unquote

Parts = tuple[str, ...]
"""The parts of a path, the last one first."""


def match_by_ending(names: Sequence[str], paths: Sequence[str]) -> list[Sequence[int]]:
    """Find, for every name, the path with which it shares the longest ending of whole parts, at least the file's name.

    Backslashes count as slashes, Unicode is compared in its composed form, and a name that fits nowhere is tried with
    its `%20` decoded. Of paths that share equally much, one that is an ending of the name as a whole is preferred:
    `all/x.png` is `x.png` rather than `b/x.png`. A path that shares more with another name is left to that one: without
    `a/x.png`, the name `a/x.png` does not get `b/x.png` where `b/x.png` is a name too.

    Returns:
        For every name the positions of its paths: one if the match is clear, none if there is no match, several if the
        name does not tell them apart. Different names may get one path, `a/x.png` and `b/x.png` where there is only
        `x.png`; that is for the caller to refuse.
    """
    parts = [_parts(path) for path in paths]
    index = _index(parts)
    found = [_longest(name, parts, index) for name in names]
    most = [0] * len(paths)  # parts that a path shares with any name
    for ending, positions in dict(found).items():
        for position in positions:
            most[position] = max(most[position], len(ending))
    best = {}
    for ending, positions in dict(found).items():
        own = [one for one in positions if most[one] == len(ending)]
        best[ending] = [one for one in own if len(parts[one]) == len(ending)] or own
    return [best[ending] for ending, _ in found]


def _parts(path: str) -> Parts:
    parts = unicodedata.normalize("NFC", path).replace("\\", "/").split("/")
    return tuple(part for part in reversed(parts) if part not in {"", "."})


def _index(paths: Sequence[Parts]) -> dict[Parts, list[int]]:
    """Return the positions of paths by their endings, as far as these are needed to tell the paths apart."""
    index: dict[Parts, list[int]] = {}
    groups: list[tuple[int, Sequence[int]]] = [(0, range(len(paths)))]
    while groups:
        depth, positions = groups.pop()
        endings: dict[Parts, list[int]] = {}
        for position in positions:
            if len(paths[position]) > depth:
                endings.setdefault(paths[position][: depth + 1], []).append(position)
        index |= endings
        groups += [(depth + 1, group) for group in endings.values() if len(group) > 1]
    return index


def _longest(name: str, paths: Sequence[Parts], index: Mapping[Parts, Sequence[int]]) -> tuple[Parts, Sequence[int]]:
    """Return the longest ending that a name shares with a path, and the positions of the paths that have it."""
    key = _parts(name)
    if key[:1] not in index and "%" in name:
        key = _parts(unquote(name))
    positions: Sequence[int] = ()
    depth = 0
    while depth < len(key) and key[: depth + 1] in index:
        depth += 1
        positions = index[key[:depth]]
    if len(positions) == 1:  # its longer endings are not in the index
        depth = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(key, paths[positions[0]], strict=False)))
    return key[:depth], positions
