"""The study of mask heads: its variants differ in what they say, and its trials are run, kept and reported."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bcnet_core import BCNetError, masks
from bcnet_core.config.load import load_recipe
from bcnet_core.data.loaders import open_training_set
from bcnet_core.model.detectors import Detector
from bcnet_core.reporting import SilentReporter
from benchmarks.heads.peer import TorchvisionHeads, draw_masks, shift_half_pixel
from benchmarks.heads.report import interval, write_report
from benchmarks.heads.run import KeptSamples, Sweep, Training, run_trials, steps_within
from benchmarks.heads.trials import SCORES, Trial, TrialResult, plan_trials, read_results, result_path
from benchmarks.heads.variants import VARIANTS
from tests.benchmarks.conftest import Bench

SPLITS = (
    "data.train.annotations=annotations/instances_train.json", "data.train.images=train",
    "data.val.annotations=annotations/instances_val.json", "data.val.images=val",
)  # fmt: skip
SMALL = (*SPLITS, "data.min_size=96", "data.max_size=96", "model.channels=32", "model.box_head_channels=32")


@pytest.fixture
def sweep(scenes: Path, tmp_path: Path) -> Sweep:
    return Sweep(scenes, tmp_path / "out", 2, "cpu", SMALL)


def build(sweep: Sweep, variant: str) -> Detector:
    return Training(sweep.recipe(Trial(variant, 0)), Trial(variant, 0), sweep).detector


def gradients(sweep: Sweep, variant: str, *losses: str) -> dict[str, bool]:
    """Return whether these losses reach the pyramid, layer 1 and layer 2."""
    trial = Trial(variant, 0)
    training = Training(sweep.recipe(trial), trial, sweep)
    detector, samples = training.detector, [training.samples[position, 0] for position in range(6)]
    found = detector([one.image for one in samples], [one.targets for one in samples], list(range(6)))
    sum(found[name] for name in losses).backward()  # type: ignore[union-attr]
    head = detector.heads.masks.head
    assert head.occluder is not None
    parts = {"pyramid": detector.backbone, "layer 1": head.occluder, "layer 2": head.occludee}
    return {
        name: any(one.grad is not None and bool(one.grad.any()) for one in part.parameters())
        for name, part in parts.items()
    }


def test_the_losses_of_each_variant_reach_what_its_title_says(sweep: Sweep) -> None:
    mask, occluder = "occludee_mask", "occluder_mask"
    everything = {"pyramid": True, "layer 1": True, "layer 2": True}
    assert gradients(sweep, "two_layers", mask) == everything
    assert gradients(sweep, "detached", mask) == {**everything, "layer 1": False}
    assert gradients(sweep, "two_layers", occluder) == {**everything, "layer 2": False}
    assert gradients(sweep, "detached", occluder) == {**everything, "layer 2": False}
    assert gradients(sweep, "stopped", occluder) == {"pyramid": False, "layer 1": True, "layer 2": False}
    assert gradients(sweep, "no_occluder_loss", occluder) == dict.fromkeys(everything, False)


def test_changed_heads_compute_what_they_should(sweep: Sweep) -> None:
    plain, zero, detached, normed = (
        build(sweep, name).heads.masks.head.eval() for name in ("two_layers", "attention_zero", "detached", "sum_norm")
    )
    features = torch.randn(3, 32, 14, 14)
    for changed in (zero, detached):
        changed.load_state_dict(plain.state_dict(), strict=False)
        for name, logits in plain(features).items():
            torch.testing.assert_close(changed(features)[name], logits)
    normed.load_state_dict(plain.state_dict(), strict=False)
    assert not torch.allclose(normed(features)["occludee_mask"], plain(features)["occludee_mask"])
    torch.testing.assert_close(normed(features)["occluder_mask"], plain(features)["occluder_mask"])


def test_what_a_variant_adds_is_trained(sweep: Sweep) -> None:
    trial = Trial("sum_norm", 0)
    training = Training(sweep.recipe(trial), trial, sweep)
    norm = training.detector.heads.masks.head.get_submodule("sum_norm")
    before = [one.clone() for one in norm.parameters()]
    assert len(list(training.run())) == 2
    assert all(bool((one != other).any()) for one, other in zip(norm.parameters(), before, strict=True))


def test_masks_are_drawn_where_the_network_sees_them(scenes: Path) -> None:
    recipe = load_recipe("tiny", [*SPLITS, "data.min_size=128", "data.max_size=128"], data_root=scenes)
    for flip in (0.0, 1.0):
        dataset, coco = open_training_set(recipe.data.model_copy(update={"flip": flip}))
        sample = dataset[0, 0]
        drawn = draw_masks(sample.targets, *sample.image.shape[1:]).numpy()
        image = coco.images[0]
        true = [masks.decode(one["segmentation"]) for one in coco.annotations_by_image()[image["id"]]]
        expected = np.stack([mask[:, ::-1] if flip else mask for mask in true])
        assert drawn.shape == expected.shape and (drawn != expected).mean() == 0


def test_the_peer_finds_masks_in_true_boxes_as_in_its_own(sweep: Sweep) -> None:
    detector = build(sweep, "torchvision").eval()
    heads = detector.heads
    assert isinstance(heads, TorchvisionHeads)
    heads.roi_heads.score_thresh = 0.0
    batch = detector.prepare(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8))
    with torch.no_grad():
        features = detector.backbone(batch.tensors)
        (found,) = heads.detect(features, batch)
        first = torch.zeros(len(found.proposals.boxes), dtype=torch.int64)
        again = heads.masks(features, found.proposals.boxes, first)["occludee_mask"]
    same = (again - found.logits["occludee_mask"]).abs().flatten(1).amax(1) < 1e-3
    assert len(same) > 0 and same.any()  # those whose class is the most probable one


def test_maps_of_the_peer_move_by_half_a_pixel() -> None:
    ramp = torch.arange(28.0).expand(2, 28, 28)  # rises by 1 in a cell
    boxes = torch.tensor([[0.0, 0, 28, 28], [10.0, 10, 66, 24]])  # cells are 1 pixel wide, then 2
    moved = shift_half_pixel(ramp, boxes)
    torch.testing.assert_close(moved[0, :, 1:], ramp[0, :, 1:] - 0.5)
    torch.testing.assert_close(moved[1, :, 1:], ramp[1, :, 1:] - 0.25)
    down = shift_half_pixel(ramp.mT, boxes)
    torch.testing.assert_close(down[1, 1:], ramp.mT[1, 1:] - 1.0)
    assert shift_half_pixel(ramp[:0], boxes[:0]).shape == (0, 28, 28)


def test_kept_samples_are_those_of_the_training_set(sweep: Sweep) -> None:
    recipe = sweep.recipe(Trial("plain", 0))
    dataset, _ = open_training_set(recipe.data)
    kept = KeptSamples(recipe, torch.device("cpu"))
    mirrored = set()
    for seed in range(6):
        for _ in range(2):
            one, other = kept[1, seed], dataset[1, seed]
            assert one.seed == seed and torch.equal(one.image, other.image)
            assert torch.equal(one.targets.boxes, other.targets.boxes)
            mirrored.add(bool(one.targets.placement[0] < 0))
    assert mirrored == {False, True}
    with pytest.raises(BCNetError, match="an image has one size"):
        Training(
            replace(sweep, overrides=(*SMALL, "data.train_sizes=[64,96]")).recipe(Trial("plain", 0)),
            Trial("plain", 0),
            sweep,
        )


def test_trials_are_measured_once_reported_and_continued(bench: Bench, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("heads", scenes, *SMALL, "-o", out, "--steps", "2", "--device", "cpu")
    done = bench(*asked, "--seeds", "2", "--variant", "plain", "--variant", "torchvision", "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert [(one["variant"], one["seed"]) for one in content["results"]] == [
        ("plain", 0), ("plain", 1), ("torchvision", 0), ("torchvision", 1)
    ]  # fmt: skip
    assert all(one["scores"].keys() == SCORES.keys() for one in content["results"])
    assert all(0 <= one["scores"]["iou"] <= 1 and one["gradient_norm"] > 0 for one in content["results"])
    assert content["differences"].keys() == {"torchvision"}
    before = {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    more = bench(*asked, "--seeds", "1", "--variant", "plain", "--variant", "two_layers")
    assert more.returncode == 0 and "two layers alone" in more.stdout, more.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    other = bench(*asked[:-4], "--steps", "3", "--device", "cpu")
    assert other.returncode == 2 and "go on with those: --steps 2" in other.stderr
    unknown = bench(*asked, "--variant", "gcn")
    assert unknown.returncode == 2 and "attention_zero" in unknown.stderr


def test_a_failing_trial_is_named_and_does_not_stop_the_others(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Detector) -> None:
        raise RuntimeError("no kernel image")

    monkeypatch.setitem(VARIANTS, "stopped", VARIANTS["stopped"]._replace(change=fail))
    trials = [Trial("stopped", 0), Trial("plain", 0)]
    (failed,) = run_trials(sweep, trials, parallel=1, reporter=SilentReporter())
    assert failed.trial == trials[0] and "no kernel image" in failed.note
    assert [one.variant for one in read_results(sweep.folder)] == ["plain"]
    assert "not measured: stopped-0" in write_report(sweep.folder, [failed]).text


def test_no_trial_starts_that_would_end_too_late(sweep: Sweep) -> None:
    write(sweep.folder, "plain", 0, 0.3, seconds=50.0)
    soon = replace(sweep, deadline=time.time() + 40)
    (late,) = run_trials(soon, [Trial("plain", 1)], parallel=1, reporter=SilentReporter())
    assert late.note == "no time left"
    result_path(sweep.folder, Trial("plain", 0)).unlink()
    over = replace(sweep, deadline=time.time() + 0.01, steps=1000)
    (cut,) = run_trials(over, [Trial("plain", 1)], parallel=1, reporter=SilentReporter())
    assert cut.note == "cut off by the budget of time" and not read_results(sweep.folder)


def test_steps_are_chosen_to_fit_the_budget(bench: Bench, scenes: Path, tmp_path: Path) -> None:
    asked = ("heads", scenes, *SMALL, "-o", tmp_path, "--variant", "plain", "--seeds", "1", "--device", "cpu")
    done = bench(*asked, "--steps", "3", "--budget", "600", "--json")
    assert done.returncode == 0 and "1 trials of 3 steps" in done.stderr, done.stderr
    assert [one["steps"] for one in json.loads(done.stdout)["results"]] == [3]
    (tmp_path / "results/plain-0.json").unlink()
    short = bench(*asked, "--budget", "1")
    assert short.returncode == 2 and "allow more: --budget" in short.stderr
    assert steps_within(300, rounds=3, step_seconds=0.2, most=600) == 350
    assert steps_within(300, rounds=1, step_seconds=0.1, most=600) == 600
    assert steps_within(10, rounds=3, step_seconds=1.0, most=600) == 300
    assert steps_within(10, rounds=3, step_seconds=1.0, most=20) == 20


def write(folder: Path, variant: str, seed: int, score: float, *, seconds: float = 1.0) -> None:
    result = TrialResult(
        data="shapes", variant=variant, seed=seed, steps=2, seconds=seconds, step_seconds=0.1, gradient_norm=1.0,
        losses={"box": 1.0}, scores={**dict.fromkeys(SCORES, score), "recall_occluded": -1.0},
    )  # fmt: skip
    path = result_path(folder, Trial(variant, seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(result.model_dump_json())


def test_differences_are_paired_and_have_intervals(tmp_path: Path) -> None:
    for seed, (first, second) in enumerate([(0.30, 0.32), (0.40, 0.43), (0.20, 0.21)]):
        write(tmp_path, "two_layers", seed, first)
        write(tmp_path, "boundary", seed, second)
    report = write_report(tmp_path)
    mean, low, high = report.content["differences"]["boundary"]["mask_AP"]
    assert (mean, low, high) == pytest.approx((0.02, 0.02 - 4.3027 * 0.01 / math.sqrt(3), 0.02 + 0.024841), abs=1e-5)
    assert report.content["differences"]["boundary"]["recall_occluded"] == [None] * 3
    assert "+2.0 [-0.5, +4.5]" in report.text
    assert interval([0.1]).mean == 0.1 and math.isnan(interval([0.1]).low)
    assert interval([0.1, 0.1, 0.1001]).excludes_zero


def test_trials_of_one_seed_come_before_the_next() -> None:
    trials = plan_trials([], 2)
    assert [one.seed for one in trials] == [0] * len(VARIANTS) + [1] * len(VARIANTS)
    assert trials[0].variant == "two_layers"
    assert all(one.versus in VARIANTS and one.versus != name for name, one in VARIANTS.items())


def test_every_variant_is_a_recipe_of_its_own(sweep: Sweep) -> None:
    recipes = {name: (sweep.recipe(Trial(name, 0)), one.change) for name, one in VARIANTS.items()}
    assert all(recipes[first] != recipes[second] for first in recipes for second in recipes if first < second)


def test_a_result_that_is_none_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "plain", 0, 0.3)
    path = result_path(tmp_path, Trial("plain", 0))
    path.rename(path.with_name("plain-1.json"))
    with pytest.raises(BCNetError, match="holds the result of plain-0"):
        read_results(tmp_path)
    path.with_name("plain-1.json").write_text("{}")
    with pytest.raises(BCNetError, match="is not the result of a trial"):
        read_results(tmp_path)
