from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from bcnet_core import BCNetError
from bcnet_core.config.solver import SolverConfig
from bcnet_core.engine.optimizer import build_optimizer, learning_rate, load_optimizer


def test_the_schedule_of_the_release() -> None:
    solver = SolverConfig(lr=1.0, steps=90_000, warmup_steps=1000, milestones=(60_000, 80_000))
    assert learning_rate(0, solver) == pytest.approx(0.001)
    assert learning_rate(500, solver) == pytest.approx(0.5005)
    assert [learning_rate(step, solver) for step in (1000, 59_999, 60_000, 80_000)] == pytest.approx([1, 1, 0.1, 0.01])


def test_the_cosine_ends_at_zero() -> None:
    solver = SolverConfig(lr=1.0, steps=100, warmup_steps=0, schedule="cosine")
    assert [learning_rate(step, solver) for step in (0, 50, 100)] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_are_not_decayed(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))
    solver = SolverConfig.model_validate({"optimizer": name, "lr": 0.1, "weight_decay": 0.5, "warmup_steps": 0})
    optimizer = build_optimizer(model, solver)
    assert [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups] == [(1, 0.5), (3, 0.0)]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]


def test_the_learning_rate_scales_with_the_batch_on_request() -> None:
    solver = SolverConfig(lr=0.02, batch_size=4, lr_batch_size=16, warmup_steps=0)
    assert learning_rate(0, solver) == pytest.approx(0.005)
    assert learning_rate(0, solver.model_copy(update={"lr_batch_size": None})) == 0.02


def small(name: str) -> tuple[nn.Module, Optimizer]:
    model = nn.Linear(3, 2)
    return model, build_optimizer(model, SolverConfig.model_validate({"optimizer": name, "lr": 0.1}))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_state_of_an_optimizer_is_restored(name: str) -> None:
    (model, before), (_, after) = small(name), small(name)
    model(torch.ones(1, 3)).sum().backward()
    before.step()
    saved = before.state_dict()
    saved["param_groups"][0]["lr"] = 7.0  # settings are the recipe's
    load_optimizer(after, saved, Path("a.pt"))
    assert after.param_groups[0]["lr"] == 0.1
    for new, old in zip(after.state_dict()["state"].values(), saved["state"].values(), strict=True):
        assert new.keys() == old.keys() and all(torch.equal(new[key], old[key]) for key in new)


def test_weights_without_an_optimizer_state_cannot_be_resumed() -> None:
    with pytest.raises(BCNetError, match=r"`a\.pt` holds weights without the state of their optimizer") as caught:
        load_optimizer(small("sgd")[1], {}, Path("a.pt"))
    assert caught.value.exit_code == 3 and "--init-from" in caught.value.hints[0]


def staged() -> tuple[nn.Module, dict[str, int]]:
    """Return a model of a stem, two stages and a head of one layer each, and the stages of its parameters."""
    model = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("head", "stem", "one", "two")})
    stages = {
        f"{part}.{kind}": stage for stage, part in enumerate(("stem", "one", "two")) for kind in ("weight", "bias")
    }
    return model, stages


def rates(**settings: object) -> list[tuple[float, float, int]]:
    """Return learning rate, weight decay and number of tensors of every group."""
    model, stages = staged()
    solver = SolverConfig.model_validate({"lr": 0.1, "weight_decay": 0.5, **settings})
    groups = build_optimizer(model, solver, stages).param_groups
    return [(pytest.approx(group["lr"]), group["weight_decay"], len(group["params"])) for group in groups]


def test_stages_learn_at_the_rate_of_the_heads_by_default() -> None:
    model, stages = staged()
    solver = SolverConfig(lr=0.1)
    with_stages, without = build_optimizer(model, solver, stages), build_optimizer(model, solver)
    assert len(with_stages.param_groups) == 2
    assert with_stages.state_dict() == without.state_dict()
    in_order = sorted(model.parameters(), key=lambda one: one.ndim < 2)
    assert [id(one) for group in with_stages.param_groups for one in group["params"]] == list(map(id, in_order))


def test_the_backbone_has_a_rate_of_its_own_that_scales_with_the_batch() -> None:
    assert rates(backbone_lr=0.01) == [(0.1, 0.5, 1), (0.1, 0.0, 1), (0.01, 0.5, 3), (0.01, 0.0, 3)]
    scaled = rates(backbone_lr=0.01, batch_size=8, lr_batch_size=16)
    assert [rate for rate, _, _ in scaled] == [0.05, 0.05, 0.005, 0.005]


def test_the_rate_decays_from_the_last_stage_to_the_stem() -> None:
    assert rates(layer_decay=0.5) == [
        (0.1, 0.5, 2), (0.1, 0.0, 2), (0.025, 0.5, 1), (0.025, 0.0, 1), (0.05, 0.5, 1), (0.05, 0.0, 1),
    ]  # fmt: skip
    from_the_top = rates(layer_decay=0.5, backbone_lr=0.04)
    assert [rate for rate, _, _ in from_the_top] == [0.1, 0.1, 0.01, 0.01, 0.02, 0.02, 0.04, 0.04]


def test_a_model_without_stages_cannot_have_rates_for_them() -> None:
    with pytest.raises(BCNetError, match=r"no stages that solver\.backbone_lr and solver\.layer_decay") as caught:
        build_optimizer(nn.Linear(3, 2), SolverConfig(layer_decay=0.9))
    assert caught.value.exit_code == 2 and caught.value.hints == (
        "leave them out: solver.backbone_lr=none solver.layer_decay=1",
    )
