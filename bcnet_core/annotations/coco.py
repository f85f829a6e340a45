"""Reading and checking COCO instances files.

A `CocoFile` keeps the json exactly as it was read, so that whatever a command does not understand goes through
unchanged. The format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bcnet_core import masks
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.json_files import read_json

OCCLUDER_KEY = "bg_object_segmentation"
"""The key under which bilayer annotations store the occluder region, as the official code names it."""

MOST_PIXELS = 2**30
"""The largest image in pixels; COCO's run lengths are 32 bit."""

Record = dict[str, Any]
"""One entry of `images`, `annotations` or `categories`, as it stands in the json."""


@dataclass(frozen=True)
class CocoFile:
    """A COCO file as it was read.

    Attributes:
        path: where it came from.
        content: the whole json; never changed in place.
    """

    path: Path
    content: Record

    @property
    def images(self) -> list[Record]:
        """The `images` list; `id`, `file_name`, `width` and `height` are checked."""
        records: list[Record] = self.content["images"]
        return records

    @property
    def annotations(self) -> list[Record]:
        """The `annotations` list (empty for test-dev lists); `id` and `image_id` are checked."""
        records: list[Record] = self.content.get("annotations", [])
        return records

    @property
    def categories(self) -> list[Record]:
        """The `categories` list; `id` and `name` are checked."""
        records: list[Record] = self.content["categories"]
        return records

    def annotations_by_image(self) -> dict[int, list[Record]]:
        """The annotations of every image id, in file order; images without any have an empty list."""
        grouped: dict[int, list[Record]] = {image["id"]: [] for image in self.images}
        for annotation in self.annotations:
            grouped[annotation["image_id"]].append(annotation)
        return grouped


def read_coco(path: Path, *, need_annotations: bool = True) -> CocoFile:
    """Read a COCO file (`.json`, or gzip by the ending `.gz`) and check what every command relies on.

    Args:
        path: the file.
        need_annotations: whether a file without an `annotations` list (a test-dev image list) is an error.

    Raises:
        BCNetError: if the file is missing, not json, or not COCO; the message names the first fault and counts them.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        of_results = ("a results file goes with its ground truth: --gt FILE",) if isinstance(content, list) else ()
        raise _not_coco(path, f"its top level is of type {type(content).__name__}, not an object", *of_results)
    for name in ("images", "annotations", "categories"):
        if name not in content and (name != "annotations" or need_annotations):
            raise _not_coco(path, f"it has no `{name}` list")
        if not isinstance(content.get(name, []), list):
            raise _not_coco(path, f"`{name}` is of type {type(content[name]).__name__}, not a list")
    problems = iter(_problems(content))
    if (first := next(problems, None)) is not None:
        others = sum(1 for _ in problems)
        more = f" (and {others:,} more such fault{'s' * (others > 1)})" if others else ""
        raise _not_coco(path, first + more)
    return CocoFile(path, content)


def checksum(path: Path) -> str:
    """The SHA-256 of a file, by which a manifest names its source.

    Raises:
        BCNetError: if it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise data_error(f"cannot read `{path}`: {error.strerror or error}") from None


def category_names(categories: Iterable[Record]) -> list[str]:
    """The names of categories in their order, which is the order of a detector's labels."""
    return [str(category["name"]) for category in categories]


class CategoryDifference(NamedTuple):
    """Categories that only one of two sides has, as sorted (key, name) pairs; the key is an id or a label."""

    only_first: list[tuple[int, str]]
    only_second: list[tuple[int, str]]


def category_difference(
    first: Sequence[Record], second: Sequence[Record], *, by_label: bool = False
) -> CategoryDifference | None:
    """Compare two lists of categories.

    Args:
        first: entries of `categories`.
        second: entries of `categories`.
        by_label: compare names in their order, which is the order of a detector's labels, and ignore ids; by default
            ids and names are compared, in any order.

    Returns:
        The difference, None if the lists agree.
    """
    one, other = (
        {(label if by_label else category["id"], str(category["name"])) for label, category in enumerate(side)}
        for side in (first, second)
    )
    return None if one == other else CategoryDifference(sorted(one - other), sorted(other - one))


def has_occluders(coco: CocoFile) -> bool:
    """Whether this is a bilayer annotation file: any annotation carries the occluder key."""
    return any(OCCLUDER_KEY in annotation for annotation in coco.annotations)


def segmentation_rle(annotation: Record, image: Record, *, key: str = "segmentation") -> masks.RLE | None:
    """The mask of one annotation, None where it is missing, empty or degenerate.

    Args:
        annotation: any entry of `annotations`.
        image: the entry of `images` that it belongs to.
        key: under which the segmentation stands.

    Returns:
        An RLE of the image's size.

    Raises:
        BCNetError: if the value is no segmentation; the message names annotation and image.
    """
    try:
        return masks.from_segmentation(annotation.get(key), image["height"], image["width"])
    except (ValueError, TypeError) as error:
        raise data_error(
            f"annotation {annotation['id']} (image {image['id']}): its `{key}` cannot be read: {error}"
        ) from None


def _problems(content: Record) -> Iterable[str]:
    image_ids: set[int] = set()
    for index, image in enumerate(content["images"]):
        fault = _image_fault(image)
        if fault is None and image["id"] in image_ids:
            fault = f"the image id {image['id']} is there twice"
        if fault is not None:
            yield f"images[{index}]: {fault}"
        else:
            image_ids.add(image["id"])
    category_ids: set[int] = set()
    for index, category in enumerate(content["categories"]):
        if not isinstance(category, dict) or not _is_id(category.get("id")) or "name" not in category:
            yield f"categories[{index}]: needs an integer `id` and a `name`"
        elif category["id"] in category_ids:
            yield f"categories[{index}]: the category id {category['id']} is there twice"
        else:
            category_ids.add(category["id"])
    for index, annotation in enumerate(content.get("annotations", [])):
        fault = _annotation_fault(annotation, image_ids, category_ids)
        if fault is not None:
            yield f"annotations[{index}]: {fault}"


def _image_fault(image: Any) -> str | None:  # noqa: ANN401
    if not isinstance(image, dict):
        return "is not an object"
    if not _is_id(image.get("id")):
        return f"needs an integer `id`, has {reprlib.repr(image.get('id'))}"
    if not isinstance(image.get("file_name"), str):
        return f"image {image['id']} has no `file_name`"
    if not all(_is_id(image.get(side)) and image[side] > 0 for side in ("width", "height")):
        return f"image {image['id']} needs a positive integer `width` and `height`"
    if image["width"] * image["height"] > MOST_PIXELS:
        return f"image {image['id']} has {image['width']} x {image['height']} pixels, more than {MOST_PIXELS:,}"
    return None


def _annotation_fault(annotation: Any, image_ids: set[int], category_ids: set[int]) -> str | None:  # noqa: ANN401
    if not isinstance(annotation, dict):
        return "is not an object"
    name = annotation.get("id")
    if not _is_id(name):
        return f"needs an integer `id`, has {reprlib.repr(name)}"
    if not _is_id(annotation.get("image_id")) or annotation["image_id"] not in image_ids:
        return (
            f"annotation {name} belongs to image {reprlib.repr(annotation.get('image_id'))}, which is not in the file"
        )
    if not _is_id(annotation.get("category_id")) or annotation["category_id"] not in category_ids:
        return f"annotation {name} has category {reprlib.repr(annotation.get('category_id'))}, which is not in the file"
    return _shape_fault(annotation)


def _shape_fault(annotation: Record) -> str | None:
    name, box = annotation["id"], annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_length(value) for value in box):
        return f"annotation {name} needs a `bbox` of four finite numbers [x, y, width, height], has {reprlib.repr(box)}"
    if annotation.get("iscrowd", 0) not in (0, 1):
        return f"annotation {name} has an `iscrowd` of {reprlib.repr(annotation['iscrowd'])}, which is neither 0 nor 1"
    return None


def _is_id(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_length(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _not_coco(path: Path, why: str, *hints: str) -> BCNetError:
    return data_error(
        f"`{path}` is not a COCO instances file: {why}", *hints, "the format: https://cocodataset.org/#format-data"
    )
