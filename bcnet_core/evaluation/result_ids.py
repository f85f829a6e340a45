"""Match the images and categories of results with those of the ground truth, as other programs write them.

COCO's results have the ids of the ground truth. Ultralytics writes the name of the image file without its suffix and
numbers categories from 0; tables turn ids into text or floats.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.errors import data_error
from bcnet_core.files.matching import match_by_ending
from bcnet_core.reporting import Reporter

WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})(\.0*)?")
"""Text of a whole number; `int` also reads `1_0` and `007`, which are rather names of files."""

SUFFIX = re.compile(r"\.[^./\\]*$")
PADDING = re.compile(r"(^|[/\\])0+(?=[0-9]+$)")

Reference = tuple[int | float | str | None, str | None]
"""Statement of a result about its image: `image_id`, None if it is of no possible type, and `file_name`."""


class ResultIds(NamedTuple):
    """Ids of the ground truth by what results say."""

    images: Mapping[Reference, int]
    categories: Mapping[int | float | str | None, int]

    def image(self, result: Record) -> int | None:
        """Return the id of the image of a result, or None if the ground truth does not have it."""
        return self.images.get(_reference(result))

    def category(self, result: Record) -> int | None:
        """Return the id of the category of a result, or None if the ground truth does not have it."""
        return self.categories.get(_simple(result.get("category_id")))


def exact_ids(coco: CocoFile) -> ResultIds:
    """Return the ids for results that are known to use those of the ground truth."""
    images, categories = ([one["id"] for one in records] for records in (coco.images, coco.categories))
    return ResultIds({(one, None): one for one in images}, {one: one for one in categories})


def match_ids(results: Sequence[Any], coco: CocoFile, path: Path, *, reporter: Reporter) -> ResultIds:
    """Find out which images and categories results mean, and report what differs from COCO.

    An image is that of its `file_name`, if the result has one that the ground truth lists, or else that of its
    `image_id`: an id of the ground truth, or the name of a file with or without suffix. Categories that fit only if
    they count from 0, or from 1 where the ground truth begins with 0, are read so, with a warning.

    Args:
        results: entries of a results file, which may be anything.
        coco: ground truth.
        path: the results file, for messages.
        reporter: is told how ids were read.

    Raises:
        BCNetError: if a text is both the id of one image and the name of another.
    """
    records = [one for one in results if isinstance(one, dict)]
    references = dict.fromkeys(_reference(one) for one in records)
    categories = dict.fromkeys(_simple(one.get("category_id")) for one in records)
    return ResultIds(
        _match_images(references, coco, path, reporter), _match_categories(categories, coco, path, reporter)
    )


def _simple(value: Any) -> int | float | str | None:  # noqa: ANN401
    return value if type(value) in {int, float, str} else None


def _reference(result: Record) -> Reference:
    name = result.get("file_name")
    return _simple(result.get("image_id")), name if isinstance(name, str) else None


def _whole(value: float | str | None) -> int | None:
    """Return the whole number that a number or text stands for, if any."""
    if isinstance(value, str):
        return int(value.split(".")[0]) if WHOLE.fullmatch(value) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value


def _match_images(
    references: Collection[Reference], coco: CocoFile, path: Path, reporter: Reporter
) -> dict[Reference, int]:
    """Return the ids of the images that results mean, but for those that the ground truth does not have."""
    known = {image["id"] for image in coco.images}
    by_id = {one: number for one in references if (number := _whole(one[0])) in known and number is not None}
    by_name = _match_names({one: one[1] for one in references if one[1] is not None}, coco.images)
    others = [one for one in references if one not in by_name]
    own = {one: by_id[one] for one in others if one in by_id}
    by_own_name: dict[Reference, int] = {}
    if any(type(one[0]) is str or one not in by_id for one in others):
        named = {one: str(one[0]) for one in others}
        by_own_name = _match_names(named, coco.images)
        same = _match_names(named, coco.images, padded=False)
        unclear = [one[0] for one in own if type(one[0]) is str and same.get(one, own[one]) != own[one]]
        if unclear and len(same) == len(own):
            raise data_error(
                f"`{path}`: the image id {unclear[0]!r} is an id of `{coco.path}`, and the name of another image there",
                "write ids as numbers, or give every result the `file_name` of its image",
            )
    if len(by_own_name) > len(own):
        own = by_own_name
    found = by_name | own
    differing = sum(by_id.get(one, number) != number for one, number in by_name.items())
    if differing:
        reporter.warning(
            f"`{path}` has a `file_name` beside the ids, and {differing:,} of {len(by_name):,} ids are those of other "
            f"images in `{coco.path}`; the file names are used"
        )
    elif found.keys() - by_id.keys() or own is by_own_name:
        reporter.info(f"`{path}` names images by their files; matched with those of `{coco.path}`")
    return found


def _match_names(
    names: Mapping[Reference, str], images: Sequence[Record], *, padded: bool = True
) -> dict[Reference, int]:
    """Return the ids of the images that names of files mean, where it is one.

    A name may lack the suffix and, if `padded`, the zeros before a number: Ultralytics writes the id 7 for 0007.jpg.
    """
    files = [image["file_name"] for image in images] if names else []
    stems = [SUFFIX.sub("", file) for file in files]
    found = _clear(names, files, images)
    for change in (str, _unpadded) if padded else (str,):
        left = {one: change(name) for one, name in names.items() if one not in found}
        found |= _clear(left, [change(stem) for stem in stems] if left else [], images)
    return found


def _clear(names: Mapping[Reference, str], paths: Sequence[str], images: Sequence[Record]) -> dict[Reference, int]:
    """Return the ids of the images that names mean, where the name tells them apart."""
    matches = zip(names, match_by_ending(list(names.values()), paths), strict=True)
    return {one: images[positions[0]]["id"] for one, positions in matches if len(positions) == 1}


def _unpadded(name: str) -> str:
    return PADDING.sub(r"\1", name)


def _match_categories(
    values: Collection[int | float | str | None], coco: CocoFile, path: Path, reporter: Reporter
) -> dict[int | float | str | None, int]:
    """Return the ids of the categories that results mean, but for those that the ground truth does not have."""
    ids = [category["id"] for category in coco.categories]
    numbers = {value: number for value in values if (number := _whole(value)) is not None}
    used = set(numbers.values())
    if used <= set(ids) or len(numbers) < len(values) or ids != sorted(ids):
        return {value: number for value, number in numbers.items() if number in ids}
    count = len(ids)
    first = 0 if 0 not in ids and 0 in used else 1 if ids == list(range(count)) and count in used else None
    if first is None or not used <= set(range(first, first + count)):
        return {value: number for value, number in numbers.items() if number in ids}
    shown = ", ".join(
        f"{number} as {ids[number - first]} ({coco.categories[number - first]['name']})" for number in sorted(used)[:3]
    )
    reporter.warning(
        f"the category ids of `{path}` do not fit `{coco.path}`; they only do if they are shifted, counted from "
        f"{first}, and are read so: {shown}{', ...' if len(used) > 3 else ''}"
    )
    return {value: ids[number - first] for value, number in numbers.items()}
