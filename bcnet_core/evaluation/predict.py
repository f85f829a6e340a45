"""From images to COCO results: read, detect and encode, each in threads of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.evaluation.clips import is_frame
from bcnet_core.evaluation.inputs import NO_SIZE
from bcnet_core.evaluation.parts import Part, joined, parts_of
from bcnet_core.evaluation.tiles import Tiling, place, see_boxes
from bcnet_core.files.images import check_images, image_path, missing_images, read_image, read_listed
from bcnet_core.files.videos import FrameReader
from bcnet_core.files.windows import WindowReader, reduced
from bcnet_core.maps import map_specs
from bcnet_core.masks import RLE
from bcnet_core.masks.order import FrontPair, disjoint_masks, hidden_by
from bcnet_core.reporting import Reporter
from bcnet_core.structures import BoxPredictor, Detections, Instances, Predictor

READ_AHEAD = 4
"""Fewest parts that are read while the detector works on a batch; a batch is read as a whole."""
MOST_READERS = 4
"""Threads that read a batch."""

Given = TypeVar("Given")
Made = TypeVar("Made")


def predict_images(
    detector: Predictor,
    images: Sequence[Record],
    image_dir: Path,
    *,
    reporter: Reporter,
    tiling: Tiling | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> list[Record]:
    """Return the results of all images in one list; see `predictions` and `joined`.

    Raises:
        BCNetError: if images are missing (before the first is read) or cannot be read.
    """
    check_images(images, image_dir)
    found = predictions(detector, parts_of(images, tiling), image_dir, reporter=reporter, stopping=stopping)
    return [
        result for image, one in joined(found, tiling) for result in to_results(one, image["id"], detector.categories)
    ]


def predictions(
    detector: Predictor,
    parts: Sequence[Part],
    image_dir: Path | None,
    *,
    reporter: Reporter,
    layers: bool = False,
    order: bool = False,
    score: float = 0.0,
    batch: int = 1,
    stopping: Callable[[], bool] = lambda: False,
    unreadable: Callable[[Part, BCNetError], None] | None = None,
) -> Iterator[tuple[Part, Instances]]:
    """Detect in a batch of parts while the next ones are read and the masks of the one before are encoded.

    Args:
        detector: in evaluation mode.
        parts: what to predict.
        image_dir: folder that the file names of the images are relative to; None if the user named the files.
        reporter: receives the progress.
        layers: whether to paste the other maps of the head, too.
        order: whether to find the order of instances even without whole masks.
        score: smallest score of an instance that the detector finds.
        batch: most parts that the detector gets at a time.
        stopping: called before each batch; True ends the iteration.
        unreadable: called for each image that is there but cannot be read, which is then passed over.

    Yields:
        The parts, each with its instances: in the order of the parts, or with batches those of a shape together.

    Raises:
        BCNetError: if an image cannot be read, and it is missing or nobody is told.
    """
    with reporter.progress("predicting", len(parts)) as progress:

        def pixels(part: Part, reading: Future[NDArray[np.uint8]]) -> NDArray[np.uint8] | None:
            try:
                return reading.result()
            except BCNetError as error:
                if unreadable is None or missing_images(image_dir, [part.image["file_name"]]):
                    raise
                unreadable(part, error)
                progress.advance()
                return None

        def detected() -> Iterator[list[tuple[Part, Detections]]]:
            for together in _read_ahead(in_batches(parts, batch), image_dir):
                if stopping():
                    break
                read = [(part, image) for part, reading in together if (image := pixels(part, reading)) is not None]
                found = _detect(detector, [part for part, _ in read], [image for _, image in read])
                yield [(part, one.to("cpu")) for (part, _), one in zip(read, found, strict=True)]

        def encoded(one: tuple[Part, Detections]) -> tuple[Part, Instances]:
            part, found = one
            if part.window is not None:
                found = place(found, part.window, _size(part.image))
            found = found if part.boxes is not None else found.at_least(score)
            return part, found.instances(layers=layers, order=order)

        for one in _map_behind(encoded, detected()):
            yield one
            progress.advance()


def _detect(detector: Predictor, parts: Sequence[Part], images: list[NDArray[np.uint8]]) -> list[Detections]:
    """Return the detections of parts, all of them with boxes or all without."""
    boxes = [part.boxes for part in parts if part.boxes is not None]
    if not boxes:
        return detector.predict(images) if images else []
    if not isinstance(detector, BoxPredictor):
        raise usage_error("this detector only predicts inside boxes that it finds itself", "predict without --boxes")
    corners = [
        one.corners if part.window is None else see_boxes(one.corners, part.window, (image.shape[0], image.shape[1]))
        for part, one, image in zip(parts, boxes, images, strict=True)
    ]
    scores, labels = [one.scores for one in boxes], [one.labels for one in boxes]
    return detector.predict_inside(images, corners, scores=scores, labels=labels)


def in_batches(parts: Sequence[Part], most: int) -> list[Sequence[Part]]:
    """Return the parts in batches of so many: tiles, in their order, then images, those of a shape together.

    Batches of one have the order of the parts.
    """
    ordered = parts if most == 1 else sorted(parts, key=_shape)
    return [ordered[start : start + most] for start in range(0, len(ordered), most)]


def _shape(part: Part) -> tuple[float, int]:
    height, width = _size(part.image) if part.window is None else (0, 0)
    return width / max(height, 1), height


def _read_ahead(
    batches: Sequence[Sequence[Part]], image_dir: Path | None
) -> Iterator[list[tuple[Part, Future[NDArray[np.uint8]]]]]:
    """Yield the batches in their order, the next parts being read by other threads."""
    size = max(map(len, batches), default=1)
    tiled = any(part.window is not None for batch in batches for part in batch)  # the reader holds one image
    ahead = -(-READ_AHEAD // size)
    waiting: deque[list[tuple[Part, Future[NDArray[np.uint8]]]]] = deque()
    readers = 1 if tiled else min(size, MOST_READERS)
    with WindowReader() as windows, FrameReader() as frames, ThreadPoolExecutor(readers) as pool:
        read = partial(_read, image_dir, windows, frames)
        try:
            for position in range(len(batches)):
                following = batches[position + len(waiting) : position + 1 + ahead]
                waiting.extend([(part, pool.submit(read, part)) for part in one] for one in following)
                yield waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)


def _map_behind(work: Callable[[Given], Made], batches: Iterable[Sequence[Given]]) -> Iterator[Made]:
    """Map `work` over the items of batches in another thread, one batch behind; what it has comes before an error."""

    def work_on(batch: Sequence[Given]) -> list[Made]:
        return [work(one) for one in batch]

    waiting: deque[Future[list[Made]]] = deque()
    failure: Exception | None = None
    with ThreadPoolExecutor(1) as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(work_on, batch))
                if len(waiting) > 1:
                    yield from waiting.popleft().result()
        except Exception as error:
            failure = error
        while waiting:
            yield from waiting.popleft().result()
    if failure is not None:
        raise failure


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
    """Yield one COCO result per instance, in their order.

    Whole masks give the keys that `bcnet_core.evaluation.results` describes, other maps theirs in `bcnet_core.maps`.
    With `disjoint` no pixel is in the visible masks of two instances, see `disjoint_masks`. An instance that has no
    pixel left keeps its place.
    """
    pasted, order = found.masks, found.order or []
    is_amodal = "amodal_mask" in pasted
    if disjoint:
        pasted = {**pasted, "occludee_mask": _disjoint(pasted["occludee_mask"], found.scores, order)}
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


def _disjoint(rles: Sequence[RLE], scores: NDArray[np.float32], pairs: Sequence[FrontPair]) -> list[RLE]:
    """Return `disjoint_masks` of instances in any order, as given boxes have it."""
    best = np.argsort(-scores, kind="stable").tolist()
    place = np.argsort(best).tolist()
    ranked = [FrontPair(place[front], place[back]) for front, back in pairs]
    apart = disjoint_masks([rles[index] for index in best], ranked)
    return [apart[rank] for rank in place]
