"""The comparison of tiles: the same detections for everybody, SAHI's own merging, and scores that see a cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile
from bcnet_core.evaluation.coco import ground_truth
from bcnet_core.evaluation.predict import to_results
from bcnet_core.evaluation.tiles import Tiling, tile_windows
from bcnet_core.masks.crops import paste_rles
from bcnet_core.structures import Detections
from tests.benchmarks.conftest import Bench

pytest.importorskip("sahi")
from benchmarks.tiles.compare import SCORES, Method, Remembering, cut_objects, measure, methods, score
from benchmarks.tiles.mosaic import plan_places

BOXES = {50: (10, 20, 30, 44), 100: (40, 60, 139, 90), 150: (100, 100, 120, 110)}
"""Objects of a photo of 160 x 160 pixels by their color: x0, y0, x1, y1. The second is wider than a tile of 96."""


class Exact:
    """Finds every object of `BOXES` in the part of the photo that it is given, as far as it is seen."""

    categories = ({"id": 7, "name": "box"},)

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, images: list[NDArray[np.uint8]], /) -> list[Detections]:
        self.calls += len(images)
        return [self._find(one) for one in images]

    def _find(self, image: NDArray[np.uint8]) -> Detections:
        boxes = []
        for color in np.unique(image[image > 0]).tolist():
            ys, xs = np.nonzero(image[..., 0] == color)
            boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        count = len(boxes)
        return Detections(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            torch.linspace(0.9, 0.8, count),
            torch.zeros(count, dtype=torch.int64),
            (image.shape[0], image.shape[1]),
            {"occludee_mask": torch.ones(count, 28, 28)},
        )


@pytest.fixture
def photo() -> NDArray[np.uint8]:
    pixels = np.zeros((160, 160, 3), np.uint8)
    for color, (x0, y0, x1, y1) in BOXES.items():
        pixels[y0:y1, x0:x1] = color
    return pixels


@pytest.fixture
def coco() -> CocoFile:
    rles = paste_rles(torch.ones(3, 28, 28), torch.tensor(list(BOXES.values()), dtype=torch.float32), 160, 160)
    annotations = [
        {
            "id": number, "image_id": 1, "category_id": 7, "bbox": masks.bounding_box(rle).tolist(), "iscrowd": 0,
            "area": masks.area(rle), "segmentation": masks.to_json(rle),
        }
        for number, rle in enumerate(rles, start=1)
    ]  # fmt: skip
    images = [{"id": 1, "file_name": "1.png", "height": 160, "width": 160}]
    content = {"images": images, "annotations": annotations, "categories": list(Exact.categories)}
    return CocoFile(Path("none.json"), content)


def results_of(method: Method, photo: NDArray[np.uint8]) -> list[dict[str, Any]]:
    keeper = Remembering(Exact())
    return list(to_results(method.finish(method.predict(keeper, photo), photo), 1, keeper.categories))


def test_objects_are_put_together_again_where_the_method_joins_what_is_cut(
    photo: NDArray[np.uint8], coco: CocoFile
) -> None:
    truth, cut = ground_truth(coco), cut_objects(coco, Tiling(96, 0.25))
    assert cut == [False, True, False]
    for title, method in methods(plan_places(cell=160, grid=1, large=1), tile=96, overlap=0.25).items():
        found = results_of(method, photo)
        scores = score(coco, truth, cut, found)
        assert scores.keys() == SCORES.keys()
        exact = all(scores[name] == pytest.approx(1) for name in ("AP", "AP_cut", "AR"))
        assert exact != title.endswith(("IOU", "NMS, IOS")), (title, "keeps what is cut, or instead of the whole")


def test_scores_see_an_object_that_was_left_cut(photo: NDArray[np.uint8], coco: CocoFile) -> None:
    cut = cut_objects(coco, Tiling(96, 0.25))
    (whole,) = Exact().predict([photo])
    halved = whole._replace(boxes=torch.where(whole.boxes == 139, 90.0, whole.boxes))
    scores = score(coco, ground_truth(coco), cut, list(to_results(halved.instances(), 1, Exact.categories)))
    assert scores["AP_cut"] == pytest.approx(0.1, abs=0.02), "its IoU is 50 / 99"
    assert 0.5 < scores["AP"] < 0.7


def test_the_detector_sees_every_tile_once(photo: NDArray[np.uint8], coco: CocoFile, tmp_path: Path) -> None:
    from PIL import Image

    from bcnet_core.reporting import SilentReporter

    Image.fromarray(photo).save(tmp_path / "1.png")
    exact, chosen = Exact(), methods(plan_places(cell=160, grid=1, large=1), tile=96, overlap=0.25)
    tiling = Tiling(96, 0.25)
    found = measure(exact, coco, tmp_path, chosen, tiling=tiling, reporter=SilentReporter())
    assert exact.calls == len(tile_windows(160, 160, tiling)), "SAHI's tiles are ours, and all look at the whole photo"
    ours, sahi = (found[title].detecting for title in ("tiles, joined by masks", "SAHI, NMS, IOU"))
    assert ours == pytest.approx(sahi) and ours > 0
    assert all(one.joining > 0 for one in found.values())


def test_a_run_is_compared_on_mosaics_of_its_photos(bench: Bench, untrained: Path, tmp_path: Path) -> None:
    done = bench("tiles", untrained, "-o", tmp_path / "out", "--tile", "80", "--grid", "2", "--large", "1", "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert (content["mosaics"], content["cell"]) == (2, 104)
    assert len(content["methods"]) == 7
    for one in content["methods"].values():
        assert one["detections"] > 0 and set(one["scores"]) == set(SCORES)
    assert "| SAHI, greedy merging, IOS" in (tmp_path / "out" / "report.md").read_text()
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == content


def test_tiles_that_sahi_rounds_otherwise_are_refused(bench: Bench, untrained: Path, tmp_path: Path) -> None:
    done = bench("tiles", untrained, "-o", tmp_path / "out", "--tile", "99")
    assert done.returncode == 2 and "multiple of" in done.stderr and not (tmp_path / "out").exists()


def test_without_sahi_one_sentence_says_so(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.tiles.cli.find_spec", lambda _: None)
    done = bench("tiles", tmp_path, "-o", tmp_path / "out", "--tile", "96")
    assert done.returncode == 2 and "SAHI" in done.stderr and "pip install sahi" in done.stderr
