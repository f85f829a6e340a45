"""The engine of the studies: trials are run once, kept, compared seed by seed, and trained for the same time."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bcnet_core import BCNetError, masks
from bcnet_core.config.load import load_recipe
from bcnet_core.config.schema import Recipe
from bcnet_core.data.loaders import open_training_set
from bcnet_core.model.detectors import Detector
from bcnet_core.reporting import SilentReporter
from benchmarks.crowds.peers import draw_masks
from benchmarks.crowds.torchvision_peer import shift_half_pixel
from benchmarks.study.measures import SCORES
from benchmarks.study.report import interval, write_report
from benchmarks.study.run import measure_costs, run_trials
from benchmarks.study.training import KeptSamples, Training, open_samples
from benchmarks.study.trials import Plan, Study, Trial, TrialResult, Variant, read_results
from tests.benchmarks.conftest import SMALL, SPLITS


def fail(_: Detector, __: Recipe) -> None:
    raise RuntimeError("no kernel image")


VARIANTS = {
    "two": Variant("two layers", minus=("one",)),
    "one": Variant("one layer", ("model.layers=1",)),
    "broken": Variant("broken", change=fail, minus=("one",)),
}


@pytest.fixture
def study(scenes: Path, tmp_path: Path) -> Study:
    return Study(VARIANTS, {"shapes": scenes}, tmp_path, Plan("own_light", steps=2, overrides=SMALL), "cpu")


def write(study: Study, variant: str, seed: int, score: float, *, curve: dict[int, float] | None = None) -> Path:
    result = TrialResult(
        data="shapes", variant=variant, seed=seed, steps=10, seconds=9.0, step_seconds=0.1, gradient_norm=1.0,
        losses={"box": 1.0}, scores={**dict.fromkeys(SCORES, score), "recall_occluded": -1.0}, oracles={},
        curve=curve or {10: score},
    )  # fmt: skip
    path = study.path(Trial("shapes", variant, seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(result.model_dump_json())
    return path


def test_differences_are_paired_and_have_intervals(study: Study) -> None:
    for seed, (one, two) in enumerate([(0.30, 0.32), (0.40, 0.43), (0.20, 0.21)]):
        write(study, "one", seed, one)
        write(study, "two", seed, two)
    write(study, "two", 3, 0.9)  # has no partner
    report = write_report(study, "Title")
    found = report.content["differences"]["shapes"]["two"]["one"]
    assert found["mask_AP"] == pytest.approx((0.02, 0.02 - 4.3027 * 0.01 / math.sqrt(3), 0.02 + 0.024841), abs=1e-5)
    assert found["recall_occluded"] == [None] * 3
    lines = report.text.splitlines()
    row = next(line for line in lines if line.startswith("| two layers to one layer"))
    assert "+2.0 [-0.5, +4.5]" in row and "*" not in row
    means = next(line for line in lines if line.startswith("| one layer "))
    assert [cell.strip() for cell in means.split("|")[2:4]] == ["3", "30.0 ± 10.0"]
    assert json.loads((study.folder / "report.json").read_text()) == report.content
    assert interval([0.1]).mean == 0.1 and math.isnan(interval([0.1]).low)
    assert interval([0.1, 0.1, 0.1001]).excludes_zero


def test_a_score_that_was_not_measured_then_is_unknown(study: Study) -> None:
    for seed in range(2):
        write(study, "one", seed, 0.3)
        path = write(study, "two", seed, 0.4)
        content = json.loads(path.read_text())
        del content["scores"]["iou"]
        path.write_text(json.dumps(content))
    found = write_report(study, "Title").content["differences"]["shapes"]["two"]["one"]
    assert found["iou"] == [None] * 3 and found["box_AP"][0] == pytest.approx(0.1)


def test_mask_ap_along_the_training_is_shown_by_share_of_the_steps(study: Study) -> None:
    write(study, "one", 0, 0.4, curve={3: 0.1, 5: 0.2, 8: 0.3, 10: 0.4})
    text = write_report(replace(study, evaluations=4), "Title").text
    shares = [line.split("|")[1:3] for line in text.splitlines() if "%" in line and line.startswith("|")]
    assert [(share.strip(), ap.strip()) for share, ap in shares] == [
        ("25%", "10.0"), ("50%", "20.0"), ("75%", "30.0"), ("100%", "40.0")
    ]  # fmt: skip
    assert "along the training" not in write_report(study, "Title").text


def test_a_failing_trial_is_named_and_does_not_stop_the_others(study: Study) -> None:
    trials = [Trial("shapes", "broken", 0), Trial("shapes", "one", 0)]
    (failed,) = run_trials(study, trials, parallel=1, reporter=SilentReporter())
    assert failed.trial == trials[0] and "no kernel image" in failed.note
    assert [one.variant for one in read_results(study)] == ["one"]
    assert "not measured: shapes broken 0: RuntimeError" in write_report(study, "Title", [failed]).text
    study.path(trials[1]).unlink()
    with pytest.raises(BCNetError, match="holds no results"):
        write_report(study, "Title", [failed])


def test_equal_minutes_are_each_variants_own_number_of_steps(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.study.run.ROUND_STEPS", 1)
    trials = [Trial("shapes", name, 0) for name in ("two", "one")]
    costs = measure_costs(study, trials, parallel=1, reporter=SilentReporter())
    assert costs.keys() == {"shapes"} and costs["shapes"].keys() == {"two", "one"}
    assert min(costs["shapes"].values()) > 0
    assert measure_costs(study, trials, parallel=1, reporter=SilentReporter()) == costs
    half = replace(study, plan=replace(study.plan, steps=None, minutes=0.05))
    (study.folder / "costs.json").write_text(json.dumps({"shapes": {"two": 3.0, "one": 1.0}}))
    assert run_trials(half, trials, parallel=1, reporter=SilentReporter()) == []
    assert {one.variant: one.steps for one in read_results(half)} == {"two": 1, "one": 3}


def test_a_variant_that_joins_later_is_timed_beside_a_known_one(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    slower_now = {"one": 2.0, "two": 6.0}
    monkeypatch.setattr("benchmarks.study.run._costs_of", lambda _, task: {name: slower_now[name] for name in task[1]})
    (study.folder / "costs.json").write_text(json.dumps({"shapes": {"one": 1.0}}))
    costs = measure_costs(study, [Trial("shapes", "two", 0)], parallel=1, reporter=SilentReporter())
    assert costs == {"shapes": {"one": 1.0, "two": 3.0}}


def test_mask_ap_is_taken_along_the_training(study: Study) -> None:
    along = replace(study, evaluations=2, plan=replace(study.plan, steps=3))
    assert run_trials(along, [Trial("shapes", "one", 0)], parallel=1, reporter=SilentReporter()) == []
    (found,) = read_results(along)
    assert list(found.curve) == [2, 3] and found.curve[3] == found.scores["mask_AP"]
    assert found.gradient_norm > 0 and found.step_seconds > 0 and found.scores.keys() == SCORES.keys()


def test_trials_of_one_seed_come_before_the_next(study: Study) -> None:
    both = replace(study, roots={"a": Path("a"), "b": Path("b")})
    assert [one.name for one in both.plan_trials(["one", "two"], 2)] == [
        "a two 0", "a one 0", "b two 0", "b one 0", "a two 1", "a one 1", "b two 1", "b one 1",
    ]  # fmt: skip
    with pytest.raises(BCNetError, match="no variant is called `three`"):
        study.plan_trials(["three"], 1)


def test_a_result_that_is_none_is_refused(study: Study) -> None:
    path = write(study, "one", 0, 0.3)
    path.rename(path.with_name("one-1.json"))
    with pytest.raises(BCNetError, match="holds the result of shapes one 0"):
        read_results(study)
    path.with_name("one-1.json").write_text("{}")
    with pytest.raises(BCNetError, match="is not the result of a trial"):
        read_results(study)


def test_a_folder_keeps_its_plan(study: Study) -> None:
    study.plan.keep_in(study.folder)
    study.plan.keep_in(study.folder)
    with pytest.raises(BCNetError, match="begun with another plan"):
        replace(study.plan, steps=3).keep_in(study.folder)


def test_kept_samples_are_those_of_the_training_set(study: Study) -> None:
    recipe = study.recipe(Trial("shapes", "one", 0), 2)
    kept, _ = open_samples(recipe, torch.device("cpu"))
    assert isinstance(kept, KeptSamples)
    dataset, _ = open_training_set(recipe)
    mirrored = set()
    for seed in range(6):
        for _ in range(2):
            one, other = kept[1, seed], dataset[1, seed]
            assert one.seed == seed and torch.equal(one.image, other.image)
            assert torch.equal(one.targets.boxes, other.targets.boxes)
            mirrored.add(bool(one.targets.placement[0] < 0))
    assert mirrored == {False, True}


@pytest.mark.parametrize(
    "setting", ["data.train_sizes=[32,64]", "data.scale_jitter=[0.5,1]", "data.copy_paste.probability=1"]
)
def test_samples_that_are_drawn_anew_are_not_kept(study: Study, setting: str) -> None:
    changed = replace(study, plan=replace(study.plan, overrides=(*SMALL, setting)))
    samples, _ = open_samples(changed.recipe(Trial("shapes", "one", 0), 2), torch.device("cpu"))
    assert not isinstance(samples, KeptSamples)


def test_a_replaced_part_is_trained_at_the_rate_of_the_heads(study: Study) -> None:
    slow = replace(study, plan=replace(study.plan, overrides=(*SMALL, "solver.backbone_lr=0.00001", "solver.ema=0.5")))
    training = Training(slow.recipe(Trial("shapes", "one", 0), 2), Variant("", change=replace_box_head), "cpu")
    state, new = training.state, training.state.detector.heads.roi_heads.box_head
    rates = {id(one): group["lr"] for group in state.optimizer.param_groups for one in group["params"]}
    assert rates[id(new.weight)] == max(rates.values()) > min(rates.values())
    assert any(name.endswith("box_head.weight") for name, _ in state.best_detector.named_parameters())


def replace_box_head(detector: Detector, recipe: Recipe) -> None:
    width = recipe.model.channels * 7**2
    detector.heads.roi_heads.box_head = _Flat(width, recipe.model.box_head_channels)


class _Flat(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(1))


def test_masks_are_drawn_where_the_network_sees_them(scenes: Path) -> None:
    recipe = load_recipe("tiny", [*SPLITS, "data.min_size=128", "data.max_size=128"], data_root=scenes)
    for flip in (0.0, 1.0):
        data = recipe.data.model_copy(update={"flip": flip})
        dataset, coco = open_training_set(recipe.model_copy(update={"data": data}))
        sample = dataset[0, 0]
        drawn = draw_masks(sample.targets, *sample.image.shape[1:]).numpy()
        image = coco.images[0]
        true = [masks.decode(one["segmentation"]) for one in coco.annotations_by_image()[image["id"]]]
        expected = np.stack([mask[:, ::-1] if flip else mask for mask in true])
        assert drawn.shape == expected.shape and (drawn != expected).mean() == 0


def test_maps_of_torchvisions_class_move_by_half_a_pixel() -> None:
    ramp = torch.arange(28.0).expand(2, 28, 28)  # rises by 1 in a cell
    boxes = torch.tensor([[0.0, 0, 28, 28], [10.0, 10, 66, 24]])  # cells are 1 pixel wide, then 2
    moved = shift_half_pixel(ramp, boxes)
    torch.testing.assert_close(moved[0, :, 1:], ramp[0, :, 1:] - 0.5)
    torch.testing.assert_close(moved[1, :, 1:], ramp[1, :, 1:] - 0.25)
    down = shift_half_pixel(ramp.mT, boxes)
    torch.testing.assert_close(down[1, 1:], ramp.mT[1, 1:] - 1.0)
    assert shift_half_pixel(ramp[:0], boxes[:0]).shape == (0, 28, 28)
