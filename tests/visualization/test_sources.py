"""Pictures from ground truth, results and detectors."""

import gzip
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from bcnet_core import masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, read_coco
from bcnet_core.config.data import DataConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.evaluation.coco import evaluate, ground_truth
from bcnet_core.evaluation.compare import image_precisions, mean_ious
from bcnet_core.maps import MAPS
from bcnet_core.structures import Detections
from bcnet_core.visualization import instances, sources
from bcnet_core.visualization.instances import annotated_pictures, detected_pictures, result_pictures
from bcnet_core.visualization.picture import order_of
from bcnet_core.visualization.sources import worst_images


def square(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def annotation(number: int, image: int, *corners: int, **more: Any) -> dict[str, Any]:
    x0, y0, x1, y1 = corners
    box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": square(x0, y0, x1, y1)}
    return {"id": number, "image_id": image, "category_id": 7, "iscrowd": 0, **box, **more}


def make_set(root: Path, *, more: Sequence[dict[str, Any]] = (), count: int = 3) -> CocoFile:
    """Images of 600 x 400; in the second one two squares overlap, in the first one there is one."""
    folder = root / "val2017"
    folder.mkdir(parents=True)
    images = [{"id": 5 + n, "file_name": f"{n}.png", "width": 600, "height": 400} for n in range(count)]
    for n in range(count):
        Image.new("RGB", (600, 400), (10 * n, 100, 50)).save(folder / f"{n}.png")
    content = {
        "images": images,
        "categories": [{"id": 7, "name": "box"}],
        "annotations": [
            annotation(1, 5, 10, 10, 110, 110), annotation(2, 6, 100, 100, 300, 300),
            annotation(3, 6, 200, 100, 400, 300), *more,
        ],
    }  # fmt: skip
    path = root / "annotations" / "instances_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    return read_coco(path)


class FakeDetector:
    """Finds `count` boxes, the best in the middle of the image; layer 1 is confident in its left half."""

    def __init__(self, count: int, best: float = 0.9, *, amodal: bool = False) -> None:
        self.categories = [{"id": 7, "name": "box"}, {"id": 9, "name": "ball"}]
        self.count, self.best, self.amodal = count, best, amodal
        self.seen: list[int] = []

    def predict(self, images: list[Any], /) -> list[Detections]:
        self.seen.append(len(images))
        height, width = images[0].shape[:2]
        maps = torch.zeros(self.count, 28, 28)
        left = maps.clone()
        left[:, :, :14] = 1
        boxes = torch.tensor([[100.0, 100, 200, 200]]).repeat(self.count, 1)
        scores = torch.linspace(self.best, 0.05, self.count) if self.count else torch.zeros(0)
        labels = torch.ones(self.count, dtype=torch.int64)
        values = (maps + 0.7, maps + 0.1, left, maps + 0.2, maps + 0.9)
        found = {spec.name: value for spec, value in zip(MAPS, values, strict=True)}
        if not self.amodal:
            del found["amodal_mask"]
        return [Detections(boxes, scores, labels, (height, width), found)]


def test_ground_truth_derives_occluders(tmp_path: Path) -> None:
    coco = make_set(tmp_path)
    pictures = list(annotated_pictures(coco, coco.images, tmp_path / "val2017"))
    assert [picture.name for picture in pictures] == ["0.png", "1.png", "2.png"]
    alone, pair, empty = pictures
    assert alone.image[0, 0].tolist() == [0, 100, 50]
    assert alone.instances[0].occluder is None
    left, right = pair.instances
    assert left.box == (100, 100, 300, 300)
    assert left.occludee is not None and masks.area(left.occludee) == 200 * 200
    assert left.occluder is not None
    assert masks.decode(left.occluder)[150, 250]
    assert not masks.decode(left.occluder)[150, 150]
    assert left.occlusion == pytest.approx(0.5, abs=0.01)
    assert right.label == "box"
    assert empty.note == "no instance is annotated here"


def test_ground_truth_uses_stored_occluders(tmp_path: Path) -> None:
    coco = make_set(tmp_path, more=[annotation(4, 5, 300, 300, 380, 380, **{OCCLUDER_KEY: square(300, 300, 340, 380)})])
    alone, pair, _ = annotated_pictures(coco, coco.images, tmp_path / "val2017")
    assert alone.instances[1].occlusion == pytest.approx(0.5, abs=0.01)
    assert all(layers.occluder is not None for layers in pair.instances)  # not stored, so derived


def test_crowds_are_named_and_masks_may_be_missing(tmp_path: Path) -> None:
    coco = make_set(
        tmp_path, more=[annotation(4, 5, 0, 0, 50, 50, iscrowd=1), annotation(5, 5, 0, 0, 9, 9, segmentation=[])]
    )
    first = next(annotated_pictures(coco, coco.images, tmp_path / "val2017"))
    assert [layers.label for layers in first.instances] == ["box", "box (crowd)", "box"]
    assert first.instances[2].occludee is None


def test_one_image_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco = make_set(tmp_path)
    read: list[str] = []
    original = instances.read_listed

    def counting(folder: Path, image: dict[str, Any]) -> Any:
        read.append(image["file_name"])
        return original(folder, image)

    monkeypatch.setattr(instances, "read_listed", counting)
    detector = FakeDetector(2)
    for pictures in (
        annotated_pictures(coco, coco.images, tmp_path / "val2017"),
        detected_pictures(detector, coco, coco.images, tmp_path / "val2017"),
    ):
        read.clear()
        assert read == []
        next(pictures)
        assert read == ["0.png"]
        next(pictures)
        assert read == ["0.png", "1.png"]
    assert detector.seen == [1, 1]


@pytest.mark.parametrize("damage", ["missing", "damaged", "other size"])
def test_an_unreadable_image_gives_a_fault_with_its_name(tmp_path: Path, damage: str) -> None:
    coco = make_set(tmp_path)
    path = tmp_path / "val2017" / "1.png"
    path.unlink()
    if damage == "damaged":
        path.write_bytes(b"no image")
    if damage == "other size":
        Image.new("RGB", (30, 40)).save(path)
    detector = FakeDetector(2)
    for pictures in (
        annotated_pictures(coco, coco.images, tmp_path / "val2017"),
        detected_pictures(detector, coco, coco.images, tmp_path / "val2017"),
    ):
        first, second, third = pictures
        assert first.fault is None
        assert third.fault is None
        assert second.fault is not None
        assert "1.png" in second.fault
        assert second.image.shape == (400, 600, 3)
    assert detector.seen == [1, 1]  # not asked about an image that is not there


def test_detections_become_instances(tmp_path: Path) -> None:
    coco = make_set(tmp_path)
    picture = next(detected_pictures(FakeDetector(2), coco, coco.images, tmp_path / "val2017", score=0.0))
    layers = picture.instances[0]
    assert layers.label == "ball 0.90"
    assert layers.maps is not None
    assert layers.maps["occludee_mask"][0, 0] == pytest.approx(0.7)
    assert layers.maps["occluder_boundary"][0, 0] == pytest.approx(0.2)
    assert layers.occluder is not None
    assert masks.decode(layers.occluder)[150, 120]
    assert not masks.decode(layers.occluder)[150, 180]
    assert masks.area(layers.occluder) == pytest.approx(5000, abs=150)
    assert layers.iou == 0 and layers.truth is None and picture.truth is not None  # a ball, where a box is
    assert picture.note == ""


@pytest.mark.parametrize(
    ("count", "best", "shown", "note"),
    [
        (40, 0.9, 28, ""),
        (40, 0.2, 5, "0 of these score 0.30 or more; the best 5 are always shown"),
        (2, 0.2, 2, "0 of these score 0.30 or more; the best 5 are always shown"),
        (0, 0.9, 0, "nothing was found here"),
    ],
)
def test_the_best_few_are_always_shown(tmp_path: Path, count: int, best: float, shown: int, note: str) -> None:
    coco = make_set(tmp_path, count=2)
    picture = next(detected_pictures(FakeDetector(count, best), coco, coco.images, tmp_path / "val2017", score=0.3))
    assert len(picture.instances) == shown
    assert picture.note == note


def test_detections_without_ground_truth_are_not_matched(tmp_path: Path) -> None:
    coco = make_set(tmp_path)
    listed = CocoFile(coco.path, {**coco.content, "annotations": []})
    picture = next(detected_pictures(FakeDetector(2), listed, coco.images, tmp_path / "val2017"))
    assert picture.truth is None
    assert [layers.iou for layers in picture.instances] == [None, None]


def test_choose_images(tmp_path: Path) -> None:
    coco = make_set(tmp_path)

    def chosen(**options: Any) -> list[int]:
        return [image["id"] for image in sources.choose_images(coco, **options)]

    assert chosen() == [5, 6, 7]
    assert chosen(limit=2) == [5, 6]
    assert chosen(ids=[7, 5, 7], limit=1) == [7, 5]
    assert chosen(most_occluded=1) == [6]
    assert chosen(most_occluded=2, limit=1) == [6, 5]
    assert chosen(ids=[7, 5], most_occluded=1) == [7]
    with pytest.raises(BCNetError, match="no image with the id 8") as error:
        chosen(ids=[5, 8])
    assert error.value.exit_code == ExitCode.USAGE
    with pytest.raises(BCNetError, match="no annotations to rank images by occlusion"):
        sources.choose_images(CocoFile(coco.path, {**coco.content, "annotations": []}), most_occluded=1)
    with pytest.raises(BCNetError, match="no image to show"):
        sources.choose_images(CocoFile(coco.path, {**coco.content, "images": [], "annotations": []}))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("instances_val2017.json", "val2017"),
        ("image_info_test-dev2017.json", "test2017"),
        ("instances_val.json", "val"),
        ("bilayer_train2017.json.gz", "train2017"),
    ],
)
def test_the_coco_layout_implies_the_image_folder(tmp_path: Path, name: str, folder: str) -> None:
    path = tmp_path / "annotations" / name
    path.parent.mkdir()
    content = json.dumps({"images": [], "annotations": [], "categories": []}).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(BCNetError, match=folder) as error:
        sources.open_source(path)
    assert "--images" in error.value.hints[0]
    assert error.value.exit_code == ExitCode.USAGE
    (tmp_path / folder).mkdir()
    found = sources.open_source(path)
    assert found.coco.path == path and found[1:] == (tmp_path / folder, None, None, 0)
    (tmp_path / "mine").mkdir()
    assert sources.open_source(path, images=tmp_path / "mine").images == tmp_path / "mine"


def test_missing_sources(tmp_path: Path) -> None:
    for source, images in ((tmp_path / "no", None), (tmp_path / "a.json", tmp_path / "no")):
        (tmp_path / "a.json").touch()
        with pytest.raises(BCNetError, match="no` does not exist") as error:
            sources.open_source(source, images=images)
        assert error.value.exit_code == ExitCode.BAD_DATA


@pytest.mark.parametrize("name", ["val_results.json", "val_results.json.gz"])
def test_results_need_their_ground_truth(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b" \n[]") if name.endswith(".gz") else b" \n[]")
    with pytest.raises(BCNetError, match="val_results") as error:
        sources.open_source(path)
    assert "--gt GROUND_TRUTH" in error.value.hints[0] and error.value.exit_code == ExitCode.BAD_DATA


def test_an_image_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "model.pt").touch()
    with pytest.raises(BCNetError, match="` is a file, not a folder") as error:
        sources.open_source(tmp_path / "model.pt", images=tmp_path / "photo.jpg")
    assert error.value.hints == (f"give the folder: --images {tmp_path}",)


def test_a_run_stands_for_its_validation_set(tmp_path: Path) -> None:
    coco = make_set(tmp_path / "data")
    run = SimpleNamespace(recipe=Recipe(data=DataConfig(root=tmp_path / "elsewhere")))
    open_source = partial(sources.open_source, open_run=lambda path: run)
    model = tmp_path / "run"
    model.mkdir()
    with pytest.raises(BCNetError, match="elsewhere` does not exist") as error:
        open_source(model)
    assert "--data-root" in error.value.hints[0]
    found = open_source(model, data_root=tmp_path / "data")
    assert found.coco.path == coco.path and found[1:] == (tmp_path / "data" / "val2017", model, None, 0)


def test_results_of_any_model_become_instances(tmp_path: Path) -> None:
    coco = make_set(tmp_path)
    results = [
        {"image_id": 6, "category_id": 7, "score": score, "bbox": [100, 100, 200, 200],
         "segmentation": masks.from_box(100, 100, 300, 300, 400, 600)}
        for score in (0.1, 0.9, 0.7)
    ]  # fmt: skip
    results[1]["occluder"] = masks.from_box(200, 100, 300, 300, 400, 600)
    alone, pair, empty = result_pictures(coco, results, coco.images, tmp_path / "val2017", score=0.5)
    assert alone.note == empty.note == "nothing was found here"
    assert [layers.label for layers in pair.instances] == ["box 0.90", "box 0.70", "box 0.10"]
    first, second, _ = pair.instances
    assert first.box == (100, 100, 300, 300) and masks.area(first.occludee) == 200 * 200
    assert first.occlusion == pytest.approx(0.5, abs=0.01) and second.occluder is None
    assert first.truth is not None and first.iou == 1 and second.iou == pytest.approx(1 / 3)
    assert [layers.color for layers in pair.truth or ()] == [0, 1] and pair.missed == ()
    (tmp_path / "val2017" / "1.png").unlink()
    assert list(result_pictures(coco, results, coco.images, tmp_path / "val2017"))[1].instances == ()


def own_precision(coco: CocoFile, results: list[dict[str, Any]], image: int) -> float:
    """The AP of a file with that image alone."""
    kept = [one for one in coco.annotations if one["image_id"] == image]
    images = [one for one in coco.images if one["id"] == image]
    alone = CocoFile(coco.path, {**coco.content, "images": images, "annotations": kept})
    found = [one for one in results if one["image_id"] == image]
    return evaluate(ground_truth(alone), found, "segm", scorer="pycocotools").scores.AP


def test_the_worst_images_come_first(tmp_path: Path) -> None:
    coco = make_set(tmp_path, more=[annotation(4, 7, 10, 10, 60, 60), annotation(5, 5, 0, 0, 600, 400, iscrowd=1)])
    results = [
        {"image_id": image, "category_id": 7, "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0],
         "segmentation": masks.to_json(masks.from_box(x0, y0, x1, y1, 400, 600))}
        for image, score, x0, y0, x1, y1 in (
            (5, 0.9, 10, 10, 110, 110), (6, 0.9, 100, 100, 300, 300),
            (7, 0.4, 10, 10, 60, 60), (7, 0.9, 10, 10, 60, 35),
        )
    ]  # fmt: skip
    assert mean_ious(coco, results, score=0.5) == pytest.approx({5: 1, 6: (1 + 1 / 3) / 2, 7: 0.5})
    worst = worst_images(coco, results, coco.images, 2, by="iou", score=0.5)
    assert [record["id"] for record in worst] == [7, 6]
    assert [record["id"] for record in worst_images(coco, results, coco.images, 1, by="iou", score=0.3)] == [6]
    alone = {image: own_precision(coco, results, image) for image in (5, 6, 7)}
    assert image_precisions(coco, results) == pytest.approx(alone)
    assert alone[5] == pytest.approx(1) and alone[6] == pytest.approx(51 / 101) and alone[7] == pytest.approx(0.55)
    assert [record["id"] for record in worst_images(coco, results, coco.images, 3, by="ap", score=0.5)] == [6, 7, 5]
    with pytest.raises(BCNetError, match="no instance with a mask to rank images by"):
        worst_images(coco, results, [], 2, by="iou", score=0.5)


def make_amodal_set(root: Path, **more: Any) -> CocoFile:
    """The second of two overlapping squares is behind the first: its whole square is known."""
    coco = make_set(root)
    for one in coco.annotations:
        one["amodal_segmentation"] = one["segmentation"]
    back = coco.annotations[2]
    back |= {"segmentation": square(300, 100, 400, 300), "bbox": [300, 100, 100, 200], **more}
    return coco


def test_whole_masks_of_the_ground_truth_tell_what_is_in_front(tmp_path: Path) -> None:
    coco = make_amodal_set(tmp_path)
    _, pair, _ = annotated_pictures(coco, coco.images, tmp_path / "val2017")
    front, back = pair.instances
    assert front.occluder is None and front.occlusion_rate == 0
    assert back.whole is not None and masks.area(back.whole) == 200 * 200
    assert back.box == (300, 100, 400, 300) and back.roi == (200, 100, 400, 300)
    assert back.occluder is not None and masks.area(back.occluder) == 100 * 200
    assert back.occlusion == pytest.approx(0.5) and back.occlusion_rate == pytest.approx(0.5)
    assert not any(one.box_differs for one in pair.instances)
    assert order_of(pair.instances) == [(0, 1)]
    told = make_amodal_set(tmp_path / "told", front_of=[2, 99])
    _, pair, _ = annotated_pictures(told, told.images, tmp_path / "told/val2017")
    assert [one.hides for one in pair.instances] == [None, (0,)]
    assert order_of(pair.instances) == [(1, 0)]
    odd = make_amodal_set(tmp_path / "odd", front_of=2)
    with pytest.raises(BCNetError, match="its `front_of` is 2"):
        list(annotated_pictures(odd, odd.images, tmp_path / "odd/val2017"))


def test_images_are_ranked_by_hidden_shares_where_whole_masks_are_known(tmp_path: Path) -> None:
    coco = make_set(tmp_path, more=[annotation(4, 7, 10, 10, 60, 60, amodal_segmentation=square(10, 10, 510, 60))])
    ranked = [image["id"] for image in sources.choose_images(coco, most_occluded=3)]
    assert ranked == [6, 7, 5]  # two halves of boxes, nine tenths of a whole, nothing
    del coco.annotations[2]
    assert [image["id"] for image in sources.choose_images(coco, most_occluded=1)] == [7]


def test_a_detector_of_whole_masks_is_compared_with_true_ones(tmp_path: Path) -> None:
    coco = make_amodal_set(tmp_path)
    for amodal in (True, False):
        detector = FakeDetector(2, amodal=amodal)
        _, picture, _ = detected_pictures(detector, coco, coco.images, tmp_path / "val2017", score=0.0)
        found, (_, back) = picture.instances[0], picture.truth or ()
        assert (found.whole is not None) == (back.whole is not None) == amodal
        assert (back.occluder is not None) == amodal  # the boxes of the visible parts do not overlap


def test_results_keep_whole_masks_and_their_order(tmp_path: Path) -> None:
    coco = make_amodal_set(tmp_path)
    corners = [(0, 0, 50, 50), (200, 100, 300, 300), (300, 100, 400, 300)]
    results = [
        {"image_id": 6, "category_id": 7, "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0], "hides": hides,
         "segmentation": masks.from_box(x0, y0, x1, y1, 400, 600),
         "amodal_segmentation": masks.from_box(x0, y0, x1 - 50, y1, 400, 600)}
        for (x0, y0, x1, y1), score, hides in zip(corners, (0.1, 0.7, 0.9), ([1], [2, 0], []), strict=True)
    ]  # fmt: skip
    _, picture, _ = result_pictures(coco, results, coco.images, tmp_path / "val2017", score=0.5)
    assert [one.score for one in picture.instances] == [0.9, 0.7, 0.1]
    assert order_of(picture.instances) == [(1, 0), (1, 2), (2, 1)]
    assert all(one.whole == one.occludee for one in picture.instances)  # united with what is visible
    assert [one.whole is None for one in picture.truth or ()] == [False, False]
