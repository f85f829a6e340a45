"""Read and check COCO instances files.

A `CocoFile` keeps the json exactly as it was read, so keys that no command knows are carried through unchanged.
The format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bcnet_core import masks
from bcnet_core.annotations.faults import first_fault
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.json_files import read_json

OCCLUDER_KEY = "bg_object_segmentation"
"""Key of the occluder region in bilayer annotations, as the official code names it."""

AMODAL_KEY = "amodal_segmentation"
"""Key of the whole mask of an instance, hidden parts included; `segmentation` is its visible part."""

FRONT_OF = "front_of"
"""Key of the ids of the instances of which an instance hides a part, where the order is known."""

RESULTS_FILE = "if it is a results file: bcnet eval --results FILE --gt GROUND_TRUTH, bcnet viz FILE --gt GROUND_TRUTH"

Record = dict[str, Any]
"""One entry of `images`, `annotations` or `categories`, as it is in the json."""

MaskFlaw = Literal["missing", "empty", "degenerate", "unreadable"]
"""Reason why an annotation has no mask: no segmentation, one without pixels, polygons without area, unknown kind."""

COCO_NAMES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat",
    10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench", 16: "bird", 17: "cat",
    18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe",
    27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove", 41: "skateboard",
    42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife",
    50: "spoon", 51: "bowl", 52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot",
    58: "hot dog", 59: "pizza", 60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
    67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard",
    77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book",
    85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}  # fmt: skip
"""Names of COCO's 80 categories by id, with gaps; published checkpoints know only the numbers."""


@dataclass(frozen=True)
class CocoFile:
    """A COCO file as it was read; the content is never changed in place."""

    path: Path
    content: Record

    @property
    def images(self) -> list[Record]:
        """The `images` list; `id`, `file_name`, `width` and `height` are checked."""
        records: list[Record] = self.content["images"]
        return records

    @property
    def annotations(self) -> list[Record]:
        """The `annotations` list, empty for test-dev lists; `id`, `image_id`, `category_id` and `bbox` are checked."""
        records: list[Record] = self.content.get("annotations", [])
        return records

    @property
    def categories(self) -> list[Record]:
        """The `categories` list; `id` and `name` are checked."""
        records: list[Record] = self.content["categories"]
        return records

    def annotations_by_image(self) -> dict[int, list[Record]]:
        """Group the annotations by image id, in file order; images without any get an empty list."""
        grouped: dict[int, list[Record]] = {image["id"]: [] for image in self.images}
        for annotation in self.annotations:
            grouped[annotation["image_id"]].append(annotation)
        return grouped


def read_coco(path: Path, *, need_annotations: bool = True, check_annotations: bool = True) -> CocoFile:
    """Read a COCO file (`.json`, or gzip if the name ends in `.gz`) and check what every command relies on.

    Args:
        path: the file.
        need_annotations: whether the `annotations` list must be there, unlike in the image lists of test-dev.
        check_annotations: whether every annotation is checked; otherwise any of them may be invalid, see
            `instances.survey_instances`.

    Raises:
        BCNetError: if the file is missing, not json, or not COCO; the message shows the first fault and counts the
            others of its kind.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        hints = (RESULTS_FILE,) if isinstance(content, list) else ()
        raise _not_coco(path, f"its top level is of type {type(content).__name__}, not an object", *hints)
    for name in ("images", "annotations", "categories"):
        if name not in content and (name != "annotations" or need_annotations):
            raise _not_coco(path, f"it has no `{name}` list", *ways_out(path))
        if not isinstance(content.get(name, []), list):
            kind = type(content[name]).__name__
            raise _not_coco(path, f"`{name}` is of type {kind}, not a list", *ways_out(path))
    fault = first_fault(content, check_annotations=check_annotations)
    if fault is not None:
        raise _not_coco(path, fault, *ways_out(path))
    return CocoFile(path, content)


def ways_out(path: Path) -> tuple[str, str]:
    """Return the hints for a file with faults: the commands that list and mend them."""
    name = shlex.quote(str(path))
    return (
        f"all of its faults: bcnet data check {name}",
        f"make a data root without them: bcnet data import {name} -o ROOT --images DIR",
    )


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, which identifies the source in a manifest.

    Raises:
        BCNetError: if the file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise data_error(f"cannot read `{path}`: {error.strerror or error}") from None


def coco_categories() -> list[Record]:
    """Return the 80 categories of instances_train2017.json, ordered by id as they are there."""
    return [{"id": number, "name": name} for number, name in COCO_NAMES.items()]


def category_names(categories: Iterable[Record]) -> list[str]:
    """Return the names of categories in order, which is the order of a detector's labels."""
    return [str(category["name"]) for category in categories]


def in_id_order(categories: Iterable[Record]) -> list[Record]:
    """Return categories ordered by id, which is the label order of detectron2 and of the official code."""
    return sorted(categories, key=lambda category: int(category["id"]))


class CategoryDifference(NamedTuple):
    """Categories that only one of two sides has, as sorted (key, name) pairs; the key is an id or a label."""

    only_first: list[tuple[int, str]]
    only_second: list[tuple[int, str]]


def category_difference(
    first: Sequence[Record], second: Sequence[Record], *, by_label: bool = False
) -> CategoryDifference | None:
    """Compare the ids and names of two lists of categories, in any order; None if they agree.

    With `by_label`, names are compared in their order, which is the order of a detector's labels, and ids are ignored.
    """
    one, other = (
        {(label if by_label else category["id"], str(category["name"])) for label, category in enumerate(side)}
        for side in (first, second)
    )
    return None if one == other else CategoryDifference(sorted(one - other), sorted(other - one))


def has_occluders(coco: CocoFile) -> bool:
    """Return whether any annotation has the occluder key, as in a bilayer annotation file."""
    return any(isinstance(annotation, dict) and OCCLUDER_KEY in annotation for annotation in coco.annotations)


def segmentation_rle(annotation: Record, image: Record, *, key: str = "segmentation") -> masks.RLE | None:
    """Return the mask under a key of an annotation, or None if it is missing, empty or degenerate.

    Raises:
        BCNetError: if the value is not a segmentation; the message names annotation and image.
    """
    try:
        return masks.from_segmentation(annotation.get(key), image["height"], image["width"])
    except (ValueError, TypeError) as error:
        raise data_error(
            f"annotation {annotation['id']} (image {image['id']}): its `{key}` cannot be read: {error}"
        ) from None


def read_mask(annotation: Record, height: int, width: int) -> tuple[masks.RLE | None, MaskFlaw | None]:
    """Return the mask of an annotation in an image of this size, or None and the reason why there is none."""
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        return None, "missing"
    try:
        rle = masks.from_segmentation(segmentation, height, width)
    except (ValueError, TypeError):
        return None, "unreadable"
    if rle is not None and masks.area(rle) > 0:
        return rle, None
    return None, "degenerate" if isinstance(segmentation, list) and segmentation else "empty"


def _not_coco(path: Path, why: str, *hints: str) -> BCNetError:
    return data_error(
        f"`{path}` is not a COCO instances file: {why}", *hints, "the format: https://cocodataset.org/#format-data"
    )
