"""What a model is comes from its recipe; the names of its tensors do not matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcnet_core import load_detector
from bcnet_core.annotations.coco import Record, read_coco
from bcnet_core.config.load import load_recipe
from bcnet_core.config.schema import Recipe
from bcnet_core.engine.launch import run_training
from bcnet_core.engine.state import TrainingJob
from bcnet_core.errors import BCNetError
from bcnet_core.evaluation.predict import predict_images
from bcnet_core.maps import MAPS
from bcnet_core.model import detectors
from bcnet_core.model.backbones import TinyBackbone
from bcnet_core.model.detectors import build_detector
from bcnet_core.reporting import SilentReporter
from bcnet_core.weights.checkpoint import Checkpoint, latest_checkpoint, read_checkpoint, save_checkpoint
from bcnet_core.weights.export import export_detector
from bcnet_core.weights.importing import import_weights
from bcnet_core.weights.loading import load_weights, read_trained
from bcnet_core.weights.report import Start
from tests.conftest import Heard


class Unlisted(nn.Module):
    """A backbone of three convolutions that no table of bcnet knows."""

    strides, pixels = TinyBackbone.strides, TinyBackbone.pixels
    size_divisor = TinyBackbone.size_divisor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, channels, 8, stride=8)
        self.deeper = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(2))

    def forward(self, images: Tensor) -> list[Tensor]:
        levels = [self.trunk(images)]
        for conv in self.deeper:
            levels.append(conv(torch.relu(levels[-1])))
        return levels

    def parameter_stages(self) -> dict[str, int]:
        return {name: int(name.startswith("deeper.")) for name, _ in self.named_parameters()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_unlisted_backbone_is_trained_resumed_evaluated_and_exported(
    tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detectors, "build_backbone", lambda *_, out_channels, **__: Unlisted(out_channels))
    settings = ["model.channels=32", "model.tower_convs=1", "data.min_size=64", "data.max_size=64", "data.workers=0",
                "solver.batch_size=2", "solver.schedule=step", "model.score_threshold=0",
                "model.detections_per_image=5"]  # fmt: skip

    def train(run: str, steps: int, *, resume: bool = False, init_from: str | None = None) -> Path:
        recipe = load_recipe("shapes", [*settings, f"solver.steps={steps}"], data_root=scenes)
        job = TrainingJob(recipe, tmp_path / run, "cpu", "bcnet train shapes", resume=resume, init_from=init_from)
        return run_training(job, SilentReporter())

    train("run", 1)
    last = train("run", 2, resume=True)
    assert read_checkpoint(last).step == 2
    assert "backbone.trunk.weight" in read_checkpoint(train("other", 1, init_from=str(tmp_path / "run"))).model
    checkpoint, report = import_weights(last, drop_classes=True)
    assert report.placed["backbone.trunk"] == 2 and checkpoint.part_of is not None

    detector = load_detector(tmp_path / "run", device="cpu")
    coco = read_coco(scenes / "annotations/instances_val.json")
    images = scenes / load_recipe("shapes").data.val.images
    assert predict_images(detector, coco.images[:1], images, reporter=SilentReporter())
    check = export_detector(detector, tmp_path / "x.torchscript", form="torchscript", height=64, width=64)
    assert check.instances == check.alike == 15


def test_a_checkpoint_is_read_once_for_everything(untrained: Path) -> None:
    trained = read_trained(untrained)
    assert trained.path == untrained and trained.recipe.model.channels == 32
    assert len(trained.categories) == 5
    state = trained.restore("cpu").state_dict()
    assert state.keys() == trained.weights.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in trained.weights.items())
    assert len(trained.build("cpu").heads.masks.head.outputs) == 4
    assert trained.build("cpu", layers=False).heads.masks.head.outputs == ("occludee_mask",)


def test_weights_of_another_backbone_name_both_recipes(tmp_path: Path, scenes: Path, untrained: Path) -> None:
    recipe = load_recipe("shapes", ["model.backbone=r18", "model.detector=fcos", "data.workers=0"], data_root=scenes)
    job = TrainingJob(recipe, tmp_path / "run", "cpu", "bcnet train shapes", init_from=str(untrained))
    with pytest.raises(BCNetError, match="holds weights of fcos tiny, this model is fcos r18 caffe"):
        run_training(job, SilentReporter())
    assert latest_checkpoint(tmp_path / "run") is None


MASKS = "heads.masks.head."


def report_of(start: Start, source: str = "x.pt") -> tuple[list[str], list[str]]:
    """The messages and the warnings about a start."""
    reporter = Heard()
    start.report(source, reporter)
    return reporter.infos, reporter.warnings


def start_from(checkpoint: Checkpoint, categories: list[Record], **settings: Any) -> Start:
    stored = Recipe.model_validate(checkpoint.recipe)
    recipe = stored.model_copy(update={"model": stored.model.model_copy(update=settings)})
    return load_weights(build_detector(recipe, categories), recipe, checkpoint, Path("x.pt"))


def test_a_start_says_what_it_took(untrained: Path) -> None:
    checkpoint = read_checkpoint(untrained)
    first, second = checkpoint.categories[:2]
    total = len(checkpoint.model)
    infos, warnings = report_of(start_from(checkpoint, checkpoint.categories))
    names = ", ".join(one["name"] for one in checkpoint.categories)
    assert infos == [f"starts from x.pt: {total} of {total} tensors; classes taken by name: {names}"] and not warnings
    infos, _ = report_of(start_from(checkpoint, [second, {"id": 9, "name": "dragon"}, first]))
    assert infos[0].endswith(f"; classes taken by name: {second['name']}, {first['name']}; initialized: dragon")
    infos, _ = report_of(start_from(checkpoint, [{"id": number, "name": f"dragon {number}"} for number in range(12)]))
    named = ", ".join(f"dragon {number}" for number in range(10))
    assert infos[0].endswith(f"; none of the classes is known there: {named} and 2 more")
    body = {name: tensor for name, tensor in checkpoint.model.items() if name.startswith("backbone.st")}
    infos, warnings = report_of(start_from(replace(checkpoint, model=body, part_of=total), checkpoint.categories))
    assert infos[0].startswith(f"starts from x.pt: {len(body)} of {total - 2} tensors, the others are initialized: ")
    assert infos[0].endswith(f"backbone.fpn (12), heads.boxes ({12 + 3}), heads.masks (48)") and not warnings, (
        "two counters are not told"
    )


def test_layers_that_a_model_does_not_have_are_left_out_with_a_warning(untrained: Path) -> None:
    checkpoint = read_checkpoint(untrained)
    start = start_from(checkpoint, checkpoint.categories, layers=1)
    occluder = {name.rpartition(".")[0] for name in checkpoint.model if name.startswith(f"{MASKS}occluder")}
    assert start.left_out == dict.fromkeys(occluder, "this model has no such layer")
    assert not start.fresh
    assert start.placed == sum(not name.startswith(f"{MASKS}occluder") for name in checkpoint.model)
    _, (warning,) = report_of(start)
    assert warning.startswith(f"{len(occluder)} layers of x.pt do not fit this model and are left out: {MASKS}occluder")
    assert warning.endswith(
        f"(this model has no such layer) and {len(occluder) - 3} more; to keep them: model.layers=2"
    )


def test_layers_that_only_the_model_has_start_fresh(untrained: Path) -> None:
    checkpoint = read_checkpoint(untrained)
    start = start_from(checkpoint, checkpoint.categories, mask_convs=6)
    assert start.fresh == {"heads.masks": 8} and not start.left_out


def test_whole_masks_start_as_the_visible_ones(untrained: Path) -> None:
    checkpoint = read_checkpoint(untrained)
    recipe = Recipe.model_validate(checkpoint.recipe)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"amodal": True})})
    detector = build_detector(recipe, checkpoint.categories)
    start = load_weights(detector, recipe, checkpoint, Path("x.pt"))
    state, total = detector.state_dict(), len(checkpoint.model) + 4
    whole = [name for name in state if name.startswith(f"{MASKS}amodal_mask.")]
    assert len(whole) == 4
    for name in whole:
        assert torch.equal(state[name], checkpoint.model[name.replace("amodal", "occludee")])
    (info,), warnings = report_of(start)
    assert info.startswith(
        f"starts from x.pt: {total} of {total} tensors (4 for whole masks start as those for visible ones); "
    )
    assert not warnings


def test_weights_without_a_mask_head_leave_whole_masks_fresh(untrained: Path) -> None:
    checkpoint = read_checkpoint(untrained)
    body = {name: tensor for name, tensor in checkpoint.model.items() if not name.startswith(MASKS)}
    start = start_from(replace(checkpoint, model=body), checkpoint.categories, amodal=True)
    assert (start.placed, start.copied) == (len(body), 0)
    assert "visible" not in report_of(start)[0][0]


def test_whole_masks_are_dropped_where_a_model_has_none(untrained: Path) -> None:
    checkpoint = read_checkpoint(untrained)
    stored = Recipe.model_validate(checkpoint.recipe)
    recipe = stored.model_copy(update={"model": stored.model.model_copy(update={"amodal": True})})
    model = build_detector(recipe, checkpoint.categories).state_dict()
    amodal = replace(checkpoint, model=model, recipe=recipe.model_dump(mode="json"))
    start = start_from(amodal, checkpoint.categories, amodal=False)
    assert (start.placed, start.copied, start.fresh) == (len(checkpoint.model), 0, {})
    _, (warning,) = report_of(start)
    assert warning == (
        f"2 layers of x.pt do not fit this model and are left out: {MASKS}amodal_mask.logits (this model has no such "
        f"layer), {MASKS}amodal_mask.upsample (this model has no such layer); to keep them: model.amodal=true"
    )


def test_a_recipe_of_before_a_setting_still_loads(untrained: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(untrained)
    for section, key in (("model", "amodal"), ("data", "boxes"), ("loss", "amodal_mask")):
        del checkpoint.recipe[section][key]
    save_checkpoint(tmp_path / "old.pt", checkpoint)
    trained = read_trained(tmp_path / "old.pt")
    assert not trained.recipe.model.amodal and not trained.recipe.amodal_boxes
    detector = trained.build("cpu")
    assert not detector.is_amodal and "amodal_mask" not in detector.heads.masks.head.outputs


def test_larger_maps_start_from_the_layers_of_smaller_ones(untrained: Path) -> None:
    checkpoint = read_checkpoint(untrained)
    start = start_from(checkpoint, checkpoint.categories, mask_size=56)
    names = {spec.name for spec in MAPS if spec.region != "amodal"}
    predictors = {f"{MASKS}{name}.{part}" for name in names for part in ("upsample", "logits")}
    assert start.left_out.keys() == predictors and start.settings == ["model.mask_size=28"]
    assert start.placed == len(checkpoint.model) - 2 * len(predictors)


def test_settings_of_other_shapes_are_named(untrained: Path) -> None:
    checkpoint = read_checkpoint(untrained)
    start = start_from(checkpoint, checkpoint.categories, mask_convs=2, attention=False, tower_convs=4)
    assert start.settings == ["model.tower_convs=1", "model.mask_convs=4", "model.attention=true"]
    with pytest.raises(BCNetError, match="holds weights of fcos tiny, this model is fcos tiny in torch") as caught:
        start_from(checkpoint, checkpoint.categories, geometry="torchvision", mask_convs=2)
    assert caught.value.hints == (
        "take its settings: model.detector=fcos model.backbone=tiny model.geometry=exact model.mask_convs=4",
    )


def test_a_layer_that_the_file_has_a_part_of_is_left_out(untrained: Path) -> None:
    checkpoint = read_checkpoint(untrained)
    lost = {name: tensor for name, tensor in checkpoint.model.items() if name != "heads.boxes.distances.bias"}
    start = start_from(replace(checkpoint, model=lost), checkpoint.categories)
    assert start.left_out == {"heads.boxes.distances": "its bias is missing there, (4,) in this model"}
    assert start.fresh == {"heads.boxes": 2}


def test_a_start_must_fill_the_feature_extractor(untrained: Path) -> None:
    checkpoint = read_checkpoint(untrained)
    name = "backbone.stages.2.conv1.0.weight"
    for model in (
        {other: tensor for other, tensor in checkpoint.model.items() if other != name},
        checkpoint.model | {name: torch.zeros(1)},
        checkpoint.model | {"backbone.stages.9.weight": torch.zeros(1)},
    ):
        with pytest.raises(BCNetError, match=r"1 of 39 tensors differ, the first is `backbone\.stages\.[29]\."):
            start_from(replace(checkpoint, model=model), checkpoint.categories)


def test_a_training_reports_its_start(tmp_path: Path, scenes: Path, untrained: Path) -> None:
    settings = ["model.channels=32", "model.tower_convs=1", "model.detector=fcos", "model.attention=true",
                "model.layers=1", "data.min_size=64", "data.max_size=64",
                "data.workers=0", "solver.batch_size=2", "solver.steps=1"]  # fmt: skip
    recipe = load_recipe("shapes", settings, data_root=scenes)
    reporter = Heard()
    run_training(TrainingJob(recipe, tmp_path / "run", "cpu", "bcnet train", init_from=str(untrained)), reporter)
    assert any(message.startswith(f"starts from {untrained}: ") for message in reporter.infos)
    assert any("are left out" in message for message in reporter.warnings)


def test_counters_of_a_trained_norm_are_not_counted(untrained: Path) -> None:
    checkpoint = read_checkpoint(untrained)
    lost = {name: tensor for name, tensor in checkpoint.model.items() if not name.endswith("num_batches_tracked")}
    start = start_from(replace(checkpoint, model=lost), checkpoint.categories)
    assert len(lost) < len(checkpoint.model)
    assert (start.placed, start.fresh, start.left_out) == (len(lost), {}, {})
