"""Whole masks on their way into training: what a start says of them, and what moves and pastes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.ops import roi_align

from bcnet_core import BCNetError, masks
from bcnet_core.annotations.coco import CocoFile, read_coco
from bcnet_core.annotations.occluder import derive_occluders, hiding_regions
from bcnet_core.config.data import DataConfig, DatasetConfig
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.data.copy_paste import find_objects, paste_objects
from bcnet_core.data.dataset import TrainingSet
from bcnet_core.data.loaders import open_training_set
from bcnet_core.data.transforms import Scene, crop
from bcnet_core.engine.launch import open_data
from bcnet_core.model.losses import bilayer_targets
from bcnet_core.model.rois import RoIs
from tests.annotations.test_amodal import layered
from tests.data.test_copy_paste import write_set
from tests.data.test_dataset import overlap, square
from tests.data.test_transforms import blank_scene

HEIGHT, WIDTH = 40, 60


class Lines:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)

    warning = info


def recipe(folder: Path, *, model: dict[str, Any] | None = None, **data: Any) -> Recipe:
    train = DatasetConfig(annotations=Path("coco.json"), images=Path())
    settings: dict[str, Any] = {"min_size": 80, "max_size": 120, "flip": 0.0, "allow_no_occluders": True, **data}
    chosen = {"amodal": True} if model is None else model
    return Recipe(data=DataConfig(root=folder, train=train, **settings), model=ModelConfig(**chosen))


def opened(folder: Path, **options: Any) -> TrainingSet:
    return open_training_set(recipe(folder, **options))[0]


def corners(x: int, y: int, across: int, down: int) -> list[list[int]]:
    return [[x, y, x + across, y, x + across, y + down, x, y + down]]


class TestTruthBeforeTraining:
    def test_a_start_says_how_many_have_a_whole_mask(self, tmp_path: Path) -> None:
        """One hides another, one is short, one leaves the image, one is empty, two have none."""
        records = [
            square(1, 20, 20, 30, amodal_segmentation=corners(20, 20, 45, 30)),
            square(2, 50, 20, 30, amodal_segmentation=corners(50, 20, 30, 30)),
            square(3, 90, 20, 20, amodal_segmentation=corners(90, 20, 20, 10)),
            square(4, 130, 60, 20, amodal_segmentation=corners(130, 60, 90, 20)),
            square(5, 90, 60, 20, amodal_segmentation=[]),
            square(6, 20, 60, 20),
            square(7, 55, 60, 20),
        ]
        write_set(tmp_path, *records)
        told = Lines()
        dataset = open_data(recipe(tmp_path), None, torch.device("cpu"), told).dataset  # type: ignore[arg-type]
        assert (
            "whole masks: 4 of 7 instances; the others train their visible part alone; 1 have no pixel and count as "
            "unknown; 1 lack a part of the visible mask and are united with it; 1 instances hide a part of another"
        ) in told.lines
        targets = dataset[0, 0].targets
        boxes = [[20, 20, 65, 50], [50, 20, 80, 50], [90, 20, 110, 40], [130, 60, 160, 80]]
        assert targets.wholes.boxes.tolist() == [*boxes, *([[0] * 4] * 3)]
        assert (targets.boxes[:4] / targets.placement[0]).round().tolist() == boxes
        assert targets.occluders.boxes.tolist()[0] == [50, 20, 65, 50]

    def test_a_plain_training_says_nothing_of_them(self, tmp_path: Path) -> None:
        write_set(tmp_path, square(1, 20, 20, 30, amodal_segmentation="?"), square(2, 50, 20, 30))
        told = Lines()
        dataset = open_data(recipe(tmp_path, model={}), None, torch.device("cpu"), told).dataset  # type: ignore[arg-type]
        assert not any("whole" in line for line in told.lines) and len(dataset.survey.coco.annotations) == 2
        assert not dataset[0, 0].targets.wholes.boxes.any()

    def test_an_unreadable_one_is_left_out_where_it_is_read(self, tmp_path: Path) -> None:
        whole = square(2, 50, 20, 30, amodal_segmentation=corners(40, 20, 40, 30))
        write_set(tmp_path, square(1, 20, 20, 30, amodal_segmentation="?"), whole)
        for options in ({}, {"model": {}, "boxes": "amodal"}):
            survey = opened(tmp_path, **options).survey
            assert survey.describe("train") == (
                "1 of 2 instances train; left out: 1 whose `amodal_segmentation` cannot be read (id 1)"
            )

    def test_a_large_set_is_counted_in_a_part(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bcnet_core.data.dataset.SURVEYED", 2)
        monkeypatch.setattr("bcnet_core.engine.launch.SURVEYED", 2)
        records = [square(n, 20, 20, 30, image_id=n, amodal_segmentation=corners(20, 20, 40, 30)) for n in range(1, 6)]
        write_set(tmp_path, *records, images=5)
        told = Lines()
        open_data(recipe(tmp_path), None, torch.device("cpu"), told)  # type: ignore[arg-type]
        counted = "whole masks: all 2 instances; 0 instances hide a part of another (counted in 2 of 5 images)"
        assert counted in told.lines
        for one in records:
            if one["id"] != 3:
                del one["amodal_segmentation"]
        write_set(tmp_path, *records, images=5)
        assert opened(tmp_path).whole_counts.known == 1, "a rare whole mask is found"

    @pytest.mark.parametrize(
        ("options", "without"),
        [
            ({}, "model.amodal=false"),
            ({"boxes": "amodal"}, "model.amodal=false data.boxes=visible"),
            ({"boxes": "amodal", "model": {}}, "data.boxes=visible"),
        ],
    )
    def test_a_set_without_any_is_an_error_with_the_ways_out(
        self, tmp_path: Path, options: dict[str, Any], without: str
    ) -> None:
        write_set(tmp_path, square(1, 20, 20, 30), square(2, 90, 20, 30, amodal_segmentation=[]))
        with pytest.raises(BCNetError, match=r"no instance in .* has a whole mask \(`amodal_segmentation`\)") as caught:
            opened(tmp_path, **options)
        hints = "\n".join(caught.value.hints)
        assert caught.value.exit_code == 3 and caught.value.hints[-1] == f"or train without: {without}"
        for way in ("bcnet data import", "bcnet synth", "data.copy_paste.probability"):
            assert way in hints

    def test_if_they_were_left_out_the_error_says_so(self, tmp_path: Path) -> None:
        write_set(tmp_path, square(1, 20, 20, 30, amodal_segmentation="?"), square(2, 90, 20, 30))
        with pytest.raises(BCNetError, match="whose `amodal_segmentation` cannot be read") as caught:
            opened(tmp_path)
        assert "bcnet data check" in caught.value.hints[0]

    def test_copy_paste_makes_them_of_instances_that_nothing_hides(self, tmp_path: Path) -> None:
        """Of a plain set: the squares 1 and 2 touch, 3 is complete."""
        write_set(tmp_path, square(1, 20, 20, 30), square(2, 50, 30, 30), square(3, 100, 50, 40))
        told, asked = Lines(), recipe(tmp_path, copy_paste={"probability": 1.0})
        dataset = open_data(asked, None, torch.device("cpu"), told).dataset  # type: ignore[arg-type]
        sentence = "whole masks: 1 of 3 instances; 1 of them are visible masks that only pasted objects hide; "
        assert f"{sentence}the others train their visible part alone" in told.lines
        hidden = 0
        for seed in range(30):
            targets = dataset[0, seed].targets
            assert not targets.wholes.boxes[:2].any()
            assert targets.wholes.boxes[2].tolist() == [100, 50, 140, 90]
            seen = targets.occludees.boxes[2].tolist()
            hidden += seen != [100, 50, 140, 90] or bool(targets.occluders.boxes[2].any())
        assert hidden > 3


def paint(folder: Path, seed: int = 17) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Write three layered ellipses, the whole one of each in a color channel; return the visible and whole masks."""
    visible, whole = layered(np.random.default_rng(seed), count=3)
    assert (whole & ~visible).any((1, 2)).sum() == 2
    Image.fromarray((whole.transpose(1, 2, 0) * 255).astype(np.uint8)).save(folder / "a.png")
    records = []
    for number, (seen, full) in enumerate(zip(visible, whole, strict=True)):
        rle = masks.encode(seen)
        records.append({
            "id": number + 1, "image_id": 1, "category_id": number, "bbox": masks.bounding_box(rle).tolist(),
            "segmentation": masks.to_json(rle), "amodal_segmentation": masks.to_json(masks.encode(full)),
        })  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": number, "name": str(number)} for number in range(3)],
        "annotations": records,
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return visible, whole


@pytest.mark.parametrize("boxes", ["auto", "visible"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": 1.0},
        {"flip_vertical": 1.0},
        {"flip": 1.0, "flip_vertical": 1.0, "scale_jitter": (0.8, 1.6)},
        {"color_jitter": (0.2, 0.2, 0.2)},
        {"train_sizes": (96, 120, 160)},
        {"scale_jitter": (1.2, 2.0), "flip": 1.0},
    ],
)
def test_the_third_mask_moves_with_the_pixels(tmp_path: Path, options: dict[str, Any], boxes: str) -> None:
    """Each color channel shows the whole of one object: so does its target, and a box around it fits."""
    paint(tmp_path)
    dataset = opened(tmp_path, **{"min_size": 160, "max_size": 240, "boxes": boxes, **options})
    compared = 0
    for seed in range(8):
        image, targets, _, _ = dataset[0, seed]
        count = len(targets.boxes)
        everyone = torch.arange(count)
        rois = RoIs(targets.boxes, torch.zeros_like(everyone), everyone, torch.zeros(count))
        maps = bilayer_targets([targets], rois, size=28)
        shown = image > 127
        for index, label in enumerate(targets.labels.tolist()):
            box, channel = targets.boxes[index], shown[label]
            if (box[2:] - box[:2]).min() < 24:
                continue
            pooled = roi_align(channel[None, None].float(), [box[None]], (28, 28), aligned=True)[0, 0] >= 0.5
            assert overlap(pooled, maps["amodal_mask"][index].reshape(28, 28).bool()) > 0.9, (seed, index)
            rows, columns = (channel.any(axis).nonzero()[:, 0] for axis in (1, 0))
            tight = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert boxes == "visible" or (box - tight).abs().max() <= 4, (
                seed,
                index,
            )  # of a blur, and a pixel that is stored as four
            compared += 1
    assert compared >= 8


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("amodal_boxes", [False, True])
def test_a_window_cuts_whole_masks_as_dense_ones(seed: int, amodal_boxes: bool) -> None:
    rng = np.random.default_rng(seed)
    visible, whole = layered(rng)
    before = dense_scene(visible, whole, amodal_boxes=amodal_boxes)
    x0, y0 = int(rng.integers(0, 30)), int(rng.integers(0, 20))
    x1, y1 = x0 + 25, y0 + 18
    after = crop(before, (x0, y0, x1, y1))
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[y0:y1, x0:x1] = True
    kept = [index for index, mask in enumerate(visible) if (mask & inside).any()]
    assert after.labels.tolist() == kept and len(kept) > 0
    for index, box, rle in zip(kept, after.boxes.tolist(), after.wholes, strict=True):
        assert rle is not None and (masks.decode(rle) == (whole[index] & inside)).all()
        boxed = (whole if amodal_boxes else visible)[index] & inside
        assert box == tight_box(boxed)


def tight_box(mask: NDArray[np.bool_]) -> list[float]:
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def dense_scene(
    visible: NDArray[np.bool_], whole: NDArray[np.bool_], *, amodal_boxes: bool, unknown: int = -1
) -> Scene:
    """A black scene of these (N, H, W) masks, whose labels are their numbers; of one the whole mask is unknown."""
    rles = [masks.encode(mask) for mask in visible]
    wholes = [None if index == unknown else masks.encode(mask) for index, mask in enumerate(whole)]
    boxed = [mask if amodal_boxes and known else seen for seen, mask, known in zip(visible, whole, wholes, strict=True)]
    scene = blank_scene(*visible.shape[1:])._replace(
        boxes=np.array([tight_box(mask) for mask in boxed], np.float64), labels=np.arange(len(rles)), occludees=rles,
        wholes=wholes, amodal_boxes=amodal_boxes, occluders=[None] * len(rles),
    )  # fmt: skip
    return scene._replace(occluders=by_definition(scene))


def by_definition(scene: Scene) -> list[masks.RLE | None]:
    """Return the occluder regions of a scene: what lies in front where the whole mask is known, else by the rule."""
    height, width = scene.pixels.shape[:2]
    boxes = scene.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]
    derived = derive_occluders([{"bbox": box} for box in boxes.tolist()], scene.occludees, height, width)
    hiding = hiding_regions(scene.occludees, scene.wholes, height, width)
    known = [whole is not None for whole in scene.wholes]
    return [one if is_known else other for one, other, is_known in zip(hiding, derived, known, strict=True)]


@pytest.mark.parametrize("amodal_boxes", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_pasted_objects_hide_a_known_part(tmp_path: Path, seed: int, amodal_boxes: bool) -> None:
    write_set(tmp_path, square(1, 30, 30, 40))
    objects = find_objects(read(tmp_path), tmp_path, reads_wholes=True)
    visible, whole = (np.kron(part, np.ones((3, 3), bool)) for part in layered(np.random.default_rng(seed)))
    before = dense_scene(visible, whole, amodal_boxes=amodal_boxes, unknown=seed % 6)
    tries = (
        paste_objects(
            before, np.random.default_rng(number), objects=objects, probability=1.0, most=3, overlap=(0.1, 0.6),
            scale=(0.5, 1.0), mirror=0.5,
        )
        for number in range(20)
    )  # fmt: skip
    after = next(scene for scene in tries if scene is not before)
    seen, pasted = [masks.decode(rle) for rle in after.occludees], len(after.labels) - 6
    assert after.wholes[:6] == before.wholes, "a known whole mask stays, an unknown one stays unknown"
    for index in range(6):
        assert (seen[index] == visible[index] & ~np.logical_or.reduce(seen[6:])).all()
        known = amodal_boxes and after.wholes[index] is not None
        assert after.boxes[index].tolist() == (before.boxes[index].tolist() if known else tight_box(seen[index]))
    for index in range(6, 6 + pasted):
        full = after.wholes[index]
        assert full is not None and (seen[index] == masks.decode(full) & ~np.logical_or.reduce(
            [*seen[index + 1 :], np.zeros_like(seen[0])]
        )).all()  # fmt: skip
        assert after.boxes[index].tolist() == tight_box(masks.decode(full) if amodal_boxes else seen[index])
    assert after.occluders == by_definition(after)


def read(folder: Path) -> CocoFile:
    return read_coco(folder / "coco.json")


def test_a_stored_whole_mask_decides_whether_an_object_is_whole(tmp_path: Path) -> None:
    """1 stands alone but is hidden by something that nobody annotated; 2 and 3 touch, and 3 hides 2."""
    write_set(
        tmp_path,
        square(1, 10, 60, 30, amodal_segmentation=corners(10, 60, 45, 30)),
        square(2, 60, 10, 30, amodal_segmentation=corners(60, 10, 40, 30)),
        square(3, 90, 10, 30, amodal_segmentation=corners(90, 10, 30, 30)),
        square(4, 70, 70, 30),
    )
    for reads, expected in ((True, {1: False, 2: False, 3: True, 4: True}), (False, dict.fromkeys(range(1, 5), False))):
        found = find_objects(read(tmp_path), tmp_path, reads_wholes=reads)
        assert {one.annotation["id"]: one.whole for group in found.objects for one in group} == expected
