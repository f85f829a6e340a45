"""The mapper keeps the occluder region of every instance in any segmentation format and under any transform."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2", reason="detectron2 is not installed")

import detectron2.data.transforms as T  # noqa: N812
from detectron2.structures import BoxMode

from bcnet_core import masks
from bcnet_core.annotations.coco import AMODAL_KEY, OCCLUDER_KEY
from bcnet_core.annotations.occluder import derive_occluders
from bcnet_core.errors import BCNetError
from bcnet_core.integrations.detectron2 import BilayerDatasetMapper
from bcnet_core.integrations.detectron2.config import fresh_config

HEIGHT, WIDTH = 60, 80
FRONT = [10.0, 10.0, 50.0, 10.0, 50.0, 50.0, 10.0, 50.0]
BACK = [30.0, 20.0, 75.0, 20.0, 75.0, 55.0, 30.0, 55.0]


def box_of(polygon: list[float]) -> list[float]:
    x, y = polygon[0::2], polygon[1::2]
    return [min(x), min(y), max(x) - min(x), max(y) - min(y)]


def forms(polygon: list[float]) -> dict[str, Any]:
    rle = masks.from_polygons([polygon], HEIGHT, WIDTH)
    bitmap = masks.decode(rle)
    lengths = np.diff(np.flatnonzero(np.diff(np.r_[2, bitmap.T.ravel().astype(int), 2])))
    counts = [*([] if not bitmap[0, 0] else [0]), *lengths.tolist()]
    return {
        "polygons": [polygon],
        "compressed RLE": masks.to_json(rle),
        "uncompressed RLE": {"size": [HEIGHT, WIDTH], "counts": counts},
        "array": bitmap,
    }


@pytest.fixture
def sample(tmp_path: Path) -> dict[str, Any]:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    crowd = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH - 40, 40]}
    annotations = [
        {"id": index, "bbox": box_of(polygon), "bbox_mode": BoxMode.XYWH_ABS, "category_id": index,
         "segmentation": [polygon], "iscrowd": 0}
        for index, polygon in enumerate((FRONT, BACK))
    ] + [{"id": 9, "bbox": [70, 0, 10, HEIGHT], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0,
          "segmentation": crowd, "iscrowd": 1}]  # fmt: skip
    return {"file_name": str(tmp_path / "a.png"), "image_id": 1, "height": HEIGHT, "width": WIDTH,
            "annotations": annotations}  # fmt: skip


def mapper(*augmentations: Any, occluders: str = "auto", **settings: Any) -> BilayerDatasetMapper:
    return BilayerDatasetMapper(
        True, augmentations=list(augmentations), image_format="RGB", occluders=occluders, **settings
    )


def bitmaps(field: Any, height: int, width: int) -> torch.Tensor:
    """The whole masks again, one pixel a cell."""
    side = torch.tensor([[0.0, 0.0, max(height, width), max(height, width)]])
    return field.crop_and_resize(side.repeat(len(field), 1), max(height, width))[:, :height, :width]


@pytest.mark.parametrize("form", ["polygons", "compressed RLE", "uncompressed RLE", "array"])
def test_every_segmentation_format_is_read(sample: dict[str, Any], form: str) -> None:
    for annotation, polygon in zip(sample["annotations"], (FRONT, BACK), strict=False):
        annotation["segmentation"] = forms(polygon)[form]
    instances = mapper()(sample)["instances"]
    assert instances.gt_classes.tolist() == [0, 1]  # the crowd is no instance
    drawn = bitmaps(instances.gt_masks, HEIGHT, WIDTH).numpy()
    for found, polygon in zip(drawn, (FRONT, BACK), strict=True):
        assert np.array_equal(found, masks.decode(masks.from_polygons([polygon], HEIGHT, WIDTH)))


def test_derived_regions_equal_those_of_annotate(sample: dict[str, Any]) -> None:
    records = sample["annotations"][:2]
    rles = [masks.from_polygons([polygon], HEIGHT, WIDTH) for polygon in (FRONT, BACK)]
    expected = derive_occluders(records, rles, HEIGHT, WIDTH)
    occluders = bitmaps(mapper()(sample)["instances"].gt_occluders, HEIGHT, WIDTH).numpy()
    for found, region in zip(occluders, expected, strict=True):
        assert region is not None
        assert np.array_equal(found, masks.decode(region))


@pytest.mark.parametrize(
    "augmentation", [T.RandomFlip(prob=1.0), T.Resize((HEIGHT * 2, WIDTH * 2)), T.RotationTransform(HEIGHT, WIDTH, 90)]
)
def test_both_layers_move_together(sample: dict[str, Any], augmentation: Any) -> None:
    """Where one instance's mask lies inside the other's box it is the occluder; that holds after any transform."""
    instances = mapper(augmentation)(sample)["instances"]
    height, width = instances.image_size
    mask, region = (bitmaps(field, height, width) for field in (instances.gt_masks, instances.gt_occluders))
    for one, other in ((0, 1), (1, 0)):
        x0, y0, x1, y1 = instances.gt_boxes.tensor[one].round().int().tolist()
        expected = torch.zeros_like(mask[0])
        expected[y0:y1, x0:x1] = mask[other][y0:y1, x0:x1]
        assert region[one].any()
        assert (region[one] ^ expected).sum() <= 0.05 * expected.sum()


def test_stored_regions_are_read(sample: dict[str, Any]) -> None:
    sample["annotations"][0][OCCLUDER_KEY] = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]]
    instances = mapper()(sample)["instances"]
    areas = bitmaps(instances.gt_occluders, HEIGHT, WIDTH).sum((1, 2)).tolist()
    assert areas[0] == 100
    assert areas[1] == 20 * 30  # which the file does not have, and which is derived
    derived = mapper(occluders="derive")(sample)["instances"].gt_occluders
    assert bitmaps(derived, HEIGHT, WIDTH).sum((1, 2)).tolist() == [600, 600]
    with pytest.raises(BCNetError, match="1 of its annotations have no `bg_object_segmentation`"):
        mapper(occluders="file")(sample)


@pytest.fixture
def hidden(sample: dict[str, Any]) -> dict[str, Any]:
    """The sample, with the second instance behind the first: 20 x 30 pixels of it are hidden."""
    back, front = (masks.decode(masks.from_polygons([one], HEIGHT, WIDTH)) for one in (BACK, FRONT))
    sample["annotations"][1] |= {"segmentation": masks.to_json(masks.encode(back & ~front)), AMODAL_KEY: [BACK]}
    sample["annotations"][1]["bbox"] = masks.bounding_box(masks.encode(back & ~front)).tolist()
    sample["annotations"][0][AMODAL_KEY] = [FRONT]
    return sample


@pytest.mark.parametrize("form", ["polygons", "compressed RLE", "uncompressed RLE", "array"])
def test_every_format_of_a_whole_mask_is_read(hidden: dict[str, Any], form: str) -> None:
    assert not mapper()(hidden)["instances"].has("gt_wholes")
    hidden["annotations"][1][AMODAL_KEY] = forms(BACK)[form]
    instances = mapper(amodal=True, amodal_boxes=True)(hidden)["instances"]
    wholes = bitmaps(instances.gt_wholes, HEIGHT, WIDTH)
    assert wholes.sum((1, 2)).tolist() == [40 * 40, 45 * 35]
    occluders = bitmaps(instances.gt_occluders, HEIGHT, WIDTH)
    assert torch.equal(occluders[1], bitmaps(instances.gt_masks, HEIGHT, WIDTH)[0] & wholes[1])
    assert instances.gt_boxes.tensor.tolist() == [[10, 10, 50, 50], [30, 20, 75, 55]]


@pytest.mark.parametrize(
    "augmentation", [T.RandomFlip(prob=1.0), T.Resize((HEIGHT + 7, WIDTH * 2)), T.RotationTransform(HEIGHT, WIDTH, 90)]
)
def test_whole_masks_move_with_the_visible_ones(hidden: dict[str, Any], augmentation: Any) -> None:
    instances = mapper(augmentation, amodal=True, amodal_boxes=True)(hidden)["instances"]
    fields = instances.gt_masks, instances.gt_wholes, instances.gt_occluders
    visible, whole, region = (bitmaps(field, *instances.image_size)[1] for field in fields)
    assert not (visible & ~whole).any()
    missing = (whole & ~visible & ~region).sum() / (whole & ~visible).sum()
    assert missing < 0.1  # the hidden part is under what hides it
    torch.testing.assert_close(
        instances.gt_boxes.tensor[1], instances.gt_wholes.get_bounding_boxes().tensor[1], atol=1.0, rtol=0
    )


@pytest.mark.parametrize(("amodal_boxes", "left"), [(True, 0.0), (False, 20.0)])
def test_a_cropped_box_encloses_what_it_is_of(hidden: dict[str, Any], amodal_boxes: bool, left: float) -> None:
    crop = T.CropTransform(30, 0, 50, 48)
    instances = mapper(crop, amodal=True, amodal_boxes=amodal_boxes, recompute_boxes=True)(hidden)["instances"]
    assert instances.gt_classes.tolist() == [0, 1]
    assert instances.gt_boxes.tensor.tolist()[0] == [0, 10, 20, 48]
    hidden["annotations"].pop(0)  # with no front, the box is still that of the masks
    (box,) = mapper(crop, amodal=True, amodal_boxes=amodal_boxes, recompute_boxes=True)(hidden)[
        "instances"
    ].gt_boxes.tensor.tolist()
    assert box == instances.gt_boxes.tensor.tolist()[1] == [left, 20, 45, 48]


def test_a_config_reads_whole_masks_as_a_recipe_does() -> None:
    cfg = fresh_config()
    for amodal, boxes, expected in (
        (False, "auto", (False, False)),
        (True, "auto", (True, True)),
        (True, "visible", (True, False)),
        (False, "amodal", (True, True)),
    ):
        cfg.MODEL.BCNET.AMODAL, cfg.INPUT.BOXES = amodal, boxes
        made = BilayerDatasetMapper(cfg)
        assert (made.amodal, made.amodal_boxes) == expected
    cfg.INPUT.BOXES = "whole"
    with pytest.raises(BCNetError, match=r"DATA\.BOXES: Input should be 'auto', 'visible' or 'amodal'"):
        BilayerDatasetMapper(cfg)


def test_an_instance_outside_a_crop_is_removed_from_both_layers(sample: dict[str, Any]) -> None:
    instances = mapper(T.CropTransform(0, 0, 28, HEIGHT))(sample)["instances"]
    assert instances.gt_classes.tolist() == [0]
    assert len(instances.gt_masks) == len(instances.gt_occluders) == 1


def test_the_dataset_dict_is_not_changed(sample: dict[str, Any]) -> None:
    before = repr(sample)
    mapper(T.RandomFlip(prob=1.0))(sample)
    assert repr(sample) == before


def test_a_config_sets_the_augmentations() -> None:
    cfg = fresh_config()
    cfg.INPUT.FLIP_PROBABILITY = 0.25
    flips = [one for one in BilayerDatasetMapper(cfg).augmentations.augs if isinstance(one, T.RandomFlip)]
    assert [flip.prob for flip in flips] == [0.25]
    cfg.INPUT.SCALE_JITTER, cfg.INPUT.MAX_SIZE_TRAIN = (0.5, 2.0), 96
    jittered = BilayerDatasetMapper(cfg)
    kinds = [type(one) for one in jittered.augmentations.augs]
    assert kinds == [T.ResizeScale, T.FixedSizeCrop, T.RandomFlip]
    assert jittered.recompute_boxes
