"""Predicting in tiles: which tiles, jobs that resume inside an image, and the memory that a huge one takes."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as Part

from bcnet_core import BCNetError, ExitCode, masks, predict_tiled
from bcnet_core.engine.elastic import Cluster
from bcnet_core.engine.logging import peak_memory
from bcnet_core.evaluation.given_boxes import GivenBoxes
from bcnet_core.evaluation.inputs import image_records
from bcnet_core.evaluation.parts import most_parts, parts_of
from bcnet_core.evaluation.predict import predict_images
from bcnet_core.evaluation.prediction_file import PredictionFile
from bcnet_core.evaluation.prediction_job import PredictionJob, predict_to_disk
from bcnet_core.evaluation.tiles import Tiling, best_windows, check_tiling, tile_windows
from bcnet_core.reporting import SilentReporter
from bcnet_core.structures import Detections
from benchmarks.memory import in_fresh_process
from tests.conftest import Heard, examples

TILING = Tiling(64, 0.25)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(32, 90), st.floats(0.05, 0.75))
@examples(200)
def test_tiles_cover_the_image_and_overlap(height: int, width: int, side: int, overlap: float) -> None:
    tiling = Tiling(side, overlap)
    windows = tile_windows(height, width, tiling)
    if max(height, width) <= side:
        assert windows == [None]
        return
    whole, *tiles = [window for window in windows if window is not None]
    assert whole == (0, 0, width, height) and len(set(tiles)) == len(tiles) == len(windows) - 1
    assert {(one.width, one.height) for one in tiles} == {(min(side, width), min(side, height))}
    for first, size, length in (("x", "width", width), ("y", "height", height)):
        starts = sorted({getattr(one, first) for one in tiles})
        assert starts[0] == 0 and starts[-1] + getattr(tiles[0], size) == length
        assert all(b - a <= tiling.stride for a, b in pairwise(starts))
    assert tile_windows(height, width, None) == [None]


def test_tiles_that_cannot_be_joined_are_refused() -> None:
    assert check_tiling(1024, 0.2) == Tiling(1024, 0.2)
    for side, overlap, word in ((8, 0.2, "8 pixels is too small"), (64, 0.0, "by 0 of"), (64, 0.9, "by 0.9 of")):
        with pytest.raises(BCNetError, match=word) as caught:
            check_tiling(side, overlap)
        assert caught.value.exit_code == ExitCode.USAGE


class Rectangles:
    """Finds rectangles of one color each exactly; the color also tells the class, and 0 is the background."""

    categories: ClassVar[Sequence[dict[str, Any]]] = [{"id": 1, "name": "even"}, {"id": 2, "name": "odd"}]

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def predict(self, images: list[NDArray[np.uint8]], /) -> list[Detections]:
        return [self._find(image) for image in images]

    def _find(self, image: NDArray[np.uint8]) -> Detections:
        self.seen.append(image.shape[:2])
        boxes, labels = [], []
        for value in np.unique(image[..., 0])[1:].tolist():
            rows, columns = np.nonzero(image[..., 0] == value)
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            labels.append(value % 2)
        found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        maps = {"occludee_mask": torch.ones(len(boxes), 28, 28)}
        size = image.shape[0], image.shape[1]
        return Detections(found, torch.full((len(boxes),), 0.9), torch.tensor(labels, dtype=torch.int64), size, maps)


BOXES = {2: (5, 5, 20, 30), 4: (20, 5, 33, 30), 3: (50, 10, 130, 30), 5: (60, 60, 61, 61), 7: (0, 40, 50, 160)}
"""By color: two of a class that touch, one that is larger than a tile, one of a pixel, one at edges of the image."""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    picture = np.zeros((160, 200, 3), np.uint8)
    for value, (x0, y0, x1, y1) in BOXES.items():
        picture[y0:y1, x0:x1] = value
    Image.fromarray(picture).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def job(photo: Path, file: Path, **changes: Any) -> PredictionJob:
    changes = {"tiling": TILING, "passes_over": True, **changes}
    return PredictionJob(photo, "cpu", image_records([photo], None), None, PredictionFile(file), **changes)


def predicted(asked: PredictionJob, detector: Rectangles, reporter: SilentReporter | None = None) -> list[Any]:
    build: Any = lambda: detector  # noqa: E731
    predict_to_disk(asked, Cluster(), reporter=reporter or SilentReporter(), build=build)
    (results,) = asked.results(asked.images, detector.categories)
    return results


def found_boxes(results: Sequence[dict[str, Any]]) -> set[tuple[int, ...]]:
    """Return class and visible box, xyxy, of results."""
    boxes = [(one["category_id"], *masks.bounding_box(one["segmentation"]).astype(int).tolist()) for one in results]
    return {(label, x, y, x + width, y + height) for label, x, y, width, height in boxes}


EXPECTED = {(value % 2 + 1, *box) for value, box in BOXES.items()}


def test_a_job_joins_the_tiles_of_a_photo(photo: Path, tmp_path: Path) -> None:
    detector = Rectangles()
    results = predicted(job(photo, tmp_path / "parts"), detector)
    assert found_boxes(results) == EXPECTED and len(results) == len(EXPECTED)
    parts = parts_of(image_records([photo], None), TILING)
    assert len(detector.seen) == len(parts) == most_parts([part.image for part in parts], TILING) == 1 + 3 * 4
    assert detector.seen[0] == (160, 200) and set(detector.seen[1:]) == {(64, 64)}
    assert (
        predict_images(Rectangles(), image_records([photo], None), Path("/"), reporter=SilentReporter(), tiling=TILING)
        == results
    )
    untiled = predicted(job(photo, tmp_path / "whole", tiling=None), Rectangles())
    assert found_boxes(untiled) == EXPECTED


class Fills(Rectangles):
    """Finds in every box what has the color of its middle; the occluder map and the order stay empty."""

    def predict_inside(
        self, images: Sequence[NDArray[np.uint8]], boxes: Sequence[Any], /, *, scores: Any, labels: Any
    ) -> list[Detections]:
        (image,), (corners,) = images, boxes
        self.seen.append(image.shape[:2])
        maps = torch.zeros(len(corners), 56, 56)
        for one, (x0, y0, x1, y1) in zip(maps, corners.tolist(), strict=True):
            columns, rows = (
                (start + (end - start) * (np.arange(56) + 0.5) / 56).astype(int) for start, end in ((x0, x1), (y0, y1))
            )
            seen = image[np.ix_(rows.clip(0, image.shape[0] - 1), columns.clip(0, image.shape[1] - 1))][..., 0]
            one[:] = torch.from_numpy(seen == seen[28, 28])
        size = image.shape[0], image.shape[1]
        found = torch.from_numpy(np.asarray(corners, np.float32))
        given_maps = {"occludee_mask": maps, "amodal_mask": torch.ones_like(maps)}
        return [Detections(found, torch.tensor(scores[0]), torch.tensor(labels[0]), size, given_maps)]


def test_given_boxes_are_predicted_in_the_tiles_that_show_them_best(photo: Path, tmp_path: Path) -> None:
    places = [box for value, box in BOXES.items() if value != 5]
    large = [40.0, 0.0, 140.0, 40.0]  # larger than a tile; the other half of what is in it is background
    corners = np.float32([large, *places[::-1], [56, 6, 64, 16], [48, 8, 56, 14]])
    records = [{"category_id": 4, "score": 0.5, "id": number, "image_id": 1} for number in range(len(corners))]
    one = GivenBoxes(corners, np.full(len(corners), 0.5, np.float32), np.zeros(len(corners), np.int64), records)
    detector, file = Fills(), tmp_path / "parts"
    asked = job(photo, file, boxes={1: one})
    results = predicted(asked, detector)
    assert [result["id"] for result in results] == list(range(len(corners)))
    assert all(tile in {(160, 200), (64, 64)} for tile in detector.seen)
    assert len(detector.seen) == len(asked.parts) < len(parts_of(asked.images, TILING))
    for result, (x0, y0, x1, y1) in zip(results[1:5], places[::-1], strict=True):
        assert masks.bounding_box(result["segmentation"]).tolist() == [x0, y0, x1 - x0, y1 - y0]
        assert result["occlusion_rate"] == 0
    assert masks.area(results[0]["segmentation"]) == pytest.approx(80 * 20, rel=0.1)
    whole = predicted(job(photo, tmp_path / "whole", boxes={1: one}, tiling=None), Fills())
    for tiled, untiled in zip(results, whole, strict=True):
        assert tiled["amodal_bbox"] == untiled["amodal_bbox"]
        assert masks.iou(tiled["segmentation"], untiled["segmentation"]) > 0.9
    (overview,) = (part.boxes for part in asked.parts if part.number == 0)
    assert overview is not None and {one["id"] for one in overview.records} == {0, 1, 2}, "no tile holds them"


@given(st.data())
@examples(100)
def test_a_box_is_seen_in_a_tile_that_holds_it_if_one_does(data: st.DataObject) -> None:
    sides = st.integers(1, 300)
    height, width = data.draw(sides), data.draw(sides)
    views = [one for one in tile_windows(height, width, TILING) if one is not None]
    assume(views)
    xs, ys = (sorted(data.draw(st.tuples(*[st.integers(0, length)] * 2))) for length in (width, height))
    (chosen,) = best_windows(np.float32([[xs[0], ys[0], xs[1], ys[1]]]), views)
    holds = [
        one.x <= xs[0] and one.y <= ys[0] and one.x + one.width >= xs[1] and one.y + one.height >= ys[1]
        for one in views
    ]
    assert holds[chosen] and (chosen > 0 or not any(holds[1:]))


@pytest.mark.parametrize("as_path", [True, False])
def test_python_joins_the_tiles_of_a_photo(photo: Path, as_path: bool) -> None:
    image = photo if as_path else np.asarray(Image.open(photo))
    found = predict_tiled(Rectangles(), image, tile=64, overlap=0.25)
    boxes = {(label + 1, *box) for label, box in zip(found.labels.tolist(), found.boxes.tolist(), strict=True)}
    assert boxes == EXPECTED and found.image_size == (160, 200)
    (alone,) = (predict_tiled(Rectangles(), image, tile=256),)
    assert sorted(alone.boxes.tolist()) == sorted(found.boxes.tolist())


def test_an_interrupted_prediction_goes_on_inside_a_photo(photo: Path, tmp_path: Path) -> None:
    class Interrupting(Rectangles):
        def _find(self, image: NDArray[np.uint8]) -> Detections:
            found = super()._find(image)
            if len(self.seen) == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return found

    expected = predicted(job(photo, tmp_path / "whole"), Rectangles())
    asked = job(photo, tmp_path / "parts")
    with pytest.raises(BCNetError, match="interrupted; 5 of 13 parts of images are predicted and kept") as caught:
        predicted(asked, Interrupting())
    assert caught.value.exit_code == ExitCode.INTERRUPTED
    detector, told = Rectangles(), Heard()
    assert predicted(asked, detector, told) == expected and len(detector.seen) == 13 - 5
    assert told.infos == ["5 of 13 parts of images were predicted before"]
    assert asked.identity() != job(photo, tmp_path / "parts", tiling=Tiling(64, 0.5)).identity()


def test_a_photo_of_which_a_part_cannot_be_read_has_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.tif"
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (160, 200, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-30_000])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # so that it is read in windows
    asked = job(path, tmp_path / "parts")
    predict_to_disk(asked, Cluster(), reporter=SilentReporter(), build=Rectangles)  # type: ignore[arg-type]
    assert asked.file.unreadable().keys() == {1} and "photo.tif` cannot be read" in asked.file.unreadable()[1]


SIDE = 20_000
HUGE = {2: (1250, 1250, 1875, 1875), 3: (625, 3125, 4375, 9375), 5: (12_345, 777, 12_346, 778), 6: (0, 0, 625, 625)}
"""By color; sides at multiples of 625 pixels are sides of whole pixels in the reduced image, too."""


def predict_huge(path: Path) -> tuple[int, float]:
    """Predict a huge photo and return the peak memory in bytes, and the least IoU of the objects with what is found."""

    asked = job(path, path.with_name("parts"), tiling=Tiling(1024, 0.2))
    results = predicted(asked, Rectangles())
    assert len(results) == len(HUGE), [(one["category_id"], masks.bounding_box(one["segmentation"])) for one in results]
    drawn = [masks.from_box(*box, SIDE, SIDE) for box in HUGE.values()]
    table = masks.ious([one["segmentation"] for one in results], drawn)
    return peak_memory(), float(table.max(0).min())


@pytest.fixture
def huge(tmp_path: Path) -> Iterator[Path]:
    """A TIFF of 20,000 x 20,000 pixels with a few rectangles."""
    path = tmp_path / "huge.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", width=SIDE, height=SIDE, count=3, dtype="uint8",
            tiled=True, compress="deflate", sparse_ok=True,
        ) as out:  # fmt: skip
            for value, (x0, y0, x1, y1) in HUGE.items():
                out.write(np.full((3, y1 - y0, x1 - x0), value, np.uint8), window=Part(x0, y0, x1 - x0, y1 - y0))
    yield path
    path.unlink()


@pytest.mark.slow
def test_a_photo_of_400_million_pixels_takes_little_memory(huge: Path) -> None:
    peak, agreement = in_fresh_process(predict_huge, huge)
    assert peak < 1.5e9 and agreement > 0.99
