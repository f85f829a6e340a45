"""From images to COCO results: find them, run a detector on one after the other."""

from __future__ import annotations

import glob
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, category_difference
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.evaluation.results import LISTED_AS
from bcnet_core.files.images import (
    check_images,
    image_files,
    image_path,
    image_size,
    missing_images,
    read_image,
    read_listed,
)
from bcnet_core.files.matching import match_by_ending
from bcnet_core.maps import map_specs
from bcnet_core.masks.crops import paste_rles
from bcnet_core.masks.map_order import map_pairs
from bcnet_core.masks.order import disjoint_masks, hidden_by
from bcnet_core.reporting import Reporter
from bcnet_core.structures import Detections, Predictor

NO_SIZE = (0, 0)
"""Height and width of an image that cannot be read."""

READ_AHEAD = 4
"""Images that are read while the detector works on one."""


def find_images(names: Sequence[str]) -> list[Path]:
    """Return the image files that a command line names, each once, in the order of the names.

    A name is a file; a folder, of which every image is taken, also in subfolders, sorted; or a pattern with `*` or `?`.

    Raises:
        BCNetError: if one of them names nothing.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = image_files(path)
        elif path.exists():
            files = [path]
        else:
            matches = map(Path, glob.glob(name, recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
            files = sorted(one for one in matches if one.is_file())
        if not files:
            what = "contains no image" if path.is_dir() else "names no file"
            raise data_error(f"`{name}` {what}", "give image files, folders of them, or a pattern: 'photos/*.jpg'")
        found |= dict.fromkeys(files)
    return list(found)


def image_records(paths: Sequence[Path], known: CocoFile | None) -> list[Record]:
    """Make the `images` of a COCO file: `id`, `file_name` (as given), `width`, `height`.

    Ids and sizes are taken from `known`, where a path is the image whose `file_name` has the longest ending in common
    with it; that name is kept as `LISTED_AS`. Without `known`, ids count from 1 and sizes are those of the upright
    images; an image that cannot be read has `NO_SIZE`.

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
            LISTED_AS: image["file_name"],
        }
        for path, image in zip(paths, _known_images(paths, known), strict=True)
    ]  # fmt: skip


def _size_or_none(path: Path) -> tuple[int, int]:
    try:
        return image_size(path)
    except BCNetError:  # told when the pixels are read
        return NO_SIZE


def _known_images(paths: Sequence[Path], known: CocoFile) -> list[Record]:
    """Return the entry of `known` for each path."""
    otherwise = "predict without --ids-from, and look at the results with --gt NAME_images.json"
    matches = match_by_ending([str(path.absolute()) for path in paths], [image["file_name"] for image in known.images])
    strangers = [path for path, found in zip(paths, matches, strict=True) if not found]
    if strangers:
        raise data_error(
            f"{len(strangers):,} of {len(paths):,} images are not among the {len(known.images):,} images of "
            f"`{known.path}`, the first is `{strangers[0]}`",
            "give only images that it lists, or predict without --ids-from",
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
                "give only one of them, or predict without --ids-from",
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


def predict_images(
    detector: Predictor,
    images: Sequence[Record],
    image_dir: Path,
    *,
    reporter: Reporter,
    stopping: Callable[[], bool] = lambda: False,
) -> list[Record]:
    """Return the results of all images in one list; see `predictions`.

    Raises:
        BCNetError: if images are missing (before the first is read) or cannot be read.
    """
    check_images(images, image_dir)
    found = predictions(detector, images, image_dir, reporter=reporter, stopping=stopping)
    return [result for _, results in found for result in results]


def predictions(
    detector: Predictor,
    images: Sequence[Record],
    image_dir: Path | None,
    *,
    reporter: Reporter,
    layers: bool = False,
    disjoint: bool = False,
    score: float = 0.0,
    stopping: Callable[[], bool] = lambda: False,
    unreadable: Callable[[Record, BCNetError], None] | None = None,
) -> Iterator[tuple[Record, list[Record]]]:
    """Detect in one image at a time while the next ones are read.

    Args:
        detector: in evaluation mode.
        images: entries of a COCO file's `images`.
        image_dir: folder that their file names are relative to; None if the user named the files.
        reporter: receives the progress.
        layers: whether a result also has the other maps of the head.
        disjoint: whether the visible masks of an image share no pixel, see `to_results`.
        score: smallest score of a result.
        stopping: called before each image; True ends the iteration.
        unreadable: called for each image that is there but cannot be read, which is then passed over.

    Raises:
        BCNetError: if an image cannot be read, and it is missing or nobody is told.
    """
    with reporter.progress("predicting", len(images)) as progress:
        for image, reading in _read_ahead(images, image_dir):
            if stopping():
                break
            try:
                pixels = reading.result()
            except BCNetError as error:
                if unreadable is None or missing_images(image_dir, [image["file_name"]]):
                    raise
                unreadable(image, error)
            else:
                (found,) = detector.predict([pixels])
                best = found.at_least(score)
                results = to_results(best, image["id"], detector.categories, layers=layers, disjoint=disjoint)
                yield image, list(results)
            progress.advance()


def _read_ahead(images: Sequence[Record], image_dir: Path | None) -> Iterator[tuple[Record, Future[NDArray[np.uint8]]]]:
    """Yield the images in their order, the next ones being read by another thread."""
    read = partial(_read, image_dir)
    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            for position, image in enumerate(images):
                following = images[position + len(waiting) : position + 1 + READ_AHEAD]
                waiting.extend(pool.submit(read, one) for one in following)
                yield image, waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)


def _read(image_dir: Path | None, image: Record) -> NDArray[np.uint8]:
    if (image["height"], image["width"]) != NO_SIZE:
        return read_listed(image_dir, image)
    path = image_path(image_dir, image["file_name"])
    read_image(path)  # raises what was wrong
    raise data_error(f"the image `{path}` cannot be read: it was incomplete when the command began", "predict it again")


def to_results(
    found: Detections, image_id: int, categories: Sequence[Record], *, layers: bool = False, disjoint: bool = False
) -> Iterator[Record]:
    """Yield one COCO result per detection, best first.

    A detector of whole masks also gives the keys that `bcnet_core.evaluation.results` describes. With `layers` a result
    has the other maps of the head, too, each under its key in `bcnet_core.maps`. With `disjoint` no pixel is in the
    visible masks of two instances, see `disjoint_masks`: of two without whole masks, the one that the other's occluder
    region covers is in front. An instance that has no pixel left keeps its place.
    """
    is_amodal = found.amodal_mask is not None
    pasted = {
        spec.name: paste_rles(found.maps[spec.name], found.boxes, *found.image_size)
        for spec in map_specs(found.maps)
        if layers or (spec.kind == "mask" and spec.layer == "occludee")
    }
    visible = pasted["occludee_mask"]
    order = map_pairs(found.maps, found.boxes) if is_amodal or disjoint else []
    if disjoint:
        pasted["occludee_mask"] = visible = disjoint_masks(visible, order)
    written = [spec for spec in map_specs(pasted) if layers or spec.layer == "occludee"]
    hides = hidden_by(len(visible), order)
    boxes = found.boxes.cpu()
    sizes = boxes[:, 2:] - boxes[:, :2]
    for index, (score, label) in enumerate(zip(found.scores.tolist(), found.labels.tolist(), strict=True)):
        detected = [round(value, 3) for value in (*boxes[index, :2].tolist(), *sizes[index].tolist())]
        pixels = masks.area(visible[index])
        result = {
            "image_id": image_id,
            "category_id": categories[label]["id"],
            "bbox": masks.bounding_box(visible[index]).tolist() if pixels and (is_amodal or disjoint) else detected,
            "score": score,
            **{spec.key: pasted[spec.name][index] for spec in written},
        }
        if is_amodal:
            whole = masks.area(pasted["amodal_mask"][index])
            rate = round(1 - pixels / whole, 6) if whole else 0.0
            result |= {"amodal_bbox": detected, "occlusion_rate": rate, "hides": hides[index]}
        yield result
