"""Every shipped recipe is built, trained for a step and evaluated, at a size for CPUs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchvision.models.resnet import BasicBlock, Bottleneck

from bcnet_core import load_detector
from bcnet_core.annotations.coco import read_coco
from bcnet_core.config.load import load_recipe
from bcnet_core.config.recipe_files import list_recipes
from bcnet_core.engine.launch import run_training
from bcnet_core.engine.resolving import in_steps
from bcnet_core.engine.state import TrainingJob
from bcnet_core.files.images import read_image
from bcnet_core.model.backbones import ResNetFPN
from bcnet_core.model.detectors import build_detector
from bcnet_core.reporting import SilentReporter
from bcnet_core.weights.checkpoint import Checkpoint, save_checkpoint
from bcnet_core.weights.sources import find_published

RECIPES = [path.stem for path in list_recipes()]
LIGHT = (
    "data.min_size=64", "data.max_size=64", "data.train_sizes=[]", "data.workers=0",
    "data.train.annotations=annotations/instances_train.json", "data.train.images=train",
    "data.val.annotations=annotations/instances_val.json", "data.val.images=val",
    "solver.batch_size=2", "solver.steps=1", "solver.log_every=1", "solver.eval_every=0",
    "model.proposals_per_image=32", "model.box_rois_per_image=32", "model.mask_rois_per_image=16",
    "model.detections_per_image=10",
)  # fmt: skip


def test_all_promised_recipes_exist() -> None:
    promised = {"fcos_r50", "fcos_r101", "fcos_x101", "faster_rcnn_r50", "faster_rcnn_r101", "tiny", "shapes", "demo"}
    baselines = {"mask_rcnn_r50", "mask_rcnn_r101", "fcos_r50_plain", "fcos_r101_plain", "fcos_x101_plain"}
    ablations = {"fcos_r50_single_layer", "fcos_r50_no_boundary", "fcos_r50_fcn"}
    own = {"own_rcnn", "own_fcos", "own_light", "own_amodal"}
    assert set(RECIPES) == promised | baselines | ablations | own | {"kins_rcnn_r50"}


@pytest.mark.parametrize("name", ["own_rcnn", "own_fcos", "own_light", "own_amodal"])
def test_recipes_for_own_photos_are_in_epochs(name: str) -> None:
    recipe = load_recipe(name)
    solver, data = recipe.solver, recipe.data
    assert solver.epochs and solver.warmup_epochs and solver.eval_epochs
    assert recipe.model.init is not None and find_published(recipe.model.init).name == recipe.model.init
    assert all(isinstance(milestone, float) for milestone in solver.milestones) or solver.schedule == "cosine"
    assert solver.precision == "auto" and solver.batch_size == solver.lr_batch_size
    assert (str(data.train.annotations), str(data.val.images)) == ("annotations/instances_train2017.json", "val2017")
    small, large = (in_steps(recipe, photos).solver for photos in (80, 4000))
    assert 600 <= small.steps <= 1500 and large.steps * large.batch_size <= 15 * 4000
    assert 10 <= small.steps / small.eval_every <= 60 and small.warmup_steps < small.steps / 10


def test_baselines_differ_from_their_models_only_in_the_mask_head() -> None:
    for plain, bilayer in (
        ("mask_rcnn_r50", "faster_rcnn_r50"), ("mask_rcnn_r101", "faster_rcnn_r101"), ("fcos_r50_plain", "fcos_r50"),
        ("fcos_r101_plain", "fcos_r101"), ("fcos_x101_plain", "fcos_x101"),
    ):  # fmt: skip
        ours, theirs = load_recipe(bilayer), load_recipe(plain)
        head = {"layers": 1, "attention": False, "boundary": False}
        assert theirs == ours.model_copy(update={"model": ours.model.model_copy(update=head)})


def test_amodal_recipes_differ_from_their_models_in_the_whole_mask() -> None:
    for amodal, modal in (("own_amodal", "own_light"), ("kins_rcnn_r50", "faster_rcnn_r50")):
        theirs, ours = load_recipe(modal), load_recipe(amodal)
        assert ours.model == theirs.model.model_copy(update={"amodal": True})
        assert ours.amodal_boxes and not theirs.amodal_boxes and ours.loss == theirs.loss


def test_the_schedule_of_kins_is_half_as_long_as_aisformers_with_sixteen_times_the_images() -> None:
    recipe = load_recipe("kins_rcnn_r50")
    assert (recipe.solver.steps, recipe.solver.batch_size) == (24000, 16)
    assert (recipe.data.min_size, recipe.data.max_size, recipe.data.train_sizes) == (800, 3000, ())
    shares = [milestone / recipe.solver.steps for milestone in recipe.solver.milestones]
    assert shares == [30_000 / 48_000, 40_000 / 48_000]  # of AISFormer's configuration


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_trains_a_step_and_evaluates(scenes: Path, tmp_path: Path, name: str) -> None:
    recipe = load_recipe(name, LIGHT, data_root=scenes)
    categories = read_coco(scenes / "annotations/instances_train.json").categories
    torch.manual_seed(0)
    detector = build_detector(recipe, categories)
    if isinstance(detector.backbone, ResNetFPN):  # fresh weights under frozen BatchNorm grow from block to block
        detector.backbone.body.bn1.weight.div_(58)
        for block in detector.backbone.modules():
            if isinstance(block, BasicBlock | Bottleneck):
                (block.bn3 if isinstance(block, Bottleneck) else block.bn2).weight.fill_(0.2)
    save_checkpoint(
        tmp_path / "init.pt", Checkpoint(0, recipe.model_dump(mode="json"), categories, detector.state_dict(), {})
    )
    job = TrainingJob(recipe, tmp_path / "run", "cpu", f"bcnet train {name}", init_from=str(tmp_path / "init.pt"))
    run_training(job, SilentReporter())
    (row,) = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert 0 < row["loss"] < 100
    layers, boundary = recipe.model.layers, recipe.model.boundary
    assert ("occluder_mask" in row) == (layers == 2) and ("occludee_boundary" in row) == boundary
    assert ("amodal_mask" in row) == recipe.model.amodal
    trained = load_detector(tmp_path / "run", device="cpu")
    (found,) = trained.predict([read_image(scenes / "val" / json.loads(
        (scenes / "annotations/instances_val.json").read_text())["images"][0]["file_name"])])  # fmt: skip
    assert found.masks.shape[1:] == (128, 128)
