"""Make a valid COCO data set of a source: repair what can be repaired without guessing, leave out the rest by kind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from bcnet_core.annotations.coco import FRONT_OF, Record
from bcnet_core.annotations.faults import is_id
from bcnet_core.files.json_files import paused_collector
from bcnet_core.files.workers import map_with_progress
from bcnet_core.importers.crowds import flags_are_crowds, to_flag
from bcnet_core.importers.findings import KINDS, Findings
from bcnet_core.importers.mending import KEYS, ImageTask, Mended, MendedImage, all_are_shares, mend_image
from bcnet_core.importers.parts import free_id, id_key, rewrite_order
from bcnet_core.importers.records import CategoryTable, ImageTable, Size, number_categories, number_images
from bcnet_core.importers.source import Cleaned, Photo, Source
from bcnet_core.reporting import Reporter

CHUNK = 64
"""Images per task of a worker process."""
WORTH_A_WORKER = 8
"""Tasks from which on a worker process saves more time than it takes to start."""


class Judged(NamedTuple):
    """A cleaned data set, and how many instances of its source a training takes as they stand."""

    cleaned: Cleaned
    trainable: int


def clean(
    source: Source, photos: Sequence[Photo] | None, *, workers: int = 1, reporter: Reporter | None = None
) -> Cleaned:
    """Repair a source; see `judge`."""
    return judge(source, photos, workers=workers, reporter=reporter).cleaned


def judge(
    source: Source, photos: Sequence[Photo] | None, *, workers: int = 1, reporter: Reporter | None = None
) -> Judged:
    """Repair a source, and count the instances that need no repair to be trained on.

    Args:
        source: the data set as it was read; it is not changed.
        photos: the photos of its images, in order; None if they were not looked at, so that nothing is known of them.
        workers: maximum number of processes, 0 for one per CPU core; 1 works in this process, others are spawned.
        reporter: receiver of the progress in images.

    Raises:
        BCNetError: if a worker process dies.
    """
    with paused_collector():
        cleaning = _Cleaning(source, photos)
        tasks = (cleaning.task(image) for image in cleaning.at_work)
        count = len(cleaning.at_work)
        with map_with_progress(
            mend_image, tasks, title="images", count=count, chunk=CHUNK, workers=workers,
            most=count // (CHUNK * WORTH_A_WORKER), reporter=reporter,
        ) as results:  # fmt: skip
            for image, mended in zip(cleaning.at_work, results, strict=True):
                cleaning.take(image, mended)
        return cleaning.finish()


class _Cleaning:
    """The state of one call of `judge`: everything but the masks, which worker processes read."""

    def __init__(self, source: Source, photos: Sequence[Photo] | None) -> None:
        self._source, self._findings = source, Findings()
        self._findings.extend(source.findings)
        annotations = source.annotations
        used = {id_key(one.get("category_id")) for one in annotations}
        self._categories: CategoryTable = number_categories(source.categories, used, self._findings)
        self._table: ImageTable = number_images(source.images, self._findings)
        self._photos = None if photos is None else [photos[position] for position in self._table.positions]
        self._crowds_are_real = source.imported or flags_are_crowds(annotations, source.categories)
        self._shares = all_are_shares(one.get("segmentation") for one in annotations)
        self._kept: list[Record | None] = [None] * len(annotations)
        self._trains = [False] * len(annotations)
        self._instances = len(annotations) + _count_left_out(source.findings)
        self._of_image: list[list[int]] = [[] for _ in self._table.records]
        self._left_out = [False] * len(self._table.records)
        self._turned: tuple[list[int], list[int]] = ([], [])  # images that EXIF turned: proven, and without evidence
        self._unturned = False
        self._check_photos()
        for position, annotation in enumerate(annotations):
            self._place(position, annotation)
        self.at_work = [image for image, is_out in enumerate(self._left_out) if not is_out]

    def _check_photos(self) -> None:
        for image, photo in enumerate(self._photos or ()):
            if photo.flaw is not None:
                self._findings.add(photo.flaw, self._table.records[image]["file_name"])
                self._left_out[image] = KINDS[photo.flaw].effect == "left_out"

    def _place(self, position: int, annotation: Record) -> None:
        """Give an annotation to its image, or leave it out."""
        flag = to_flag(annotation.get("iscrowd"))
        is_crowd = bool(flag) and self._crowds_are_real
        self._instances -= is_crowd
        image, category = annotation.get("image_id"), annotation.get("category_id")
        place = self._table.by_key.get(image) if type(image) is int else self._table.find(image)
        fault = None
        if place is None:
            fault = "image_left_out" if id_key(image) in self._table.left_out else "image_unlisted"
        elif (key := id_key(category)) is None or self._categories.ids.get(key) is None:
            fault = "category_ambiguous" if key in self._categories.ids else "category_unlisted"
        elif flag is None:
            fault = "flag_odd"
        elif self._left_out[place]:
            fault = "image_left_out"
        if place is None or fault is not None:
            self._findings.add(fault or "image_unlisted", self._name(position))
            return
        if flag and not is_crowd:
            self._findings.add("crowd_flags", self._name(position))
        if annotation.get("iscrowd", 0) not in (0, 1):
            self._findings.add("flag_form", self._name(position))
        if (not is_id(image) and self._table.is_raw[place]) or (not is_id(category) and self._categories.are_whole):
            self._findings.add("references", self._name(position))
        sound = is_id(annotation.get("id")) and is_id(image) and is_id(category) and self._table.is_raw[place]
        photo = None if self._photos is None else self._photos[place]
        named = photo is None or photo.flaw is None
        self._trains[position] = bool(sound and named and not flag and annotation.get("iscrowd", 0) == 0)
        self._of_image[place].append(position)

    def _name(self, position: int) -> Any:  # noqa: ANN401
        if self._source.places:
            return self._source.places[position]
        return self._source.annotations[position].get("id", f"annotations[{position}]")

    def task(self, image: int) -> ImageTask:
        """Pack what a worker process needs of an image."""
        photo = None if self._photos is None else self._photos[image]
        stored, upright = (None, None) if photo is None else (_known(photo.stored), _known(photo.upright))
        records = (self._source.annotations[position] for position in self._of_image[image])
        packed = [{key: record[key] for key in KEYS if key in record} for record in records]
        return ImageTask(self._table.sizes[image], stored, upright, self._shares, packed)

    def take(self, image: int, mended: MendedImage) -> None:
        """Take what a worker process returned for an image."""
        positions, own = self._of_image[image], self._table.sizes[image]
        if mended.size_kind is not None:
            self._findings.add(mended.size_kind, self._table.records[image]["file_name"])
        photo = None if self._photos is None else self._photos[image]
        if photo is not None:
            self._note_turn(image, photo, mended)
        if mended.size is None or (photo is not None and own not in (_known(photo.stored), _known(photo.upright))):
            for position in positions:
                self._trains[position] = False
        if mended.size is None:
            self._left_out[image] = True
            for position in positions:
                self._findings.add("image_left_out", self._name(position))
            return
        if mended.size != own:
            self._resize(image, mended.size)
        seen: set[tuple[Any, str]] | None = set() if image in self._table.merged else None
        for position, one in zip(positions, mended.annotations, strict=True):
            self._keep(position, image, one, seen)

    def _note_turn(self, image: int, photo: Photo, mended: MendedImage) -> None:
        """Note what an image whose photo EXIF turns says about the others."""
        if photo.stored == photo.upright:
            return
        if mended.turns:
            self._turned[1].append(image)
        elif mended.size_kind == "size_swapped" and mended.size == photo.upright:
            self._turned[0].append(image)
        elif mended.size == photo.stored and self._of_image[image]:
            self._unturned = True

    def _resize(self, image: int, size: Size) -> None:
        self._table.records[image] = {**self._table.records[image], "height": size[0], "width": size[1]}

    def _keep(self, position: int, image: int, mended: Mended | None, seen: set[tuple[Any, str]] | None) -> None:
        """Keep an annotation with its repairs, unless it cannot be repaired or was seen before in a merged image."""
        annotation, name = self._source.annotations[position], self._name(position)
        if mended is not None:
            self._trains[position] &= mended.trains
            for kind in mended.kinds:
                self._findings.add(kind, name)
            if mended.is_left_out:
                return
        if seen is not None:
            content = (annotation.get("category_id"), json.dumps(annotation.get("segmentation")))
            if content in seen:
                self._findings.add("annotation_twice", name)
                return
            seen.add(content)
        changes: Record = dict(mended.changes) if mended is not None else {}
        key = id_key(annotation["category_id"])
        parents = {
            "image_id": self._table.records[image]["id"],
            "category_id": None if key is None else self._categories.ids[key],
            "iscrowd": int(bool(to_flag(annotation.get("iscrowd"))) and self._crowds_are_real),
        }
        for parent, value in parents.items():
            if type(annotation.get(parent)) is not int or annotation[parent] != value:
                changes[parent] = value
        if changes:
            annotation = {**annotation, **changes}
            for gone in [one for one, value in changes.items() if value is None]:
                del annotation[gone]
        self._kept[position] = annotation

    def finish(self) -> Judged:
        """Give whole ids to what is left, and return it."""
        self._settle_turns()
        annotations = self._number_annotations()
        kept = [image for image, is_out in enumerate(self._left_out) if not is_out]
        cleaned = Cleaned(
            images=[self._table.records[image] for image in kept],
            annotations=annotations,
            categories=self._categories.records,
            photos=[] if self._photos is None else [self._photos[image] for image in kept],
            findings=self._findings,
            instances=self._instances,
        )
        return Judged(cleaned, sum(self._trains))

    def _settle_turns(self) -> None:
        """Take photos that EXIF turns for annotated upright if that is proven for others and disproven for none."""
        proven, open_ones = self._turned
        if proven and not self._unturned and self._photos is not None:
            for image in open_ones:
                self._findings.add("size_swapped", self._table.records[image]["file_name"])
                self._resize(image, self._photos[image].upright)

    def _number_annotations(self) -> list[Record]:
        kept = [(position, one) for position, one in enumerate(self._kept) if one is not None]
        fresh = free_id(id_key(one.get("id")) for _, one in kept)
        new_ids: dict[Any, int] = {}
        taken: set[int] = set()
        numbered = []
        for position, annotation in kept:
            key = id_key(annotation.get("id"))
            is_new = isinstance(key, int) and key not in taken
            number = key if is_new and isinstance(key, int) else fresh
            if number == fresh:
                fresh += 1
            changed = annotation.get("id") != number or not is_id(annotation.get("id"))
            if changed:
                kind = "annotation_id_twice" if isinstance(key, int) and not is_new else "annotation_ids"
                self._findings.add(kind, self._name(position))
            taken.add(number)
            if key is not None:
                new_ids.setdefault(id_key(self._source.annotations[position]["id"]), number)
            numbered.append({**annotation, "id": number} if changed or FRONT_OF in annotation else annotation)
        if any(FRONT_OF in one for one in numbered):
            rewrite_order(numbered, new_ids)
        return numbered


def _count_left_out(findings: Findings) -> int:
    """Return the number of instances that a reader left out."""
    kinds = {kind: len(names) for kind, names in findings if KINDS[kind].subject == "instances"}
    return sum(count for kind, count in kinds.items() if KINDS[kind].effect == "left_out")


def _known(size: Size) -> Size | None:
    return size if min(size) > 0 else None
