"""The study of starts: its trials are trained, scored along the way, kept, resumed and reported."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bcnet_core import BCNetError
from bcnet_core.reporting import SilentReporter
from benchmarks.starts.report import write_report
from benchmarks.starts.run import Sweep, measure_costs, result_of, run_trial
from benchmarks.starts.trials import (
    RESULTS_FILE,
    SCORES,
    VARIANTS,
    Plan,
    Trial,
    TrialResult,
    add_result,
    plan_trials,
    read_results,
)
from tests.benchmarks.conftest import Bench

SMALL = ("data.min_size=64", "data.max_size=64", "model.channels=32", "solver.batch_size=2")


@pytest.fixture
def sweep(scenes: Path, tmp_path: Path) -> Sweep:
    return Sweep({"shapes": scenes}, tmp_path, Plan("demo", steps=4, overrides=SMALL), "cpu")


def write(folder: Path, variant: str, seed: int, curve: dict[int, float], *, step_seconds: float = 0.5) -> None:
    scores = {step: {**dict.fromkeys(SCORES, score), "mask_AP_heavy": -1.0} for step, score in curve.items()}
    result = TrialResult(
        data="street", variant=variant, seed=seed, steps=max(curve), batch_size=2, step_seconds=step_seconds,
        eval_seconds=6.0, curve=scores,
    )  # fmt: skip
    add_result(folder, result)


@pytest.mark.slow
def test_trials_are_measured_along_the_way_and_never_again(bench: Bench, scenes: Path, tmp_path: Path) -> None:
    asked = ("starts", scenes, *SMALL, "-o", tmp_path, "--recipe", "demo", "--device", "cpu", "--steps", "4")
    done = bench(*asked, "--seeds", "1", "--variant", "start", "--variant", "scratch", "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert [(one["data"], one["variant"], one["seed"]) for one in results] == [
        ("shapes", "start", 0), ("shapes", "scratch", 0)
    ]  # fmt: skip
    assert all(list(one["curve"]) == ["1", "2", "3", "4"] and one["step_seconds"] > 0 for one in results)
    assert all(scores.keys() == SCORES.keys() for one in results for scores in one["curve"].values())
    before = (tmp_path / RESULTS_FILE).read_text()
    again = bench(*asked, "--seeds", "1", "--variant", "scratch")
    assert again.returncode == 0 and "from scratch" in again.stdout, again.stderr
    assert (tmp_path / RESULTS_FILE).read_text() == before
    other = bench(*asked[:-1], "5")
    assert other.returncode == 2 and "was begun with another plan" in other.stderr


@pytest.mark.slow
def test_a_trial_whose_result_was_not_kept_is_not_trained_again(sweep: Sweep, tmp_path: Path) -> None:
    trial = Trial("shapes", "start", 0)
    whole = run_trial(sweep, {}, trial)
    run_dir = tmp_path / "runs" / "shapes" / "start-0"
    rows = (run_dir / "metrics.jsonl").read_text().splitlines()
    assert run_trial(sweep, {}, trial) == whole
    assert (run_dir / "metrics.jsonl").read_text().splitlines() == rows


@pytest.mark.slow
def test_equal_minutes_are_each_starts_own_number_of_steps(sweep: Sweep) -> None:
    trials = plan_trials(["shapes"], ["start", "scratch"], 2)
    costs = measure_costs(sweep, trials, reporter=SilentReporter())
    assert costs.keys() == {"shapes"} and costs["shapes"].keys() == {"start", "scratch"}
    assert measure_costs(sweep, trials, reporter=SilentReporter()) == costs
    half = Sweep(sweep.roots, sweep.folder / "half", Plan("demo", minutes=0.05, overrides=SMALL), "cpu")
    assert run_trial(half, {"shapes": {"start": 1.0}}, trials[0]).steps == 3
    assert run_trial(half, {"shapes": {"scratch": 3.0}}, trials[1]).steps == 1


def test_measurements_are_those_of_the_rows() -> None:
    scores = {name: 0.1 * place for place, name in enumerate(SCORES)}
    rows = [
        {"step": 10, "loss": 2.0, "speed": {"images_per_second": 4.0}},
        {"step": 20, "loss": 1.0, "speed": {"images_per_second": 8.0}},
        {"step": 20, "validation": {**scores, "eval_minutes": 0.5}},
        {"step": 30, "loss": 1.0, "speed": {"images_per_second": 2.0}},
    ]
    result = result_of(Trial("street", "start", 1), rows, 4)
    assert (result.steps, result.step_seconds, result.eval_seconds) == (30, 1.0, 30.0)
    assert result.curve == {20: scores} and result.scores == scores


def test_a_start_is_compared_with_others_seed_by_seed(tmp_path: Path) -> None:
    for seed, (start, scratch) in enumerate([(0.32, 0.30), (0.43, 0.40), (0.21, 0.20)]):
        write(tmp_path, "start", seed, {100: 0.5, 200: start})
        write(tmp_path, "scratch", seed, {100: 0.1, 200: scratch}, step_seconds=0.6)
    report = write_report(tmp_path)
    found = report.content["differences"]["street"]["scratch"]
    assert found["mask_AP"] == pytest.approx((0.02, 0.02 - 4.3027 * 0.01 / math.sqrt(3), 0.02 + 0.024841), abs=1e-5)
    assert found["mask_AP_heavy"] == [None] * 3
    lines = report.text.splitlines()
    final = next(line for line in lines if line.startswith("| published weights |"))
    assert final.split("|")[2].strip() == "3" and "32.0 ± 11.0" in final
    assert [cell.strip() for cell in final.split("|")[-4:-1]] == ["200", "0.50", "0.9"]  # (100 x 0.5 + 6) / 60
    assert "+2.0 [-0.5, +4.5]" in next(line for line in lines if line.startswith("| from scratch") and "[" in line)
    (half,) = [line for line in lines if line.startswith("| 50%")]
    assert [cell.strip() for cell in half.split("|")[2:-1]] == ["50.0 ± 0.0", "10.0 ± 0.0"]


def test_variants_start_from_what_their_titles_say(scenes: Path, tmp_path: Path) -> None:
    plan = Plan("demo", steps=10, overrides=(*SMALL, "model.init=weights.pt"))
    sweep = Sweep({"shapes": scenes}, tmp_path, plan, "cpu")
    jobs = {name: sweep.job(Trial("shapes", name, 0), 10, tmp_path / "run") for name in VARIANTS}
    assert {name: job.init for name, job in jobs.items()} == {
        "start": "weights.pt", "scratch": None, "tiny": None
    }  # fmt: skip
    assert jobs["start"].recipe.solver == jobs["scratch"].recipe.solver
    assert jobs["start"].recipe.solver.eval_every == 3
    free = jobs["scratch"].recipe.model
    assert not free.frozen_norm and free.frozen_stages == 0 and free.init is None
    own = sweep.recipe(Trial("shapes", "start", 0), None)
    assert own.solver.steps == 900 and own.solver.eval_every == 0


def test_trials_of_one_seed_come_before_the_next() -> None:
    assert [one.name for one in plan_trials(["a", "b"], ["scratch", "start"], 2)] == [
        "a start 0", "a scratch 0", "b start 0", "b scratch 0", "a start 1", "a scratch 1", "b start 1", "b scratch 1",
    ]  # fmt: skip
    with pytest.raises(BCNetError, match="no variant is called `imagenet`"):
        plan_trials(["a"], ["imagenet"], 1)


def test_bad_words_are_refused_before_anything_is_written(bench: Bench, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words, sentence in (
        (("model.channels=32",), "there is no data to train on"),
        ((scenes, "--steps", "2", "--minutes", "1"), "exclude each other"),
        ((scenes, "model.colour=red"), "unknown setting"),
    ):
        refused = bench("starts", *words, "-o", out, "--recipe", "demo")
        assert refused.returncode == 2 and sentence in refused.stderr, refused.stderr
    assert not out.exists()


def test_a_row_that_is_no_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / RESULTS_FILE).write_text("{}\n")
    with pytest.raises(BCNetError, match="holds a row that is no result"):
        read_results(tmp_path)
