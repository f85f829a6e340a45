"""Images that a command line names: their files, their ids and sizes, and whether their categories are a detector's."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from bcnet_core.annotations.coco import CocoFile, Record, category_difference
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.evaluation.results import LISTED_AS
from bcnet_core.files.image_headers import image_size
from bcnet_core.files.images import dangling_images, image_files
from bcnet_core.files.matching import match_by_ending
from bcnet_core.files.videos import SUFFIXES as VIDEO_SUFFIXES

NO_SIZE = (0, 0)
"""Height and width of an image that cannot be read."""


def find_images(names: Sequence[str]) -> list[Path]:
    """Return the image files that a command line names, each once, in the order of the names.

    A name is a file; a folder, of which every image is taken, also in subfolders, sorted; or a pattern with `*` or `?`.

    Raises:
        BCNetError: if one of them names nothing, or a video, or a folder holds a link to an image that is not there.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = image_files(path)
            if dangling := dangling_images(path):
                raise data_error(
                    f"`{dangling[0]}` is a link to a file that does not exist"
                    + (f" (and {len(dangling) - 1:,} more links)" if len(dangling) > 1 else ""),
                    "fetch the file (git annex get, dvc pull), or remove the link",
                )
        elif path.exists():
            files = [path]
        else:
            files = [one for one in matches_of(name) if one.is_file()]
        if not files:
            what = "contains no image" if path.is_dir() else "names no file"
            raise data_error(f"`{name}` {what}", "give image files, folders of them, or a pattern: 'photos/*.jpg'")
        found |= dict.fromkeys(files)
    videos = [path for path in found if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        raise usage_error(f"`{videos[0]}` is a video, not an image", "predict its frames: --video")
    return list(found)


def matches_of(pattern: str) -> list[Path]:
    """Return the files and folders that a pattern with `*`, `**` or `?` fits, sorted."""
    return sorted(map(Path, glob.glob(pattern, recursive=True)))  # noqa: PTH207  (Path.glob takes no absolute pattern)


def image_records(paths: Sequence[Path], known: CocoFile | None, *, option: str = "--ids-from") -> list[Record]:
    """Make the `images` of a COCO file: `id`, `file_name` (as given), `width`, `height`.

    Ids and sizes are taken from `known`, where a path is the image whose `file_name` has the longest ending in common
    with it; that name is kept as `LISTED_AS`. Without `known`, ids count from 1 and sizes are those of the upright
    images; an image that cannot be read has `NO_SIZE`. Messages call `known` by the `option` that gave it.

    Raises:
        BCNetError: if an image is not in `known`, or `known` does not tell which image it is.
    """
    if known is None:
        sizes = map(_size_or_none, paths)
        return [
            {"id": number, "file_name": str(path), "width": width, "height": height}
            for number, (path, (height, width)) in enumerate(zip(paths, sizes, strict=True), start=1)
        ]
    return [
        {
            "id": image["id"], "file_name": str(path), "width": image["width"], "height": image["height"],
            LISTED_AS: image.get(LISTED_AS, image["file_name"]),
        }
        for path, image in zip(paths, _known_images(paths, known, option), strict=True)
    ]  # fmt: skip


def _size_or_none(path: Path) -> tuple[int, int]:
    try:
        return image_size(path)
    except BCNetError:  # told when the pixels are read
        return NO_SIZE


def _known_images(paths: Sequence[Path], known: CocoFile, option: str) -> list[Record]:
    """Return the entry of `known` for each path."""
    otherwise = f"predict without {option}, and look at the results with --gt NAME_images.json"
    matches = match_by_ending([str(path.absolute()) for path in paths], [image["file_name"] for image in known.images])
    strangers = [path for path, found in zip(paths, matches, strict=True) if not found]
    if strangers:
        raise data_error(
            f"{len(strangers):,} of {len(paths):,} images are not among the {len(known.images):,} images of "
            f"`{known.path}`, the first is `{strangers[0]}`",
            f"give only images that it lists, or predict without {option}",
        )
    images, taken = [], dict[int, Path]()
    for path, found in zip(paths, matches, strict=True):
        image = known.images[found[0]]
        if len(found) > 1:
            fitting = " and ".join(
                f"`{known.images[one]['file_name']}` (id {known.images[one]['id']})" for one in found[:2]
            )
            raise data_error(f"`{known.path}` does not tell which image `{path}` is: {fitting} fit equally", otherwise)
        if found[0] in taken:
            raise usage_error(
                f"`{taken[found[0]]}` and `{path}` both fit the image `{image['file_name']}` of `{known.path}`",
                f"give only one of them, or predict without {option}",
            )
        taken[found[0]] = path
        images.append(image)
    return images


def check_categories(categories: Sequence[Record], coco: CocoFile, *hints: str) -> None:
    """Require data to have no other categories than those that a detector was trained on; it may list fewer.

    Raises:
        BCNetError: naming what differs on both sides, then the `hints`.
    """
    difference = category_difference(categories, coco.categories)
    if difference is not None and difference.only_second:
        raise data_error(
            f"the detector knows {len(categories)} categories, `{coco.path}` has {len(coco.categories)}, and they "
            "differ",
            f"only in the detector: {difference.only_first[:5] or 'none'}",
            f"only in the file:     {difference.only_second[:5] or 'none'}",
            *hints,
        )
