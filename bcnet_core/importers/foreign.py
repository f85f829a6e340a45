"""Name json files that are no COCO instances, so that a message can say what to export instead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Foreign(NamedTuple):
    """Description of a json file that does not hold COCO instances.

    Attributes:
        what: completes the sentence "`FILE` ...".
        way_out: what to do about it; None if there is nothing to say.
    """

    what: str
    way_out: str | None = None


EXPORT = "export the masks as COCO json there, and import that"

LISTS: tuple[tuple[frozenset[str], Foreign], ...] = (
    (
        frozenset({"image_id", "category_id", "score"}),
        Foreign("is a list of results, which have no images", "score them: bcnet eval --results FILE --gt FILE.json"),
    ),
    (frozenset({"data", "annotations"}), Foreign("is Label Studio's own json, not COCO", EXPORT)),
    (frozenset({"data", "predictions"}), Foreign("is Label Studio's own json, not COCO", EXPORT)),
    (frozenset({"data_row"}), Foreign("is a Labelbox export, not COCO", EXPORT)),
    (frozenset({"Labeled Data", "Label"}), Foreign("is a Labelbox export, not COCO", EXPORT)),
    (
        frozenset({"file_name", "annotations"}),
        Foreign("is a list of detectron2's records, not COCO", "write it with detectron2's convert_to_coco_json"),
    ),
)
"""Keys of the records of a list, and what such a list is."""

OBJECTS: tuple[tuple[frozenset[str], Foreign], ...] = (
    (
        frozenset({"_via_img_metadata"}),
        Foreign("is a file of the VGG Image Annotator, not COCO", "import it: --from via"),
    ),
    (frozenset({"shapes", "imagePath"}), Foreign("is one photo of labelme", "import its folder: --from labelme")),
    (frozenset({"image", "annotations"}), Foreign("is one photo of SA-1B", "import its folder: --from sa1b")),
    (frozenset({"item", "annotations"}), Foreign("is one photo of V7 Darwin, not COCO", EXPORT)),
    (frozenset({"objects", "size"}), Foreign("is one photo of Supervisely, not COCO", EXPORT)),
    (frozenset({"info", "objects"}), Foreign("is one photo of ISAT, not COCO", EXPORT)),
    (frozenset({"metadata", "instances"}), Foreign("is one photo of SuperAnnotate, not COCO", EXPORT)),
    (frozenset({"images", "label_classes"}), Foreign("is Hasty's own json, not COCO", EXPORT)),
    (frozenset({"items", "categories"}), Foreign("is Datumaro's own json, not COCO", EXPORT)),
    (frozenset({"samples"}), Foreign("is FiftyOne's own json, not COCO", EXPORT)),
    (frozenset({"videos", "annotations"}), Foreign("annotates videos, not images")),
    (frozenset({"features", "type"}), Foreign("is GeoJSON, whose coordinates are no pixels")),
)
"""Keys of an object, and what such an object is."""

TASKS: tuple[tuple[frozenset[str], Foreign], ...] = (
    (frozenset({"caption"}), Foreign("has captions, and no masks", "its photos may have an `instances_` file too")),
    (
        frozenset({"segments_info"}),
        Foreign("is a panoptic file, whose masks are PNG files", "there may be an `instances_` file beside it"),
    ),
    (frozenset({"keypoints"}), Foreign("has keypoints, and no masks")),
    (frozenset(), Foreign("has annotations without masks or boxes")),
)
"""Keys of annotations that are no instances, and what they are."""
INSTANCE_KEYS = {"segmentation", "bbox", "regions", "i_segm", "a_segm", "inmodal_seg", "visible_seg", "visible_mask"}


def name_of_json(content: Any) -> Foreign | None:  # noqa: ANN401  (whatever json holds)
    """Return what a json file is if it has no COCO instances; None if it has images and annotations of instances."""
    if isinstance(content, list):
        return _match(LISTS, _keys(content)) or Foreign("is a list, and no COCO file")
    if not isinstance(content, dict):
        return Foreign("is no COCO file: its top level is no object")
    missing = [name for name in ("images", "annotations") if not isinstance(content.get(name), list | dict)]
    if missing:
        known = _match(OBJECTS, content.keys()) or _match_entries(content)
        return known or Foreign(f"is no COCO file: it has no {' and no '.join(f'`{name}`' for name in missing)}")
    keys = _keys(content["annotations"])
    return None if keys & INSTANCE_KEYS or not keys else _match(TASKS, keys)


def _match(table: tuple[tuple[frozenset[str], Foreign], ...], keys: Iterable[str]) -> Foreign | None:
    present = set(keys)
    return next((foreign for needed, foreign in table if needed <= present), None)


def _match_entries(content: dict[str, Any]) -> Foreign | None:
    """Recognize files that are an object by image: VIA's export of annotations."""
    keys = _keys(content)
    return OBJECTS[0][1] if {"filename", "regions"} <= keys else None


def _keys(records: list[Any] | dict[str, Any]) -> set[str]:
    """Return the keys of the records of a list, or of an object of records."""
    found: set[str] = set()
    for record in records.values() if isinstance(records, dict) else records:
        for one in record if isinstance(record, list) else [record]:
            if isinstance(one, dict):
                found |= one.keys()
    return found
