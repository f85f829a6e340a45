"""The study of mask heads: its variants differ in what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bcnet_core.model.detectors import Detector
from benchmarks.heads.variants import RECIPE, VARIANTS
from benchmarks.study.training import Training
from benchmarks.study.trials import Plan, Study, Trial
from tests.benchmarks.conftest import SPLITS, Bench

SIZES = (*SPLITS, "data.min_size=96", "data.max_size=96", "model.channels=32", "model.box_head_channels=32")


@pytest.fixture
def study(scenes: Path, tmp_path: Path) -> Study:
    return Study(VARIANTS, {"shapes": scenes}, tmp_path, Plan("tiny", steps=2, overrides=(*RECIPE, *SIZES)), "cpu")


def start(study: Study, variant: str) -> Training:
    return Training(study.recipe(Trial("shapes", variant, 0), 2), VARIANTS[variant], "cpu")


def build(study: Study, variant: str) -> Detector:
    return start(study, variant).state.detector


def gradients(study: Study, variant: str, *losses: str) -> dict[str, bool]:
    """Return whether these losses reach the pyramid, layer 1 and layer 2."""
    training = start(study, variant)
    detector, samples = training.state.detector, [training.samples[position, 0] for position in range(6)]
    found = detector([one.image for one in samples], [one.targets for one in samples], list(range(6)))
    sum(found[name] for name in losses).backward()  # type: ignore[union-attr]
    head = detector.heads.masks.head
    assert head.occluder is not None
    parts = {"pyramid": detector.backbone, "layer 1": head.occluder, "layer 2": head.occludee}
    return {
        name: any(one.grad is not None and bool(one.grad.any()) for one in part.parameters())
        for name, part in parts.items()
    }


def test_the_losses_of_each_variant_reach_what_its_title_says(study: Study) -> None:
    mask, occluder = "occludee_mask", "occluder_mask"
    everything = {"pyramid": True, "layer 1": True, "layer 2": True}
    assert gradients(study, "two_layers", mask) == everything
    assert gradients(study, "detached", mask) == {**everything, "layer 1": False}
    assert gradients(study, "two_layers", occluder) == {**everything, "layer 2": False}
    assert gradients(study, "detached", occluder) == {**everything, "layer 2": False}
    assert gradients(study, "stopped", occluder) == {"pyramid": False, "layer 1": True, "layer 2": False}
    assert gradients(study, "no_occluder_loss", occluder) == dict.fromkeys(everything, False)


def test_changed_heads_compute_what_they_should(study: Study) -> None:
    plain, zero, detached, normed = (
        build(study, name).heads.masks.head.eval() for name in ("two_layers", "attention_zero", "detached", "sum_norm")
    )
    features = torch.randn(3, 32, 14, 14)
    for changed in (zero, detached):
        changed.load_state_dict(plain.state_dict(), strict=False)
        for name, logits in plain(features).items():
            torch.testing.assert_close(changed(features)[name], logits)
    normed.load_state_dict(plain.state_dict(), strict=False)
    assert not torch.allclose(normed(features)["occludee_mask"], plain(features)["occludee_mask"])
    torch.testing.assert_close(normed(features)["occluder_mask"], plain(features)["occluder_mask"])


def test_a_gate_starts_at_a_half_and_shared_layers_are_one(study: Study) -> None:
    plain, gated, shared = (build(study, name).heads.masks.head.eval() for name in ("boundary", "gated", "shared"))
    assert plain.occluder is not None and shared.occluder is not None
    gated.load_state_dict(plain.state_dict(), strict=False)
    features = torch.randn(3, 32, 14, 14)
    occluder = plain.occluder(features)
    expected = plain.get_submodule("occludee_mask")(plain.occludee(features + occluder / 2))
    torch.testing.assert_close(gated(features)["occludee_mask"], expected)
    torch.testing.assert_close(gated(features)["occluder_mask"], plain(features)["occluder_mask"])
    convs = sum(one.numel() for one in plain.occludee.convs.parameters())
    count = sum(one.numel() for one in plain.parameters())
    assert sum(one.numel() for one in shared.parameters()) == count - convs
    assert shared.occludee.convs is shared.occluder.convs


@pytest.mark.parametrize(("variant", "part"), [("sum_norm", "sum_norm"), ("gated", "gate")])
def test_what_a_variant_adds_is_trained(study: Study, variant: str, part: str) -> None:
    training = start(study, variant)
    added = training.state.detector.heads.masks.head.get_submodule(part)
    before = [one.clone() for one in added.parameters()]
    assert len(list(training.run())) == 2
    assert all(bool((one != other).any()) for one, other in zip(added.parameters(), before, strict=True))


def test_every_variant_is_a_recipe_of_its_own(study: Study) -> None:
    recipes = {name: (study.recipe(Trial("shapes", name, 0), 2), one.change) for name, one in VARIANTS.items()}
    assert all(recipes[first] != recipes[second] for first in recipes for second in recipes if first < second)
    assert all(set(one.minus) < set(VARIANTS) - {name} and one.minus for name, one in VARIANTS.items())


def test_the_command_trains_a_variant_and_its_peer(bench: Bench, scenes: Path, tmp_path: Path) -> None:
    asked = ("heads", scenes, *SIZES, "-o", tmp_path, "--steps", "2", "--seeds", "1", "--device", "cpu", "--json")
    done = bench(*asked, "--variant", "plain", "--variant", "torchvision")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert [one["variant"] for one in content["results"]] == ["plain", "torchvision"]
    assert content["differences"]["shapes"]["torchvision"].keys() == {"plain"}
