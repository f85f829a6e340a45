"""The study of starts: its variants start from what their titles say, and its command takes data and settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.starts.variants import EVALUATIONS, VARIANTS
from benchmarks.study.trials import Plan, Study, Trial
from tests.benchmarks.conftest import SMALL, Bench


def test_variants_start_from_what_their_titles_say(scenes: Path, tmp_path: Path) -> None:
    study = Study(VARIANTS, {"shapes": scenes}, tmp_path, Plan("own_light"), "cpu", evaluations=EVALUATIONS)
    recipes = {name: study.recipe(Trial("shapes", name, 0), 10) for name in VARIANTS}
    assert {name: recipe.model.init for name, recipe in recipes.items()} == {
        "start": "timm/tf_efficientnet_lite0", "scratch": None, "tiny": None
    }  # fmt: skip
    assert recipes["tiny"].model.backbone == "tiny"
    free = recipes["scratch"]
    assert not free.model.frozen_norm and free.model.frozen_stages == 0 and free.solver.backbone_lr is None
    assert recipes["start"].solver.steps == free.solver.steps == 10
    own = study.recipe(Trial("shapes", "start", 0), None)
    assert own.solver.epochs == 10 and own.solver.min_steps == 1500


@pytest.mark.slow
def test_starts_are_scored_along_the_way(bench: Bench, scenes: Path, tmp_path: Path) -> None:
    asked = ("starts", scenes, *SMALL, "-o", tmp_path, "--device", "cpu", "--steps", "4", "--seeds", "1", "--json")
    done = bench(*asked, "--variant", "scratch", "--variant", "tiny")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert [one["variant"] for one in results] == ["scratch", "tiny"]
    assert all(list(one["curve"]) == ["1", "2", "3", "4"] for one in results)


@pytest.mark.parametrize("command", ["starts", "heads", "crowds"])
def test_bad_words_are_refused_before_anything_is_written(
    bench: Bench, scenes: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    for words, sentence in (
        (("model.channels=32",), "there is no data to train on"),
        ((scenes, tmp_path / "shapes"), "two data roots have one name"),
        ((scenes, "--steps", "2", "--minutes", "1"), "exclude each other"),
        ((scenes, "model.colour=red"), "unknown setting"),
        ((scenes, "--variant", "gcn"), "no variant is called `gcn`"),
    ):
        refused = bench(command, *words, "-o", out)
        assert refused.returncode == 2 and sentence in refused.stderr, refused.stderr
    assert not out.exists()
