"""The ways to predict a large photo, and what is measured of each."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.annotations.crowding import detections_to_count
from bcnet_core.errors import usage_error
from bcnet_core.evaluation.coco import evaluate, ground_truth
from bcnet_core.evaluation.occluded import IGNORED_AREA
from bcnet_core.evaluation.predict import to_results
from bcnet_core.evaluation.report import ScoreOptions, score_results
from bcnet_core.evaluation.tiles import Tiling, predict_tiled, tile_windows
from bcnet_core.files.images import read_listed
from bcnet_core.reporting import Reporter
from bcnet_core.structures import Detections, Instances, Predictor
from benchmarks.tiles.mosaic import Place
from benchmarks.tiles.sahi_peer import merge_tiles, slice_corners, to_instances

Pixels = NDArray[np.uint8]

SCORES = {
    "AP": "mask AP", "AP50": "AP50", "AP75": "AP75", "APs": "small", "APm": "medium", "APl": "large", "AP_cut": "cut",
    "AP_heavy": "heavily occluded", "AR": "recall",
}  # fmt: skip
"""Scores of a method and their titles in tables."""


class Remembering:
    """A detector that keeps what it found, so that every method merges the same detections of the same tiles.

    Attributes:
        needed: seconds that the detector needed for all images it was asked for, those that it remembers included.
        inside: seconds that were spent in `predict`.
    """

    def __init__(self, detector: Predictor) -> None:
        self.detector, self.needed, self.inside = detector, 0.0, 0.0
        self._kept: dict[bytes, tuple[Detections, float]] = {}

    @property
    def categories(self) -> Sequence[dict[str, Any]]:
        """COCO category records."""
        return self.detector.categories

    def predict(self, images: list[Pixels], /) -> list[Detections]:
        """Find instances in (H, W, 3) uint8 RGB images, each once."""
        started = time.perf_counter()
        found = [self._find(one) for one in images]
        self.inside += time.perf_counter() - started
        return found

    def _find(self, pixels: Pixels) -> Detections:
        key = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        if key not in self._kept:
            started = time.perf_counter()
            (found,) = self.detector.predict([pixels])
            self._kept[key] = found, time.perf_counter() - started
        found, seconds = self._kept[key]
        self.needed += seconds
        return found


class Method(NamedTuple):
    """A way to predict a large photo.

    Attributes:
        predict: finds the objects of a photo; it is timed.
        finish: makes instances of them.
    """

    predict: Callable[[Predictor, Pixels], Any]
    finish: Callable[[Any, Pixels], Instances] = lambda found, _: found


class Measured(NamedTuple):
    """Scores of a method by their names, 0 to 1, and seconds a photo: of the detector, and of everything else."""

    scores: dict[str, float]
    detecting: float
    joining: float
    detections: int


def methods(places: Sequence[Place], *, tile: int, overlap: float) -> dict[str, Method]:
    """Return the ways to predict a photo by their titles: ours, SAHI's, as a whole, and what is in each place alone."""
    merged = {
        f"SAHI, {title}, {metric}": Method(
            partial(_merge, tile=tile, overlap=overlap, postprocess=kind, metric=metric), _finish_sahi
        )
        for kind, title in (("GREEDYNMM", "greedy merging"), ("NMS", "NMS"))
        for metric in ("IOS", "IOU")
    }
    return {
        "tiles, joined by masks": Method(partial(_join, tile=tile, overlap=overlap)),
        **merged,
        "no tiles: the mosaic as a whole": Method(lambda detector, pixels: detector.predict([pixels])[0].instances()),
        "no cuts: each photo alone": Method(partial(_each_place, places)),
    }


def _join(detector: Predictor, pixels: Pixels, *, tile: int, overlap: float) -> Instances:
    return predict_tiled(detector, pixels, tile=tile, overlap=overlap)


def _merge(detector: Predictor, pixels: Pixels, **settings: Any) -> Any:  # noqa: ANN401
    return merge_tiles(detector, pixels, **settings)


def _finish_sahi(found: Any, pixels: Pixels) -> Instances:  # noqa: ANN401
    return to_instances(found, *pixels.shape[:2])


def _each_place(places: Sequence[Place], detector: Predictor, pixels: Pixels) -> Instances:
    """Predict the photos of a mosaic one by one: what a detector finds that no tile cuts anything for."""
    height, width = pixels.shape[:2]
    found = []
    for x, y, side in places:
        (one,) = detector.predict([np.ascontiguousarray(pixels[y : y + side, x : x + side])])
        moved = one.boxes + one.boxes.new_tensor([x, y, x, y])
        found.append(one._replace(boxes=moved, image_size=(height, width)).instances())
    order = np.argsort(-np.concatenate([one.scores for one in found]), kind="stable")
    masks = [rle for one in found for rle in one.masks["occludee_mask"]]
    boxes, scores, labels = (
        np.concatenate([getattr(one, name) for one in found])[order] for name in ("boxes", "scores", "labels")
    )
    return Instances(boxes, scores, labels, (height, width), {"occludee_mask": [masks[i] for i in order]}, None)


def measure(
    detector: Predictor, coco: CocoFile, image_dir: Path, chosen: dict[str, Method], *, tiling: Tiling,
    reporter: Reporter,
) -> dict[str, Measured]:  # fmt: skip
    """Predict mosaics in every way, and score the results.

    Args:
        detector: in evaluation mode.
        coco: annotations of the mosaics.
        image_dir: folder of the mosaics.
        chosen: the ways by their titles.
        tiling: of the tiles, to know which objects they cut.
        reporter: receives the progress.
    """
    keeper = Remembering(detector)
    results: dict[str, list[Record]] = {title: [] for title in chosen}
    seconds = {title: np.zeros(2) for title in chosen}
    with reporter.progress("mosaics", len(coco.images)) as progress:
        for image in coco.images:
            pixels = read_listed(image_dir, image)
            for title, method in chosen.items():
                started, needed, inside = time.perf_counter(), keeper.needed, keeper.inside
                found = method.predict(keeper, pixels)
                outside = time.perf_counter() - started - (keeper.inside - inside)
                seconds[title] += keeper.needed - needed, outside
                finished = method.finish(found, pixels)
                results[title] += to_results(finished, image["id"], detector.categories)
            progress.advance()
    cut, truth = cut_objects(coco, tiling), ground_truth(coco)
    photo = {title: spent / len(coco.images) for title, spent in seconds.items()}
    return {
        title: Measured(score(coco, truth, cut, found), float(photo[title][0]), float(photo[title][1]), len(found))
        for title, found in results.items()
    }


def score(coco: CocoFile, truth: Record, cut: Sequence[bool], results: Sequence[Record]) -> dict[str, float]:
    """Return the `SCORES` of results.

    Args:
        coco: annotations of the mosaics.
        truth: the same for the scorer.
        cut: whether each annotation is cut by every tile.
        results: COCO results, which all count.
    """
    most = detections_to_count(len(results))
    report = score_results(coco, results, ScoreOptions(occlusion=True, max_dets=most), truth=truth)
    of_cut = [
        one if is_cut else {**one, "area": IGNORED_AREA} for one, is_cut in zip(truth["annotations"], cut, strict=True)
    ]
    masks = report.rows["masks"]
    return {
        **{name: getattr(masks, name) for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")},
        "AP_cut": evaluate({**truth, "annotations": of_cut}, results, "segm", max_dets=most).scores.AP,
        "AP_heavy": report.rows["masks, occlusion heavy"].AP,
        "AR": masks.ARmost,
    }


def cut_objects(coco: CocoFile, tiling: Tiling) -> list[bool]:
    """Return of every annotation whether no tile holds its box: whatever finds it has to join, or see it as a whole."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in coco.images}
    tiles = {size: np.array(tile_corners(*size, tiling)).T for size in set(sizes.values())}
    found = []
    for one in coco.annotations:
        x, y, width, height = one["bbox"]
        x0, y0, x1, y1 = tiles[sizes[one["image_id"]]]
        found.append(not bool(((x0 <= x) & (y0 <= y) & (x + width <= x1) & (y + height <= y1)).any()))
    return found


def tile_corners(height: int, width: int, tiling: Tiling) -> list[list[int]]:
    """Return the corners x0, y0, x1, y1 of the tiles of an image, by rows, without the image as a whole."""
    windows = [one for one in tile_windows(height, width, tiling) if one is not None]
    return [[x, y, x + across, y + down] for x, y, across, down in windows[1:]]


def check_same_tiles(side: int, tiling: Tiling) -> None:
    """Require a square image to have SAHI's tiles.

    Raises:
        BCNetError: if the two round differently.
    """
    theirs = slice_corners(side, side, tile=tiling.side, overlap=tiling.overlap)
    if sorted(theirs) != sorted(tile_corners(side, side, tiling)):
        raise usage_error(
            f"tiles of {tiling.side} pixels are not where SAHI has them, so the two cannot be compared",
            "give a --tile that is a multiple of 5 x GRID, with --overlap 0.2",
        )
