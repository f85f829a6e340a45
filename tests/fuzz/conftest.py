"""Strategies for the fuzz tests of the four readers: valid documents with a few changes or damaged bytes."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

bounded = settings(
    max_examples=int(os.environ.get("BCNET_FUZZ", "150")),
    deadline=None,
    derandomize="BCNET_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
"""The same examples in every run; BCNET_FUZZ=20000 tries as many new ones."""

NUMBERS = (
    0, 1, -1, 2, 3, -5, 0.5, -0.0, 1e-320, 1e9, 1e18, 1e308, float("inf"), float("-inf"), float("nan"),
    2**31, 2**31 - 1, 2**32, 2**63, 2**63 - 1, -(2**63), 2**64, 10**30, 10**400, 40, 30, 1200,
)  # fmt: skip
ODD = (
    None, True, False, "", "1", "cat", "a.png", "../x", "\0", "\ud800", "\x1b[2J", "0" * 5000, [], [[]], [0] * 7, {},
    {"id": 1}, {"size": [30, 40], "counts": "04h"}, {"size": [30, 40], "counts": [1200]}, {"counts": []},
    [[1, 2, 3, 4, 5, 6]], [[0, 0, 1e308, 0, 0, 1e308]], [-1, -1, -1, -1],
)  # fmt: skip
values = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(ODD), st.integers(), st.floats(), st.text(max_size=5))


@st.composite
def mutated(draw: Callable[..., Any], valid: Any) -> Any:
    """Return a document with one to four changes: other types or numbers, removed, repeated or renamed entries."""
    document = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 4))):
        holder = document
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            below = holder[key]
            if isinstance(below, dict | list) and below and draw(st.integers(0, 3)):
                holder = below
                continue
            _change(draw, holder, key)
            break
    return document


def _change(draw: Callable[..., Any], holder: Any, key: Any) -> None:
    match draw(st.sampled_from(["replace", "replace", "drop", "twice", "rename", "nest"])):
        case "replace":
            holder[key] = copy.deepcopy(draw(values))
        case "drop":
            del holder[key]
        case "twice" if isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        case "rename" if isinstance(holder, dict):
            holder[draw(st.sampled_from(["id", "bbox", "x", "segmentation", "base", ""]))] = holder.pop(key)
        case _:
            holder[key] = [holder[key]] if draw(st.booleans()) else {"id": holder[key]}


@st.composite
def broken(draw: Callable[..., Any], content: bytes) -> bytes:
    """Return bytes with parts cut off, flipped, inserted or repeated."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["cut", "flip", "put in", "again"])):
            case "cut":
                del data[place:]
            case "flip" if data:
                data[place] ^= draw(st.integers(1, 255))
            case "put in":
                data[place:place] = draw(st.binary(max_size=6))
            case _:
                data += data[place : place + 50]
    return bytes(data)


def as_bytes(document: Any) -> bytes:
    """Return a document as json, including NaN and infinity."""
    return json.dumps(document).encode()
