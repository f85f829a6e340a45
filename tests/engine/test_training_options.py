"""Every setting of the solver does what it says."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bcnet_core import BCNetError
from bcnet_core.annotations.coco import Record
from bcnet_core.config.data import DataConfig
from bcnet_core.config.load import load_recipe
from bcnet_core.config.schema import Recipe
from bcnet_core.data.loaders import open_training_set
from bcnet_core.engine.launch import open_data, run_training, train_together
from bcnet_core.engine.logging import draw_curves, layers_picture
from bcnet_core.engine.state import TrainingJob, TrainingState, Validation
from bcnet_core.model.detectors import Detector
from bcnet_core.reporting import Reporter, SilentReporter
from bcnet_core.weights.checkpoint import best_path, list_checkpoints, read_checkpoint, save_checkpoint
from bcnet_core.weights.loading import read_trained
from tests.engine.test_loop import Collector, job, science

CPU = torch.device("cpu")


def state(scenes: Path, run_dir: Path, *overrides: str) -> tuple[TrainingState, list[Any]]:
    asked = job(scenes, run_dir, *overrides)
    dataset, coco = open_training_set(asked.recipe)
    samples = [dataset[position, position] for position in range(asked.recipe.solver.batch_size)]
    return TrainingState(asked, coco.categories, CPU), samples


def gradients(training: TrainingState) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in training.detector.parameters() if p.grad is not None])


def test_accumulated_parts_give_the_mean_gradient(scenes: Path, tmp_path: Path) -> None:
    parts, samples = state(scenes, tmp_path, "solver.batch_size=4", "solver.accumulate=2")
    losses = parts.backward(samples)
    whole, _ = state(scenes, tmp_path, "solver.batch_size=2")
    first, second = whole.backward(samples[:2]), whole.backward(samples[2:])
    torch.testing.assert_close(gradients(parts), gradients(whole) / 2, rtol=1e-4, atol=1e-6)
    assert losses["box"] == pytest.approx((first["box"] + second["box"]).item() / 2)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_computes_in_half_and_updates_in_full_precision(
    scenes: Path, tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    half, samples = state(scenes, tmp_path, f"solver.precision={precision}")
    full, _ = state(scenes, tmp_path)
    seen: list[torch.dtype] = []
    half.detector.backbone.stem[0].register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    before = [parameter.clone() for parameter in half.detector.parameters()]
    losses, expected = half.backward(samples), full.backward(samples)
    assert seen == [dtype] and losses["box"].dtype == torch.float32
    assert losses["occludee_mask"] == pytest.approx(expected["occludee_mask"].item(), rel=0.03)
    for _ in range(20):  # a scale that is too large skips steps until it fits
        half.update()
        if any(not torch.equal(old, new) for old, new in zip(before, half.detector.parameters(), strict=True)):
            break
        half.backward(samples)
    else:
        pytest.fail("no step was taken")
    assert all(parameter.dtype == torch.float32 for parameter in half.detector.parameters())
    assert bool(half.scaler.state_dict()) == (precision == "fp16")


def test_a_gradient_is_clipped_to_its_norm(scenes: Path, tmp_path: Path) -> None:
    for norm in (0.5, 0.0):
        training, samples = state(
            scenes, tmp_path, f"solver.clip_norm={norm}", "solver.optimizer=sgd", "solver.weight_decay=0"
        )
        training.backward(samples)
        raw = gradients(training).norm().item()
        training.update()
        moments = [value["momentum_buffer"].flatten() for value in training.optimizer.state.values()]
        assert torch.cat(moments).norm().item() == pytest.approx(norm or raw, rel=1e-3)
        assert raw > 0.5


def test_ema_weights_follow_their_decay_and_are_used_for_inference(scenes: Path, tmp_path: Path) -> None:
    asked = job(scenes, tmp_path / "run", "solver.ema=0.75", "solver.steps=3", "solver.keep_checkpoints=3",
                "solver.checkpoint_every=1")  # fmt: skip
    run_training(asked, SilentReporter())
    name = "heads.roi_heads.masks.head.occludee.convs.0.weight"
    saved = [read_checkpoint(path) for path in list_checkpoints(tmp_path / "run")]
    expected = saved[0].model[name]  # the average begins with the weights of the first step
    for checkpoint in saved[1:]:
        expected = 0.75 * expected + 0.25 * checkpoint.model[name]
        torch.testing.assert_close(checkpoint.averaged[name], expected)
    assert not torch.equal(expected, saved[-1].model[name])
    loaded = read_trained(tmp_path / "run").weights
    torch.testing.assert_close(loaded[name], expected)
    del saved[-1].averaged[name]
    save_checkpoint(list_checkpoints(tmp_path / "run")[-1], saved[-1])
    with pytest.raises(BCNetError, match=rf"1 of \d+ tensors differ, the first is `{name}`"):
        TrainingState(replace(asked, resume=True), saved[-1].categories, torch.device("cpu"))


@pytest.mark.parametrize("last", [True, False])
def test_the_memory_layout_is_a_setting(scenes: Path, tmp_path: Path, last: bool) -> None:
    training, samples = state(scenes, tmp_path, f"model.channels_last={str(last).lower()}")
    weight = training.detector.backbone.stages[0].conv1[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == last
    batch = training.detector.preprocess([samples[0].image]).tensors
    assert batch.is_contiguous(memory_format=torch.channels_last) == last


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
def test_compiled_layers_give_the_same_losses(scenes: Path, tmp_path: Path) -> None:
    dense = "model.detector=fcos"  # in other last digits Faster R-CNN may choose other proposals
    plain, samples = state(scenes, tmp_path, dense)
    compiled, _ = state(scenes, tmp_path, dense, "solver.compile=true")
    expected, losses = plain.backward(samples), compiled.backward(samples)
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients(compiled), gradients(plain), rtol=1e-2, atol=1e-4)
    compiled.save()
    assert read_checkpoint(list_checkpoints(tmp_path)[0]).model.keys() == plain.detector.state_dict().keys()


def scoring(scores: dict[int, float], *, stop_at: int | None = None) -> Validation:
    """Return an evaluation with the given scores by step."""
    calls = iter(scores.values())

    def score(
        detector: Detector, recipe: Recipe, reporter: Reporter, stopping: Callable[[], bool]
    ) -> dict[str, float] | None:
        assert not detector.training
        value = next(calls)
        if value == stop_at:
            signal.raise_signal(signal.SIGTERM)
        return None if stopping() else {"mask_AP": value}

    def check(data: DataConfig, categories: Sequence[Record], eval_every: int, reporter: Reporter) -> None:
        assert len(categories) == 5 and eval_every == 2

    return Validation(check, score)


EVERY = ("solver.steps=6", "solver.eval_every=2", "solver.keep_checkpoints=1", "solver.checkpoint_every=1")


def test_the_best_checkpoint_and_the_newest_are_kept(scenes: Path, tmp_path: Path) -> None:
    reporter = Collector()
    run_training(job(scenes, tmp_path, *EVERY, validation=scoring({2: 0.1, 4: 0.3, 6: 0.2})), reporter)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000006.pt"]
    assert read_checkpoint(best_path(tmp_path)).step == 4
    shown = [row for row in science(tmp_path) if "validation" in row]
    assert [(row["step"], row["validation"]["mask_AP"]) for row in shown] == [(2, 0.1), (4, 0.3), (6, 0.2)]
    assert f"best: step 4, mask AP 30.0, {best_path(tmp_path)}" in reporter.messages


def test_an_interrupted_evaluation_is_repeated_after_resume(scenes: Path, tmp_path: Path) -> None:
    cut = job(scenes, tmp_path, *EVERY, validation=scoring({2: 0.1, 4: 0.3}, stop_at=0.3))  # type: ignore[arg-type]
    end = train_together(cut, SilentReporter())
    assert isinstance(end, BCNetError) and "saved step 4 of 6" in end.message
    assert read_checkpoint(best_path(tmp_path)).step == 2
    run_training(job(scenes, tmp_path, *EVERY, validation=scoring({4: 0.3, 6: 0.2}), resume=True), SilentReporter())
    assert read_checkpoint(best_path(tmp_path)).step == 4
    assert [row["step"] for row in science(tmp_path) if "validation" in row] == [2, 4, 6]


def test_an_interrupted_evaluation_of_the_last_step_is_an_interruption(scenes: Path, tmp_path: Path) -> None:
    cut = job(scenes, tmp_path, *EVERY, validation=scoring({2: 0.1, 4: 0.2, 6: 0.3}, stop_at=0.3))  # type: ignore[arg-type]
    end = train_together(cut, SilentReporter())
    assert isinstance(end, BCNetError) and "saved step 6 of 6" in end.message
    run_training(job(scenes, tmp_path, *EVERY, validation=scoring({6: 0.3}), resume=True), SilentReporter())
    assert read_checkpoint(best_path(tmp_path)).step == 6


PATIENT = ("solver.steps=12", "solver.eval_every=2", "solver.patience=2")


def test_a_run_that_gets_no_better_ends_early_and_says_so(scenes: Path, tmp_path: Path) -> None:
    reporter = Collector()
    scores = scoring({2: 0.1, 4: 0.3, 6: 0.2, 8: 0.3})  # an equal score is no better one
    last = run_training(job(scenes, tmp_path, *PATIENT, validation=scores), reporter)
    assert last == tmp_path / "checkpoints/step_00000008.pt" and last.exists()
    assert (
        "stopped after step 8 of 12: the mask AP was no better in the last 2 evaluations (solver.patience)"
        in reporter.messages
    )
    assert reporter.messages[-1] == f"best: step 4, mask AP 30.0, {best_path(tmp_path)}"
    again = Collector()  # it has ended: a resume trains nothing
    run_training(job(scenes, tmp_path, *PATIENT, validation=scoring({}), resume=True), again)
    assert again.notes == [] and again.messages[-2].startswith("stopped after step 8 of 12")
    more = (*PATIENT, "solver.patience=3")
    run_training(job(scenes, tmp_path, *more, validation=scoring({10: 0.1}), resume=True), Collector())
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000008.pt", "step_00000010.pt"]


def test_a_better_score_renews_the_patience(scenes: Path, tmp_path: Path) -> None:
    reporter = Collector()
    values = {2: 0.3, 4: 0.2, 6: 0.4, 8: 0.1, 10: 0.5, 12: 0.1}
    run_training(job(scenes, tmp_path, *PATIENT, validation=scoring(values)), reporter)
    assert [row["step"] for row in science(tmp_path) if "validation" in row] == list(values)
    assert not any(message.startswith("stopped") for message in reporter.messages)


def test_the_patience_of_a_resumed_run_counts_all_evaluations(scenes: Path, tmp_path: Path) -> None:
    cut = Collector(lambda step: signal.raise_signal(signal.SIGTERM) if step == 5 else None)
    first = train_together(job(scenes, tmp_path, *PATIENT, validation=scoring({2: 0.3, 4: 0.1})), cut)
    assert isinstance(first, BCNetError) and "saved step 6 of 12" in first.message
    run_training(job(scenes, tmp_path, *PATIENT, validation=scoring({6: 0.2}), resume=True), SilentReporter())
    assert [row["step"] for row in science(tmp_path) if "validation" in row] == [2, 4, 6]


@pytest.mark.parametrize("setting", ["solver.backbone_lr=0.0002", "solver.layer_decay=0.5"])
def test_stages_keep_their_share_of_the_learning_rate(scenes: Path, tmp_path: Path, setting: str) -> None:
    training, samples = state(scenes, tmp_path, setting, "solver.lr=0.002", "solver.warmup_steps=4")
    own = {id(one): group["lr"] / 0.002 for group in training.optimizer.param_groups for one in group["params"]}
    parts = training.detector.backbone
    stem, last, pyramid = parts.stem[0].weight, parts.stages[3].conv1[0].weight, parts.fpn.inner_blocks[0][0].weight
    shares = [own[id(one)] for one in (stem, last, pyramid)]
    assert shares == pytest.approx([0.1, 0.1, 1] if "backbone_lr" in setting else [0.5**4, 1, 1])
    before = [one.clone() for one in (stem, last, pyramid)]
    training.backward(samples)
    assert training.update() == pytest.approx(0.002 * 0.001)  # the first step of the warm-up
    rates = {id(one): group["lr"] for group in training.optimizer.param_groups for one in group["params"]}
    assert [rates[id(one)] / 2e-6 for one in (stem, last, pyramid)] == pytest.approx(shares)
    assert not any(torch.equal(old, new) for old, new in zip(before, (stem, last, pyramid), strict=True))


def test_a_full_disk_keeps_the_previous_checkpoint(scenes: Path, tmp_path: Path) -> None:
    training, samples = state(scenes, tmp_path)
    training.save()
    training.backward(samples)
    training.update()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(BCNetError, match=r"cannot write .*step_00000001\.pt") as caught:
            training.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "free disk space" in caught.value.hints[0]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000000.pt"]
    assert read_checkpoint(tmp_path / "checkpoints/step_00000000.pt").step == 0


def test_a_scaled_learning_rate_is_reported(scenes: Path, tmp_path: Path) -> None:
    recipe = load_recipe("fcos_r50", [
        "solver.batch_size=4", "data.train.annotations=annotations/instances_train.json", "data.train.images=train",
    ], data_root=scenes)  # fmt: skip
    reporter = Collector()
    open_data(recipe, None, CPU, reporter)
    assert "learning rate 0.0025: 0.01, meant for 16 images a step, scaled by 0.25" in reporter.messages[-1]
    assert "solver.steps=360000 solver.warmup_steps=4000 'solver.milestones=[240000,320000]'" in reporter.messages[-1]


def test_tensorboard_shows_scalars_and_a_picture_of_both_layers(scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_training(job(scenes, tmp_path, "solver.steps=2", tensorboard=True), SilentReporter())
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert {"loss/total", "loss/occluder_mask", "lr", "speed/data_wait"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss/total")] == [1, 2]
    assert events.Tags()["images"] == ["layers"]


def test_the_picture_of_the_layers_shows_predicted_and_true_maps(scenes: Path, tmp_path: Path) -> None:
    training, samples = state(scenes, tmp_path)
    picture = layers_picture(training.detector, samples[0])
    rows = 2 * min(4, len(samples[0].targets.boxes))
    assert picture.dtype == torch.uint8 and picture.shape == (3, 4 + rows * 88, 4 + 5 * 88)
    assert training.detector.training
    true_occludee = picture[0, 92 : 92 + 84, 4 + 4 * 88 : 4 + 4 * 88 + 84]
    assert set(true_occludee.unique().tolist()) == {0, 255}
    one_layer, _ = state(scenes, tmp_path, "model.layers=1")
    gray = layers_picture(one_layer.detector, samples[0])[0, 4 : 4 + 84, 4 + 88 : 4 + 88 + 84]
    assert gray.unique().tolist() == [128]


def test_curves_show_losses_rate_and_scores() -> None:
    rows: list[dict[str, Any]] = [
        {"step": step, "loss": 2 / step, "box": 1 / step, "lr": 0.1} for step in range(1, 400)
    ]
    plain = draw_curves(rows)
    scored = draw_curves([*rows, {"step": 400, "validation": {"mask_AP": 0.3}}])
    assert plain.startswith(b"\x89PNG") and plain == draw_curves(rows) and scored != plain
    assert draw_curves([{"step": 2, "validation": {"mask_AP": 0.1}}]).startswith(b"\x89PNG")


def test_a_job_can_be_pickled(scenes: Path, tmp_path: Path) -> None:
    import pickle

    from bcnet_core.evaluation.validation import VALIDATION

    asked: TrainingJob = job(scenes, tmp_path, validation=VALIDATION)
    assert pickle.loads(pickle.dumps(asked)) == asked
