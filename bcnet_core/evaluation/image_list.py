"""From what a user names, files, folders and patterns, to the `images` of a COCO file."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bcnet_core.annotations.coco import CocoFile, Record, read_coco
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.files.images import image_size

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
"""Of the files that are taken from a folder."""


def listing_path(results: Path) -> Path:
    """Where `bcnet predict` writes the images and categories that its results name."""
    return results.with_name(f"{results.stem}_images.json")


def refuse_other_images(results: Path, coco: CocoFile) -> None:
    """Refuse results whose own list of images calls an id otherwise than the ground truth does.

    Args:
        results: a results file; without a readable list beside it nothing is known.
        coco: the ground truth.

    Raises:
        BCNetError: naming the first such image, and their number.
    """
    listing = listing_path(results)
    if not listing.is_file():
        return
    try:
        listed = read_coco(listing, need_annotations=False).images
    except BCNetError:  # another's file
        return
    known = {image["id"]: image["file_name"] for image in coco.images}
    both = [(image["id"], image["file_name"], known[image["id"]]) for image in listed if image["id"] in known]
    others = [one for one in both if not _may_be_the_same(*one[1:])]
    if others:
        number, predicted, true = others[0]
        raise data_error(
            f"`{results}` is about other images than `{coco.path}`: {len(others):,} of {len(both):,} ids stand for "
            f"another one, the first, {number}, for `{predicted}`, not `{true}`",
            f"predict with the ids of the ground truth: bcnet predict ... --ids-from {shlex.quote(str(coco.path))}",
            f"or, if they are the same images by other names, remove `{listing}`",
        )


def _may_be_the_same(one: str, other: str) -> bool:
    """Whether two paths may mean one image: they end alike, as far as both name folders."""
    ends = [[part for part in reversed(Path(name).parts) if part not in {"/", ".."}] for name in (one, other)]
    return all(first == second for first, second in zip(*ends, strict=False))


def find_images(names: Sequence[str]) -> list[Path]:
    """The image files that a command line means, each once, in the order of the names.

    Args:
        names: files; folders, of which every image is taken, in subfolders too, sorted; patterns with `*` or `?`.

    Raises:
        BCNetError: if one names nothing.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
        elif path.exists():
            files = [path]
        else:
            files = sorted(one for one in _matching(path) if one.is_file())
        if not files:
            what = "holds no image" if path.is_dir() else "names no file"
            raise data_error(f"`{name}` {what}", "give image files, folders of them, or a pattern: 'photos/*.jpg'")
        found |= dict.fromkeys(files)
    return list(found)


def _matching(path: Path) -> list[Path]:
    """The files that a pattern fits."""
    parts = path.parts
    first = next((index for index, part in enumerate(parts) if any(mark in part for mark in "*?[")), None)
    if first is None:
        return []
    return list(Path(*parts[:first]).glob(str(Path(*parts[first:]))))


def image_records(paths: Sequence[Path], known: CocoFile | None) -> list[Record]:
    """The entries of a COCO file for some images: `id`, `file_name` (as given), `width`, `height`.

    Args:
        paths: of the images.
        known: a COCO file whose ids are taken, by the name of the file without its folders; else they count from 1.

    Raises:
        BCNetError: if an image cannot be read, is not in `known`, or two have the same name there or here.
    """
    names = [] if known is None else [Path(image["file_name"]).name for image in known.images]
    ids = {} if known is None else dict(zip(names, (image["id"] for image in known.images), strict=True))
    repeated = {name for name, count in Counter(names).items() if count > 1}
    records, taken = [], set()
    for number, path in enumerate(paths, start=1):
        if known is not None and path.name not in ids:
            raise data_error(f"`{path}` is not among the {len(ids):,} images of `{known.path}`")
        if known is not None and path.name in repeated:
            raise data_error(
                f"`{known.path}` lists several images called `{path.name}`, so their ids cannot be told by the name",
                "predict without --ids-from, and look at the results with --gt NAME_images.json",
            )
        own = ids.get(path.name, number)
        if own in taken:
            raise usage_error(
                f"two of the images are called `{path.name}`", "predict them one by one, or without --ids-from"
            )
        taken.add(own)
        height, width = image_size(path)
        records.append({"id": own, "file_name": str(path), "width": width, "height": height})
    return records
