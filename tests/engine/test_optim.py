import pytest
from torch import nn

from bcnet_core.config.schema import SolverConfig
from bcnet_core.engine.optim import build_optimizer, learning_rate


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


def test_the_learning_rate_follows_the_batch_where_it_is_asked_to() -> None:
    solver = SolverConfig(lr=0.02, batch_size=4, lr_batch_size=16, warmup_steps=0)
    assert learning_rate(0, solver) == pytest.approx(0.005)
    assert learning_rate(0, solver.model_copy(update={"lr_batch_size": None})) == 0.02
