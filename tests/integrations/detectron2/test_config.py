"""Conversion between recipes and detectron2 configs."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.solver.lr_scheduler import LRMultiplier

from bcnet_core.config.load import load_recipe
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import LossConfig, Recipe
from bcnet_core.engine.optimizer import learning_rate
from bcnet_core.errors import BCNetError
from bcnet_core.integrations.detectron2.config import (
    MODEL_KEYS,
    config_from_recipe,
    fresh_config,
    loss_from_config,
    model_from_config,
    recipe_from_config,
)
from bcnet_core.integrations.detectron2.stored import read_config
from bcnet_core.integrations.detectron2.trainer import RecipeRates

TORCHVISION_ONLY = {
    "own_amodal": "backbone=timm/",
    "own_light": "backbone=timm/",
    "own_rcnn": "geometry=torchvision with faster_rcnn",
}
"""Recipes with what the detectron2 backend does not have."""
NAMES = {path.stem for path in (Path(__file__).parents[3] / "recipes").glob("*.yaml")}
RECIPES = sorted(NAMES - TORCHVISION_ONLY.keys())
ONLY_OURS = {"channels_last"}
"""Settings that detectron2's models do not have."""


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_conversion_to_a_config_and_back(name: str) -> None:
    recipe = load_recipe(name)
    cfg = config_from_recipe(recipe, num_classes=7)
    back = recipe_from_config(cfg).model.model_dump()
    for key, value in recipe.model.for_training_set(objects=0).model_dump().items():
        if key in ONLY_OURS or (recipe.model.backbone == "tiny" and key in {"backbone_style", "frozen_stages"}):
            continue
        if recipe.model.detector == "fcos" and key in {"anchor_scale", "proposals_per_image", "box_rois_per_image"}:
            continue
        assert back[key] == value, key
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 7
    assert recipe.solver.batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert (recipe.data.min_size, recipe.data.max_size) == (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)


def test_suppression_of_fcos_survives_conversion() -> None:
    recipe = load_recipe("fcos_r50", ["model.nms=mask", "model.class_agnostic_nms=true"])
    back = recipe_from_config(config_from_recipe(recipe, num_classes=7)).model
    assert (back.nms, back.class_agnostic_nms) == ("mask", True)


def test_config_defaults_equal_the_schema() -> None:
    cfg = fresh_config()
    ours, loss = ModelConfig(), LossConfig()
    assert {key: getattr(model_from_config(cfg, 256), key) for key in MODEL_KEYS} == {
        k: getattr(ours, k) for k in MODEL_KEYS
    }
    assert loss_from_config(cfg) == loss


@pytest.mark.parametrize("name", ["fcos_r50", "tiny"])
def test_learning_rates_follow_the_recipe_at_every_step(name: str) -> None:
    solver = load_recipe(name, ["solver.steps=80", "solver.warmup_steps=10", "solver.milestones=[40,60]"]).solver
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rates = LRMultiplier(optimizer, RecipeRates(solver), max_iter=solver.steps)
    full = solver.lr
    for step in range(solver.steps):
        assert optimizer.param_groups[0]["lr"] * full == pytest.approx(learning_rate(step, solver), rel=1e-9)
        optimizer.step()
        rates.step()


@pytest.mark.parametrize(("name", "setting"), TORCHVISION_ONLY.items())
def test_a_recipe_for_the_torchvision_backend_is_rejected(name: str, setting: str) -> None:
    with pytest.raises(BCNetError, match=f"the detectron2 backend does not have .*{setting}"):
        config_from_recipe(load_recipe(name), num_classes=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.copy_paste.probability=0.5", "data.flip_vertical=0.5"], "data.copy_paste, data.flip_vertical"),
        (["data.color_jitter=[0.2,0,0]"], "does not have data.color_jitter"),
        (["solver.accumulate=2"], "solver.accumulate"),
        (["solver.ema=0.9", "solver.compile=true"], "solver.ema, solver.compile"),
        (["solver.patience=5", "solver.eval_every=9"], "does not have solver.patience"),
        (["model.backbone=r18", "model.frozen_norm=false"], "does not have model.frozen_norm=false"),
        (["model.detector=faster_rcnn", "model.nms=soft"], "does not have model.nms=soft with faster_rcnn"),
        (["model.detector=faster_rcnn", "model.class_agnostic_nms=true"], "class_agnostic_nms with faster_rcnn"),
        (["model.detector=faster_rcnn", "model.geometry=torchvision"], "geometry=torchvision with faster_rcnn"),
    ],
)
def test_recipes_with_unsupported_settings_are_rejected(settings: list[str], message: str) -> None:
    with pytest.raises(BCNetError, match=message):
        config_from_recipe(load_recipe("fcos_r50", settings), num_classes=3)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], "does not have this detector: RetinaNet"),
        (["MODEL.ROI_HEADS.NAME", "BilayerCascadeROIHeads"], "BilayerCascadeROIHeads"),
        (["MODEL.RESNETS.NORM", "GN"], "does not have this detector"),
        (["MODEL.PIXEL_STD", "[2.0, 2.0, 2.0]"], "does not normalize images"),
        (["MODEL.ANCHOR_GENERATOR.SIZES", "[[32, 64, 128, 256, 512]]"], "does not have this config's anchors: SIZES"),
        (["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[1.0]]"], r"ASPECT_RATIOS \[\[1.0\]\]"),
    ],
)
def test_configs_without_a_torchvision_counterpart_are_rejected(keys: list[str], message: str) -> None:
    cfg = config_from_recipe(load_recipe("faster_rcnn_r50"), num_classes=3)
    cfg.merge_from_list(keys)
    with pytest.raises(BCNetError, match=message):
        recipe_from_config(cfg)


def test_an_invalid_setting_is_named() -> None:
    cfg = fresh_config()
    cfg.MODEL.BCNET.LAYERS = 3
    with pytest.raises(BCNetError, match=r"MODEL\.BCNET\.LAYERS"):
        model_from_config(cfg, 256)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("MODEL: {NO_SUCH: 1}", [], "Non-existent config key: MODEL.NO_SUCH"),
        ("MODEL: [", [], "not a config of detectron2"),
        ("SOLVER: {MAX_ITER: many}", [], "not a config of detectron2"),
        ("SEED: 1", ["SOLVER.MAX_ITER"], "`SOLVER.MAX_ITER` is no setting"),
        ("SEED: 1", ["SOLVER.NOTHING=1"], "`SOLVER.NOTHING=1` does not fit"),
        ("SEED: 1", ["SOLVER.MAX_ITER=soon"], "does not fit"),
    ],
)
def test_an_invalid_config_gives_a_one_line_error(
    tmp_path: Path, text: str, overrides: list[str], message: str
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(BCNetError) as error:
        read_config(tmp_path / "a.yaml", overrides)
    assert message in error.value.message
    assert "\n" not in error.value.message


def test_files_that_are_not_configs_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(BCNetError, match="no yaml config"):
        read_config(tmp_path / "a.py")
    with pytest.raises(BCNetError, match="not a config of detectron2"):
        read_config(tmp_path / "missing.yaml")


def test_base_files_and_overrides_are_merged(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("SOLVER: {MAX_ITER: 7}\nMODEL: {BCNET: {LAYERS: 1}}\n")
    (tmp_path / "a.yaml").write_text("_BASE_: base.yaml\nSOLVER: {BASE_LR: 0.5}\n")
    cfg = read_config(tmp_path / "a.yaml", ["MODEL.BCNET.ATTENTION=False", "SOLVER.STEPS=(1,2)"])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS) == (7, 0.5, (1, 2))
    assert (cfg.MODEL.BCNET.LAYERS, cfg.MODEL.BCNET.ATTENTION) == (1, False)


def test_a_converted_config_is_a_recipe() -> None:
    assert isinstance(recipe_from_config(config_from_recipe(load_recipe("fcos_r50"), num_classes=3)), Recipe)
