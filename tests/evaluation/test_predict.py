from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bcnet_core import BCNetError, masks
from bcnet_core.annotations.coco import CocoFile, read_coco
from bcnet_core.evaluation.predict import check_categories, predict_images, to_results
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
    first, second = to_results(two_detections(), 42, [{"id": 3, "name": "a"}, {"id": 8, "name": "b"}])
    assert (first["image_id"], first["category_id"], first["bbox"]) == (42, 8, [2, 1, 4, 2])
    assert first["score"] == pytest.approx(0.9) and second["category_id"] == 3
    rle: Any = {**first["segmentation"], "counts": first["segmentation"]["counts"].encode()}
    assert np.argwhere(masks.decode(rle)).tolist() == [[y, x] for y in (1, 2) for x in range(2, 6)]


def test_missing_images_are_counted_before_the_first_is_read(scenes: Path, tmp_path: Path) -> None:
    coco = read_coco(scenes / "annotations/instances_val.json")
    with pytest.raises(BCNetError, match="6 of 6 images are not in") as caught:
        predict_images(None, coco.images, tmp_path, reporter=SilentReporter())  # type: ignore[arg-type]
    assert caught.value.exit_code == 3


class Knows:
    categories = ({"id": 1, "name": "cat"}, {"id": 2, "name": "dog"})


def test_other_categories_name_both_sides() -> None:
    def file(*categories: dict[str, Any]) -> CocoFile:
        return CocoFile(Path("x.json"), {"images": [], "categories": list(categories)})

    check_categories(Knows().categories, file({"id": 2, "name": "dog"}, {"id": 1, "name": "cat"}))  # type: ignore[arg-type]
    with pytest.raises(BCNetError, match=r"knows 2 categories, `x\.json` has 1") as caught:
        check_categories(Knows().categories, file({"id": 2, "name": "cow"}))  # type: ignore[arg-type]
    assert caught.value.hints == (
        "only in the detector: [(1, 'cat'), (2, 'dog')]",
        "only in the file:     [(2, 'cow')]",
    )
