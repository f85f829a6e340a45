"""Masks in the shapes that tools write them: polygons as points, as text or in one flat list, run lengths as floats.

Each is translated to COCO's own form where only one reading is possible.
"""

from __future__ import annotations

import ast
import json
import math
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from bcnet_core import masks
from bcnet_core.masks import RLE

Box = tuple[float, float, float, float]
"""x, y, width and height in pixels."""

TOLERANCE = 2.0
"""Pixels by which the corners of a box may be off those of its mask."""
MOST_TURNED = 2**26
"""Pixels of the largest mask whose rows and columns are exchanged, which needs the dense mask."""
_NUMBERS = re.compile(r"[\s,;]+")
_DECIMAL_COMMA = re.compile(r"-?\d+(,\d+)?")
_BETWEEN = re.compile(r"[\s,]")
"""Separator of numbers, which is never in compressed run lengths, which may have brackets and semicolons."""


class Mask(NamedTuple):
    """A mask that was read.

    Attributes:
        segmentation: COCO polygons or a json RLE, the value itself if it needs no repair; None if there is no mask.
        rle: the same as an RLE with at least one pixel; None if there is none.
        kinds: what had to be repaired, see `KINDS`, or the one reason why there is no mask.
    """

    segmentation: Any
    rle: RLE | None
    kinds: tuple[str, ...] = ()


class _Flaw(Exception):  # noqa: N818  (carries a kind of fault, is never shown)
    """A kind of fault that leaves no mask."""


def read_shape(value: Any, height: int, width: int, *, box: Box | None, scale: bool) -> Mask:  # noqa: ANN401
    """Read a mask in any shape.

    Args:
        value: the `segmentation` of an annotation, as read from json.
        height: height of the image in pixels.
        width: width of the image in pixels.
        box: the box of the annotation, which may be wrong; it decides between readings of run lengths.
        scale: whether coordinates are shares of the image's sides.
    """
    kinds: list[str] = []
    try:
        segmentation, rle = _read(value, height, width, box, kinds, scale=scale)
    except _Flaw as flaw:
        return Mask(None, None, (str(flaw),))
    if masks.area(rle) == 0:
        return Mask(None, None, ("mask_empty",))
    return Mask(segmentation if kinds else value, rle, tuple(dict.fromkeys(kinds)))


def _read(value: Any, height: int, width: int, box: Box | None, kinds: list[str], *, scale: bool) -> tuple[Any, RLE]:  # noqa: ANN401
    if isinstance(value, str) and value.strip():
        value = _parse(value)
        kinds.append("mask_text")
    if value is None or value in ("", [], {}):
        raise _Flaw("mask_missing")
    if isinstance(value, dict):
        return _read_run_lengths(value, height, width, box, kinds)
    if not isinstance(value, list):
        raise _Flaw("mask_unreadable")
    if all(isinstance(part, dict) and "counts" in part for part in value):
        kinds.append("rle_list")
        rle = masks.union([_read_run_lengths(part, height, width, None, kinds)[1] for part in value])
        return masks.to_json(rle), rle
    return _read_polygons(value, height, width, kinds, scale=scale)


def leaves(value: Any) -> Iterator[float]:  # noqa: ANN401
    """Yield the coordinates of polygons in any shape, in order; nothing for run lengths."""
    if isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict) and {"x", "y"} <= value.keys():
        yield from leaves([value["x"], value["y"]])
    elif (number := to_number(value)) is not None:
        yield number
    elif isinstance(value, str) and (parsed := _parse(value)) != [value]:
        yield from leaves(parsed)


def to_number(value: Any) -> float | None:  # noqa: ANN401
    """Return a number, or a text that is one, as an int or float; None if it is neither, or not finite."""
    if isinstance(value, str):
        try:
            value = float(value) if not value.strip().lstrip("-").isdecimal() else int(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= sys.float_info.max else None


def to_whole(value: Any) -> int | None:  # noqa: ANN401
    """Return a whole number, or a float or text that is one, as an int of at most 64 bits; None if it is none."""
    number = to_number(value)
    return int(number) if number is not None and number == int(number) and abs(number) < 2**63 else None


def is_near(first: Box, second: Box) -> bool:
    """Return whether no corner of a box is farther than `TOLERANCE` pixels from that of another."""
    x, y, across, down = (abs(one - other) for one, other in zip(first, second, strict=True))
    ends = (abs(first[side] + first[side + 2] - second[side] - second[side + 2]) for side in (0, 1))
    return max(x, y, *ends) <= TOLERANCE and math.isfinite(across + down)


def box_of(rle: RLE) -> Box:
    """Return the tight box of a mask in whole pixels."""
    x, y, across, down = masks.bounding_box(rle).astype(int).tolist()
    return x, y, across, down


def _parse(text: str) -> Any:  # noqa: ANN401
    """Parse a mask that is given as text: json, or coordinates between commas and spaces."""
    try:
        return json.loads(text)
    except ValueError:
        return _NUMBERS.split(text.strip())


def _parse_items(items: list[Any]) -> list[Any]:
    if all(isinstance(item, str) and _DECIMAL_COMMA.fullmatch(item) for item in items):
        raise _Flaw("mask_unreadable")  # points, or numbers with a decimal comma
    return [_parse(item) if isinstance(item, str) else item for item in items]


# --- polygons


def _read_polygons(
    value: list[Any], height: int, width: int, kinds: list[str], *, scale: bool
) -> tuple[list[list[float]], RLE]:
    polygons = list(_polygons(value, kinds, depth=0))
    sizes = {len(polygon) for polygon in polygons}
    if any(size % 2 for size in sizes):
        raise _Flaw("polygon_odd")
    if not sizes or max(sizes) < 6:
        raise _Flaw("mask_is_box" if sizes == {4} else "polygon_few_points")
    if min(sizes) < 6:
        kinds.append("polygon_short_part")
        polygons = [polygon for polygon in polygons if len(polygon) >= 6]
    if scale:
        sides = (width, height)
        polygons = [[round(v * sides[index % 2], 3) for index, v in enumerate(polygon)] for polygon in polygons]
        kinds.append("coordinates_shares")
    try:
        rle = masks.from_segmentation(polygons, height, width)
    except ValueError:
        raise _Flaw("mask_unreadable") from None
    if rle is None:
        raise _Flaw("mask_empty")
    return polygons, rle


def _polygons(value: list[Any], kinds: list[str], depth: int) -> Iterator[list[float]]:
    """Yield flat polygons from a list in any shape; `kinds` gets what had to be changed."""
    if depth > 4:
        raise _Flaw("mask_unreadable")
    if any(isinstance(item, str) and to_number(item) is None for item in value):
        value = _parse_items(value)
        kinds.append("mask_text")
    if value and all(_is_scalar(item) for item in value):  # COCO's, if it is inside of another list
        if depth == 0:
            kinds.append("polygon_flat")
        yield _numbers(value, kinds)
    elif value and all(_is_point(item) for item in value):
        kinds.append("polygon_points")
        flat = [part for item in value for part in ((item["x"], item["y"]) if isinstance(item, dict) else item)]
        yield _numbers(flat, kinds)
    else:
        if depth:
            kinds.append("polygon_nested")
        for item in value:
            if not isinstance(item, list):
                raise _Flaw("mask_unreadable")
            if item:
                yield from _polygons(item, kinds, depth + 1)
            else:
                kinds.append("polygon_short_part")


def _is_scalar(value: Any) -> bool:  # noqa: ANN401
    return value is None or isinstance(value, int | float) or (isinstance(value, str) and to_number(value) is not None)


def _is_point(value: Any) -> bool:  # noqa: ANN401
    if isinstance(value, dict):
        return {"x", "y"} <= value.keys()
    return isinstance(value, list) and len(value) == 2 and all(map(_is_scalar, value))


def _numbers(values: list[Any], kinds: list[str]) -> list[float]:
    found = [to_number(value) for value in values]
    numbers = [number for number in found if number is not None]
    if len(numbers) < len(found):
        raise _Flaw("mask_unreadable")
    if any(isinstance(value, str) for value in values):
        kinds.append("mask_text")
    return numbers


# --- run lengths


def _read_run_lengths(
    value: dict[str, Any], height: int, width: int, box: Box | None, kinds: list[str]
) -> tuple[dict[str, Any], RLE]:
    """Read an RLE, whose runs may go along the rows instead of the columns if its box says so."""
    counts, size = _counts(value.get("counts"), kinds), _size(value.get("size"), kinds)
    if sum(counts) != height * width:
        fits = size is not None and sum(counts) == size[0] * size[1]
        raise _Flaw("rle_size" if fits else "mask_unreadable")
    columns = _from_counts(counts, height, width)
    as_said = size == [height, width]
    if not (as_said and (box is None or height == width or _has_box(columns, box))):
        readings = [columns, *_along_rows(counts, height, width)]
        near = [] if box is None else [rle for rle in readings if _has_box(rle, box)]
        if len(near) == 1 or (near and near[0] == near[1]):
            kinds.append("rle_turned")
            return masks.to_json(near[0]), near[0]
        if not as_said:
            raise _Flaw("rle_size")
    own = counts if "rle_numbers" in kinds else value["counts"]
    return {**value, "size": [height, width], "counts": own}, columns


def _has_box(rle: RLE, box: Box) -> bool:
    return masks.area(rle) > 0 and is_near(box_of(rle), box)


def _along_rows(counts: list[int], height: int, width: int) -> list[RLE]:
    """Return the mask whose runs go along the rows; an empty list if it is too large to be turned."""
    if height * width > MOST_TURNED:
        return []
    return [masks.encode(masks.decode(_from_counts(counts, width, height)).T)]


def _from_counts(counts: list[int], height: int, width: int) -> RLE:
    rle = masks.from_segmentation({"size": [height, width], "counts": counts}, height, width)
    if rle is None:
        raise _Flaw("mask_unreadable")
    return rle


def _counts(value: Any, kinds: list[str]) -> list[int]:  # noqa: ANN401
    """Return the run lengths of an RLE; `kinds` gets what had to be changed."""
    if isinstance(value, str) and value.startswith(("b'", 'b"')):  # Python's text of bytes
        try:
            value = ast.literal_eval(value).decode("ascii")
        except (ValueError, SyntaxError, AttributeError):
            raise _Flaw("mask_unreadable") from None
        kinds.append("rle_numbers")
    if isinstance(value, str) and _BETWEEN.search(value.strip()):
        value = [part for part in _NUMBERS.split(value.strip(" []\n\t")) if part]
        kinds.append("rle_numbers")
    if isinstance(value, str):
        try:
            found: list[int] = masks.runs(value.encode()).tolist()
        except ValueError:
            raise _Flaw("mask_unreadable") from None
    elif isinstance(value, list):
        whole = [to_whole(run) for run in value]
        found = [run for run in whole if run is not None]
        if len(found) < len(whole):
            raise _Flaw("mask_unreadable")
        if any(type(run) is not int for run in value):
            kinds.append("rle_numbers")
    else:
        raise _Flaw("mask_unreadable")
    if min(found, default=-1) < 0:
        raise _Flaw("mask_unreadable")
    return found


def _size(value: Any, kinds: list[str]) -> list[int] | None:  # noqa: ANN401
    """Return the size of an RLE as two whole numbers; None if there is none."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    whole = [to_whole(side) for side in value]
    if None not in whole and any(type(side) is not int for side in value):
        kinds.append("rle_numbers")
    return None if None in whole else [side for side in whole if side is not None]
