"""Make a clean data root of a data set in any format that is read."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bcnet_core import __version__
from bcnet_core.annotations.coco import Record
from bcnet_core.errors import data_error, usage_error
from bcnet_core.files.json_files import paused_collector, write_json
from bcnet_core.files.outputs import atomic_directory
from bcnet_core.importers.clean import clean
from bcnet_core.importers.findings import KINDS, Findings
from bcnet_core.importers.formats import choose_format
from bcnet_core.importers.photos import find_photos
from bcnet_core.importers.root import GENERATOR, RECORD, check_root, write_root
from bcnet_core.importers.source import Cleaned, Photo
from bcnet_core.importers.splits import DEFAULT_SHARE, SPLITS, Division, SplitName, check_share, divide
from bcnet_core.reporting import Reporter, SilentReporter

FIRST_IDS = 10
"""Ids that the record of an import has of each kind of fault."""


class SplitCounts(NamedTuple):
    """Contents of one split; crowds are not counted as instances."""

    images: int
    instances: int


@dataclass(frozen=True)
class ImportSummary:
    """Result of `import_source`.

    Attributes:
        source: the file or folder that was read.
        format_name: name of its format.
        splits: contents of the splits that were written.
        by_source: whether the source was split already; otherwise `share` and `seed` decided.
        share: the share of validation that was drawn.
        seed: seed of the draw.
        findings: faults by kind.
        categories: names of the categories.
    """

    source: Path
    format_name: str
    splits: dict[SplitName, SplitCounts]
    by_source: bool
    share: float
    seed: int
    findings: Findings
    categories: list[str]

    @property
    def images(self) -> int:
        """Number of images of both splits."""
        return sum(counts.images for counts in self.splits.values())

    @property
    def instances(self) -> int:
        """Number of instances of both splits, without crowds."""
        return sum(counts.instances for counts in self.splits.values())

    def as_json(self) -> Record:
        """Return the summary as written to `import.json` and printed by `--json`."""
        return {
            "generator": GENERATOR,
            "bcnet": __version__,
            "source": str(self.source),
            "format": self.format_name,
            "images": self.images,
            "instances": self.instances,
            "categories": self.categories,
            "splits": {name: counts._asdict() for name, counts in self.splits.items()},
            "split_by": "source" if self.by_source else {"share": self.share, "seed": self.seed},
            "repaired": self.findings.counts(["repaired", "adjusted"]),
            "left_out": self.findings.counts(["left_out"]),
            "kept": self.findings.counts(["kept"]),
            "first_ids": {kind: ids[:FIRST_IDS] for kind, ids in self.findings},
        }


def import_source(
    path: Path,
    root: Path,
    *,
    format_name: str = "auto",
    images: Path | None = None,
    val: float | None = None,
    copy: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    dry_run: bool = False,
    workers: int = 1,
    reporter: Reporter | None = None,
) -> ImportSummary:
    """Read a data set, repair what can be repaired without guessing, and write the rest of it as a data root.

    The root is written completely or not at all, and the source stays as it is: photos are linked.

    Args:
        path: file or folder in one of `formats.FORMATS`.
        root: the folder to create.
        format_name: name of the format, or "auto".
        images: folder of the photos; by default they are looked for where the source is.
        val: share of the images that becomes the validation split; None keeps the split of the source, or draws a
            fifth where it has none.
        copy: copy photos instead of linking them.
        seed: seed of the draw.
        overwrite: replace an earlier import; anything else in `root` is never replaced.
        dry_run: do everything but write.
        workers: maximum number of processes, 0 for one per CPU core.
        reporter: receiver of the progress.

    Raises:
        BCNetError: if an option is out of range, `root` may not be written, the source is in no format that is read,
            its photos are not found, or it has no instance that can be trained on.
    """
    check_share(val)
    check_root(root, path, *([] if images is None else [images]), overwrite=overwrite)
    if images is not None and not images.is_dir():
        raise data_error(f"the folder of photos `{images}` does not exist", "give the folder that holds them")
    chosen = choose_format(path, format_name)
    with paused_collector():
        source = chosen.read(path, images)
        header, folder = source.header, images or default_folder(path)
        photos = find_photos(source.images, folder, workers=workers, reporter=reporter)
        _require_photos(photos, folder, given=images is not None)
        if images is None:
            photos = [_forgive_folder(photo, image) for photo, image in zip(photos, source.images, strict=True)]
        cleaned = clean(source, photos, workers=workers, reporter=reporter)
        del source
        _require_instances(path, cleaned)
        paths = [photo.path for photo in cleaned.photos]
        _require_outside(root, paths)
        division = divide(cleaned.images, paths, share=val, seed=seed)
        for position in division.moved:
            cleaned.findings.add("photo_in_both", cleaned.images[position]["file_name"])
        split_of = {image["id"]: split for image, split in zip(cleaned.images, division.names, strict=True)}
        _warn(cleaned, division, split_of, share=val, reporter=reporter or SilentReporter())
        summary = ImportSummary(
            path, chosen.name, _count(cleaned, division, split_of), division.by_source,
            DEFAULT_SHARE if val is None else val, seed, cleaned.findings,
            [category["name"] for category in cleaned.categories],
        )  # fmt: skip
        if not dry_run:
            with atomic_directory(root) as part:
                write_root(part, cleaned, header, division.names, copy=copy, reporter=reporter)
                write_json(part / RECORD, summary.as_json())
    return summary


def _one_photo(images: int) -> str:
    return "all images have the same photo" if images > 1 else "there is one photo only"


def _warn(
    cleaned: Cleaned,
    division: Division,
    split_of: Mapping[int, SplitName],
    *,
    share: float | None,
    reporter: Reporter,
) -> None:
    """Report a validation set that cannot be, and categories that would never be trained."""
    if share != 0 and "val" not in division.names:
        reporter.warning(f"there is no validation set: {_one_photo(len(cleaned.images))}")
    spellings: dict[str, list[str]] = defaultdict(list)
    for category in cleaned.categories:
        spellings[" ".join(str(category["name"]).casefold().split())].append(str(category["name"]))
    for alike in (names for names in spellings.values() if len(names) > 1):
        reporter.warning(f"{len(alike)} categories differ in case or spaces only: {', '.join(alike)}; are they one?")
    used: dict[SplitName, set[int]] = {split: set() for split in SPLITS}
    for annotation in cleaned.annotations:
        used[split_of[annotation["image_id"]]].add(annotation["category_id"])
    unseen = [str(one["name"]) for one in cleaned.categories if one["id"] in used["val"] - used["train"]]
    if unseen:
        names = ", ".join(unseen[:FIRST_IDS]) + (", ..." if len(unseen) > FIRST_IDS else "")
        way_out = "" if division.by_source else "; another --seed, or a smaller --val, may change that"
        reporter.warning(f"only the validation set has instances of {len(unseen):,} categories: {names}{way_out}")


def default_folder(path: Path) -> Path:
    """Return where the photos of a source are looked for if nobody says where they are.

    For `annotations/instances_train2017.json` that is `train2017` beside `annotations`, if it exists, and otherwise the
    folder of both.
    """
    if path.is_dir():
        return path
    place = path.absolute().parent
    if place.name != "annotations":
        return place
    beside = place.parent / path.name.split(".")[0].rpartition("_")[2]
    return beside if beside.is_dir() else place.parent


def _forgive_folder(photo: Photo, image: Record) -> Photo:
    """Drop the flaw of a name that is right in the folder of the photo, which nobody gave."""
    name = PurePosixPath(image["file_name"]).parts
    right = photo.flaw == "photo_name" and photo.path.parts[-len(name) :] == name
    return photo._replace(flaw=None) if right else photo


def _require_photos(photos: list[Photo], folder: Path, *, given: bool) -> None:
    """Raise an error if a source has images, but not one of their photos is found."""
    if photos and all(photo.flaw == "photo_missing" for photo in photos):
        one = f"`{str(photos[0].path)[-120:]}`"
        raise data_error(
            f"`{folder}` has none of the {len(photos):,} photos of the source: nothing in it ends in {one}",
            "give the folder in which they are" if given else "say where they are: --images DIR",
        )


def _require_instances(path: Path, cleaned: Cleaned) -> None:
    if any(not one.get("iscrowd") for one in cleaned.annotations):
        return
    reasons = [
        f"{len(ids):,} {KINDS[kind].subject} {KINDS[kind].text}"
        for kind, ids in cleaned.findings
        if KINDS[kind].effect == "left_out"
    ]
    what = f"none of the {cleaned.instances:,} instances" if cleaned.instances else "no instance"
    raise data_error(
        f"{what} of `{path}` can be trained on",
        *reasons,
        f"see more: {shlex.join(['bcnet', 'data', 'check', str(path)])}",
    )


def _require_outside(root: Path, photos: list[Path]) -> None:
    """Raise an error if the root is to be replaced and has photos of the source, as copies of an earlier import."""
    if not root.exists():
        return
    place = root.resolve()
    inside = next((photo for photo in photos if photo.resolve().is_relative_to(place)), None)
    if inside is not None:
        raise usage_error(
            f"the photo `{inside}` would be removed with the old `{root}`",
            "choose another output, or name the folder of the photos: --images DIR",
        )


def _count(cleaned: Cleaned, division: Division, split_of: Mapping[int, SplitName]) -> dict[SplitName, SplitCounts]:
    instances = [split_of[one["image_id"]] for one in cleaned.annotations if not one.get("iscrowd")]
    return {
        split: SplitCounts(division.names.count(split), instances.count(split))
        for split in SPLITS
        if split in division.names
    }
