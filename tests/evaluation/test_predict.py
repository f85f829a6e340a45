import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bcnet_core import BCNetError, ExitCode, load_detector, masks
from bcnet_core.annotations.coco import CocoFile, read_coco
from bcnet_core.evaluation import predict
from bcnet_core.evaluation.inputs import check_categories, find_images, image_records
from bcnet_core.evaluation.parts import parts_of
from bcnet_core.evaluation.predict import predict_images, predictions, to_results
from bcnet_core.maps import MAPS
from bcnet_core.reporting import SilentReporter
from bcnet_core.structures import Detections


def two_detections() -> Detections:
    maps = torch.zeros(2, 28, 28)
    maps[0] = 1
    boxes = torch.tensor([[2.0, 1, 6, 3], [0, 0, 1.5, 2]])
    return Detections(
        boxes, torch.tensor([0.9, 0.2]), torch.tensor([1, 0]), (6, 8), dict.fromkeys((spec.name for spec in MAPS), maps)
    )


def test_results_are_in_the_coco_format() -> None:
    first, second = to_results(two_detections().instances(), 42, [{"id": 3, "name": "a"}, {"id": 8, "name": "b"}])
    assert (first["image_id"], first["category_id"], first["bbox"]) == (42, 8, [2, 1, 4, 2])
    assert first["score"] == pytest.approx(0.9) and second["category_id"] == 3
    assert np.argwhere(masks.decode(first["segmentation"])).tolist() == [[y, x] for y in (1, 2) for x in range(2, 6)]


def three_discs(*names: str) -> Detections:
    """Three detections in an image of 12 x 30 pixels, whose maps fill columns of their boxes.

    The second lies over the right half of the first and the third touches the second; visible masks of the first two
    claim columns 8 and 9 both.
    """
    boxes = torch.tensor([[0.0, 0, 16, 12], [8, 0, 20, 12], [20, 0, 28, 12]])
    spans = {
        "occludee_mask": [(0, 10), (8, 20), (20, 28)],
        "amodal_mask": [(0, 16), (8, 20), (20, 28)],
        "occluder_mask": [(8, 16), (0, 0), (0, 0)],
    }
    side = 240  # whole cells in every pixel of these boxes
    maps = {name: torch.zeros(3, side, side) for name in names}
    for name, grids in maps.items():
        for grid, (x0, _, x1, _), span in zip(grids, boxes.tolist(), spans[name], strict=True):
            first, end = (round((x - x0) / (x1 - x0) * side) for x in span)
            grid[:, first:end] = 1
    return Detections(boxes, torch.tensor([0.9, 0.8, 0.3]), torch.tensor([0, 0, 0]), (12, 30), maps)


DISC = [{"id": 1, "name": "disc"}]


def columns(result: dict[str, Any], key: str = "segmentation") -> list[int]:
    return np.flatnonzero(masks.decode(result[key]).any(0)).tolist()


def test_results_of_whole_masks_tell_what_is_hidden_and_by_what() -> None:
    found = three_discs("occludee_mask", "amodal_mask", "occluder_mask")
    first, second, third = to_results(found.instances(), 1, DISC)
    assert columns(first) == [*range(10)] and columns(first, "amodal_segmentation") == [*range(16)]
    assert (first["bbox"], first["amodal_bbox"]) == ([0, 0, 10, 12], [0, 0, 16, 12])
    assert first["occlusion_rate"] == pytest.approx(6 / 16) and second["occlusion_rate"] == third["occlusion_rate"] == 0
    assert [one["hides"] for one in (first, second, third)] == [[], [0], []]
    assert "occluder" not in first and "occluder" in next(to_results(found.instances(layers=True), 1, DISC))
    assert found.order == [(1, 0)] and found.occlusion_rate == pytest.approx([6 / 16, 0, 0])


def test_an_instance_of_which_nothing_is_visible_has_the_detected_box() -> None:
    found = three_discs("occludee_mask", "amodal_mask")
    found.maps["occludee_mask"][0] = 0
    first = next(to_results(found.instances(), 1, DISC))
    assert first["bbox"] == first["amodal_bbox"] == [0, 0, 16, 12] and first["occlusion_rate"] == 1


@pytest.mark.parametrize(
    ("names", "ends"),
    [
        (("occludee_mask", "amodal_mask", "occluder_mask"), (8, 8)),  # the second is in front
        (("occludee_mask", "amodal_mask"), (8, 8)),
        (("occludee_mask", "occluder_mask"), (8, 8)),  # it covers the contested pixels in the first's occluder region
        (("occludee_mask",), (10, 10)),  # the better one has them
    ],
)
def test_disjoint_masks_follow_the_order_and_then_the_score(names: tuple[str, ...], ends: tuple[int, int]) -> None:
    first, second, third = to_results(three_discs(*names).instances(order=True), 1, DISC, disjoint=True)
    assert columns(first) == [*range(ends[0])] and columns(second) == [*range(ends[1], 20)]
    assert columns(third) == [*range(20, 28)]
    assert first["bbox"] == [0, 0, ends[0], 12] and second["bbox"] == [ends[1], 0, 20 - ends[1], 12]
    assert ("amodal_bbox" in first) == ("amodal_mask" in names)
    if "amodal_mask" in names:
        assert first["occlusion_rate"] == pytest.approx(0.5) and second["hides"] == [0]


def test_missing_images_are_counted_before_the_first_is_read(scenes: Path, tmp_path: Path) -> None:
    coco = read_coco(scenes / "annotations/instances_val.json")
    with pytest.raises(BCNetError, match="6 of 6 images are not in") as caught:
        predict_images(None, coco.images, tmp_path, reporter=SilentReporter())  # type: ignore[arg-type]
    assert caught.value.exit_code == 3


class Knows:
    categories = ({"id": 1, "name": "cat"}, {"id": 2, "name": "dog"})


def test_different_categories_are_named_on_both_sides() -> None:
    def file(*categories: dict[str, Any]) -> CocoFile:
        return CocoFile(Path("x.json"), {"images": [], "categories": list(categories)})

    check_categories(Knows().categories, file({"id": 2, "name": "dog"}, {"id": 1, "name": "cat"}))  # type: ignore[arg-type]
    with pytest.raises(BCNetError, match=r"knows 2 categories, `x\.json` has 1") as caught:
        check_categories(Knows().categories, file({"id": 2, "name": "cow"}))  # type: ignore[arg-type]
    assert caught.value.hints == (
        "only in the detector: [(1, 'cat'), (2, 'dog')]",
        "only in the file:     [(2, 'cow')]",
    )


def test_reading_ahead_keeps_images_and_results_together(untrained: Path, scenes: Path) -> None:
    images = read_coco(scenes / "annotations/instances_val.json").images
    detector = load_detector(untrained, device="cpu")
    every = predict_images(detector, images, scenes / "val", reporter=SilentReporter())
    for image in images:
        alone = predict_images(detector, [image], scenes / "val", reporter=SilentReporter())
        assert alone == [one for one in every if one["image_id"] == image["id"]]


def test_images_are_named_by_files_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "deep/c.jpeg", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 4)).save(path, "PNG")
    found = find_images([str(tmp_path / "b.png"), str(tmp_path), str(tmp_path / "*.png")])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["b.png", "a.JPG", "deep/c.jpeg"]
    assert [one["id"] for one in image_records(found, None)] == [1, 2, 3]
    (tmp_path / "empty").mkdir()
    for name, word in (("empty", "contains no image"), ("gone.jpg", "names no file"), ("*.gif", "names no file")):
        with pytest.raises(BCNetError, match=word):
            find_images([str(tmp_path / name)])
    (tmp_path / "clip.MP4").touch()
    with pytest.raises(BCNetError, match="is a video, not an image") as refused:
        find_images([str(tmp_path / "clip.*")])
    assert refused.value.hints == ("predict its frames: --video",)


def test_a_link_to_a_photo_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).symlink_to(tmp_path / "annex" / name)
    with pytest.raises(
        BCNetError, match=r"a.png` is a link to a file that does not exist \(and 1 more links\)"
    ) as caught:
        find_images([str(tmp_path)])
    assert caught.value.exit_code == ExitCode.BAD_DATA


def test_ids_can_be_taken_from_a_coco_file(tmp_path: Path, scenes: Path) -> None:
    coco = read_coco(scenes / "annotations/instances_val.json")
    paths = sorted((scenes / "val").iterdir(), reverse=True)
    records = image_records(paths, coco)
    assert {one["id"]: Path(one["file_name"]).name for one in records} == {
        one["id"]: one["file_name"] for one in coco.images
    }
    assert all((one["height"], one["width"]) == (128, 128) for one in records)
    other = tmp_path / "other.png"
    Image.new("RGB", (6, 4)).save(other)
    with pytest.raises(BCNetError, match=r"1 of 7 images are not among the 6 images .* first is .*other\.png"):
        image_records([*paths, other], coco)
    twin = tmp_path / paths[0].name
    twin.write_bytes(paths[0].read_bytes())
    with pytest.raises(BCNetError, match="both fit the image") as caught:
        image_records([paths[0], twin], coco)
    assert caught.value.exit_code == ExitCode.USAGE


def listed(*names: str) -> CocoFile:
    images = [{"id": 10 * n, "file_name": name, "width": 8, "height": 6} for n, name in enumerate(names, start=1)]
    return CocoFile(Path("x.json"), {"images": images, "categories": []})


def test_ids_follow_the_longest_common_ending_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("all/cam1/0.png", "all/cam2/0.png", "0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    paths = [tmp_path / "all/cam2/0.png", tmp_path / "all/cam1/0.png"]
    assert [one["id"] for one in image_records(paths, listed("cam1/0.png", "cam2/0.png"))] == [20, 10]
    assert [one["id"] for one in image_records(paths, listed("D:\\cam1\\0.png", "D:\\cam2\\0.png"))] == [20, 10]
    monkeypatch.chdir(tmp_path / "all/cam2")
    assert image_records([Path("0.png")], listed("cam1/0.png", "cam2/0.png"))[0]["id"] == 20
    with pytest.raises(BCNetError, match=r"`cam1/0\.png` \(id 10\) and `cam2/0\.png` \(id 20\) fit equally"):
        image_records([tmp_path / "0.png"], listed("cam1/0.png", "cam2/0.png"))
    with pytest.raises(BCNetError, match="fit equally"):
        image_records([tmp_path / "0.png"], listed("0.png", "0.png"))
    with pytest.raises(BCNetError, match="1 of 2 images are not among the 1 images"):
        image_records(paths, listed("cam1/0.png"))


def test_sizes_follow_the_json_that_gives_the_ids(tmp_path: Path, untrained: Path) -> None:
    turned = Image.new("RGB", (8, 6))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "0.jpg", exif=exif)
    (record,) = image_records([tmp_path / "0.jpg"], listed("0.jpg"))
    assert (record["height"], record["width"]) == (6, 8)
    results = predict_images(load_detector(untrained, device="cpu"), [record], Path("/"), reporter=SilentReporter())
    assert results and all(one["segmentation"]["size"] == [6, 8] for one in results)


def test_sizes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    turned = Image.new("RGB", (8, 6))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    (record,) = image_records([tmp_path / "turned.jpg"], None)
    assert (record["height"], record["width"]) == (8, 6)
    (tmp_path / "text.jpg").write_text("no image")
    assert image_records([tmp_path / "text.jpg"], None)[0]["height"] == 0  # told when it is predicted


def photos(folder: Path, *sizes: tuple[int, int]) -> list[dict[str, Any]]:
    """Photos of noise of these widths and heights, as records."""
    folder.mkdir()
    for number, size in enumerate(sizes):
        Image.effect_noise(size, 60).convert("RGB").save(folder / f"{number}.png")
    return image_records(sorted(folder.iterdir()), None)


class Counting:
    """A detector that finds nothing, and remembers the shapes of what it was given."""

    categories = ({"id": 1, "name": "disc"},)

    def __init__(self) -> None:
        self.given: list[list[tuple[int, ...]]] = []

    def predict(self, images: list[Any]) -> list[Detections]:
        self.given.append([image.shape[:2] for image in images])
        return [
            Detections(
                torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), image.shape[:2],
                {"occludee_mask": torch.zeros(0, 28, 28)},
            )
            for image in images
        ]  # fmt: skip


def test_any_detector_gets_photos_of_a_shape_together(tmp_path: Path) -> None:
    images = photos(tmp_path / "photos", (8, 6), (6, 8), (16, 12), (8, 6), (6, 8), (8, 6))
    detector = Counting()
    found = list(predictions(detector, parts_of(images), None, reporter=SilentReporter(), batch=2))
    assert detector.given == [[(8, 6), (8, 6)], [(6, 8), (6, 8)], [(6, 8), (12, 16)]]
    assert sorted(part.image["id"] for part, _ in found) == [1, 2, 3, 4, 5, 6]
    assert all(one.image_size == (part.image["height"], part.image["width"]) for part, one in found)
    alone = Counting()
    found = list(predictions(alone, parts_of(images), None, reporter=SilentReporter()))
    assert [part.image["id"] for part, _ in found] == [1, 2, 3, 4, 5, 6] and {len(one) for one in alone.given} == {1}


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_few_images_are_in_memory_whatever_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    images = photos(tmp_path / "photos", *[(8, 6)] * 60)
    seen: list[weakref.ref[Any]] = []
    alive: list[int] = []
    original = predict._read

    def read(*arguments: Any) -> Any:
        pixels = original(*arguments)
        seen.append(weakref.ref(pixels))
        alive.append(sum(one() is not None for one in seen))
        return pixels

    monkeypatch.setattr(predict, "_read", read)
    assert len(list(predictions(Counting(), parts_of(images), None, reporter=SilentReporter(), batch=batch))) == 60
    assert max(alive) <= 2 * batch + max(batch, predict.READ_AHEAD)  # in the network, just out of it, and the next


def test_what_was_predicted_before_an_error_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, kept = photos(tmp_path / "photos", *[(8, 6)] * 6), list[int]()

    class Fails(Counting):
        def predict(self, images: list[Any]) -> list[Detections]:
            if len(self.given) == 2:
                raise BCNetError("the third batch")
            return super().predict(images)

    found = predictions(Fails(), parts_of(images), None, reporter=SilentReporter(), batch=2)
    with pytest.raises(BCNetError, match="the third batch"):
        kept.extend(part.image["id"] for part, _ in found)
    assert kept == [1, 2, 3, 4]

    def refuse(*_: object, **__: object) -> None:
        raise BCNetError("while encoding")

    monkeypatch.setattr(Detections, "instances", refuse)
    with pytest.raises(BCNetError, match="while encoding"):
        list(predictions(Counting(), parts_of(images), None, reporter=SilentReporter()))
