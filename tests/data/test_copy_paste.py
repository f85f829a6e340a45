"""Pasted objects: what is on top is known, so masks, boxes and occluder regions are compared with their definitions."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from bcnet_core import BCNetError, masks
from bcnet_core.annotations.coco import read_coco
from bcnet_core.annotations.occluder import derive_occluders
from bcnet_core.config.data import DataConfig, DatasetConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.data.copy_paste import PasteObjects, find_objects, paste_objects
from bcnet_core.data.loaders import open_training_set
from bcnet_core.data.transforms import Scene
from tests.data.test_dataset import square
from tests.data.test_transforms import blank_scene

RED = (255, 0, 0)


def write_set(folder: Path, *annotations: dict[str, Any], images: int = 1, size: tuple[int, int] = (120, 160)) -> None:
    """Write images in gray noise, red where an annotated square is."""
    listed = []
    for number in range(1, images + 1):
        pixels = np.random.default_rng(number).integers(60, 120, (*size, 3), dtype=np.uint8)
        for one in annotations:
            if one["image_id"] == number and not one["iscrowd"]:
                x, y, width, height = one["bbox"]
                pixels[y : y + height, x : x + width] = RED
        Image.fromarray(pixels).save(folder / f"{number}.png")
        listed.append({"id": number, "file_name": f"{number}.png", "height": size[0], "width": size[1]})
    content = {
        "images": listed,
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": list(annotations),
    }
    (folder / "coco.json").write_text(json.dumps(content))


def source(folder: Path) -> PasteObjects:
    """One image with one red square of 40 x 40."""
    write_set(folder, square(1, 30, 30, 40))
    return find_objects(read_coco(folder / "coco.json"), folder)


def scene_of(*rles: masks.RLE, height: int = 120, width: int = 160) -> Scene:
    """A black scene with these masks, their tight boxes, and their occluder regions by the rule."""
    boxes = np.array([masks.bounding_box(rle) for rle in rles]).reshape(-1, 4)
    regions = derive_occluders([{"bbox": box} for box in boxes.tolist()], list(rles), height, width)
    boxes[:, 2:] += boxes[:, :2]
    return blank_scene(height, width)._replace(
        boxes=boxes,
        labels=np.zeros(len(rles), np.int64),
        occludees=list(rles),
        occluders=regions,
        wholes=[None] * len(rles),
    )


def box_mask(*box: int, height: int = 120, width: int = 160) -> masks.RLE:
    return masks.from_box(*box, height, width)


def paste(scene: Scene, seed: int, objects: PasteObjects, **options: Any) -> Scene:
    settings: dict[str, Any] = {
        "probability": 1.0, "most": 3, "overlap": (0.1, 0.5), "scale": (0.7, 1.4), "mirror": 0.5, **options,
    }  # fmt: skip
    return paste_objects(scene, np.random.default_rng(seed), objects=objects, **settings)


def by_the_rule(scene: Scene) -> list[masks.RLE | None]:
    boxes = scene.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]
    height, width = scene.pixels.shape[:2]
    return derive_occluders([{"bbox": box} for box in boxes.tolist()], scene.occludees, height, width)


def dense(rle: masks.RLE) -> NDArray[np.bool_]:
    return masks.decode(rle)


def check_exact(before: Scene, after: Scene, *, most: float) -> None:
    """Compare a scene with its definition: everything pasted later is on top of everything before."""
    whole = [*map(dense, before.occludees)]
    count = len(before.labels)
    assert len(after.boxes) == len(after.labels) == len(after.occludees) == len(after.occluders) > count
    seen = [*map(dense, after.occludees)]
    pasted = np.logical_or.reduce(seen[count:])
    for index, mask in enumerate(whole):
        assert not (seen[index] & pasted).any()
        assert (seen[index] == mask & ~pasted).all()  # so with what hides it, it contains what it was
        assert seen[index].sum() >= (1 - most) * mask.sum() > 0
        tight = masks.bounding_box(after.occludees[index])
        was = masks.bounding_box(before.occludees[index])
        expected = before.boxes[index] if (tight == was).all() else [*tight[:2], *(tight[:2] + tight[2:])]
        assert after.boxes[index].tolist() == list(expected)
    for one in range(count, len(seen)):
        assert not any((seen[one] & seen[other]).any() for other in range(count, one))
        x, y, width, height = masks.bounding_box(after.occludees[one])
        assert after.boxes[one].tolist() == [x, y, x + width, y + height]
    assert after.occluders == by_the_rule(after)


@pytest.mark.parametrize("seed", range(25))
def test_masks_boxes_and_occluders_are_those_of_the_new_scene(tmp_path: Path, seed: int) -> None:
    """Two of the instances share pixels, as crossing objects with whole masks do."""
    objects = source(tmp_path)
    before = scene_of(
        box_mask(10, 20, 60, 70), box_mask(40, 40, 100, 60), box_mask(99, 10, 110, 20), box_mask(120, 80, 150, 110)
    )
    kept = before.pixels.copy(), list(before.occludees), before.boxes.copy()
    after = paste(before, seed, objects)
    check_exact(before, after, most=0.5)
    pasted = np.logical_or.reduce([dense(rle) for rle in after.occludees[4:]])
    assert any((dense(rle) & pasted).any() for rle in before.occludees), "nothing is hidden"
    assert (before.pixels == kept[0]).all() and before.occludees == kept[1] and (before.boxes == kept[2]).all()
    again = paste(before, seed, objects)
    assert (again.pixels == after.pixels).all() and again.occludees == after.occludees


def test_the_picture_shows_the_objects_where_their_masks_are_with_soft_edges(tmp_path: Path) -> None:
    objects, before = source(tmp_path), scene_of(box_mask(60, 40, 110, 90))
    after = paste(before, 0, objects, most=1)
    mask = dense(after.occludees[1])
    inside, outside = (np.pad(side, 2, constant_values=True) for side in (mask, ~mask))
    height, width = mask.shape
    for side, color in ((inside, RED), (outside, (0, 0, 0))):
        shifts = [side[y : y + height, x : x + width] for y in range(5) for x in range(5)]
        assert (after.pixels[np.logical_and.reduce(shifts)] == color).all()
    reds = after.pixels[..., 0]
    assert ((reds > 20) & (reds < 235)).sum() > 50, "the edge is hard"
    assert (reds[mask] >= 127).all() and (reds[~mask] <= 128).all()


def test_the_hidden_share_is_in_its_range(tmp_path: Path) -> None:
    objects, before = source(tmp_path), scene_of(box_mask(60, 40, 110, 90))
    shares = []
    for seed in range(60):
        after = paste(before, seed, objects, most=1, overlap=(0.2, 0.4))
        shares.append(1 - masks.area(after.occludees[0]) / masks.area(before.occludees[0]))
    assert min(shares) >= 0.2 and max(shares) <= 0.4
    assert min(shares) < 0.24 and max(shares) > 0.36


def test_no_instance_is_hidden_more_than_the_most_by_all_together(tmp_path: Path) -> None:
    """Small instances everywhere: no place is left where a pasted square would not hide one of them wholly."""
    objects = source(tmp_path)
    crowd = [box_mask(x, y, x + 8, y + 8) for x in range(4, 150, 12) for y in range(4, 110, 12)]
    before = scene_of(*crowd)
    assert all(paste(before, seed, objects, most=3) is before for seed in range(10))


def test_objects_come_at_the_size_that_they_had_relative_to_their_image(tmp_path: Path) -> None:
    objects = source(tmp_path)
    before = scene_of(box_mask(100, 100, 200, 200, height=240, width=320), height=240, width=320)
    sides = [
        np.sqrt(masks.area(paste(before, seed, objects, most=1, scale=(0.8, 1.25)).occludees[1])) for seed in range(40)
    ]
    assert 60 < min(sides) < 70 and 92 < max(sides) < 101  # 40 in an image of half the size


def test_an_object_larger_than_the_image_is_made_smaller(tmp_path: Path) -> None:
    objects = source(tmp_path)
    before = scene_of(box_mask(5, 5, 25, 25, height=30, width=160), height=30, width=160)
    pasted = [paste(before, seed, objects, most=1, scale=(5, 10), overlap=(0.0, 0.9)) for seed in range(20)]
    grown = [scene for scene in pasted if scene is not before]
    assert grown
    for scene in grown:
        check_exact(before, scene, most=0.9)
        assert scene.boxes[1, 3] - scene.boxes[1, 1] <= 21


def test_a_scene_without_instances_gets_some(tmp_path: Path) -> None:
    objects = source(tmp_path)
    corners = set()
    for seed in range(20):
        after = paste(blank_scene(120, 160), seed, objects, most=1)
        assert after.labels.tolist() == [1] and after.occluders == [None]
        corners.add(tuple(after.boxes[0, :2].tolist()))
    assert len(corners) > 15


def test_regions_of_the_file_stay_where_nothing_was_pasted(tmp_path: Path) -> None:
    objects, drawn = source(tmp_path), box_mask(140, 100, 141, 101)
    before = scene_of(box_mask(5, 5, 35, 35), box_mask(130, 90, 155, 115))._replace(occluders=[None, drawn])
    kept = 0
    for seed in range(20):
        after = paste(before, seed, objects, most=1)
        if after is before or (after.boxes[2, 2:] + 1 < after.boxes[1, :2]).any():
            assert after.occluders[1] is drawn
            kept += 1
        else:
            assert after.occluders[1] == by_the_rule(after)[1]
    assert 2 < kept < 18


def test_the_probability_holds(tmp_path: Path) -> None:
    objects, before = source(tmp_path), scene_of(box_mask(60, 40, 110, 90))
    pasted = sum(paste(before, seed, objects, probability=0.3) is not before for seed in range(200))
    assert 40 < pasted < 80
    assert all(paste(before, seed, objects, probability=0.0) is before for seed in range(10))


def test_complete_objects_are_taken_and_others_only_where_these_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = square(7, 100, 65, 40, iscrowd=1)
    touching = [square(2, 90, 10, 30), square(3, 115, 30, 30)]
    rest = [square(4, 0, 80, 30), square(5, 60, 90, 12)]  # at the border, too small
    write_set(tmp_path, square(1, 20, 20, 30), *touching, *rest, square(6, 30, 30, 40, image_id=2), crowd, images=2)
    coco = read_coco(tmp_path / "coco.json")
    few = find_objects(coco, tmp_path)
    assert sorted(one.annotation["id"] for group in few.objects for one in group) == [1, 2, 3, 6]
    assert few.describe() == "copy-paste: 4 objects in one piece of 2 images"
    monkeypatch.setattr("bcnet_core.data.copy_paste.ENOUGH", 2)
    whole = find_objects(coco, tmp_path)
    assert [[one.annotation["id"] for one in group] for group in whole.objects] == [[1], [6]]
    assert whole.describe() == "copy-paste: 2 whole objects of 2 images"
    monkeypatch.setattr("bcnet_core.data.copy_paste.SOURCES", 1)
    assert len(find_objects(coco, tmp_path)) == 3


def test_polygons_and_rles_give_the_same_samples(tmp_path: Path) -> None:
    boxes = [square(1, 20, 20, 40), square(2, 50, 40, 40), square(3, 100, 60, 30)]
    samples = []
    for rles in (False, True):
        if rles:
            for one in boxes:
                x, y, width, height = one["bbox"]
                one["segmentation"] = masks.to_json(box_mask(x, y, x + width, y + height))
        write_set(tmp_path, *boxes)
        samples.append([open_set(tmp_path)[0, seed] for seed in range(5)])
    for one, other in zip(*samples, strict=True):
        assert torch.equal(one.image, other.image) and torch.equal(one.targets.boxes, other.targets.boxes)
        assert torch.equal(one.targets.occludees.bits, other.targets.occludees.bits)


def open_set(folder: Path, **options: Any) -> Any:
    train = DatasetConfig(annotations=Path("coco.json"), images=Path())
    settings: dict[str, Any] = {"min_size": 120, "max_size": 160, "copy_paste": {"probability": 1.0}, **options}
    return open_training_set(Recipe(data=DataConfig(root=folder, train=train, **settings)))[0]


def test_the_seed_decides_a_sample(tmp_path: Path) -> None:
    """One image is enough: its own objects are pasted."""
    write_set(tmp_path, square(1, 20, 20, 30), square(2, 90, 50, 40))
    dataset = open_set(tmp_path)
    first, other, again = (dataset[0, seed] for seed in (1, 2, 1))
    assert len(first.targets.boxes) > 2
    assert torch.equal(first.image, again.image) and torch.equal(first.targets.boxes, again.targets.boxes)
    assert not torch.equal(first.image, other.image)
    elsewhere = pickle.loads(pickle.dumps(dataset))  # as a worker gets it where processes are spawned
    for same in (open_set(tmp_path), elsewhere):
        assert torch.equal(first.image, same[0, 1].image)


def test_pasted_objects_are_mirrored_only_where_images_are(tmp_path: Path) -> None:
    objects = source(tmp_path)
    pixels = np.array(Image.open(tmp_path / "1.png"))
    pixels[30:70, 30:50] = (0, 0, 255)  # blue on the left, red on the right
    Image.fromarray(pixels).save(tmp_path / "1.png")
    before = scene_of(box_mask(60, 40, 110, 90))
    for mirror in (0.0, 1.0):
        after = paste(before, 4, objects, most=1, mirror=mirror)
        x0, y0, x1, y1 = after.boxes[1].astype(int).tolist()
        left = after.pixels[(y0 + y1) // 2, x0 + 4].argmax()
        assert left == (2 if mirror == 0 else 0) and x1 > x0


def test_a_set_without_occluders_trains_with_pasted_ones(tmp_path: Path) -> None:
    write_set(tmp_path, square(1, 20, 20, 30), square(2, 90, 50, 40))
    with pytest.raises(BCNetError, match="has an occluder") as caught:
        open_set(tmp_path, copy_paste={"probability": 0.0})
    assert "paste objects over each other: data.copy_paste.probability=0.5" in caught.value.hints
    targets = open_set(tmp_path)[0, 0].targets
    assert (targets.occluders.boxes[:, 2] > 0).any()


def test_a_set_without_an_object_to_paste_is_an_error(tmp_path: Path) -> None:
    write_set(tmp_path, square(1, 0, 20, 30), square(2, 90, 50, 9))
    with pytest.raises(BCNetError, match=r"no object to paste over others: 1 too small, 1 at the border") as caught:
        open_set(tmp_path)
    assert caught.value.exit_code == 3 and caught.value.hints == ("train without: data.copy_paste.probability=0",)


@pytest.mark.parametrize("name", ["worms", "granules", "coco-street"])
def test_real_crowds_stay_exact(name: str) -> None:
    root = Path(__file__).parents[2].parent / "shared" / "data" / name
    if not root.is_dir():
        pytest.skip(f"../shared/data/{name} is not here")
    dataset, coco = open_training_set(Recipe(data=DataConfig(root=root, allow_no_occluders=True)))
    keep = {image["id"] for image in coco.images[:4]}
    content = {
        "images": coco.images[:4], "categories": coco.categories,
        "annotations": [one for one in coco.annotations if one["image_id"] in keep],
    }  # fmt: skip
    objects = find_objects(type(coco)(coco.path, content), root / "train2017")
    compared = 0
    for position in range(4):
        before = dataset._scene(position)
        after = paste(before, position, objects, overlap=(0.03, 0.5))
        if after is not before:
            compared += 1
            seen, rest = after.occludees, masks.complement(masks.union(after.occludees[len(before.labels) :]))
            assert seen[: len(before.labels)] == [masks.intersection(rle, rest) for rle in before.occludees]
            for index, region in enumerate(by_the_rule(after)):
                assert after.occluders[index] == region
    assert compared >= 2
