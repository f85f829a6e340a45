import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from bcnet_core import BCNetError
from bcnet_core.config.choices import MaskSize
from bcnet_core.config.load import load_recipe
from bcnet_core.config.schema import Recipe
from bcnet_core.engine import resolving
from bcnet_core.engine.launch import open_data, run_training
from bcnet_core.engine.resolving import drawn_iou, in_steps, precision_for
from bcnet_core.engine.run_dir import open_run
from bcnet_core.reporting import SilentReporter
from bcnet_core.weights.checkpoint import list_checkpoints, read_checkpoint
from tests.engine.test_loop import Collector, job

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
EPOCHS = ("solver.epochs=2", "solver.eval_epochs=1", "solver.schedule=step", "solver.milestones=[0.5,11]")


def write_few(scenes: Path, path: Path, *, count: int) -> None:
    """Write the annotation file of the first images of a set."""
    content = json.loads((scenes / "annotations/instances_train.json").read_text())
    content["images"] = content["images"][:count]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
    path.write_text(json.dumps(content))


def solver_in_epochs(**settings: object) -> Recipe:
    return Recipe.model_validate({"solver": {"batch_size": 4, **settings}})


def test_lengths_in_epochs_become_steps() -> None:
    recipe = solver_in_epochs(epochs=12, warmup_epochs=0.5, eval_epochs=2, milestones=[0.6, 0.9, 7], patience=3)
    solver = in_steps(recipe, 1000).solver
    assert (solver.steps, solver.warmup_steps, solver.eval_every) == (3000, 125, 500)
    assert solver.milestones == (1800, 2700, 7)
    assert (solver.epochs, solver.warmup_epochs, solver.eval_epochs) == (None, None, None)
    assert in_steps(in_steps(recipe, 1000), 77) == in_steps(recipe, 1000)


def test_a_recipe_in_steps_stays_as_it_is() -> None:
    for name in ("fcos_r50", "tiny"):
        assert in_steps(load_recipe(name), 5) == load_recipe(name)


def test_every_length_is_one_step_at_least() -> None:
    solver = in_steps(solver_in_epochs(epochs=0.1, warmup_epochs=0.1, eval_epochs=0.1, milestones=[0.1]), 1).solver
    assert (solver.steps, solver.warmup_steps, solver.eval_every, solver.milestones) == (1, 1, 1, (1,))
    none = in_steps(solver_in_epochs(epochs=1, warmup_epochs=0, eval_epochs=0), 100).solver
    assert (none.steps, none.warmup_steps, none.eval_every) == (25, 0, 0)


def test_a_small_set_trains_the_least_number_of_steps() -> None:
    recipe = solver_in_epochs(epochs=10, min_steps=600, milestones=[0.5])
    small, large = in_steps(recipe, 100).solver, in_steps(recipe, 1000).solver
    assert (small.steps, small.milestones, small.min_steps) == (600, (300,), 0)
    assert (large.steps, large.milestones) == (2500, (1250,))


@pytest.mark.parametrize(
    ("asked", "device", "capability", "expected"),
    [
        ("auto", CPU, None, "fp32"),
        ("auto", GPU, (7, 5), "fp16"),
        ("auto", GPU, (8, 0), "bf16"),
        ("auto", GPU, (9, 0), "bf16"),
        ("fp16", CPU, None, "fp16"),
        ("fp32", GPU, (9, 0), "fp32"),
    ],
)
def test_auto_is_the_precision_that_the_device_has(
    monkeypatch: pytest.MonkeyPatch, asked: str, device: torch.device, capability: tuple[int, int] | None, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert precision_for(asked, device) == expected  # type: ignore[arg-type]


def test_one_gpu_without_bf16_decides_for_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(resolving.dist, "any_process", lambda flags, _: [True for _ in flags])
    assert precision_for("auto", GPU) == "fp16"


def test_the_start_says_what_was_resolved(scenes: Path, tmp_path: Path) -> None:
    reporter = Collector()
    asked = job(scenes, tmp_path, "solver.epochs=2", "solver.min_steps=30", "solver.precision=auto",
                "solver.lr_batch_size=4", "solver.batch_size=2").recipe  # fmt: skip
    opened = open_data(asked, None, CPU, reporter)
    assert "30 steps of 2 images: 5.0 epochs instead of 2, for solver.min_steps" in reporter.messages
    assert "precision fp32, chosen for the device (solver.precision=auto)" in reporter.messages
    assert reporter.messages[-1].endswith("scaled by 0.5")  # steps that follow from epochs need no advice
    assert (opened.recipe.solver.steps, opened.recipe.solver.precision) == (30, "fp32")


@pytest.mark.parametrize("detector", ["fcos", "faster_rcnn"])
def test_limits_follow_the_fullest_training_image_and_are_told(scenes: Path, tmp_path: Path, detector: str) -> None:
    path, crowded = scenes / "annotations/instances_train.json", tmp_path / "crowded.json"
    content = json.loads(path.read_text())
    one = content["annotations"][0]
    content["annotations"] = [{**one, "id": number} for number in range(1, 104)] + [{**one, "id": 999, "iscrowd": 1}]
    crowded.write_text(json.dumps(content))
    limits = ("model.detections_per_image=auto", "model.proposals_per_image=200", "model.candidates_per_level=500",
              f"model.detector={detector}")  # fmt: skip
    reporter = Collector()
    asked = job(scenes, tmp_path, *limits, f"data.train.annotations={crowded}", "data.allow_no_occluders=true").recipe
    model = open_data(asked, None, CPU, reporter).recipe.model
    assert (model.detections_per_image, model.proposals_per_image, model.candidates_per_level) == (160, 320, 500)
    rest = ", from 320 proposals" if detector == "faster_rcnn" else ""
    assert f"up to 103 objects in an image: keeps 160 detections{rest}" in reporter.messages
    fixed = Collector()
    open_data(job(scenes, tmp_path, "model.detections_per_image=50").recipe, None, CPU, fixed)
    assert not any("keeps 50" in message and "objects in an image:" in message for message in fixed.messages)


@pytest.fixture
def blocks_and_threads(tmp_path: Path) -> Path:
    """A data root whose training images hold squares, and diagonal lines that are thin for their boxes, 400 pixels."""
    (tmp_path / "train").mkdir()
    images = [{"id": number, "file_name": f"{number}.png", "width": 500, "height": 500} for number in (1, 2)]
    annotations = []
    for image in images:
        cv2.imwrite(str(tmp_path / "train" / str(image["file_name"])), np.zeros((500, 500, 3), np.uint8))
        for number, polygon in enumerate(([20, 20, 420, 20, 420, 420, 20, 420], [20, 20, 40, 20, 420, 420, 400, 420])):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image["id"], "category_id": number + 1, "iscrowd": 0,
                 "bbox": [20, 20, 400, 400], "area": 1, "segmentation": [polygon]}
            )  # fmt: skip
    categories = [{"id": 1, "name": "block"}, {"id": 2, "name": "thread"}]
    for name, kept in (("blocks", {1}), ("threads", {2}), ("both", {1, 2})):
        chosen = [one for one in annotations if one["category_id"] in kept]
        content = {"images": images, "categories": categories, "annotations": chosen}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(("name", "size"), [("blocks", 28), ("threads", 56), ("both", 56)])
def test_the_size_of_the_maps_follows_how_well_they_draw_the_masks_and_is_told(
    blocks_and_threads: Path, tmp_path: Path, name: str, size: int
) -> None:
    root, reporter = blocks_and_threads, Collector()
    asked = job(root, tmp_path, "model.mask_size=auto", f"data.train.annotations={root / name}.json",
                "data.allow_no_occluders=true").recipe  # fmt: skip
    opened = open_data(asked, None, CPU, reporter)
    assert opened.recipe.model.mask_size == size
    assert any(message.startswith(f"maps of {size} cells a side") for message in reporter.messages)
    given = Collector()
    kept = asked.model_copy(update={"model": asked.model.model_copy(update={"mask_size": 112})})
    assert open_data(kept, None, CPU, given).recipe.model.mask_size == 112
    assert not any("cells a side" in message for message in given.messages)


def test_a_mask_is_drawn_as_its_maps_would_show_it(blocks_and_threads: Path, tmp_path: Path) -> None:
    def drawn(name: str, size: MaskSize) -> float:
        asked = job(blocks_and_threads, tmp_path, f"data.train.annotations={blocks_and_threads / name}.json",
                    "data.allow_no_occluders=true").recipe  # fmt: skip
        return drawn_iou(open_data(asked, None, CPU, SilentReporter()).dataset, size)

    assert drawn("blocks", 28) > 0.99
    coarse, fine = drawn("threads", 28), drawn("threads", 56)
    assert coarse < 0.8 < fine < 1  # lines of 20 pixels across, in cells of 14 and of 7
    assert drawn("both", 28) == pytest.approx((drawn("blocks", 28) + coarse) / 2)


@pytest.mark.parametrize(("milestones", "told"), [("[60000,80000]", True), ("[2,80000]", False), ("[]", False)])
def test_a_learning_rate_that_never_falls_is_told(scenes: Path, tmp_path: Path, milestones: str, told: bool) -> None:
    reporter = Collector()
    settings = ("solver.epochs=1", "solver.schedule=step", f"solver.milestones={milestones}")
    open_data(job(scenes, tmp_path, *settings).recipe, None, CPU, reporter)
    assert any("never falls" in message for message in reporter.messages) == told


def test_a_run_in_epochs_stores_steps_and_its_resolved_recipe_trains_the_same(scenes: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.json"
    write_few(scenes, few, count=3)
    asked = job(scenes, tmp_path / "run", *EPOCHS, f"data.train.annotations={few}", "solver.precision=auto")
    run_training(asked, SilentReporter())
    solver = open_run(tmp_path / "run").recipe.solver
    assert (solver.steps, solver.epochs, solver.eval_every, solver.milestones) == (3, None, 2, (2, 11))
    assert solver.precision == "fp32"
    again = load_recipe(tmp_path / "run/recipe.resolved.yaml")
    assert again == open_run(tmp_path / "run").recipe
    run_training(replace(asked, recipe=again, run_dir=tmp_path / "again"), SilentReporter())
    one, other = (read_checkpoint(list_checkpoints(tmp_path / name)[-1]).model for name in ("run", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    run_training(replace(asked, resume=True), SilentReporter())  # nothing is left to do
    write_few(scenes, few, count=6)
    with pytest.raises(BCNetError, match="was trained with other settings") as caught:
        run_training(replace(asked, resume=True), SilentReporter())
    assert caught.value.hints[:2] == (
        "solver.milestones was [2,11], now [3,11]",
        "lengths in epochs, and milestones as shares, follow from the number of training images",
    )
