"""The statistics of the evidence on made-up trials whose true difference is known, and the report of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.evidence.plot import LOOKS
from benchmarks.evidence.report import write_report
from benchmarks.evidence.summary import (
    BINS,
    Interval,
    Spread,
    bin_means,
    paired_intervals,
    span,
    spread,
    sum_by_image,
    summarize,
)  # fmt: skip
from benchmarks.evidence.trials import ARMS, Trial, TrialResult, plan_trials, read_results, result_path

TRUE_DIFFERENCE = 0.02


def instances(images: int, seed: int = 0) -> tuple[Any, Any]:
    """Four instances in each image, and their visible fractions."""
    rng = np.random.default_rng(seed)
    return np.repeat(np.arange(images), 4), np.round(rng.uniform(0.3, 1, 4 * images), 5)


def scores(images: int, seeds: int, *, difference: float = 0.0, draw: int = 0) -> Any:
    """(S, N): what instances, images and seeds have in common, and noise of each."""
    shared, own = np.random.default_rng(99), np.random.default_rng(100 + draw)
    ease = np.repeat(shared.normal(0, 0.08, images), 4) + shared.normal(0, 0.08, 4 * images)
    by_seed, by_image = own.normal(0, 0.003, (seeds, 1)), np.repeat(own.normal(0, 0.03, images), 4)
    return 0.7 + difference + ease + by_seed + by_image + own.normal(0, 0.05, (seeds, 4 * images))


def result(arm: str, seed: int, occludee: Any, images: Any, visible: Any, **changed: Any) -> TrialResult:
    values: dict[str, Any] = {
        "data": "easy", "arm": arm, "seed": seed, "steps": 1500, "matched": False, "seconds": 100.0,
        "mask_AP": 0.5 + 0.01 * seed, "box_AP": 0.5, "occluded_mask_AP": 0.4, "head_parameters": 394500,
        "images": images.tolist(), "visible": visible.tolist(), "occludee": np.clip(occludee, 0, 1).tolist(),
        "occluder": np.full(len(images), np.nan).tolist(), **changed,
    }  # fmt: skip
    return TrialResult(**values)


def save(folder: Path, one: TrialResult) -> None:
    path = result_path(folder, one.trial)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(one.model_dump()))


def difference_of(images: int, seeds: int, draw: int, *, difference: float = TRUE_DIFFERENCE) -> dict[str, Interval]:
    places, visible = instances(images)
    arm, reference = (
        scores(images, seeds, difference=difference, draw=2 * draw),
        scores(images, seeds, draw=2 * draw + 1),
    )
    return paired_intervals(places, visible, arm, reference, resamples=400)


# --- the statistics


def test_intervals_cover_the_true_difference_at_their_level() -> None:
    found = [difference_of(100, 8, draw) for draw in range(60)]
    for name in BINS:
        held = [one[name].low <= TRUE_DIFFERENCE <= one[name].high for one in found]
        assert 0.85 <= np.mean(held) < 1, name
        assert np.mean([one[name].mean for one in found]) == pytest.approx(TRUE_DIFFERENCE, abs=0.003)


def test_intervals_exclude_zero_for_real_differences_and_rarely_otherwise() -> None:
    assert np.mean([difference_of(100, 8, draw)["all"].excludes_zero for draw in range(20)]) > 0.9
    assert np.mean([difference_of(100, 8, draw, difference=0)["all"].excludes_zero for draw in range(40)]) < 0.2
    assert Interval(1, 0.5, 2).excludes_zero and Interval(-1, -2, -0.5).excludes_zero
    assert not Interval(1, 0, 2).excludes_zero and not Interval(math.nan, math.nan, math.nan).excludes_zero


def test_an_arm_has_no_difference_to_itself() -> None:
    places, visible = instances(50)
    own = scores(50, 3)
    own[1, 7] = math.nan
    assert set(paired_intervals(places, visible, own, own).values()) == {Interval(0, 0, 0)}


def test_fewer_images_or_disagreeing_seeds_widen_the_interval() -> None:
    def width(found: dict[str, Interval]) -> float:
        return found["all"].high - found["all"].low

    assert width(difference_of(25, 4, 0)) > 1.5 * width(difference_of(400, 4, 0))
    places, visible = instances(100)
    own, reference = scores(100, 3), scores(100, 3, draw=1)
    apart = own + np.array([[-0.05], [0.0], [0.05]])
    assert width(paired_intervals(places, visible, apart, reference)) > 2 * width(
        paired_intervals(places, visible, own, reference)
    )


def test_the_mean_is_over_paired_instances() -> None:
    places, visible = np.array([0, 0, 0, 5]), np.array([1.0, 0.98, 0.7, math.nan])
    own = np.array([[0.9, 0.8, 0.7, 0.6], [0.9, math.nan, 0.7, 0.6]])
    reference = np.array([[0.8, 0.8, math.nan, 0.2], [0.8, 0.8, 0.4, 0.2]])
    found = paired_intervals(places, visible, own, reference)
    assert found["all"].mean == pytest.approx((0.1 + 0 + 0.4 + 0.1 + 0.3 + 0.4) / 6)
    assert found["visible > .98"].mean == pytest.approx(0.1)
    assert found[".7-.98"].mean == pytest.approx(0)
    assert found["<= .7"].mean == pytest.approx(0.3)
    same = paired_intervals(places, visible, own, reference)
    assert found == same


def test_an_empty_bin_is_nan() -> None:
    places, visible = np.arange(4), np.ones(4)
    found = paired_intervals(places, visible, np.full((2, 4), 0.5), np.full((2, 4), 0.4))
    assert all(math.isnan(part) for part in found["<= .7"])
    means = bin_means(visible, np.array([0.2, 0.4, math.nan, 0.6]))
    assert means["all"] == means["visible > .98"] == pytest.approx(0.4) and math.isnan(means[".7-.98"])


def test_sums_by_image_equal_a_loop() -> None:
    places, visible = instances(10)
    values = scores(10, 1)[0]
    totals, counts = sum_by_image(places, visible, values, images=10)
    for column, (low, high) in enumerate(BINS.values()):
        for image in range(10):
            inside = [i for i in range(40) if places[i] == image and low < visible[i] <= high]
            assert counts[image, column] == len(inside)
            assert totals[image, column] == pytest.approx(sum(values[i] for i in inside))


def test_spread_and_span_ignore_nan() -> None:
    assert spread([1, 2, math.nan, 3]) == Spread(2, 1)
    assert spread([1.0]).mean == 1 and math.isnan(spread([1.0]).std) and math.isnan(spread([]).mean)
    assert span([-1, math.nan, 3]) == (1, -1, 3) and math.isnan(span([math.nan]).low)


# --- the report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sets; of the second, one seed of two arms."""
    images, visible = instances(40)
    own = {"bilayer": scores(40, 2), "plain": scores(40, 3, difference=-0.1, draw=1)}
    for arm, values in own.items():
        for seed, occludee in enumerate(values):
            save(tmp_path, result(arm, seed, occludee, images, visible, mask_AP=0.5 - 0.1 * seed * (arm == "plain")))
    save(tmp_path, result("plain", 0, own["bilayer"][0], images, visible, matched=True, steps=2500))
    few, seen = instances(5)
    for arm in ("bilayer", "fcn"):
        occludee = scores(5, 1)[0]
        save(tmp_path, result(arm, 0, occludee, few, seen, data="pasted", mask_AP=-1.0, occluded_mask_AP=math.nan))
    return tmp_path


def test_the_summary_compares_common_seeds(folder: Path) -> None:
    summary = summarize(read_results(folder), {"easy": dict.fromkeys(ARMS, 0.1) | {"plain": 0.06}})
    rows = {(row.data, row.arm, row.matched): row for row in summary.rows}
    plain = rows["easy", "plain", False]
    assert plain.seeds == (0, 1, 2) and plain.ap == pytest.approx(Spread(0.4, 0.1)) and plain.cost_ratio == 0.6
    assert math.isnan(plain.occluder.mean) and math.isnan(rows["pasted", "fcn", False].cost_ratio)
    assert math.isnan(rows["pasted", "fcn", False].ap.mean)
    differences = {(one.data, one.arm, one.matched): one for one in summary.differences}
    assert list(differences) == [("easy", "plain", False), ("easy", "plain", True), ("pasted", "fcn", False)]
    first = differences["easy", "plain", False]
    assert first.seeds == (0, 1) and first.ap == pytest.approx((-0.05, -0.1, 0))
    assert first.iou["all"].high < 0 and first.iou["all"].mean == pytest.approx(-0.1, abs=0.02)
    assert differences["easy", "plain", True].iou["all"] == Interval(0, 0, 0)
    assert differences["easy", "plain", True].steps == 2500


def test_the_report_lists_results_and_missing_trials(folder: Path) -> None:
    report = write_report(folder)
    text = (folder / "report.md").read_text()
    assert report.text in text and "](report.png)" in text
    assert "8 of 48 trials are there" in text  # 2 sets x 7 arms x 3 seeds, and 2 x 3 of plain in equal time
    assert "- easy: bilayer (2), " in text and "plain, 4 convs, equal time (1 2)" in text
    easy, pasted = text.split("## pasted")
    (row,) = (
        line for line in easy.splitlines() if line.startswith("| plain, 4 convs ") and "[-" in line and "*" in line
    )
    assert row.count("] *") == 4 and "| 2 |" in row.replace("    ", "").replace("  ", " ")
    assert "equal time:" in easy and "| 2,500 |" in easy
    assert "+0.00 [+0.00, +0.00]" in pasted and "] *" not in pasted
    last = easy.rstrip().splitlines()[-3:]
    assert len({len(line) for line in last}) == 1, "the columns of a table have one width"


def test_missing_trials_are_listed_by_set(folder: Path) -> None:
    text = write_report(folder, plan_trials(("easy", "pasted"), 2, 1500)).text
    assert "6 of 28 trials are there" in text
    assert "- easy: bilayer, no occluder loss (0 1), " in text and text.count("- easy:") == text.count("- pasted:") == 1


def test_the_json_report_has_the_same_numbers_and_no_nan(folder: Path) -> None:
    report = write_report(folder, [Trial("easy", "bilayer", 0, 1500), Trial("easy", "fcn", 0, 1500)])
    text = (folder / "report.json").read_text()
    content = json.loads(text)
    assert content == report.content and "NaN" not in text
    assert content["missing"] == [{"data": "easy", "matched": False, "arm": "fcn", "seed": 0}]
    assert content["differences"][0]["iou"]["all"].keys() == {"mean", "low", "high"}
    assert content["rows"][0]["occluder"] == {"mean": None, "std": None}


def test_the_figure_is_deterministic_and_every_arm_has_a_look(folder: Path) -> None:
    write_report(folder)
    first = (folder / "report.png").read_bytes()
    write_report(folder)
    assert (folder / "report.png").read_bytes() == first and first.startswith(b"\x89PNG")
    assert LOOKS.keys() == ARMS.keys() and len(set(LOOKS.values())) == len(ARMS)


def test_a_single_arm_has_a_report_without_differences(tmp_path: Path) -> None:
    images, visible = instances(3)
    save(tmp_path, result("plain", 0, scores(3, 1)[0], images, visible))
    report = write_report(tmp_path)
    assert report.content["differences"] == [] and "Difference to" not in report.text
