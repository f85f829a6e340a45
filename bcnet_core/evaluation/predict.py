"""From images to COCO results: run a detector on one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.evaluation.clips import is_frame
from bcnet_core.evaluation.inputs import NO_SIZE
from bcnet_core.evaluation.tiles import Tiling, place, tile_windows
from bcnet_core.files.images import check_images, image_path, missing_images, read_image, read_listed
from bcnet_core.files.videos import FrameReader
from bcnet_core.files.windows import Window, WindowReader, reduced
from bcnet_core.maps import map_specs
from bcnet_core.masks.order import disjoint_masks, hidden_by
from bcnet_core.reporting import Reporter
from bcnet_core.structures import Instances, Predictor

READ_AHEAD = 4
"""Parts that are read while the detector works on one."""


class Part(NamedTuple):
    """A part of the work: an image, or a window of one.

    Attributes:
        image: entry of a COCO file's `images`.
        number: of the part in its image, from 0.
        window: what the detector sees of it; the whole image is reduced then. None is the image as it is.
    """

    image: Record
    number: int
    window: Window | None = None


def parts_of(images: Sequence[Record], tiling: Tiling | None = None) -> list[Part]:
    """Return the parts of images, in their order; see `tile_windows`."""
    return [
        Part(image, number, window)
        for image in images
        for number, window in enumerate(tile_windows(image.get("height", 0), image.get("width", 0), tiling))
    ]


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
    found = predictions(detector, parts_of(images), image_dir, reporter=reporter, stopping=stopping)
    return [result for part, one in found for result in to_results(one, part.image["id"], detector.categories)]


def predictions(
    detector: Predictor,
    parts: Sequence[Part],
    image_dir: Path | None,
    *,
    reporter: Reporter,
    layers: bool = False,
    order: bool = False,
    score: float = 0.0,
    stopping: Callable[[], bool] = lambda: False,
    unreadable: Callable[[Part, BCNetError], None] | None = None,
) -> Iterator[tuple[Part, Instances]]:
    """Detect in one part at a time while the next ones are read.

    Args:
        detector: in evaluation mode.
        parts: what to predict.
        image_dir: folder that the file names of the images are relative to; None if the user named the files.
        reporter: receives the progress.
        layers: whether to paste the other maps of the head, too.
        order: whether to find the order of instances even without whole masks.
        score: smallest score of an instance.
        stopping: called before each part; True ends the iteration.
        unreadable: called for each image that is there but cannot be read, which is then passed over.

    Raises:
        BCNetError: if an image cannot be read, and it is missing or nobody is told.
    """
    with reporter.progress("predicting", len(parts)) as progress:
        for part, reading in _read_ahead(parts, image_dir):
            if stopping():
                break
            try:
                pixels = reading.result()
            except BCNetError as error:
                if unreadable is None or missing_images(image_dir, [part.image["file_name"]]):
                    raise
                unreadable(part, error)
            else:
                (found,) = detector.predict([pixels])
                if part.window is not None:
                    found = place(found, part.window, _size(part.image))
                yield part, found.at_least(score).instances(layers=layers, order=order)
            progress.advance()


def _read_ahead(parts: Sequence[Part], image_dir: Path | None) -> Iterator[tuple[Part, Future[NDArray[np.uint8]]]]:
    """Yield the parts in their order, the next ones being read by another thread."""
    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    with WindowReader() as windows, FrameReader() as frames, ThreadPoolExecutor(max_workers=1) as pool:
        read = partial(_read, image_dir, windows, frames)
        try:
            for position, part in enumerate(parts):
                following = parts[position + len(waiting) : position + 1 + READ_AHEAD]
                waiting.extend(pool.submit(read, one) for one in following)
                yield part, waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)


def _read(image_dir: Path | None, windows: WindowReader, frames: FrameReader, part: Part) -> NDArray[np.uint8]:
    image = part.image
    if is_frame(image):
        pixels = frames.read(Path(image["file_name"]), image["frame"], _size(image))
        return pixels if part.window is None else reduced(part.window.cut(pixels), part.window, _size(image))
    if part.window is not None:
        return windows.read(image_path(image_dir, image["file_name"]), part.window, _size(image))
    if _size(image) != NO_SIZE:
        return read_listed(image_dir, image)
    path = image_path(image_dir, image["file_name"])
    read_image(path)  # raises what was wrong
    raise data_error(f"the image `{path}` cannot be read: it was incomplete when the command began", "predict it again")


def _size(image: Record) -> tuple[int, int]:
    return image["height"], image["width"]


def to_results(
    found: Instances, image_id: int, categories: Sequence[Record], *, disjoint: bool = False
) -> Iterator[Record]:
    """Yield one COCO result per instance, best first.

    Whole masks give the keys that `bcnet_core.evaluation.results` describes, other maps theirs in `bcnet_core.maps`.
    With `disjoint` no pixel is in the visible masks of two instances, see `disjoint_masks`. An instance that has no
    pixel left keeps its place.
    """
    pasted, order = found.masks, found.order or []
    is_amodal = "amodal_mask" in pasted
    if disjoint:
        pasted = {**pasted, "occludee_mask": disjoint_masks(pasted["occludee_mask"], order)}
    visible = pasted["occludee_mask"]
    hides = hidden_by(len(visible), order)
    sizes = found.boxes[:, 2:] - found.boxes[:, :2]
    for index, (score, label) in enumerate(zip(found.scores.tolist(), found.labels.tolist(), strict=True)):
        detected = [round(value, 3) for value in (*found.boxes[index, :2].tolist(), *sizes[index].tolist())]
        pixels = masks.area(visible[index])
        result = {
            "image_id": image_id,
            "category_id": categories[label]["id"],
            "bbox": masks.bounding_box(visible[index]).tolist() if pixels and (is_amodal or disjoint) else detected,
            "score": score,
            **{spec.key: pasted[spec.name][index] for spec in map_specs(pasted)},
        }
        if is_amodal:
            whole = masks.area(pasted["amodal_mask"][index])
            rate = round(1 - pixels / whole, 6) if whole else 0.0
            result |= {"amodal_bbox": detected, "occlusion_rate": rate, "hides": hides[index]}
        yield result
