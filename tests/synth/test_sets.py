"""Pasted sets on disk: the bank, exact annotations, reproducible bytes, complete or absent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bcnet_core import masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, read_coco, segmentation_rle
from bcnet_core.annotations.occluder import derive_occluders
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.files.images import read_image
from bcnet_core.synth.bank import cut_bank, read_bank
from bcnet_core.synth.composition import PasteRule
from bcnet_core.synth.plan import PastePlan, PasteSources, Survey, plan_pasted
from bcnet_core.synth.sets import PasteRequest, write_pasted

RULE = PasteRule(objects=(3, 4))
REQUEST = PasteRequest(scenes=40, val_scenes=4, size=(96, 128), seed=3)
HEIGHT, WIDTH = 110, 150


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve green pictures with two red objects each and a blue crowd at the border."""
    root = tmp_path_factory.mktemp("source")
    (root / "photos" / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 13):
        picture = rng.integers(0, 60, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
        picture[..., 1] += 120
        for category, x in ((90, 35), (5, 110)):
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            axes = rng.integers(14, 25, size=2).tolist()
            cv2.ellipse(mask, (x, 55), axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
            picture[mask > 0] = (200 + number, 0, category)
            annotations.append(record(len(annotations) + 101, number, category, mask.astype(bool)))
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[:8, :60] = True
        picture[mask] = (0, 0, 255)
        annotations.append(record(len(annotations) + 101, number, 5, mask) | {"iscrowd": 1})
        name = f"sub/{number}.png"
        cv2.imwrite(str(root / "photos" / name), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        images.append({"id": 1000 - number, "file_name": name, "height": HEIGHT, "width": WIDTH})
    categories = [{"id": 90, "name": "pear", "supercategory": "fruit"}, {"id": 5, "name": "apple"}]
    content = {"images": images, "annotations": annotations, "categories": categories, "licenses": [{"id": 4}]}
    (root / "own.json").write_text(json.dumps(content))
    return root


def record(number: int, image: int, category: int, mask: np.ndarray) -> dict[str, Any]:
    rle = masks.encode(mask)
    return {
        "id": number, "image_id": 1000 - image, "category_id": category, "iscrowd": 0, "area": masks.area(rle),
        "bbox": masks.bounding_box(rle).tolist(), "segmentation": masks.to_json(rle),
    }  # fmt: skip


def plan_of(source: Path, *, min_area: int = 300) -> PastePlan:
    coco = read_coco(source / "own.json")
    return plan_pasted(coco, source / "photos", min_area=min_area, most_objects=50, seed=REQUEST.seed, workers=1)


def write(source: Path, root: Path, *, workers: int = 1, **options: Any) -> None:
    plan = plan_of(source)
    write_pasted(root, plan, REQUEST, rule=RULE, workers=workers, **options)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def pasted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pasted") / "set"
    write(source, root)
    return root


def split(root: Path, name: str) -> CocoFile:
    return read_coco(root / "annotations" / f"instances_{name}.json")


def test_the_layout_is_that_of_coco(pasted: Path, source: Path) -> None:
    assert sorted(path.name for path in pasted.iterdir()) == ["annotations", "bank", "train2017", "val2017"]
    original = read_coco(source / "own.json")
    for name, count in (("train2017", 40), ("val2017", 4)):
        coco = split(pasted, name)
        assert len(coco.images) == count == len(list((pasted / name).iterdir()))
        assert coco.categories == original.categories
        assert coco.content["licenses"] == [{"id": 4}]
        info = coco.content["info"]
        assert (info["generator"], info["seed"], info["split"]) == ("bcnet synth paste", 3, name)
        assert info["source"]["file"] == "own.json"
        assert info["options"] == {
            "height": 96, "width": 128, "occlusion": [0.2, 0.6], "scale": [0.7, 1.4], "objects": [3, 4],
            "min_area": 300, "bank": 50,
        }  # fmt: skip
        for image in coco.images:
            read_image(pasted / name / image["file_name"], expect_size=REQUEST.size)


def test_annotations_agree_with_their_masks(pasted: Path, source: Path) -> None:
    categories = {one["id"]: one["category_id"] for one in read_coco(source / "own.json").annotations}
    hidden = 0
    for name in ("train2017", "val2017"):
        coco = split(pasted, name)
        for image, records in zip(coco.images, coco.annotations_by_image().values(), strict=True):
            whole = [segmentation_rle(one, image, key="amodal_segmentation") for one in records]
            seen = [segmentation_rle(one, image) for one in records]
            above = np.zeros(REQUEST.size, dtype=bool)
            for layer in reversed(range(len(records))):
                one, amodal, visible = records[layer], whole[layer], seen[layer]
                assert amodal is not None
                assert visible is not None
                assert one["layer"] == layer
                assert np.array_equal(masks.decode(visible), masks.decode(amodal) & ~above)
                assert one["bbox"] == masks.bounding_box(visible).tolist()
                assert one["area"] == masks.area(visible)
                assert one["category_id"] == categories[one["source_annotation_id"]]
                rate = 1 - masks.area(visible) / masks.area(amodal)
                assert one["occlusion_rate"] == pytest.approx(rate, abs=1e-6)
                assert rate == 0 or 0.2 <= rate <= 0.6
                hidden += rate > 0
                above |= masks.decode(amodal)
            regions = derive_occluders(records, seen, *REQUEST.size)
            stored = [segmentation_rle(one, image, key=OCCLUDER_KEY) for one in records]
            assert stored == regions
    assert hidden >= 44, "one in every scene"


def test_the_pictures_show_the_objects_and_no_others(pasted: Path) -> None:
    """All objects of the source are red; they and the blue crowd are painted over in the green backgrounds."""
    for name in ("train2017", "val2017"):
        coco = split(pasted, name)
        for image, records in zip(coco.images, coco.annotations_by_image().values(), strict=True):
            picture = read_image(pasted / name / image["file_name"]).astype(int)
            red = (picture[..., 0] > 150) & (picture[..., 1] < 90)
            rles = [segmentation_rle(one, image) for one in records]
            covered = masks.decode(masks.union([rle for rle in rles if rle is not None]))
            assert red[covered].mean() > 0.9
            wide = cv2.dilate(covered.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
            assert red[~wide].mean() < 0.001
            assert (picture[~wide][:, 2] > 200).mean() < 0.001


def test_the_splits_share_no_source_image(pasted: Path) -> None:
    sources = {}
    for name in ("train2017", "val2017"):
        index = json.loads((pasted / "bank" / name / "index.json").read_text())
        sources[name] = {one["image"] for kind in ("objects", "backgrounds") for one in index[kind]}
        for one in index["objects"]:
            assert (pasted / "bank" / name / one["file"]).is_file()
    assert len(sources["train2017"]) == 10
    assert len(sources["val2017"]) == 2
    assert not sources["train2017"] & sources["val2017"]


def test_the_bank_holds_the_unchanged_objects(pasted: Path, source: Path) -> None:
    original = read_coco(source / "own.json")
    annotations = {one["id"]: one for one in original.annotations}
    folder = pasted / "bank" / "train2017"
    for one in json.loads((folder / "index.json").read_text())["objects"]:
        picture = cv2.imread(str(folder / one["file"]), cv2.IMREAD_UNCHANGED)
        annotation = annotations[one["source"]]
        assert (picture[..., 3] == 255).sum() == annotation["area"]
        assert np.median(picture[picture[..., 3] == 255][:, 2]) == 200 + 1000 - annotation["image_id"]
        assert annotation["image_id"] == one["image"]
        assert original.categories[one["label"]]["id"] == annotation["category_id"]
        assert one["scale"] == pytest.approx(128 / 150)


def test_the_same_bytes_with_any_number_of_workers(pasted: Path, source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "two", workers=2)
    assert files(tmp_path / "two") == files(pasted)


def test_an_own_set_is_replaced_and_nothing_else(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "set")
    with pytest.raises(BCNetError, match="exists already"):
        write(source, tmp_path / "set")
    write(source, tmp_path / "set", overwrite=True)
    for name in ("notes.txt", "train2017/mine.jpg", "bank/val2017/mine.png", "annotations/mine.json"):
        (tmp_path / "set" / name).write_text("keep")
        with pytest.raises(BCNetError, match="something other"):
            write(source, tmp_path / "set", overwrite=True)
        assert (tmp_path / "set" / name).read_text() == "keep"
        (tmp_path / "set" / name).unlink()
    write(source, tmp_path / "set", overwrite=True)


def test_folders_that_only_look_like_a_set_are_not_replaced(source: Path, tmp_path: Path) -> None:
    for name in ("annotations", "train2017", "val2017", "bank"):
        (tmp_path / "set" / name).mkdir(parents=True)
    (tmp_path / "set" / "train2017" / "mine.jpg").write_text("keep")
    with pytest.raises(BCNetError, match="something other"):
        write(source, tmp_path / "set", overwrite=True)


def test_a_source_is_never_overwritten(pasted: Path, tmp_path: Path) -> None:
    """A pasted set may be the source of another one but not its output."""
    copied = tmp_path / "copied"
    shutil.copytree(pasted, copied)
    before = files(copied)
    (tmp_path / "link").symlink_to(copied)
    coco, images = read_coco(copied / "annotations" / "instances_train2017.json"), copied / "train2017"
    plan = PastePlan(coco, images, Survey([], [], {}, []), {}, {})
    for root in (copied, tmp_path, tmp_path / "link", images / "new", images):
        with pytest.raises(BCNetError, match="input") as caught:
            write_pasted(root, plan, REQUEST, rule=RULE, workers=1, overwrite=True)
        assert caught.value.exit_code == ExitCode.USAGE
    assert files(copied) == before


def test_very_long_images_make_backgrounds_of_bounded_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = []
    for number, (height, width) in enumerate([(3, 3000), (3000, 3), (1, 1), (40, 50)], start=1):
        cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(0, 255, size=(height, width, 3), dtype=np.uint8))
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
    coco = CocoFile(tmp_path / "a.json", {"images": images, "annotations": [], "categories": []})
    folder = tmp_path / "bank"
    cut_bank(
        folder, coco, tmp_path, PasteSources([], [0, 1, 2, 3]), scene=(96, 128), workers=1, reporter=None
    )  # fmt: skip
    for background in read_bank(folder).backgrounds:
        height, width = read_image(folder / background).shape[:2]
        assert 96 <= height <= 4 * 96 + 96
        assert 128 <= width <= 4 * 128 + 128


@pytest.mark.parametrize("fault", ["missing", "damaged", "other size"])
def test_a_bad_image_is_named_and_nothing_is_left(source: Path, tmp_path: Path, fault: str) -> None:
    photos = tmp_path / "photos" / "sub"
    photos.mkdir(parents=True)
    for number in range(1, 13):
        (photos / f"{number}.png").symlink_to(source / "photos" / "sub" / f"{number}.png")
    (photos / "4.png").unlink()
    if fault == "damaged":
        (photos / "4.png").write_bytes(b"\x89PNG nothing")
    elif fault == "other size":
        cv2.imwrite(str(photos / "4.png"), np.zeros((50, 50, 3), np.uint8))
    coco = read_coco(source / "own.json")
    with pytest.raises(BCNetError, match=r"4\.png") as caught:  # noqa: PT012  (a missing image ends the plan already)
        plan = plan_pasted(coco, tmp_path / "photos", min_area=300, most_objects=50, seed=3, workers=1)
        write_pasted(tmp_path / "set", plan, REQUEST, rule=RULE, workers=1)
    assert caught.value.exit_code == ExitCode.BAD_DATA
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_an_impossible_rule_is_an_error(source: Path, tmp_path: Path) -> None:
    plan = plan_of(source)
    rule = PasteRule(occlusion=(0.50001, 0.50002))
    with pytest.raises(BCNetError, match="no object could be hidden"):
        write_pasted(tmp_path / "set", plan, REQUEST, rule=rule, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_a_set_without_complete_objects_is_an_error(source: Path) -> None:
    words = r"would have 0 complete objects .* of all 36 .*12 a crowd, 24 too small"
    with pytest.raises(BCNetError, match=words) as caught:
        plan_of(source, min_area=3000)
    assert caught.value.exit_code == ExitCode.BAD_DATA
    assert "--min-area" in caught.value.hints[0]


def test_the_bank_is_no_larger_than_requested(source: Path) -> None:
    coco = read_coco(source / "own.json")
    plan = plan_pasted(coco, source / "photos", min_area=300, most_objects=10, seed=3, workers=1)
    assert [len(objects) for objects, _ in plan.sources.values()] == [8, 2]
    other = plan_pasted(coco, source / "photos", min_area=300, most_objects=10, seed=4, workers=1)
    assert plan.sources != other.sources


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": (63, 128)}, "63 x 128"),
        ({"size": (64, 4097)}, "64 x 4097"),
        ({"scenes": 0}, "one scene"),
        ({"val_scenes": 0}, "one scene"),
        ({"seed": -1}, "seed"),
    ],
)
def test_requests_out_of_range_are_errors(source: Path, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    plan = plan_of(source)
    request = REQUEST._replace(**changes)
    with pytest.raises(BCNetError, match=words) as caught:
        write_pasted(tmp_path / "set", plan, request, rule=RULE, workers=1)
    assert caught.value.exit_code == ExitCode.USAGE
