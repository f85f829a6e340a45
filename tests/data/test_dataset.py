import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import roi_align

from bcnet_core import BCNetError
from bcnet_core.annotations.coco import read_coco
from bcnet_core.config.choices import OccluderSource
from bcnet_core.config.data import DataConfig
from bcnet_core.data.dataset import TrainingSet
from bcnet_core.data.loaders import scan_images
from bcnet_core.data.transforms import Scene, training_steps
from bcnet_core.model.losses import bilayer_targets
from bcnet_core.model.rois import RoIs
from bcnet_core.reporting import SilentReporter
from tests.annotations.test_instances import CASES, write_cases


def square(identity: int, x: int, y: int, side: int, **extra: Any) -> dict[str, Any]:
    corners = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {
        "id": identity, "image_id": 1, "category_id": 5, "bbox": [x, y, side, side], "area": side * side,
        "iscrowd": 0, "segmentation": [corners], **extra,
    }  # fmt: skip


def make(folder: Path, *annotations: dict[str, Any], **options: Any) -> TrainingSet:
    Image.new("RGB", (100, 80)).save(folder / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": list(annotations),
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return open_set(folder, **{"min_size": 80, "max_size": 100, **options})


def open_set(folder: Path, *, occluders: OccluderSource = "auto", **options: Any) -> TrainingSet:
    steps = training_steps(DataConfig(**{"flip": 0.0, **options}))
    return TrainingSet(read_coco(folder / "coco.json"), folder, occluders=occluders, steps=steps)


def test_occluders_are_derived_from_plain_coco(tmp_path: Path) -> None:
    dataset = make(tmp_path, square(1, 10, 10, 30), square(2, 25, 10, 30), square(3, 70, 50, 10))
    assert not dataset.reads_occluders
    sample = dataset[0, 0]
    assert sample.image.shape == (3, 80, 100) and sample.targets.labels.tolist() == [1, 1, 1]
    assert sample.targets.boxes[0].tolist() == [10, 10, 40, 40]
    assert sample.targets.occluders.boxes.tolist() == [[25, 10, 40, 40], [25, 10, 40, 40], [0, 0, 0, 0]]
    assert dataset.occluder_share == pytest.approx(2 / 3)


def test_occluders_are_read_where_the_file_has_them(tmp_path: Path) -> None:
    region = [[0, 0, 8, 0, 8, 8, 0, 8]]
    annotations = [
        square(1, 10, 10, 30, bg_object_segmentation=region),
        square(2, 25, 10, 30, bg_object_segmentation=[]),
    ]
    dataset = make(tmp_path, *annotations)
    assert dataset.reads_occluders and dataset.occluder_share == 0.5
    assert dataset[0, 0].targets.occluders.boxes[0].tolist() == [0, 0, 8, 8]
    derived = make(tmp_path, *annotations, occluders="derive")
    assert derived[0, 0].targets.occluders.boxes[0].tolist() == [25, 10, 40, 40]


def test_a_rare_occluder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four images only the second has one; two are looked at, and the others because these have none."""
    monkeypatch.setattr("bcnet_core.data.dataset.SURVEYED", 2)
    instances = [square(image, 10, 10, 30, image_id=image) for image in (1, 2, 3, 4)]
    content = {
        "images": [{"id": image, "file_name": "a.png", "width": 100, "height": 80} for image in (1, 2, 3, 4)],
        "categories": [{"id": 5, "name": "dog"}],
        "annotations": [*instances, square(5, 25, 10, 30, image_id=2)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    dataset = TrainingSet(read_coco(tmp_path / "coco.json"), tmp_path)
    assert dataset.occluder_share == pytest.approx(2 / 5)


def test_missing_regions_are_derived_or_an_error(tmp_path: Path) -> None:
    pair = [square(1, 10, 10, 30, bg_object_segmentation=[]), square(2, 25, 10, 30)]
    dataset = make(tmp_path, *pair)
    assert dataset.reads_occluders and dataset.without_region == 1 and dataset.occluder_share == 0.5
    assert dataset[0, 0].targets.occluders.boxes.tolist() == [[0, 0, 0, 0], [25, 10, 40, 40]]
    with pytest.raises(BCNetError, match="has no `bg_object_segmentation` for 1 instances") as caught:
        make(tmp_path, *pair, occluders="file")
    assert "data.occluders=auto" in caught.value.hints[1]
    crowd = square(3, 50, 10, 20, iscrowd=1)
    make(tmp_path, *(square(index, 10, 10, 30, bg_object_segmentation=[]) for index in (1, 2)), crowd, occluders="file")


def test_occluders_from_a_file_without_any_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(BCNetError, match="has no `bg_object_segmentation`"):
        make(tmp_path, square(1, 10, 10, 30), occluders="file")


def test_crowds_and_instances_without_a_mask_are_no_targets(tmp_path: Path) -> None:
    crowd = square(2, 25, 10, 30, iscrowd=1, segmentation={"size": [80, 100], "counts": [0, 8000]})
    dataset = make(
        tmp_path, square(1, 10, 10, 30), crowd, square(3, 0, 0, 5, segmentation=[]), square(4, 0, 0, 0),
        square(5, 200, 10, 30), square(6, 5, 5, 9, segmentation=[[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]]),
    )  # fmt: skip
    assert len(dataset[0, 0].targets.boxes) == 1
    assert dataset.occluder_share == 0  # crowds do not occlude


def test_a_set_without_instances_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        BCNetError,
        match=r"no instance to train on: all 2 are left out, 1 flagged as crowds, 1 without a mask \(id 2\)$",
    ):
        make(tmp_path, square(1, 0, 0, 9, iscrowd=1), square(2, 0, 0, 9, segmentation=[]))


def test_a_set_takes_the_annotations_without_an_omission(tmp_path: Path) -> None:
    taken = [record for reason, record in CASES if reason is None]
    folder = write_cases(tmp_path)
    dataset = TrainingSet(read_coco(folder / "coco.json", check_annotations=False), folder)
    assert dataset.survey.total == len(CASES) and len(dataset) == 1
    assert len(dataset[0, 0].targets.boxes) == len(dataset[0, 0].targets.occludees.boxes) == len(taken) >= 5
    with pytest.raises(BCNetError, match="annotations\\[5\\]: is not an object"):
        read_coco(folder / "coco.json")


def test_the_seed_decides_the_flip(tmp_path: Path) -> None:
    dataset = make(tmp_path, square(1, 10, 10, 30), flip=0.5)
    flips = [dataset[0, seed].targets.boxes[0, 0].item() == 60 for seed in range(200)]
    assert 60 < sum(flips) < 140
    assert flips == [dataset[0, seed].targets.boxes[0, 0].item() == 60 for seed in range(200)]


def test_masks_of_real_images_fill_their_boxes(coco_mini: Path) -> None:
    coco = read_coco(coco_mini / "annotations/instances_val2017.json")
    steps = training_steps(DataConfig(min_size=128, max_size=192, flip=0.0))
    dataset = TrainingSet(coco, coco_mini / "val2017", steps=steps)
    dataset.check_images()
    assert 0.3 < dataset.occluder_share < 0.8
    for position in range(0, len(dataset), 10):
        targets = dataset[position, 0].targets
        extents = targets.occludees.boxes.numpy()
        sizes = (extents[:, 2:] - extents[:, :2]).prod(1)
        assert targets.occludees.bits.numel() == ((sizes + 7) // 8).sum()
        scale = targets.placement.numpy()[[0, 2, 0, 2]]
        distance = np.abs(extents * scale - targets.boxes.numpy())  # annotators drew some boxes by hand
        assert distance.mean() < 0.3 and distance.max() < 5


def drawn(folder: Path, **options: Any) -> TrainingSet:
    """Two overlapping squares: red where the first is seen, green where the second is, which is above."""
    make(folder, square(1, 20, 20, 40), square(2, 45, 30, 40))
    content = json.loads((folder / "coco.json").read_text())
    content["annotations"][0]["segmentation"] = [[20, 20, 60, 20, 60, 30, 45, 30, 45, 60, 20, 60]]
    (folder / "coco.json").write_text(json.dumps(content))
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[20:60, 20:60, 0] = 255
    pixels[30:70, 45:85] = (0, 255, 0)
    Image.fromarray(pixels).save(folder / "a.png")
    defaults: dict[str, Any] = {"min_size": 160, "max_size": 200}
    return open_set(folder, **(defaults | options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": 1.0},
        {"flip_vertical": 1.0},
        {"flip": 1.0, "flip_vertical": 1.0, "scale_jitter": (0.6, 1.6)},
        {"color_jitter": (0.2, 0.2, 0.2)},
        {"train_sizes": (96, 120, 160)},
        {"scale_jitter": (0.4, 2.0)},
        {"scale_jitter": (1.2, 2.0), "flip": 1.0, "max_size": 120, "min_size": 100},
    ],
)
def test_both_layers_move_with_the_pixels(tmp_path: Path, options: dict[str, Any]) -> None:
    """What the targets say of both layers inside a box is what the picture shows there, whatever was done to it."""
    dataset = drawn(tmp_path, **options)
    compared = 0
    for seed in range(12):
        image, targets, _, _ = dataset[0, seed]
        count = len(targets.boxes)
        if not count:
            continue
        everyone = torch.arange(count)
        rois = RoIs(targets.boxes, torch.zeros_like(everyone), everyone, torch.zeros(count))
        maps = bilayer_targets([targets], rois, size=28)
        seen = image[:2].float() > 127
        pooled = [
            roi_align(color[None, None].float(), [targets.boxes], (28, 28), aligned=True)[:, 0] >= 0.5 for color in seen
        ]
        for index in range(count):
            x0, y0, x1, y1 = targets.boxes[index].tolist()
            if min(x1 - x0, y1 - y0) < 24:
                continue
            own = 0 if overlap(pooled[0][index], maps["occludee_mask"][index]) > 0.5 else 1
            assert overlap(pooled[own][index], maps["occludee_mask"][index]) > 0.9, (seed, index)
            if maps["occluder_mask"][index].sum() > 60:
                assert overlap(pooled[1 - own][index], maps["occluder_mask"][index]) > 0.85, (seed, index)
                compared += 1
    assert compared >= 5


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def test_a_window_cuts_boxes_and_masks(tmp_path: Path) -> None:
    dataset = drawn(tmp_path, scale_jitter=(4.0, 4.0), min_size=60, max_size=60)
    counts = set()
    for seed in range(30):
        image, targets, _, _ = dataset[0, seed]
        counts.add(len(targets.boxes))
        height, width = image.shape[1:]
        assert (targets.boxes >= -1e-3).all() and (targets.boxes <= torch.tensor([width, height] * 2) + 1e-3).all()
        assert (targets.boxes[:, 2:] > targets.boxes[:, :2]).all()
        many = sum(int((image[channel] > 127).sum() > 200) for channel in (0, 1))  # more than the blur of a rim
        assert many <= len(targets.boxes) <= 2
    assert counts >= {1, 2}


def test_the_scan_names_every_unusable_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    good = Image.fromarray(pixels)
    for name, mode in (("rgb.jpg", "RGB"), ("grey.jpg", "L"), ("cmyk.jpg", "CMYK"), ("palette.png", "P")):
        good.convert(mode).save(tmp_path / name)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    good.save(tmp_path / "turned.jpg", exif=exif)
    data = (tmp_path / "rgb.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "noise.jpg").write_bytes(b"no image at all")
    Image.fromarray(pixels[:20]).save(tmp_path / "smaller.jpg")
    fine = ["rgb.jpg", "grey.jpg", "cmyk.jpg", "palette.png", "turned.jpg"]
    bad = ["cut.jpg", "noise.jpg", "smaller.jpg", "missing.jpg"]
    for names in (fine, fine + bad):
        images = [{"id": n, "file_name": name, "height": 40, "width": 60} for n, name in enumerate(names)]
        content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "x"}]}
        (tmp_path / "c.json").write_text(json.dumps(content))
        coco = read_coco(tmp_path / "c.json")
        if names is fine:
            scan_images(coco, tmp_path, workers=1, reporter=SilentReporter())
    with pytest.raises(BCNetError, match=r"4 of the 9 images in .* cannot be used") as caught:
        scan_images(coco, tmp_path, workers=1, reporter=SilentReporter())
    assert caught.value.exit_code == 3
    assert all(any(name in hint for hint in caught.value.hints) for name in bad)
    assert not any(name in hint for hint in caught.value.hints for name in fine)


def test_an_augmentation_is_one_more_step(tmp_path: Path) -> None:
    def darken(scene: Scene, rng: np.random.Generator) -> Scene:
        return scene._replace(pixels=(scene.pixels * rng.uniform(0, 0.5)).astype(np.uint8))

    dataset = drawn(tmp_path)
    (plain, targets, _, _), coco = dataset[0, 3], read_coco(tmp_path / "coco.json")
    dark = TrainingSet(coco, tmp_path, steps=[*training_steps(DataConfig(min_size=160, max_size=200)), darken])
    sample = dark[0, 3]
    assert 0 < sample.image.max() <= 128 < plain.max() and sample.targets.boxes.shape == targets.boxes.shape
    assert torch.equal(sample.image, dark[0, 3].image)
