"""A recipe means the same in both backends: the same image and weights give the same losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from bcnet_core.annotations.coco import AMODAL_KEY, read_coco
from bcnet_core.config.load import load_recipe
from bcnet_core.data.dataset import TrainingSet
from bcnet_core.data.loaders import open_training_set
from bcnet_core.engine.optimizer import build_optimizer
from bcnet_core.integrations.detectron2 import BilayerDatasetMapper, register_bilayer_coco
from bcnet_core.integrations.detectron2.config import config_from_recipe
from bcnet_core.integrations.detectron2.data import dataset_dicts
from bcnet_core.integrations.detectron2.stored import detectron2_tensors
from bcnet_core.integrations.detectron2.trainer import parameter_stages
from bcnet_core.model.detectors import build_detector
from tests.annotations.test_instances import write_cases

FCOS = [
    "model.detector=fcos",
    "model.mask_proposals=decoded",
    "model.occluder_sampling=nonempty",
    "model.score_threshold=0.005",
]
"""Nothing is drawn at random with these: every proposal that lies on an instance is taken."""


@pytest.mark.parametrize(
    ("settings", "size", "close"),
    [
        (["data.occluders=derive"], 128, 1e-4),
        (["data.occluders=file"], 128, 1e-4),
        (["data.occluders=file"], 96, 0.03),
        (["model.amodal=true"], 128, 1e-4),
        (["model.amodal=true", "data.boxes=visible", "loss.amodal_mask=2"], 128, 1e-4),
        (["model.amodal=true"], 96, 0.03),
    ],
)
def test_the_first_losses_of_fcos(scenes: Path, settings: list[str], size: int, close: float) -> None:
    """At another size the masks are not quite the same: detectron2 resizes them, we look at them where they are."""
    recipe = load_recipe(
        "shapes",
        [
            *FCOS,
            *settings,
            f"data.min_size={size}",
            f"data.max_size={size}",
            "data.flip=0",
            "model.mask_rois_per_image=0",
            "loss.occludee_mask=3",
            "loss.mask_dice=0.5",
        ],
        data_root=scenes,
    )
    torch.manual_seed(0)
    dataset, coco = open_training_set(recipe)
    detector = build_detector(recipe, coco.categories).train()
    sample = next(one for one in (dataset[(i, 0)] for i in range(12)) if (one.targets.occluders.boxes > 0).all(1).any())
    ours = detector([sample.image], [sample.targets], [0])

    cfg = config_from_recipe(recipe, num_classes=len(coco.categories))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).train()
    model.load_state_dict(detectron2_tensors(detector.state_dict(), model))
    records = dataset_dicts(read_coco(scenes / "annotations/instances_train.json"), scenes / "train", coco.categories)
    (record,) = (one for one in records if one["image_id"] == sample.image_id)
    prepared = BilayerDatasetMapper(cfg)(record)
    assert torch.equal(prepared["image"], sample.image)
    assert torch.equal(prepared["instances"].gt_classes, sample.targets.labels)
    torch.testing.assert_close(prepared["instances"].gt_boxes.tensor, sample.targets.boxes)
    with EventStorage():
        theirs = model([prepared])
    assert theirs.keys() == {f"loss_{name}" for name in ours}
    for name, loss in ours.items():
        assert float(theirs[f"loss_{name}"].detach()) == pytest.approx(float(loss.detach()), rel=close), name
    assert float(ours["occluder_mask"].detach()) > 0
    assert ("amodal_mask" in ours) == recipe.model.amodal
    assert not recipe.model.amodal or float(ours["amodal_mask"].detach()) > 0


@pytest.mark.parametrize("boxes", ["auto", "visible", "amodal"])
def test_whole_masks_boxes_and_occluders_are_the_same(scenes: Path, tmp_path: Path, boxes: str) -> None:
    """Also where half of the instances have no whole mask, and where it is a polygon that lacks visible pixels."""
    content = json.loads((scenes / "annotations/instances_train.json").read_text())
    for number, one in enumerate(content["annotations"]):
        if number % 2:
            del one[AMODAL_KEY]
        elif number % 4:
            x, y, width, height = one["bbox"]
            one[AMODAL_KEY] = [[x, y, x + width / 2, y, x + width / 2, y + height, x, y + height]]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    settings = ["model.amodal=true", f"data.boxes={boxes}", "data.flip=0", "data.min_size=128", "data.max_size=128"]
    settings += [f"data.train.annotations={tmp_path / 'coco.json'}"]
    recipe = load_recipe("shapes", settings, data_root=scenes)
    dataset, coco = open_training_set(recipe)
    mapper = BilayerDatasetMapper(config_from_recipe(recipe, num_classes=len(coco.categories)))
    records = {one["image_id"]: one for one in dataset_dicts(coco, scenes / "train", coco.categories)}
    larger = unknown = 0
    for sample in (dataset[position, 0] for position in range(len(dataset))):
        theirs, ours = mapper(records[sample.image_id])["instances"], sample.targets
        torch.testing.assert_close(theirs.gt_boxes.tensor, ours.boxes)
        pairs = zip(
            (theirs.gt_masks, theirs.gt_occluders, theirs.gt_wholes),
            (ours.occludees, ours.occluders, ours.wholes),
            strict=True,
        )
        for field, crops in pairs:
            assert all(torch.equal(one, other) for one, other in zip(field.crops, crops, strict=True))
        areas = (ours.wholes.boxes - ours.occludees.boxes).abs().sum(1)
        known = ours.wholes.boxes[:, 2] > 0
        larger, unknown = larger + int((areas[known] > 0).sum()), unknown + int((~known).sum())
        boxed = ours.wholes.boxes[known].float()
        assert torch.equal(ours.boxes[known], boxed) == (boxes != "visible") or not (areas[known] > 0).any()
    assert larger > 0 and unknown > 0


@pytest.mark.parametrize("amodal", [False, True])
def test_both_backends_take_the_same_annotations(tmp_path: Path, amodal: bool) -> None:
    folder = write_cases(tmp_path)
    content = json.loads((folder / "coco.json").read_text())
    content["annotations"][0][AMODAL_KEY] = "?"
    (folder / "coco.json").write_text(json.dumps(content))
    coco = read_coco(folder / "coco.json", check_annotations=False)
    dataset = TrainingSet(coco, folder, amodal=amodal)
    assert ("bad_whole" in dataset.survey.omitted) == amodal
    ours = dataset[0, 0].targets
    register_bilayer_coco("bcnet_test_cases", folder / "coco.json", folder, reads_wholes=amodal)
    (record,) = DatasetCatalog.get("bcnet_test_cases")
    cfg = config_from_recipe(
        load_recipe("shapes", ["data.min_size=10", "data.max_size=20", "data.flip=0"]), num_classes=1
    )
    theirs = BilayerDatasetMapper(cfg)(record)["instances"]
    torch.testing.assert_close(theirs.gt_boxes.tensor, ours.boxes)
    assert len(theirs) == len(ours.boxes) == len(dataset.survey.coco.annotations) >= 4


def test_the_optimizer_gets_the_same_parameter_groups(scenes: Path) -> None:
    """Both groups, decayed and not, hold as many numbers in either backend."""
    for words in (["fcos_r50", "model.backbone=r18"], ["faster_rcnn_r50", "model.backbone=r18"]):
        recipe = load_recipe(words[0], words[1:])
        cfg = config_from_recipe(recipe, num_classes=3)
        cfg.MODEL.DEVICE = "cpu"
        models = (build_detector(recipe, [{"id": i, "name": str(i)} for i in range(3)]), build_model(cfg))
        groups = [build_optimizer(model, recipe.solver).param_groups for model in models]
        ours, theirs = ([sum(p.numel() for p in group["params"]) for group in one] for one in groups)
        background = 4 * 1024 if words[0] == "faster_rcnn_r50" else 0  # its boxes, which only torchvision has
        assert ours[0] - theirs[0] == background
        assert ours[1] - theirs[1] == (4 if background else 0)


@pytest.mark.parametrize("backbone", ["r18", "tiny"])
def test_the_stages_of_the_backbone_learn_at_the_same_rates(backbone: str) -> None:
    settings = [f"model.backbone={backbone}", "model.frozen_stages=0", "solver.layer_decay=0.5", "solver.backbone_lr=1"]
    recipe = load_recipe("fcos_r50", settings)
    cfg = config_from_recipe(recipe, num_classes=3)
    cfg.MODEL.DEVICE = "cpu"
    detector = build_detector(recipe, [{"id": i, "name": str(i)} for i in range(3)])
    own = {f"backbone.{name}": stage for name, stage in detector.backbone.parameter_stages().items()}
    theirs = build_model(cfg)
    found = [
        {(group["lr"], group["weight_decay"]): sum(p.numel() for p in group["params"]) for group in one.param_groups}
        for one in (
            build_optimizer(detector, recipe.solver, own),
            build_optimizer(theirs, recipe.solver, parameter_stages(theirs)),
        )
    ]
    assert found[0] == found[1] and {rate for rate, _ in found[0]} == {0.01, 1, 0.5, 0.25, 0.125, 0.0625}
