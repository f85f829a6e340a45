"""The trials are run once, resumed where they stopped, and kept apart from those of another plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bcnet_core import BCNetError, ExitCode
from bcnet_core.reporting import SilentReporter
from benchmarks.evidence import run as evidence
from benchmarks.evidence.data import DataSet, EvidencePlan, check_folder, prepare_data
from benchmarks.evidence.report import write_report
from benchmarks.evidence.run import measure_costs, run_trials
from benchmarks.evidence.trials import (
    ARMS,
    CHEAPER,
    REFERENCE,
    Trial,
    plan_matched,
    plan_trials,
    read_costs,
    read_result,
    result_path,
)  # fmt: skip

PLAN = EvidencePlan(scenes=6, held_out=4, steps=2)
SILENT = SilentReporter()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, DataSet]]:
    """A folder with its data."""
    folder = tmp_path_factory.mktemp("evidence") / "out"
    return folder, prepare_data(folder, PLAN, workers=1, reporter=SILENT)


def run(folder: Path, trials: list[Trial], data: dict[str, DataSet]) -> None:
    run_trials(folder, trials, data, workers=1, device="cpu", reporter=SILENT)


def test_two_trials_are_measured_resumed_and_reported(
    begun: tuple[Path, dict[str, DataSet]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = begun
    trials = [Trial("hard", arm, 0, 2) for arm in (REFERENCE, "plain_deep")]
    threads = torch.get_num_threads()
    run(folder, trials, data)
    assert torch.get_num_threads() == threads
    first, second = (read_result(result_path(folder, trial)) for trial in trials)
    assert (first.trial, second.trial) == tuple(trials)
    assert (first.head_parameters, second.head_parameters) == (394_500, 389_521)
    assert first.images == second.images and set(first.images) <= set(range(4))
    written = json.loads(result_path(folder, trials[1]).read_text(), parse_constant=pytest.fail)  # json has no NaN
    assert first.column("occluder").size and written["occluder"][0] is None
    assert written == json.loads(second.model_dump_json())
    assert (folder / "runs" / "hard" / "bilayer-0" / "checkpoints" / "step_00000002.pt").exists()

    monkeypatch.setattr(evidence, "run_training", None)
    run(folder, trials, data)  # nothing is left to do
    report = write_report(folder, plan_trials(("hard",), 1, 2))
    assert "2 of 7 trials are there" in report.text and "plain, 4 convs (0)" in report.text
    assert [path.exists() for path in report.files] == [True] * 3


def test_a_failed_trial_is_named_and_leaves_no_result(
    begun: tuple[Path, dict[str, DataSet]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = begun
    trial = Trial("easy", "plain", 0, 2)

    def stop(job: Any, reporter: Any) -> Path:
        hints = ("resume: python -m benchmarks evidence --run-dir x --resume",)
        raise BCNetError("interrupted; saved step 1 of 2", *hints, exit_code=ExitCode.INTERRUPTED)

    monkeypatch.setattr(evidence, "run_training", stop)
    with pytest.raises(BCNetError, match="trial easy plain-0: interrupted") as caught:
        run(folder, [trial], data)
    assert caught.value.exit_code == ExitCode.INTERRUPTED
    assert caught.value.hints == ("give the same command again to resume",)
    assert not result_path(folder, trial).exists()
    monkeypatch.undo()

    def fail(*_: Any) -> None:
        raise BCNetError("no memory")

    monkeypatch.setattr(evidence, "measure", fail)
    with pytest.raises(BCNetError, match="no memory"):
        run(folder, [trial], data)
    assert not result_path(folder, trial).exists()
    monkeypatch.undo()
    run(folder, [trial], data)  # from the checkpoint that the training left
    assert read_result(result_path(folder, trial)).trial == trial


GOOD = {
    "data": "easy", "arm": "plain", "seed": 0, "steps": 2, "matched": False, "seconds": 1.0, "mask_AP": 0.1,
    "box_AP": 0.1, "occluded_mask_AP": float("nan"), "head_parameters": 9, "images": [0, 1], "visible": [1, 0.5],
    "occludee": [0.5, float("nan")], "occluder": [float("nan"), 0.0],
}  # fmt: skip


def written(folder: Path, text: str) -> Path:
    path = result_path(folder, Trial("easy", "plain", 0, 2))
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[]", "TrialResult"),
        (json.dumps({key: value for key, value in GOOD.items() if key != "visible"}), "visible"),
        (json.dumps({**GOOD, "occludee": [0.5, "x"]}), r"occludee\.1"),
        (json.dumps({**GOOD, "seed": 1}), "it is of easy plain-1"),
        (json.dumps({**GOOD, "arm": "round"}), "it is of easy round-0"),
    ],
)
def test_a_damaged_result_is_named_with_a_way_out(tmp_path: Path, text: str, word: str) -> None:
    path = written(tmp_path, text)
    for call in (lambda: run(tmp_path, [Trial("easy", "plain", 0, 2)], {}), lambda: write_report(tmp_path)):
        with pytest.raises(BCNetError, match=word) as caught:
            call()
        assert caught.value.exit_code == ExitCode.BAD_DATA
        assert str(path) in caught.value.message
        assert "delete the file" in caught.value.hints[0]


def test_a_result_of_another_number_of_steps_is_rejected(tmp_path: Path) -> None:
    written(tmp_path, json.dumps(GOOD))
    run(tmp_path, [Trial("easy", "plain", 0, 2)], {})
    with pytest.raises(BCNetError, match="measured after 2 steps, this trial has 3"):
        run(tmp_path, [Trial("easy", "plain", 0, 3)], {})


def test_results_on_different_instances_are_not_compared(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(GOOD))
    path.with_name("bilayer-0.json").write_text(json.dumps({**GOOD, "arm": "bilayer", "visible": [1, 0.6]}))
    with pytest.raises(BCNetError, match="measured on different instances"):
        write_report(tmp_path)


def test_a_folder_of_another_plan_is_rejected(begun: tuple[Path, dict[str, DataSet]], tmp_path: Path) -> None:
    folder, data = begun
    assert prepare_data(folder, PLAN, workers=1, reporter=SILENT) == data
    for plan, words in (
        (replace(PLAN, scenes=7), "scenes was 6, now 7"),
        (replace(PLAN, held_out=5), "held-out was 4, now 5"),
        (replace(PLAN, steps=1500), "steps was 2, now 1,500"),
    ):
        with pytest.raises(BCNetError, match="begun with another plan") as caught:
            prepare_data(folder, plan, workers=1, reporter=SILENT)
        assert caught.value.exit_code == ExitCode.USAGE and words in caught.value.hints
    (tmp_path / "data").mkdir()
    with pytest.raises(BCNetError, match="of an unknown plan"):
        check_folder(tmp_path, PLAN)
    (tmp_path / "plan.json").write_text('{"scenes": 6}')
    with pytest.raises(BCNetError, match="not the plan of"):
        check_folder(tmp_path, PLAN)


def test_a_pasted_set_can_be_added_later_from_one_source(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_text("{}")
    second.write_text("[]")
    bare = check_folder(tmp_path, PLAN)
    (tmp_path / "plan.json").write_text(json.dumps(bare))
    later = check_folder(tmp_path, replace(PLAN, source=first, images=tmp_path))
    assert later["source"]["file"] == "first.json"
    (tmp_path / "plan.json").write_text(json.dumps(later))
    assert check_folder(tmp_path, PLAN) == later
    with pytest.raises(BCNetError, match="another plan") as caught:
        check_folder(tmp_path, replace(PLAN, source=second, images=tmp_path))
    assert caught.value.hints[0].startswith("source was first.json")


@pytest.mark.parametrize("given", [{"source": Path("a.json")}, {"images": Path("a")}])
def test_a_source_needs_its_images(given: Any) -> None:
    with pytest.raises(BCNetError, match="belong together") as caught:
        EvidencePlan(**given)
    assert caught.value.exit_code == ExitCode.USAGE and "--coco" in caught.value.hints[0]


@pytest.mark.slow
def test_costs_are_measured_once(begun: tuple[Path, dict[str, DataSet]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data = begun
    hard = {"hard": data["hard"]}
    costs = measure_costs(folder, hard, device="cpu", reporter=SILENT, rounds=1, steps=5)
    assert costs.keys() == {"hard"} and costs["hard"].keys() == ARMS.keys()
    assert min(costs["hard"].values()) > 0
    monkeypatch.setattr(evidence, "run_training", None)
    assert measure_costs(folder, hard, device="cpu", reporter=SILENT) == costs == read_costs(folder)
    (folder / "costs.json").write_text('{"hard": {"bilayer": 1}}')
    with pytest.raises(BCNetError, match=r"costs of the 7 arms") as caught:
        read_costs(folder)
    assert "delete the file" in caught.value.hints[0]
    (folder / "costs.json").unlink()


def test_equal_time_gives_cheaper_arms_more_steps() -> None:
    costs = {"easy": dict.fromkeys(ARMS, 0.1) | {"plain": 0.05, "plain_deep": 0.08}}
    matched = plan_matched(("easy",), 2, 100, costs)
    assert [(one.arm, one.steps) for one in matched[:3]] == [
        ("single_layer", 100), ("plain", 200), ("plain_deep", 125),
    ]  # fmt: skip
    assert {one.arm for one in matched} == set(CHEAPER) and len(matched) == 6
    assert matched[0].name == "single_layer-time-0" and Trial("easy", "plain", 1, 2).name == "plain-1"
