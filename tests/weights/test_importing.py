"""From a published weight file to a detector, or to training that starts from it."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50, resnext101_32x8d

import bcnet_core
from bcnet_core import BCNetError
from bcnet_core.annotations.coco import coco_categories, read_coco
from bcnet_core.config.data import DataConfig
from bcnet_core.config.load import load_recipe
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import LossConfig, Recipe
from bcnet_core.engine.launch import run_training
from bcnet_core.engine.run_dir import open_run
from bcnet_core.engine.state import TrainingJob
from bcnet_core.model.detectors import build_detector
from bcnet_core.reporting import SilentReporter
from bcnet_core.weights.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from bcnet_core.weights.importing import fit, import_weights, recognize
from bcnet_core.weights.loading import load_weights, model_shapes, read_trained
from tests.weights.test_families import (
    MSRA,
    ZOO,
    caffe2,
    constant,
    detectron2_rcnn,
    mmdetection,
    release,
    torchvision_backbone,
)

SHAPES = [{"id": 1, "name": "disc"}, {"id": 2, "name": "box"}, {"id": 3, "name": "star"}]
SMALL: dict[str, Any] = {"channels": 32, "tower_convs": 1, "score_threshold": 0}


def saved(path: Path, content: object, *, is_zip: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


def pickled(path: Path, tensors: dict[str, Tensor]) -> Path:
    path.write_bytes(pickle.dumps({name: tensor.contiguous().numpy() for name, tensor in tensors.items()}, protocol=2))
    return path


def detector_of(model: ModelConfig, categories: list[dict[str, Any]] | None = None) -> Any:
    return build_detector(Recipe(data=DataConfig(min_size=64, max_size=64), model=model), categories or SHAPES)


def own_checkpoint(categories: list[dict[str, Any]], **model: Any) -> Checkpoint:
    recipe = Recipe(model=ModelConfig(backbone="tiny", **(SMALL | model)))
    state = build_detector(recipe, categories).state_dict()
    return Checkpoint(7, recipe.model_dump(mode="json"), categories, state, {"state": 1}, {"scale": 2.0})


# --- the official release


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release's R50 checkpoint, whose weights are the tensors' numbers, imported."""
    folder = tmp_path_factory.mktemp("release")
    checkpoint, _ = import_weights(saved(folder / "official.pth", {"model": release(), "iteration": 90_000}))
    save_checkpoint(folder / "bcnet.pt", checkpoint)
    return folder / "bcnet.pt"


def test_the_release_becomes_a_detector(imported: Path) -> None:
    detector = read_trained(imported).restore("cpu")
    state, official = detector.state_dict(), release()
    assert [int(x) for x in state["heads.boxes.scales"]] == [int(official[f"head.scales.{i}.scale"]) for i in range(5)]
    values = {int(tensor.flatten()[0]) for name, tensor in state.items() if not name.endswith("scales")}
    scales = {int(tensor) for name, tensor in official.items() if name.startswith("head.scales.")}
    assert values == set(range(len(official))) - scales
    assert detector.categories == coco_categories()
    assert (detector.min_size, detector.max_size) == (600, 900)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize(("depth", "sizes"), [(50, (600, 900)), (101, (800, 1333))])
def test_the_release_brings_its_settings(tmp_path: Path, depth: int, sizes: tuple[int, int], is_zip: bool) -> None:
    checkpoint, report = import_weights(saved(tmp_path / "x.pth", release(depth), is_zip=is_zip))
    recipe = Recipe.model_validate(checkpoint.recipe)
    assert recipe.model == ModelConfig(
        detector="fcos", backbone=f"r{depth}", backbone_style="caffe", occluder_sampling="official",
        mask_proposals="official", mask_rois_per_image=0,
    )  # fmt: skip
    assert recipe.loss == LossConfig(normalizer="official", giou="official")
    assert (recipe.data.min_size, recipe.data.max_size) == sizes
    assert (checkpoint.step, checkpoint.part_of, checkpoint.optimizer) == (0, None, {})
    assert report.whole and report.classes == 80 and not report.fresh and not report.dropped
    assert sum(report.placed.values()) == len(release(depth)) - 4


def test_the_built_in_categories_are_those_of_coco(coco_mini: Path) -> None:
    coco = read_coco(coco_mini / "annotations/instances_val2017.json")
    assert [{"id": c["id"], "name": c["name"]} for c in coco.categories] == coco_categories()


def test_a_release_that_does_not_fit_gives_a_table(tmp_path: Path) -> None:
    given = release()
    del given["backbone.bottom_up.res4.5.conv2.norm.running_var"], given["head.scales.4.scale"]
    given["mask_head.bo_deconv.weight"] = torch.zeros(256, 128, 2, 2)
    given["mask_head.surprise.weight"] = torch.zeros(3)
    with pytest.raises(BCNetError) as caught:
        import_weights(saved(tmp_path / "x.pth", given))
    assert caught.value.exit_code == 3
    assert caught.value.message.endswith(
        "looks like the official BCNet release (FCOS), but its tensors do not fit: 1 left over, 1 missing, "
        "2 of another shape (bcnet's model has 370)"
    )
    rows = [" ".join(line.split()) for line in caught.value.hints]
    assert rows[0] == "in the file shape in bcnet's r50 shape"
    assert set(rows[1:]) == {
        "mask_head.bo_deconv.weight (256, 128, 2, 2) heads.masks.head.occluder_mask.upsample.weight (256, 256, 2, 2)",
        "head.scales.0.scale, ... (4,) heads.boxes.scales (5,)",
        "- - backbone.body.layer3.5.bn2.running_var (256,)",
        "mask_head.surprise.weight (3,) - -",
    }


def test_a_long_table_is_shortened(tmp_path: Path) -> None:
    given = {name: tensor for name, tensor in release().items() if not name.startswith("mask_head.mask_fcn")}
    given |= {f"mask_head.more{number}.weight": torch.zeros(1) for number in range(50)}
    with pytest.raises(BCNetError, match="do not fit: 50 left over, 8 missing") as caught:
        import_weights(saved(tmp_path / "x.pth", given))
    assert len(caught.value.hints) == 22 and caught.value.hints[-1] == "and 38 more"


def test_weights_that_are_not_finite_are_rejected(tmp_path: Path) -> None:
    given = release()
    given["mask_head.mask_fcn1.weight"][0, 0, 0, 0] = torch.nan
    with pytest.raises(
        BCNetError, match=r"not finite, in 1 of 370 tensors, the first is `mask_head\.mask_fcn1\.weight`"
    ):
        import_weights(saved(tmp_path / "x.pth", given))


def test_a_release_without_a_backbone_is_rejected(tmp_path: Path) -> None:
    given = {name: tensor for name, tensor in release().items() if name.startswith("mask_head.")}
    with pytest.raises(BCNetError, match=r"looks like the official BCNet release \(FCOS\), but holds no backbone"):
        import_weights(saved(tmp_path / "x.pth", given))


@pytest.mark.parametrize(
    "lost",
    [
        "head.cls_logits.weight",
        "mask_head.predictor.bias",
        "backbone.fpn_output4.weight",
        "backbone.bottom_up.res2.0.conv2.weight",
        "backbone.bottom_up.stem.conv1.weight",
    ],
)
def test_no_tensor_of_the_release_may_be_missing(tmp_path: Path, lost: str) -> None:
    given = release()
    del given[lost]
    with pytest.raises(BCNetError, match="do not fit: 0 left over, 1 missing"):
        import_weights(saved(tmp_path / "x.pth", given))


# --- other numbers of classes


def release_of(classes: int) -> dict[str, Tensor]:
    return release() | {
        "head.cls_logits.weight": constant(1, (classes, 256, 3, 3)),
        "head.cls_logits.bias": constant(2, (classes,)),
    }


def coco_file(path: Path, categories: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    return path


def test_other_classes_have_to_be_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", release_of(3))
    with pytest.raises(BCNetError, match="tells 3 classes apart, COCO has 80") as caught:
        import_weights(path)
    assert "--categories" in caught.value.hints[0] and "--drop-classes" in caught.value.hints[1]
    checkpoint, report = import_weights(path, categories=coco_file(tmp_path / "cats.json", SHAPES[::-1]))
    assert checkpoint.categories == SHAPES, "in the order of their ids"
    assert report.whole and report.classes == 3
    with pytest.raises(BCNetError, match=r"tells 3 classes apart, `.*two\.json` has 2 categories"):
        import_weights(path, categories=coco_file(tmp_path / "two.json", SHAPES[:2]))
    with pytest.raises(BCNetError, match="exclude each other"):
        import_weights(path, categories=tmp_path / "cats.json", drop_classes=True)


def test_dropping_the_class_layers_leaves_an_initialization(tmp_path: Path) -> None:
    checkpoint, report = import_weights(saved(tmp_path / "x.pth", release_of(7)), drop_classes=True)
    assert not report.whole and report.classes is None and checkpoint.categories == []
    assert report.fresh == {"heads.boxes": 2} and checkpoint.part_of == 370 == len(checkpoint.model) + 2
    assert report.dropped == {
        "its shape depends on the classes (--drop-classes)": ["head.cls_logits.weight", "head.cls_logits.bias"]
    }


# --- initializations


@pytest.mark.parametrize("spelling", [MSRA, ZOO], ids=["s b", "gamma beta"])
def test_a_pickle_of_msra_becomes_an_initialization(tmp_path: Path, spelling: dict[str, str]) -> None:
    checkpoint, report = import_weights(pickled(tmp_path / "R-50.pkl", caffe2(spelling)))
    assert (report.detector, report.backbone, report.style, report.classes) == (None, "r50", "caffe", None)
    assert report.placed == {"backbone.body": 265}
    assert report.fresh == {"backbone.fpn": 16, "heads.boxes": 39, "heads.masks": 50}
    assert (checkpoint.part_of, checkpoint.categories) == (370, [])
    with pytest.raises(BCNetError, match="knows no classes"):
        import_weights(tmp_path / "R-50.pkl", categories=coco_file(tmp_path / "cats.json", SHAPES))


@pytest.mark.parametrize("make", [resnet18, resnet50, resnext101_32x8d])
def test_a_torchvision_backbone_becomes_an_initialization(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    checkpoint, report = import_weights(saved(tmp_path / "x.pth", torchvision_backbone(make)))
    assert report.style == "torchvision" and report.placed.keys() == {"backbone.body"}
    assert Recipe.model_validate(checkpoint.recipe).model.backbone == report.backbone


def test_an_incomplete_backbone_is_rejected(tmp_path: Path) -> None:
    given = torchvision_backbone(resnet18)
    del given["layer4.1.conv2.weight"]
    with pytest.raises(BCNetError, match="0 left over, 1 missing") as caught:
        import_weights(saved(tmp_path / "x.pth", given))
    assert "backbone.body.layer4.1.conv2.weight" in caught.value.hints[1]


def test_a_mask_rcnn_becomes_an_initialization_of_faster_rcnn(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", {"model": detectron2_rcnn()})
    checkpoint, report = import_weights(path)
    assert (report.detector, report.backbone, report.classes) == ("faster_rcnn", "r50", 80)
    assert checkpoint.categories == coco_categories()
    assert report.fresh == {"heads.roi_heads.masks": len(mask_head_names()) - 10}
    assert report.placed["heads.rpn"] == 6 and report.placed["heads.roi_heads.box_predictor"] == 4
    _, dropped = import_weights(path, drop_classes=True)
    assert dropped.fresh["heads.roi_heads.box_predictor"] == 4


def test_a_mask_rcnn_of_mmdetection_names_its_classes(tmp_path: Path) -> None:
    content = {"meta": {"CLASSES": ("cat", "dog")}, "state_dict": mmdetection(classes=2)}
    checkpoint, report = import_weights(saved(tmp_path / "x.pth", content))
    assert (report.detector, report.classes, report.style) == ("faster_rcnn", 2, "torchvision")
    assert checkpoint.categories == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content["meta"] = {"dataset_meta": {"classes": ["bat", "owl"]}}
    checkpoint, _ = import_weights(saved(tmp_path / "x.pth", content))
    assert [one["name"] for one in checkpoint.categories] == ["bat", "owl"]
    given = coco_file(tmp_path / "cats.json", SHAPES[:2])
    assert import_weights(tmp_path / "x.pth", categories=given)[0].categories == SHAPES[:2]
    content["meta"] = {"CLASSES": ("one",)}
    with pytest.raises(BCNetError, match="tells 2 classes apart, COCO has 80"):
        import_weights(saved(tmp_path / "x.pth", content))


def mask_head_names() -> list[str]:
    shapes = model_shapes(Recipe(model=ModelConfig(detector="faster_rcnn")), classes=80)
    return [name for name in shapes if name.startswith("heads.roi_heads.masks.")]


def test_layers_of_other_shapes_are_dropped_with_a_reason() -> None:
    converted = recognize(detectron2_rcnn() | {"roi_heads.box_head.fc1.bias": torch.zeros(512)}, Path("x.pth"))
    fit(converted, model_shapes(Recipe(model=ModelConfig(detector="faster_rcnn")), classes=80), Path("x.pth"))
    reason = "`heads.roi_heads.box_head.fc6.bias` is (512,) in the file, (1024,) in bcnet"
    assert converted.dropped["roi_heads.box_head.fc1.bias"] == reason
    assert converted.dropped["roi_heads.box_head.fc1.weight"] == reason, "half a layer would compute something else"


def test_an_initialization_cannot_be_used_as_a_detector(tmp_path: Path) -> None:
    checkpoint, _ = import_weights(saved(tmp_path / "x.pth", torchvision_backbone(resnet18)))
    save_checkpoint(tmp_path / "init.pt", checkpoint)
    for use in (open_run, bcnet_core.load_detector):
        with pytest.raises(BCNetError, match=r"is an initialization.* only holds \d+ of the \d+ tensors") as caught:
            use(tmp_path / "init.pt")
        assert f"--init-from {tmp_path / 'init.pt'}" in caught.value.hints[0]


@pytest.mark.parametrize("detector", ["fcos", "faster_rcnn"])
def test_a_bare_backbone_fits_both_detectors(tmp_path: Path, detector: Any) -> None:
    checkpoint, _ = import_weights(saved(tmp_path / "x.pth", torchvision_backbone(resnet18)))
    settings = ModelConfig(detector=detector, backbone="r18", backbone_style="torchvision", **SMALL)
    model = detector_of(settings)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = Recipe(model=settings)
    start = load_weights(model, recipe, checkpoint, tmp_path / "init.pt")
    for name, tensor in model.state_dict().items():
        expected = checkpoint.model[name] if name.startswith("backbone.body.") else before[name]
        assert torch.equal(tensor, expected), name
    masks = "heads.masks" if detector == "fcos" else "heads.roi_heads.masks"
    assert {"backbone.fpn", masks} < start.fresh.keys() and "backbone.body" not in start.fresh
    assert (start.kept_classes, start.fresh_classes, start.left_out) == ([], [], {})


def test_errors_about_an_initialization_that_does_not_fit_name_both_sides(tmp_path: Path) -> None:
    checkpoint, _ = import_weights(saved(tmp_path / "x.pth", torchvision_backbone(resnet18)))
    for model, message in (
        (ModelConfig(backbone="tiny", **SMALL), "holds weights of fcos r18 torchvision, this model is fcos tiny"),
        (ModelConfig(backbone="r18", **SMALL), "fcos r18 torchvision, this model is fcos r18 caffe"),
    ):
        with pytest.raises(BCNetError, match=message) as caught:
            load_weights(detector_of(model), Recipe(model=model), checkpoint, tmp_path / "init.pt")
        assert "model.backbone=r18 model.backbone_style=torchvision" in caught.value.hints[0]
    wide = replace(checkpoint, model=checkpoint.model | {"backbone.body.conv1.weight": torch.zeros(64, 4, 7, 7)})
    fitting = ModelConfig(backbone="r18", backbone_style="torchvision", **SMALL)
    with pytest.raises(BCNetError, match=r"1 of \d+ tensors differ, the first is `backbone\.body\.conv1") as caught:
        load_weights(detector_of(fitting), Recipe(model=fitting), wide, tmp_path / "init.pt")
    assert caught.value.hints[0] == "its shape is (64, 4, 7, 7) in the file, (64, 3, 7, 7) in the model"


# --- our own checkpoints


def test_importing_a_bcnet_checkpoint_drops_its_optimizer_state(tmp_path: Path) -> None:
    before = own_checkpoint(SHAPES)
    save_checkpoint(tmp_path / "x.pt", before)
    checkpoint, report = import_weights(tmp_path / "x.pt")
    assert report.whole and report.classes == 3
    assert (checkpoint.step, checkpoint.optimizer, checkpoint.scaler) == (7, {}, {})
    assert (checkpoint.recipe, checkpoint.categories) == (before.recipe, before.categories)
    assert all(torch.equal(checkpoint.model[name], tensor) for name, tensor in before.model.items())
    with pytest.raises(BCNetError, match="knows its categories"):
        import_weights(tmp_path / "x.pt", categories=coco_file(tmp_path / "cats.json", SHAPES))


@pytest.mark.parametrize(("detector", "layers"), [("fcos", 2), ("faster_rcnn", 4)])
def test_a_bcnet_checkpoint_can_start_training_on_other_classes(tmp_path: Path, detector: Any, layers: int) -> None:
    before = own_checkpoint(SHAPES[:2], detector=detector)
    save_checkpoint(tmp_path / "x.pt", before)
    model = ModelConfig(detector=detector, backbone="tiny", **SMALL)
    start = load_weights(detector_of(model), Recipe(model=model), before, tmp_path / "x.pt")
    assert (start.kept_classes, start.fresh_classes) == (["disc", "box"], ["star"]) and not start.fresh
    checkpoint, report = import_weights(tmp_path / "x.pt", drop_classes=True)
    assert report.detector == detector and sum(report.fresh.values()) == layers
    trained = detector_of(model)
    start = load_weights(trained, Recipe(model=model), checkpoint, tmp_path / "init.pt")
    assert sum(start.fresh.values()) == layers and start.kept_classes == start.fresh_classes == []
    other: Any = "fcos" if detector == "faster_rcnn" else "faster_rcnn"
    message = f"holds weights of {detector} tiny, this model is {other} tiny"
    changed = model.model_copy(update={"detector": other})
    with pytest.raises(BCNetError, match=message):
        load_weights(detector_of(changed), Recipe(model=changed), checkpoint, tmp_path / "init.pt")


def test_training_starts_from_an_initialization(tmp_path: Path, scenes: Path) -> None:
    before = own_checkpoint(SHAPES[:1])
    save_checkpoint(tmp_path / "x.pt", before)
    checkpoint, _ = import_weights(tmp_path / "x.pt", drop_classes=True)
    save_checkpoint(tmp_path / "init.pt", checkpoint)
    settings = ["model.channels=32", "model.tower_convs=1", "data.min_size=64", "data.max_size=64", "data.workers=0",
                "solver.batch_size=2", "solver.steps=1", "solver.lr=1e-9",
                "model.detector=fcos", "model.attention=true"]  # fmt: skip
    recipe = load_recipe("shapes", settings, data_root=scenes)
    job = TrainingJob(recipe, tmp_path / "run", "cpu", "bcnet train shapes", init_from=str(tmp_path / "init.pt"))
    trained = read_checkpoint(run_training(job, SilentReporter()))
    assert len(trained.categories) == 5 and trained.part_of is None
    name = "backbone.stages.0.conv1.0.weight"
    torch.testing.assert_close(trained.model[name], before.model[name], rtol=0, atol=1e-6)


def test_older_checkpoints_are_read(tmp_path: Path) -> None:
    """The first checkpoints did not store `part_of`; they are complete."""
    old = {name: getattr(own_checkpoint(SHAPES), name) for name in Checkpoint.__dataclass_fields__ if name != "part_of"}
    torch.save({"format": 1, **old}, tmp_path / "x.pt")
    assert read_checkpoint(tmp_path / "x.pt").part_of is None
