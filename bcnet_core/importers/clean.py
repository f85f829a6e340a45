"""Make a valid COCO data set of a `Source`: repair what has only one reading, leave out the rest, and count both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from bcnet_core.annotations.coco import Record
from bcnet_core.annotations.faults import is_id
from bcnet_core.files.workers import map_with_progress
from bcnet_core.importers.findings import KINDS, Findings
from bcnet_core.importers.listed import Categories, Images, clean_categories, clean_images
from bcnet_core.importers.parts import id_key
from bcnet_core.importers.repair import DROPPED, FLAGGED, KEYS, SHARES_BELOW, Repair, Task, repair_image
from bcnet_core.importers.shapes import leaves, to_whole
from bcnet_core.importers.source import FRONT_OF, Cleaned, Photo, Source
from bcnet_core.reporting import Reporter

CHUNK = 64
"""Images per task of a worker process."""
WORTH_A_WORKER = 8
"""Tasks from which on a worker process saves more time than it takes to start."""
MOST_CROWDS = 0.1
"""Share of annotations up to which those flagged as crowds are crowds: in COCO it is 0.012."""


@dataclass
class Verdicts:
    """What `judge` found, of which `clean` makes records.

    Attributes:
        images: clean image records.
        categories: clean category records.
        positions: positions in `source.annotations` of what belongs to a clean image and category.
        repairs: the repair of each of them.
        owners: the position of the image of each, in `images.records`.
        findings: everything that was found, those of the reader included.
        crowds: number of annotations that are crowds.
        numbers: the clean id of each of them, by position in `source.annotations`.
        sound: positions in the source of the annotations that have no fault at all; none if the source has other
            records than its file, whose positions are not known.
    """

    images: Images
    categories: Categories
    positions: list[int]
    repairs: list[Repair]
    owners: list[int]
    findings: Findings
    crowds: int
    numbers: dict[int, int]
    sound: set[int]


def clean(
    source: Source, photos: Sequence[Photo] | None, *, workers: int = 1, reporter: Reporter | None = None
) -> Cleaned:
    """Repair what can be repaired without guessing, and leave out the rest by kind.

    Valid records are kept as they are, unknown keys too.

    Args:
        source: what a reader returned; it is not changed.
        photos: the photos of its images, in order; None if nobody looked at them.
        workers: maximum number of processes, 0 for one per CPU core.
        reporter: receiver of the progress in images.

    Raises:
        BCNetError: if a worker process dies.
    """
    found = judge(source, photos, workers=workers, reporter=reporter)
    annotations: list[Record] = []
    for position, repair, owner in zip(found.positions, found.repairs, found.owners, strict=True):
        if repair.changes is None:
            continue
        record = {**source.annotations[position], **repair.changes}
        record["id"] = found.numbers[position]
        record["image_id"] = found.images.records[owner]["id"]
        record["category_id"] = found.categories.ids[id_key(record.get("category_id"))]
        for key in DROPPED:
            if key in record and record[key] is None:
                del record[key]
        annotations.append(record)
    _renumber_order(source, annotations, found.numbers)
    return Cleaned(
        images=found.images.records,
        annotations=annotations,
        categories=found.categories.records,
        photos=found.images.photos,
        findings=found.findings,
        instances=count_instances(source, found),
    )


def count_instances(source: Source, found: Verdicts) -> int:
    """Return the number of annotations that are meant as instances, those that the reader left out included."""
    by_reader = sum(
        len(names)
        for kind, names in source.findings
        if (KINDS[kind].subject, KINDS[kind].effect) == ("instances", "left_out")
    )
    return len(source.annotations) - found.crowds + by_reader


def judge(
    source: Source, photos: Sequence[Photo] | None, *, workers: int = 1, reporter: Reporter | None = None
) -> Verdicts:
    """Find the faults of every record, and how each is repaired; see `clean`."""
    findings = Findings()
    findings.extend(source.findings)
    grouped: dict[Hashable, list[int]] = {}
    used: Counter[Hashable] = Counter()
    for position, record in enumerate(source.annotations):
        grouped.setdefault(id_key(record.get("image_id")), []).append(position)
        used[id_key(record.get("category_id"))] += 1
    by_image = {key: [source.annotations[at] for at in members] for key, members in grouped.items()}
    images = clean_images(source.images, photos, by_image, findings)
    categories = clean_categories(source.categories, used, findings)
    found = Verdicts(images, categories, [], [], [], findings, 0, {}, set())
    members_of: dict[int, list[int]] = {}
    for key, members in grouped.items():
        for position in _of_listed(source, key, members, found):
            members_of.setdefault(images.owners[key] or 0, []).append(position)
    for owner, members in members_of.items():
        found.positions += members
        found.owners += [owner] * len(members)
    with map_with_progress(
        repair_image, _tasks(source, images, members_of), title="images", count=len(members_of), chunk=CHUNK,
        workers=workers, most=len(members_of) // (CHUNK * WORTH_A_WORKER), reporter=reporter,
    ) as results:  # fmt: skip
        for repairs in results:
            found.repairs += repairs
    for position, repair in zip(found.positions, found.repairs, strict=True):
        found.crowds += repair.changes is not None and repair.changes["iscrowd"] == 1
        for kind in repair.kinds:
            findings.add(kind, _name(source, position))
        if not repair.kinds:
            found.sound.add(position)
    if any(kind == "record_odd" for kind, _ in source.findings):
        found.sound.clear()
    found.numbers = _number_annotations(source, found)
    return found


def _tasks(source: Source, images: Images, members_of: dict[int, list[int]]) -> Iterator[Task]:
    """Yield the annotations of each image, reduced to what a worker process needs."""
    shares, crowds = _are_shares(source.annotations), _are_crowds(source.annotations)
    for owner, members in members_of.items():
        records = []
        for position in members:
            annotation = source.annotations[position]
            records.append({key: annotation[key] for key in KEYS if key in annotation})
            if not crowds and to_whole(annotation.get("iscrowd")) == 1:
                records[-1]["iscrowd"] = FLAGGED
        yield Task(images.records[owner]["height"], images.records[owner]["width"], records, shares)


def _name(source: Source, position: int) -> Any:  # noqa: ANN401
    if source.places:
        return source.places[position]
    return source.annotations[position].get("id", f"annotations[{position}]")


def _of_listed(source: Source, key: Hashable, members: Sequence[int], found: Verdicts) -> Iterator[int]:
    """Yield the positions of the annotations whose image and category are listed, and count the others."""
    listed, kept = key in found.images.owners, found.images.owners.get(key) is not None
    for position in members:
        category = id_key(source.annotations[position].get("category_id"))
        if listed and kept and found.categories.ids.get(category) is not None:
            yield position
            continue
        if not listed:
            kind = "image_unlisted"
        elif not kept:
            kind = "image_left_out"
        else:
            kind = "category_ambiguous" if category in found.categories.ids else "category_unlisted"
        found.findings.add(kind, _name(source, position))


def _are_shares(annotations: Sequence[Record]) -> bool:
    """Return whether the coordinates of most outlines are shares of the sides of their images."""
    small = large = 0
    for annotation in annotations:
        if isinstance(annotation.get("segmentation"), list):
            largest = max(leaves(annotation["segmentation"]), default=None)
            small += largest is not None and 0 < largest <= SHARES_BELOW
            large += largest is not None and largest > SHARES_BELOW
    return small > large


def _are_crowds(annotations: Sequence[Record]) -> bool:
    """Return whether annotations that are flagged as crowds are crowds.

    CVAT flags every mask that was drawn with a brush; it writes `attributes` beside. Crowds are rare elsewhere.
    """
    flagged = [one for one in annotations if to_whole(one.get("iscrowd")) == 1]
    return len(flagged) <= MOST_CROWDS * len(annotations) and not any("attributes" in one for one in flagged)


def _number_annotations(source: Source, found: Verdicts) -> dict[int, int]:
    """Return the id of every annotation by position: its own where it is whole and no earlier one has it."""
    keys = [id_key(one.get("id")) for one in source.annotations]
    fresh = count(max((key for key in keys if isinstance(key, int) and is_id(key)), default=0) + 1)
    taken: set[int] = set()
    numbers: dict[int, int] = {}
    for position in sorted(found.positions):
        key = keys[position]
        own = isinstance(key, int) and is_id(key) and key not in taken
        number = key if own and isinstance(key, int) else next(fresh)
        if type(source.annotations[position].get("id")) is not int or not own:
            found.findings.add("annotation_ids", _name(source, position))
        taken.add(number)
        numbers[position] = number
    return numbers


def _renumber_order(source: Source, annotations: Sequence[Record], numbers: dict[int, int]) -> None:
    """Translate the ids in `front_of`, without those of annotations that are left out."""
    ordered = [one for one in annotations if isinstance(one.get(FRONT_OF), list)]
    if not ordered:
        return
    kept = {one["id"] for one in annotations}
    new = {id_key(source.annotations[position].get("id")): number for position, number in numbers.items()}
    for one in ordered:
        ids = [new.get(id_key(name)) for name in one[FRONT_OF]]
        one[FRONT_OF] = [number for number in ids if number in kept]
