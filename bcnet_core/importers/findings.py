"""The kinds of faults that data sets have, and counts of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

Effect = Literal["repaired", "left_out", "adjusted", "kept"]
"""Outcome of an import: the fault is repaired; what has it is left out; what trains as it stands is put right anyway;
or it stays and the user is told."""
Subject = Literal["instances", "images", "categories", "files"]


class Kind(NamedTuple):
    """A kind of fault.

    Attributes:
        subject: what is counted.
        text: completes the sentence "12 instances ...", in the plural.
        effect: outcome of an import.
        way_out: what the user can do; None for the command that imports the file.
    """

    subject: Subject
    text: str
    effect: Effect
    way_out: str | None = None


KINDS: dict[str, Kind] = {
    "record_odd": Kind("instances", "are no json objects", "left_out", "look at the file: something broke it"),
    "image_unlisted": Kind("instances", "belong to an image that is not listed", "left_out"),
    "image_left_out": Kind("instances", "belong to an image that is left out", "left_out"),
    "category_unlisted": Kind("instances", "belong to a category that is not listed", "left_out"),
    "category_ambiguous": Kind("instances", "have the id of two categories", "left_out", "give each category an id"),
    "flag_odd": Kind("instances", "have an `iscrowd` that is neither 0 nor 1", "left_out"),
    "flag_form": Kind("instances", "have an `iscrowd` that is text or null instead of 0 or 1", "repaired"),
    "references": Kind("instances", "name their image or category otherwise than by a whole number", "repaired"),
    "mask_missing": Kind("instances", "have no mask", "left_out", "draw their masks, or leave them out by importing"),
    "mask_is_box": Kind(
        "instances", "have a box of four numbers, or two points, instead of a mask", "left_out",
        "draw their masks, or leave them out by importing",
    ),
    "mask_unreadable": Kind("instances", "have a mask that cannot be read", "left_out"),
    "mask_empty": Kind("instances", "have a mask without a pixel in the image", "left_out"),
    "polygon_few_points": Kind("instances", "have a polygon of fewer than three points", "left_out"),
    "polygon_odd": Kind("instances", "have a polygon with an odd number of coordinates", "left_out"),
    "rle_size": Kind("instances", "have run lengths of another size than the image", "left_out"),
    "coordinates_unclear": Kind(
        "instances", "have coordinates from 0 to 1, which may be pixels or shares of the sides", "left_out"
    ),
    "box_turned": Kind("instances", "have x and y exchanged, either in the box or in the mask", "left_out"),
    "annotation_twice": Kind("instances", "repeat one of the same image", "left_out"),
    "crowd_flags": Kind("instances", "are flagged as crowds, but are single objects", "repaired"),
    "mask_percent": Kind(
        "instances", "have a mask in percent or permille of the sides, as their box shows", "left_out",
        "write coordinates in pixels, or from 0 to 1",
    ),
    "coordinates_shares": Kind("instances", "have coordinates from 0 to 1, as shares of the sides", "repaired"),
    "polygon_flat": Kind("instances", "have a polygon that is not inside a list of polygons", "repaired"),
    "polygon_points": Kind("instances", "have a polygon as a list of points", "repaired"),
    "polygon_nested": Kind("instances", "have polygons in too many lists", "repaired"),
    "polygon_short_part": Kind("instances", "have parts of fewer than three points, which are ignored", "adjusted"),
    "mask_text": Kind("instances", "have a mask, or numbers of it, as text", "repaired"),
    "rle_numbers": Kind("instances", "have run lengths as text or fractions", "repaired"),
    "rle_turned": Kind("instances", "have run lengths with rows and columns exchanged", "repaired"),
    "rle_list": Kind("instances", "have a mask in several run lengths", "repaired"),
    "box_missing": Kind("instances", "have no box of four finite numbers", "repaired"),
    "box_zero": Kind("instances", "have a box without an extent in the image", "repaired"),
    "box_corners": Kind("instances", "have a box of two corners instead of corner and size", "repaired"),
    "box_center": Kind("instances", "have a box of center and size instead of corner and size", "repaired"),
    "box_mirrored": Kind("instances", "have a box that is counted from the bottom or from the right", "repaired"),
    "box_shares": Kind("instances", "have a box from 0 to 1, in shares of the sides", "repaired"),
    "box_scaled": Kind("instances", "have a box for another size of the photo than the mask", "repaired"),
    "box_whole": Kind("instances", "have the box of the whole object beside the mask of its visible part", "repaired"),
    "box_other": Kind("instances", "have a box that is not that of the mask", "repaired"),
    "box_loose": Kind("instances", "have a box a few pixels off that of the mask, which trains", "adjusted"),
    "area_missing": Kind("instances", "have no positive number as `area`", "repaired"),
    "occluder_unreadable": Kind("instances", "have an occluder region that cannot be read, and lose it", "repaired"),
    "annotation_ids": Kind("instances", "have ids that are no whole numbers", "repaired"),
    "annotation_id_twice": Kind("instances", "have the id of another", "repaired"),
    "image_odd": Kind("images", "are no json objects", "left_out", "look at the file: something broke it"),
    "image_unnamed": Kind("images", "have no `file_name`", "left_out", "name their photos"),
    "image_id_twice": Kind("images", "have the id of another image", "left_out", "give each image its own id"),
    "size_unknown": Kind("images", "have no width and height", "left_out", "give the photos: --images DIR"),
    "size_of_photo": Kind(
        "images", "have a photo of another size than the file says", "left_out",
        "restore the photos that were annotated, or annotate these",
    ),
    "image_ids": Kind("images", "have ids that are no whole numbers", "repaired"),
    "image_sizes": Kind("images", "have a width or height that is no whole number", "repaired"),
    "size_missing": Kind("images", "have no width and height, but a photo or masks that show them", "repaired"),
    "size_swapped": Kind("images", "have width and height exchanged, as EXIF does to phone photos", "repaired"),
    "size_wrong": Kind("images", "have another size than their photo and their masks", "repaired"),
    "file_name_twice": Kind("images", "list a file again under another id", "repaired"),
    "photo_key": Kind("images", "name their photo under another key than `file_name`", "repaired"),
    "category_odd": Kind("categories", "have no id, or are no json objects", "left_out", "give each category an id"),
    "category_id_twice": Kind("categories", "share an id, but not a name", "left_out", "give each category its own id"),
    "category_ids": Kind("categories", "have ids that are no whole numbers", "repaired"),
    "category_twice": Kind("categories", "have the name of another", "repaired"),
    "category_root": Kind("categories", "are the name of the project, not a class, and unused", "adjusted"),
    "category_unnamed": Kind("categories", "have no name, and are called by their id", "repaired"),
    "photo_missing": Kind("images", "have no photo in the folder", "left_out", "put the photos into the folder"),
    "photo_ambiguous": Kind(
        "images", "have a name that fits several photos, or a photo that fits several names", "left_out",
        "keep one photo a name, in folders as `file_name` says",
    ),
    "photo_damaged": Kind("images", "have a photo that cannot be decoded", "left_out", "replace the photos"),
    "photo_deep": Kind("images", "have more than 8 bits a channel", "left_out", "scale them to 8 bits"),
    "photo_dark": Kind(
        "images", "have 16 bits a channel of which only the lower are used, and read as black", "left_out",
        "scale them to 8 bits",
    ),
    "photo_pages": Kind(
        "images", "have several pages or frames", "left_out", "save the page that was annotated as a file of its own"
    ),
    "photo_name": Kind("images", "name their photo by another path or spelling", "repaired"),
    "photo_in_both": Kind("images", "are in both splits, and stay in training alone", "repaired"),
    "photo_unlabeled": Kind("images", "have no label file", "left_out", "label them, or take them out of the folder"),
    "photo_embedded": Kind(
        "images", "have their photo inside of the label file, but no file of it", "kept",
        "write the photos to files: labelme_export_json",
    ),
    "label_file_damaged": Kind(
        "files", "with labels cannot be read", "left_out", "restore them from the annotation tool"
    ),
    "label_file_foreign": Kind("files", "are json, but of another format", "left_out"),
    "label_without_photo": Kind("files", "with labels fit no photo", "left_out", "put the photos into the folder"),
    "label_ambiguous": Kind(
        "files", "with labels fit several photos, or a photo that fits several of them", "left_out",
        "name each label file like its photo",
    ),
    "format_other": Kind("files", "are in a format that has to be imported before a training reads it", "repaired"),
    "file_left_out": Kind("files", "of the folder hold no COCO instances, or those of another file again", "left_out"),
    "image_of_test": Kind(
        "images", "belong to a test split, and neither train nor validate", "left_out",
        "to use them, import the file of that split on its own",
    ),
    "list_as_object": Kind("files", "have an object by id instead of a list", "repaired"),
    "amodal_in_segmentation": Kind(
        "instances", "have the whole (amodal) mask in `segmentation`, and the visible one in another key", "repaired"
    ),
    "amodal_short": Kind("instances", "have a whole mask without all of the visible one", "repaired"),
    "amodal_beyond": Kind("instances", "have a whole mask that reaches beyond the image", "repaired"),
    "amodal_unreadable": Kind("instances", "have a whole mask that cannot be read, and lose it", "repaired"),
    "amodal_stuff": Kind("instances", "are regions of stuff, such as sky", "left_out", "nothing: they are no objects"),
    "amodal_annotator": Kind(
        "instances", "are of a further annotator of the same image", "left_out", "nothing: the first one's are taken"
    ),
    "photo_unlisted": Kind("images", "are in no split of `data.yaml`", "left_out", "list their folder there"),
    "label_line_unreadable": Kind(
        "instances", "have a line that is no class and outline", "left_out", "restore the label files"
    ),
    "label_line_beyond": Kind(
        "instances", "have coordinates far beyond the photo, such as pixels where YOLO has shares", "left_out",
        "divide x by the width and y by the height of the photo",
    ),
    "label_image_unreadable": Kind(
        "files", "are no label images: damaged, JPEG, of several pages, smoothed, or without whole numbers", "left_out",
        "save label images as 8 or 16-bit PNG or TIFF",
    ),
    "label_border": Kind("files", "have the value or color of VOC's border, which is taken for no object", "kept"),
    "mask_smoothed": Kind("instances", "have a mask with a smoothed border, which is cut at half of it", "repaired"),
    "shape_short": Kind("instances", "are drawn with too few points to be an area", "left_out", "draw them again"),
    "shape_without_area": Kind("instances", "are drawn as points or lines, which have no area", "left_out"),
    "shape_unknown": Kind("instances", "have a shape that is no outline in the image, such as a cuboid", "left_out"),
    "shape_unreadable": Kind("instances", "have points or a mask that cannot be read", "left_out", "draw them again"),
    "label_missing": Kind("instances", "have no label", "left_out", "label them"),
    "label_several": Kind("instances", "have several labels at once", "left_out", "choose one label for each"),
    "label_ignored": Kind("instances", "are labeled `__ignore__` or `_background_`", "left_out"),
}  # fmt: skip
"""Kinds of faults by the name that reports and `import.json` use."""


class Findings:
    """Counts of faults by kind, in the order of `KINDS`, with the ids of what has them.

    An id is that of an annotation, image or category as the source has it, or a file name where there is none.
    """

    def __init__(self) -> None:
        self._ids: dict[str, list[Any]] = {}

    def add(self, kind: str, name: Any) -> None:  # noqa: ANN401  (as read from json)
        """Count one fault; raises KeyError if there is no such kind."""
        if kind not in KINDS:
            raise KeyError(kind)
        self._ids.setdefault(kind, []).append(name)

    def extend(self, other: Findings) -> None:
        """Add the faults of another count."""
        for kind, names in other._ids.items():
            self._ids.setdefault(kind, []).extend(names)

    def __bool__(self) -> bool:
        return bool(self._ids)

    def __iter__(self) -> Iterator[tuple[str, list[Any]]]:
        """Iterate over the kinds that were found and their ids."""
        return ((kind, self._ids[kind]) for kind in KINDS if kind in self._ids)

    def counts(self, effects: Iterable[Effect]) -> dict[str, int]:
        """Return the counts of the kinds with one of these effects."""
        chosen = set(effects)
        return {kind: len(names) for kind, names in self if KINDS[kind].effect in chosen}
