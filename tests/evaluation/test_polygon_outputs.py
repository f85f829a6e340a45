"""Predictions as YOLO, labelme and GeoJSON files: an import and shapely read the same masks and classes back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import shapely
import yaml
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from bcnet_core import masks
from bcnet_core.annotations.coco import read_coco, segmentation_rle
from bcnet_core.annotations.polygons import MIN_IOU
from bcnet_core.evaluation.parts import Part
from bcnet_core.evaluation.prediction_file import PredictionFile
from bcnet_core.evaluation.prediction_job import PredictionJob
from bcnet_core.evaluation.prediction_outputs import Written, output_paths, write_predictions
from bcnet_core.files.image_headers import image_size
from bcnet_core.structures import Instances
from tests.conftest import Bcnet

PHOTOS = {7: "Feld 1/blatt ä.jpg", 4: "Feld 2/blatt ä.jpg", 5: "blatt ä.png"}
CATEGORIES = [{"id": 9, "name": "leaf, dry"}, {"id": 2, "name": "Blüte – groß"}, {"id": 30, "name": "yes"}]
SIZES = {7: (90, 130), 4: (70, 60), 5: (40, 50)}


def ring(height: int, width: int) -> NDArray[np.bool_]:
    y, x = np.ogrid[:height, :width]
    away = np.hypot(y - 35, x - 30)
    return (away < 28) & ~((away < 9) | (np.hypot(y - 20, x - 22) < 5))


def in_pieces(height: int, width: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), bool)
    mask[5:20, 3:12] = mask[30:60, 8:20] = mask[22:25, 40:58] = mask[-1, -1] = True
    return mask


def grown(height: int, width: int) -> NDArray[np.bool_]:
    return gaussian_filter(np.random.default_rng(height).normal(size=(height, width)), 4) > 0.03


def nothing(height: int, width: int) -> NDArray[np.bool_]:
    return np.zeros((height, width), bool)


FOUND: dict[int, list[tuple[Callable[[int, int], NDArray[np.bool_]], int]]] = {
    7: [(ring, 1), (nothing, 0), (in_pieces, 0), (grown, 2)],
    4: [(grown, 0), (ring, 0)],
    5: [],
}
"""Masks and labels of the instances of each photo."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("polygons") / "meine Fotos"
    for number, name in PHOTOS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (*SIZES[number], 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
    return folder


def write(photos: Path, *formats: str) -> tuple[Path, Written]:
    """Write the predictions of the three photos beside them; returns the results file and the counts."""
    output = photos.parent / "-".join(formats) / "out.json"
    output.parent.mkdir()
    images = [
        {"id": number, "file_name": str(photos / name), "height": SIZES[number][0], "width": SIZES[number][1]}
        for number, name in PHOTOS.items()
    ]
    file = PredictionFile(output.with_name("predictions.jsonl"))
    file.open({})
    for number, found in FOUND.items():
        rles = [masks.encode(make(*SIZES[number])) for make, _ in found]
        scores = np.linspace(0.9, 0.5, len(rles), dtype=np.float32)
        boxes, labels = np.zeros((len(rles), 4), np.float32), np.array([label for _, label in found], np.int64)
        file.append(
            Part({"id": number}, 0), Instances(boxes, scores, labels, SIZES[number], {"occludee_mask": rles}, None)
        )
    job = PredictionJob(output, "cpu", images, None, file)
    return output, write_predictions(job, CATEGORIES, output_paths(output, formats))


def check_same(imported: dict[str, list[tuple[str, masks.RLE]]]) -> None:
    """Assert that every photo has the instances of `FOUND`, given their classes and masks by the photo's path."""
    names = [category["name"] for category in CATEGORIES]
    for number, photo in PHOTOS.items():
        expected = [
            (names[label], masks.encode(make(*SIZES[number]))) for make, label in FOUND[number] if make != nothing
        ]
        assert Counter(name for name, _ in imported[photo]) == Counter(name for name, _ in expected)
        for name, rle in expected:
            assert max(masks.iou(rle, other) for label, other in imported[photo] if label == name) >= MIN_IOU


def read_root(root: Path, photos: Path) -> dict[str, list[tuple[str, masks.RLE]]]:
    """Return the classes and masks of a data root, by the path of the photo that it links to."""
    coco = read_coco(root / "annotations/instances_train2017.json")
    names = {category["id"]: category["name"] for category in coco.categories}
    found: dict[str, list[tuple[str, masks.RLE]]] = {}
    for image in coco.images:
        place = (root / "train2017" / image["file_name"]).resolve().relative_to(photos.resolve()).as_posix()
        found[place] = [
            (names[one["category_id"]], rle)
            for one in coco.annotations
            if one["image_id"] == image["id"] and (rle := segmentation_rle(one, image)) is not None
        ]
    return found


@pytest.mark.parametrize("name", ["labelme", "yolo"])
def test_predictions_come_back_through_an_import(photos: Path, bcnet: Bcnet, name: str) -> None:
    output, written = write(photos, name)
    assert written.detections == 6 and written.left_out == {name: 1}, "one has no pixel"
    root = output.with_name("root")
    done = bcnet(
        "data", "import", output.with_name(f"out_{name}"), "--images", photos, "-o", root, "--val", "0", "--json"
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert not summary.get("findings"), summary
    check_same(read_root(root, photos))


def test_labelme_files_find_their_photos(photos: Path) -> None:
    output, _ = write(photos, "labelme", "geojson")
    folder = output.with_name("out_labelme")
    for number, name in PHOTOS.items():
        file = (folder / name).with_suffix(".json")
        content = json.loads(file.read_text("utf-8"))
        assert image_size(file.parent / content["imagePath"]) == (content["imageHeight"], content["imageWidth"])
        assert (file.parent / content["imagePath"]).resolve() == (photos / name).resolve()
        assert content["imageData"] is None and bool(content["shapes"]) == bool(FOUND[number])
    shapes = json.loads((folder / PHOTOS[7]).with_suffix(".json").read_text("utf-8"))["shapes"]
    groups = Counter(shape["group_id"] for shape in shapes)
    assert groups[3] == 4 and groups[1] > 1, "parts of the third result, and pieces around the holes of the first"
    assert {shape["description"] for shape in shapes} == {"score 0.900", "score 0.633", "score 0.500"}
    assert {shape["shape_type"] for shape in shapes} == {"polygon"} and {
        len(p) for s in shapes for p in s["points"]
    } == {2}


def test_yolo_files_hold_parts_and_holes_in_one_outline(photos: Path) -> None:
    output, _ = write(photos, "yolo", "labelme")
    folder = output.with_name("out_yolo")
    config = yaml.safe_load((folder / "data.yaml").read_text("utf-8"))
    assert config == {"train": ".", "val": ".", "names": dict(enumerate(one["name"] for one in CATEGORIES))}
    assert (folder / "labels/blatt ä.txt").read_text() == ""
    lines = (folder / "labels" / PHOTOS[7]).with_suffix(".txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["1", "0", "2"]
    height, width = SIZES[7]
    for line, make in zip(lines, (ring, in_pieces, grown), strict=True):
        shares = np.array(line.split()[1:], np.float64).reshape(-1, 2)
        assert shares.min() >= 0 and shares.max() <= 1
        drawn = cv2.fillPoly(
            np.zeros((height, width), np.uint8), [np.int32(shares * (width, height))], 1
        )  # as Ultralytics
        pixels = make(height, width)
        assert (drawn[pixels] == 1).mean() > 0.95 and cv2.erode(drawn, np.ones((3, 3)))[~pixels].mean() < 0.02


def test_geojson_has_holes_and_what_qupath_and_gis_read(photos: Path) -> None:
    output, _ = write(photos, "geojson")
    imported: dict[str, list[tuple[str, masks.RLE]]] = {}
    for number, name in PHOTOS.items():
        content = json.loads((output.with_name("out_geojson") / name).with_suffix(".geojson").read_text("utf-8"))
        assert content["type"] == "FeatureCollection"
        y, x = np.mgrid[: SIZES[number][0], : SIZES[number][1]] + 0.5
        for feature in content["features"]:
            shape = shapely.geometry.shape(feature["geometry"])
            assert shape.is_valid and shape.geom_type in {"Polygon", "MultiPolygon"}
            about = feature["properties"]
            assert (
                about["classification"] == {"name": about["class"]} and about["measurements"]["score"] == about["score"]
            )
            inside = masks.encode(shapely.contains_xy(shape, x, y))
            imported.setdefault(name, []).append((about["class"], inside))
        imported.setdefault(name, [])
        if number == 7:
            first, *_ = content["features"]
            assert len(shapely.geometry.shape(first["geometry"]).interiors) == 2
            assert [one["properties"]["id"] for one in content["features"]] == [1, 3, 4]
    check_same(imported)


def test_formats_of_any_masks_do_not_change_the_results(photos: Path) -> None:
    output, written = write(photos, "yolo", "geojson")
    results: list[dict[str, Any]] = json.loads(output.read_text())
    assert len(results) == 6 and written.covered == 0
    own = [masks.from_segmentation(one["segmentation"], *SIZES[one["image_id"]]) for one in results]
    assert own == [masks.encode(make(*SIZES[number])) for number, found in FOUND.items() for make, _ in found]
