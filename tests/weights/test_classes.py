"""A training starts from the rows of the classes that its data shares with the weights, by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bcnet_core.config.data import DataConfig
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.model.detectors import Detector, build_detector
from bcnet_core.weights.checkpoint import Checkpoint
from bcnet_core.weights.classes import ClassRows, class_rows, match_classes, transfer_rows
from bcnet_core.weights.loading import load_weights, model_shapes
from bcnet_core.weights.report import Start

SMALL: dict[str, Any] = {"backbone": "tiny", "channels": 32, "tower_convs": 1, "box_head_channels": 16}
TRAINED = ["person", "car", "truck"]


def named(*names: str) -> list[dict[str, Any]]:
    return [{"id": 7 * number + 1, "name": name} for number, name in enumerate(names)]


def recipe_of(**model: Any) -> Recipe:
    return Recipe(data=DataConfig(min_size=64, max_size=64), model=ModelConfig(**{**SMALL, **model}))


def trained_on(recipe: Recipe, *names: str) -> Checkpoint:
    torch.manual_seed(1)
    state = {
        name: torch.randn_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in build_detector(recipe, named(*names)).state_dict().items()
    }
    return Checkpoint(3, recipe.model_dump(mode="json"), named(*names), state, {})


def start(recipe: Recipe, checkpoint: Checkpoint, *names: str) -> tuple[Detector, dict[str, Tensor], Start]:
    """A detector of these classes that starts from a checkpoint, its weights before that, and the result."""
    torch.manual_seed(0)
    detector = build_detector(recipe, named(*names))
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    return detector, before, load_weights(detector, recipe, checkpoint, Path("x.pt"))


BOX_PREDICTOR = "heads.roi_heads.box_predictor."


@pytest.mark.parametrize(
    ("detector", "expected"),
    [
        ("fcos", {"heads.boxes.classes.weight": (0, 1), "heads.boxes.classes.bias": (0, 1)}),
        (
            "faster_rcnn",
            {f"{BOX_PREDICTOR}cls_score.{part}": (1, 1) for part in ("weight", "bias")}
            | {f"{BOX_PREDICTOR}bbox_pred.{part}": (4, 4) for part in ("weight", "bias")},
        ),
    ],
)
@pytest.mark.parametrize("classes", [1, 3])
def test_class_dependent_tensors_are_those_that_grow_with_the_classes(
    detector: Any, expected: dict[str, tuple[int, int]], classes: int
) -> None:
    recipe = recipe_of(detector=detector)
    shapes, one_more = (model_shapes(recipe, classes=number) for number in (classes, classes + 1))
    assert class_rows(shapes, one_more, classes=classes) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["car", "worm"], {0: 1}),
        (["worm", " Person ", "TRUCK"], {1: 0, 2: 2}),
        (["worm"], {}),
        (["car", "car"], {0: 1}),
        (["truck", "car", "person"], {0: 2, 1: 1, 2: 0}),
    ],
)
def test_classes_are_matched_by_name(wanted: list[str], expected: dict[int, int]) -> None:
    assert match_classes(named(*TRAINED), named(*wanted)) == expected


def test_classes_of_one_name_are_matched_in_their_order() -> None:
    assert match_classes(named("cat", "dog", "cat"), named("cat", "Cat", "cat")) == {0: 0, 1: 2}


def test_rows_go_to_the_labels_of_the_data() -> None:
    trained, fresh = torch.arange(8.0).view(8, 1), torch.full((6, 1), -1.0)  # background, then 2 rows a class
    rows = ClassRows(background=2, each=2)
    assert transfer_rows(trained, fresh, rows, {1: 2}).flatten().tolist() == [0, 1, -1, -1, 6, 7]
    assert fresh.flatten().tolist() == [-1] * 6


@pytest.mark.parametrize("detector", ["fcos", "faster_rcnn"])
def test_every_class_of_the_data_gets_its_rows(detector: Any) -> None:
    recipe = recipe_of(detector=detector)
    checkpoint = trained_on(recipe, *TRAINED)
    model, before, result = start(recipe, checkpoint, "worm", "Truck", "person")
    for name, tensor in model.state_dict().items():
        given = checkpoint.model[name]
        if detector == "fcos" and name.startswith("heads.boxes.classes."):
            assert torch.equal(tensor, torch.stack([before[name][0], given[2], given[0]])), name
        elif name.startswith(f"{BOX_PREDICTOR}cls_score."):
            assert torch.equal(tensor, torch.stack([given[0], before[name][1], given[3], given[1]])), name
        elif name.startswith(f"{BOX_PREDICTOR}bbox_pred."):
            assert torch.equal(tensor, torch.cat([given[:4], before[name][4:8], given[12:16], given[4:8]])), name
        else:
            assert torch.equal(tensor, given), name
    assert (result.kept_classes, result.fresh_classes) == (["Truck", "person"], ["worm"])
    assert (result.placed, result.fresh, result.left_out) == (len(before), {}, {})


def test_weights_trained_on_the_same_classes_are_taken_whole() -> None:
    recipe = recipe_of()
    checkpoint = trained_on(recipe, *TRAINED)
    model, _, result = start(recipe, checkpoint, *TRAINED)
    assert all(torch.equal(tensor, checkpoint.model[name]) for name, tensor in model.state_dict().items())
    assert (result.kept_classes, result.fresh_classes) == (TRAINED, [])


def test_without_a_common_class_all_other_layers_are_taken() -> None:
    recipe = recipe_of(detector="faster_rcnn")
    checkpoint = trained_on(recipe, *TRAINED)
    model, before, result = start(recipe, checkpoint, "worm")
    score = f"{BOX_PREDICTOR}cls_score.weight"
    assert torch.equal(model.state_dict()[score], torch.stack([checkpoint.model[score][0], before[score][1]]))
    assert (result.kept_classes, result.fresh_classes) == ([], ["worm"])


def test_class_layers_of_another_shape_are_left_out() -> None:
    checkpoint = trained_on(recipe_of(detector="faster_rcnn", box_head_channels=8), *TRAINED)
    model, before, result = start(recipe_of(detector="faster_rcnn"), checkpoint, "car")
    state = model.state_dict()
    for layer in ("box_head.fc6", "box_head.fc7", "box_predictor.cls_score", "box_predictor.bbox_pred"):
        for part in ("weight", "bias"):
            name = f"heads.roi_heads.{layer}.{part}"
            assert torch.equal(state[name], before[name]), name
    assert result.left_out == {
        "heads.roi_heads.box_head.fc6": "its bias is (8,) there, (16,) in this model",
        "heads.roi_heads.box_head.fc7": "its bias is (8,) there, (16,) in this model",
        "heads.roi_heads.box_predictor.cls_score": "its weight is (4, 8) there, (4, 16) in this model",
        "heads.roi_heads.box_predictor.bbox_pred": "its weight is (16, 8) there, (16, 16) in this model",
    }
    assert result.fresh == {"heads.roi_heads.box_head": 4, "heads.roi_heads.box_predictor": 4}
    assert (result.kept_classes, result.fresh_classes) == ([], []), "no row of any class was taken"
