"""The table of maps is the one list that every room reads."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bcnet_core import maps
from bcnet_core.config.load import load_recipe
from bcnet_core.config.schema import LossConfig
from bcnet_core.data.dataset import Targets
from bcnet_core.evaluation.predict import to_results
from bcnet_core.maps import MAPS, MapSpec, map_specs, maps_of_results
from bcnet_core.masks import from_box
from bcnet_core.masks.crops import crop_rles
from bcnet_core.model.detectors import Detector, build_detector
from bcnet_core.model.losses import bilayer_losses
from bcnet_core.visualization.closeups import roi_card
from bcnet_core.visualization.instances import detect
from bcnet_core.visualization.picture import Picture
from bcnet_core.weights.traceable import TensorDetector

NEW = MapSpec("hidden_boundary", "occluder", "occluder", "boundary", "hidden", "hidden boundary")
CATEGORIES = [{"id": 7, "name": "disc"}]


def test_every_map_has_a_name_a_key_and_a_loss_weight_of_its_own() -> None:
    assert [spec.name for spec in MAPS] == [
        "occludee_mask",
        "occludee_boundary",
        "occluder_mask",
        "occluder_boundary",
        "amodal_mask",
    ]
    assert [spec.key for spec in MAPS] == [
        "segmentation",
        "occludee_boundary",
        "occluder",
        "occluder_boundary",
        "amodal_segmentation",
    ]
    assert all(f"{spec.region}_{spec.kind}" == spec.name for spec in MAPS)
    assert {spec.name for spec in MAPS} <= set(LossConfig.model_fields)


def test_specs_are_in_the_order_of_the_table() -> None:
    assert map_specs() == list(MAPS)
    assert map_specs({"occluder_mask": 1, "occludee_mask": 2}) == [MAPS[0], MAPS[2]]


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> Detector:
    """A detector whose head predicts one more map: a row in the table and a loss weight, and nothing else."""
    monkeypatch.setattr(maps, "MAPS", (*MAPS, NEW))
    torch.manual_seed(0)
    recipe = load_recipe("shapes", ["model.score_threshold=0", "model.mask_rois_per_image=4"])
    detector = build_detector(recipe, CATEGORIES)
    weights: Any = SimpleNamespace(**recipe.loss.model_dump(), hidden_boundary=0.5)
    detector.loss_weights = weights
    return detector


def test_a_new_map_is_trained_with_the_rois_of_its_layer(detector: Detector) -> None:
    visible, region = (crop_rles([from_box(x, 10, x + 30, 50, 64, 64)]) for x in (10, 30))
    targets = Targets(
        torch.tensor([[10.0, 10, 40, 50]]),
        torch.tensor([0]),
        visible,
        region,
        crop_rles([None]),
        torch.tensor([1.0, 0, 1, 0]),
    )
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    losses = detector([image], [targets], [0])
    (new, old) = (losses[name] for name in ("hidden_boundary", "occluder_boundary"))
    assert new.requires_grad
    # fresh heads answer with 0 everywhere, so that equal targets and equal RoIs have equal losses
    assert new.item() == pytest.approx(0.5 * old.item(), rel=0.01)


def test_a_new_map_is_trained_nowhere_if_nothing_is_occluded() -> None:
    logits = {"occluder_boundary": torch.randn(2, 28, 28), "occludee_mask": torch.randn(2, 28, 28)}
    nothing = torch.zeros(2, 28, 28, dtype=torch.bool)
    losses = bilayer_losses(logits, {"occluder_mask": nothing, **dict.fromkeys(logits, nothing)}, torch.rand(2))
    assert losses["occluder_boundary"] == 0 and losses["occludee_mask"] > 0


def test_a_new_map_is_detected_written_shown_and_exported(detector: Detector) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    (found,) = detector.eval().predict([pixels])
    assert len(found.boxes) and found.maps["hidden_boundary"].shape == (len(found.boxes), 28, 28)
    (result, *_) = to_results(found.instances(layers=True), 3, CATEGORIES)
    assert result["hidden"]["size"] == [64, 64]
    assert "hidden" not in next(iter(to_results(found.instances(), 3, CATEGORIES)))
    layers = detect(detector, pixels, score=0.5)
    card = roi_card(Picture("a", pixels, layers), 0)
    assert "hidden boundary" in [tile.caption for tile in card.rows[0]]
    assert TensorDetector(detector).outputs[-1] == "hidden_boundary"


def test_results_without_layers_need_the_masks_of_instances_and_their_order() -> None:
    every = [spec.name for spec in MAPS]
    assert maps_of_results(["occludee_mask", "occludee_boundary", "occluder_mask"]) == ["occludee_mask"]
    assert maps_of_results(every) == ["occludee_mask", "occluder_mask", "amodal_mask"]
