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

from bcnet_core.annotations.coco import CocoFile, Record, category_difference
from bcnet_core.errors import data_error, usage_error
from bcnet_core.files.images import image_files, image_size, missing_images, read_listed
from bcnet_core.maps import map_specs
from bcnet_core.masks.crops import paste_rles
from bcnet_core.reporting import Reporter
from bcnet_core.structures import Detections, Predictor

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

    Ids are taken from `known` by file name without folders; without it they count from 1.

    Raises:
        BCNetError: if an image cannot be read, is not in `known`, or two have the same name there or here.
    """
    ids: dict[str, list[int]] = {}
    for image in [] if known is None else known.images:
        ids.setdefault(Path(image["file_name"]).name, []).append(image["id"])
    records, taken = [], set()
    for number, path in enumerate(paths, start=1):
        candidates = [number] if known is None else ids.get(path.name, [])
        if known is not None and not candidates:
            raise data_error(f"`{path}` is not among the {len(ids):,} images of `{known.path}`")
        if known is not None and len(candidates) > 1:
            raise data_error(
                f"`{known.path}` lists several images called `{path.name}`, so the name does not tell the id",
                "predict without --ids-from, and look at the results with --gt NAME_images.json",
            )
        (own,) = candidates
        if own in taken:
            raise usage_error(
                f"two of the images are called `{path.name}`", "predict them one by one, or without --ids-from"
            )
        taken.add(own)
        height, width = image_size(path)
        records.append({"id": own, "file_name": str(path), "width": width, "height": height})
    return records


def check_images(images: Sequence[Record], image_dir: Path | None) -> None:
    """Require all images to exist.

    Raises:
        BCNetError: with the number of missing images and the first.
    """
    missing = missing_images(image_dir, (image["file_name"] for image in images))
    if missing:
        raise data_error(
            f"{len(missing):,} of {len(images):,} images are not in `{image_dir or '.'}`, the first is `{missing[0]}`",
            "is the folder of images right? (--data-root)",
        )


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
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Record, list[Record]]]:
    """Detect in one image at a time while the next ones are read.

    Args:
        detector: in evaluation mode.
        images: entries of a COCO file's `images`.
        image_dir: folder that their file names are relative to; None if the user named the files.
        reporter: receives the progress.
        layers: whether a result also has the other maps of the head.
        stopping: called before each image; True ends the iteration.

    Raises:
        BCNetError: if an image cannot be read.
    """
    with reporter.progress("predicting", len(images)) as progress:
        for image, pixels in _read_ahead(images, image_dir):
            if stopping():
                break
            (found,) = detector.predict([pixels])
            yield image, list(to_results(found, image["id"], detector.categories, layers=layers))
            progress.advance()


def _read_ahead(images: Sequence[Record], image_dir: Path | None) -> Iterator[tuple[Record, NDArray[np.uint8]]]:
    """Yield the images in their order, the next ones being read by another thread."""
    read = partial(read_listed, image_dir)
    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            for position, image in enumerate(images):
                following = images[position + len(waiting) : position + 1 + READ_AHEAD]
                waiting.extend(pool.submit(read, one) for one in following)
                yield image, waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def to_results(
    found: Detections, image_id: int, categories: Sequence[Record], *, layers: bool = False
) -> Iterator[Record]:
    """Yield one COCO result per detection, best first.

    With `layers` a result also has the other maps of the head, each under its key in `bcnet_core.maps`.
    """
    boxes = found.boxes.cpu()
    sizes = boxes[:, 2:] - boxes[:, :2]
    rles = {
        spec.key: paste_rles(found.maps[spec.name], found.boxes, *found.image_size)
        for spec in map_specs(found.maps if layers else ["occludee_mask"])
    }
    for index, (score, label) in enumerate(zip(found.scores.tolist(), found.labels.tolist(), strict=True)):
        yield {
            "image_id": image_id,
            "category_id": categories[label]["id"],
            "bbox": [round(value, 3) for value in (*boxes[index, :2].tolist(), *sizes[index].tolist())],
            "score": score,
            **{key: part[index] for key, part in rles.items()},
        }
