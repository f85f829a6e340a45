"""Training, pictures, evaluation and the detectron2 mapper see the same occluder regions of a half-annotated file."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bcnet_core import load_detector, masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, read_coco, segmentation_rle
from bcnet_core.annotations.occluder import derive_occluders, occluder_regions
from bcnet_core.config.choices import OccluderSource
from bcnet_core.data.dataset import TrainingSet
from bcnet_core.evaluation.true_boxes import score_true_boxes
from bcnet_core.masks.crops import crop_rles
from bcnet_core.reporting import SilentReporter
from bcnet_core.visualization.instances import annotated_pictures

HEIGHT, WIDTH = 80, 120
STORED = [[30, 10, 38, 10, 38, 30, 30, 30]]
HAS_OCCLUDER = [False, True, True, True, False]


def square(number: int, x: int, y: int, **stored: Any) -> dict[str, Any]:
    corners = [x, y, x + 30, y, x + 30, y + 30, x, y + 30]
    box = {"bbox": [x, y, 30, 30], "area": 900, "iscrowd": 0, "segmentation": [corners]}
    return {"id": number, "image_id": 1, "category_id": 1, **box, **stored}


@pytest.fixture
def half(tmp_path: Path) -> CocoFile:
    """One image; the rule finds an occluder for the first four instances, the file stores regions of three."""
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [
            square(1, 10, 10, **{OCCLUDER_KEY: []}),  # stored as having none
            square(2, 25, 10, **{OCCLUDER_KEY: STORED}),
            square(3, 70, 10),
            square(4, 85, 10),
            square(5, 10, 48),
        ],
    }
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    (tmp_path / "half.json").write_text(json.dumps(content))
    return read_coco(tmp_path / "half.json")


def regions_of(coco: CocoFile, source: OccluderSource = "auto") -> list[masks.RLE | None]:
    rles = [segmentation_rle(annotation, coco.images[0]) for annotation in coco.annotations]
    return occluder_regions(coco.annotations, rles, coco.images[0], source=source)


def test_a_stored_region_is_used_and_a_missing_one_is_derived(half: CocoFile) -> None:
    found, derived = regions_of(half), regions_of(half, "derive")
    assert [region is not None for region in found] == HAS_OCCLUDER
    assert found[1] == masks.from_polygons(STORED, HEIGHT, WIDTH) != derived[1]
    assert found[2:] == derived[2:]


def test_derive_ignores_what_is_stored(half: CocoFile) -> None:
    rles = [segmentation_rle(annotation, half.images[0]) for annotation in half.annotations]
    assert regions_of(half, "derive") == derive_occluders(half.annotations, rles, HEIGHT, WIDTH)


def test_file_derives_nothing(half: CocoFile) -> None:
    assert [region is not None for region in regions_of(half, "file")] == [False, True, False, False, False]


def test_training_and_pictures_see_these_regions(half: CocoFile) -> None:
    expected = regions_of(half)
    folder = half.path.parent
    sample = TrainingSet(half, folder)[0, 0]
    for found, crops in zip(sample.targets.occluders, crop_rles(expected), strict=True):
        assert torch.equal(found, crops)
    (picture,) = annotated_pictures(half, half.images, folder)
    assert [instance.occluder for instance in picture.instances] == expected


def test_evaluation_scores_the_instances_with_a_region(half: CocoFile, untrained: Path) -> None:
    detector = load_detector(untrained, device="cpu")
    scores = score_true_boxes(detector, half, half.path.parent, reporter=SilentReporter())
    assert (~np.isnan(scores.scores["occluder"])).tolist() == HAS_OCCLUDER


@pytest.mark.skipif(find_spec("detectron2") is None, reason="detectron2 is not installed")
@pytest.mark.filterwarnings("ignore")  # detectron2 warns when it is imported
def test_the_detectron2_mapper_sees_these_regions(half: CocoFile) -> None:
    from detectron2.structures import BoxMode

    from bcnet_core.integrations.detectron2 import BilayerDatasetMapper

    annotations = [{**annotation, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0} for annotation in half.annotations]
    size = {"height": HEIGHT, "width": WIDTH}
    sample = {"file_name": str(half.path.parent / "a.png"), "image_id": 1, **size, "annotations": annotations}
    mapper = BilayerDatasetMapper(True, augmentations=[], image_format="RGB")
    crops = mapper(sample)["instances"].gt_occluders.crops
    for found, expected in zip(crops, crop_rles(regions_of(half)), strict=True):
        assert torch.equal(found, expected)
