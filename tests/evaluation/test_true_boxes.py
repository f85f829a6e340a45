"""Masks inside true boxes: scores of a detector that knows the truth, and instances without a score."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bcnet_core import BCNetError
from bcnet_core.annotations.coco import AMODAL_KEY, OCCLUDER_KEY, CocoFile, read_coco, segmentation_rle
from bcnet_core.evaluation.true_boxes import TrueBoxScores, boundary_f, score_true_boxes
from bcnet_core.masks import bounding_box, decode
from bcnet_core.model.losses import boundary
from bcnet_core.reporting import SilentReporter
from bcnet_core.structures import Detections


class KnowsTheTruth:
    """A stand-in detector: inside every true box its maps are the true masks on a grid of 28 x 28 cells."""

    def __init__(self, coco: CocoFile, *, layers: int = 2, whole_from: str | None = None) -> None:
        """`whole_from`: the key of annotations with what it takes for the whole mask; None predicts none."""
        images = {image["id"]: image for image in coco.images}
        self.truth = {
            self.box(one, images[one["image_id"]], AMODAL_KEY if whole_from else "segmentation"): (
                one,
                images[one["image_id"]],
            )
            for one in coco.annotations
            if "segmentation" in one
        }
        self.layers = layers
        self.whole_from, self.is_amodal, self.amodal_boxes = whole_from, bool(whole_from), bool(whole_from)

    @staticmethod
    def box(one: dict[str, Any], image: dict[str, Any], key: str) -> tuple[float, ...]:
        rle = segmentation_rle(one, image, key=key) if key in one else None
        return tuple(one["bbox"] if key == "segmentation" or rle is None else bounding_box(rle).tolist())

    def predict_inside(self, images: list[Any], boxes: list[Tensor]) -> list[Detections]:
        assert images[0].shape == (128, 128, 3) and images[0].dtype == np.uint8
        found = {name: logits.sigmoid() for name, logits in self.logits(boxes[0]).items()}
        scores = torch.ones(len(boxes[0]))
        return [Detections(boxes[0], scores, torch.zeros(len(scores), dtype=torch.int64), (128, 128), found)]

    def logits(self, boxes: Tensor) -> dict[str, Tensor]:
        occludees, occluders, wholes = map(torch.stack, zip(*map(self.maps, boxes), strict=True))
        band, other = (boundary(maps >= 0).float() * 2 - 1 for maps in (occludees, occluders))
        maps = {"occludee_mask": occludees, "occludee_boundary": band}
        maps |= {"amodal_mask": wholes} if self.whole_from else {}
        return maps | ({"occluder_mask": occluders, "occluder_boundary": other} if self.layers > 1 else {})

    def maps(self, box: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x0, y0, x1, y1 = box.tolist()
        key = min(self.truth, key=lambda one: abs(np.array(one) - (x0, y0, x1 - x0, y1 - y0)).sum())
        one, image = self.truth[key]
        keys = "segmentation", OCCLUDER_KEY, self.whole_from or AMODAL_KEY
        occludee, occluder, whole = (
            self.cells(segmentation_rle(one, image, key=key) if key in one else None, box) for key in keys
        )
        return occludee, occluder, whole

    def cells(self, rle: Any, box: Tensor) -> Tensor:
        """Logits that follow the mask at the center of each cell."""
        if rle is None:
            return torch.full((28, 28), -8.0)
        mask = torch.from_numpy(decode(rle)).float()
        steps = (torch.arange(28) + 0.5) / 28
        x = box[0] + steps * (box[2] - box[0])
        y = box[1] + steps * (box[3] - box[1])
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1) / 128 * 2 - 1  # (28, 28, (x, y))
        return 16 * functional.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] - 8


def scores_of(coco: CocoFile, scenes: Path, *, layers: int = 2) -> TrueBoxScores:
    detector: Any = KnowsTheTruth(coco, layers=layers)
    return score_true_boxes(detector, coco, scenes / "val", reporter=SilentReporter())


@pytest.fixture
def coco(scenes: Path) -> CocoFile:
    return read_coco(scenes / "annotations" / "instances_val.json")


def test_true_masks_score_almost_one_in_both_layers(coco: CocoFile, scenes: Path) -> None:
    scores = scores_of(coco, scenes)
    assert len(scores.scores["occludee"]) == len(coco.annotations)
    assert scores.scores["occludee"].min() > 0.85 and scores.scores["occludee"].mean() > 0.94
    has_occluder = np.array([one["occlusion_rate"] > 0.02 for one in coco.annotations])
    assert has_occluder.any() and not np.isnan(scores.scores["occluder"][has_occluder]).any()
    assert np.nanmean(scores.scores["occluder"]) > 0.85
    assert (
        np.nanmean(scores.scores["occludee_boundary"]) > 0.97 and np.nanmean(scores.scores["occluder_boundary"]) > 0.9
    )
    assert np.array_equal(np.isnan(scores.scores["occluder_boundary"]), np.isnan(scores.scores["occluder"]))
    assert scores.means()["occludee"] == scores.scores["occludee"].mean()


def test_occluder_regions_are_derived_if_the_file_has_none(coco: CocoFile, scenes: Path) -> None:
    stripped = [{key: value for key, value in one.items() if key != OCCLUDER_KEY} for one in coco.annotations]
    plain = CocoFile(coco.path, {**coco.content, "annotations": stripped})
    detector: Any = KnowsTheTruth(coco)
    scores = score_true_boxes(detector, plain, scenes / "val", reporter=SilentReporter())
    assert (~np.isnan(scores.scores["occluder"])).sum() > 3
    with_key = scores_of(coco, scenes)
    both = ~np.isnan(scores.scores["occluder"]) & ~np.isnan(with_key.scores["occluder"])
    assert both.any() and np.nanmean(scores.scores["occluder"][both]) > 0.6


def test_boundaries_match_within_one_cell() -> None:
    true = torch.zeros(5, 9, 9, dtype=torch.bool)
    true[:4, 4, 1:8] = True
    found = true.clone()
    found[1] = true[1].roll(1, 0)  # a cell off
    found[2] = true[2].roll(2, 0)  # two
    found[3, 4, 4:8] = False  # half of it: 3 of 3 cells are right, 4 of 7 are found
    scores = boundary_f(found, true)
    assert scores[:4].tolist() == pytest.approx([1, 1, 0, 2 * (4 / 7) / (1 + 4 / 7)]) and scores[4].isnan()
    assert boundary_f(torch.zeros_like(true), true)[0] == 0


def test_the_tolerance_of_boundaries_grows_with_the_map() -> None:
    true = torch.zeros(1, 112, 112, dtype=torch.bool)
    true[:, 50] = True
    assert [float(boundary_f(true.roll(cells, 1), true)) for cells in (4, 5)] == [1, 0]


def test_rows_are_in_the_order_of_images_and_annotations(coco: CocoFile, scenes: Path) -> None:
    turned = CocoFile(coco.path, {**coco.content, "annotations": coco.annotations[::-1]})
    scores, mirrored = scores_of(coco, scenes), scores_of(turned, scenes)
    positions = {image["id"]: place for place, image in enumerate(coco.images)}
    assert scores.images.tolist() == sorted(positions[one["image_id"]] for one in coco.annotations)
    grouped = [one for image in coco.images for one in coco.annotations_by_image()[image["id"]]]
    assert scores.visible.tolist() == [1 - one["occlusion_rate"] for one in grouped]
    for place in range(len(coco.images)):
        own = scores.images == place
        assert mirrored.scores["occludee"][own].tolist() == scores.scores["occludee"][own][::-1].tolist()


def test_instances_that_cannot_be_scored_are_nan_or_left_out(coco: CocoFile, scenes: Path) -> None:
    crowd, flat, bare, unrated, *rest = ({**one} for one in coco.annotations)
    crowd["iscrowd"] = 1
    flat["bbox"] = [*flat["bbox"][:3], 0]
    del bare["segmentation"]
    del unrated["occlusion_rate"], unrated[OCCLUDER_KEY]
    changed = CocoFile(coco.path, {**coco.content, "annotations": [crowd, flat, bare, unrated, *rest]})
    scores = scores_of(changed, scenes)
    assert len(scores.images) == len(coco.annotations) - 3
    assert (
        math.isnan(scores.visible[0])
        and math.isnan(scores.scores["occluder"][0])
        and scores.scores["occludee"][0] > 0.8
    )
    assert not np.isnan(scores.visible[1:]).any()


def test_without_an_occluder_layer_there_is_no_such_score(coco: CocoFile, scenes: Path) -> None:
    scores = scores_of(coco, scenes, layers=1)
    assert scores.scores.keys() == scores.means().keys() == {"occludee", "occludee_boundary"}
    assert not np.isnan(scores.scores["occludee"]).any()


def test_whole_masks_tell_what_is_hidden_and_who_is_in_front(coco: CocoFile, scenes: Path) -> None:
    def scored(coco: CocoFile, whole_from: str) -> TrueBoxScores:
        detector: Any = KnowsTheTruth(coco, whole_from=whole_from)
        return score_true_boxes(detector, coco, scenes / "val", reporter=SilentReporter())

    scores = scored(coco, AMODAL_KEY)
    means, hidden = scores.means(), np.array([one["occlusion_rate"] > 0 for one in coco.annotations])
    assert means["amodal"] > 0.94 and means["hidden"] > 0.6 and means["order"] == scores.order.mean() > 0.9
    assert len(scores.order) > 3 and (~np.isnan(scores.scores["hidden"])).sum() == hidden.sum() > 3
    visible = scored(coco, "segmentation").means()
    assert visible["hidden"] < 0.1 < visible["amodal"] < means["amodal"] and visible["order"] < 0.6
    assert "order" not in scores_of(coco, scenes).means()
    front, *rest = ({**one} for one in coco.annotations)
    del front[AMODAL_KEY]
    partly = scored(CocoFile(coco.path, {**coco.content, "annotations": [front, *rest]}), AMODAL_KEY)
    assert math.isnan(partly.scores["amodal"][0]) and not np.isnan(partly.scores["amodal"][1:]).any()


def test_a_file_with_nothing_to_score_is_rejected(coco: CocoFile, scenes: Path) -> None:
    empty = CocoFile(coco.path, {**coco.content, "annotations": []})
    with pytest.raises(BCNetError, match="no instance with a box and a mask") as caught:
        scores_of(empty, scenes)
    assert caught.value.exit_code == 3
