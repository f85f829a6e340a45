"""The optimizer of a recipe: its parameter groups, and their learning rates from step to step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from bcnet_core.config.solver import SolverConfig
from bcnet_core.errors import data_error, usage_error

NO_STAGES: Mapping[str, int] = MappingProxyType({})


def build_optimizer(model: nn.Module, solver: SolverConfig, stages: Mapping[str, int] = NO_STAGES) -> Optimizer:
    """Build the recipe's optimizer over all trainable parameters; biases and norms get no weight decay.

    Args:
        model: the model.
        solver: section `solver` of the recipe.
        stages: the stage of each parameter of the feature extractor, by its name in the model; the stem is 0. These
            learn at `backbone_lr`, times `layer_decay` for every stage above theirs.

    Returns:
        The optimizer. Its first two groups, decayed weights and others, learn at the recipe's rate; two more follow
        for each other rate.

    Raises:
        BCNetError: if the recipe has rates for stages, and there are none.
    """
    full, rates = full_rate(solver), _stage_rates(solver, stages)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(full, True): [], (full, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = rates[stages[name]] if name in stages else full
            groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    settings = [
        {"params": parameters, "weight_decay": solver.weight_decay if is_decayed else 0.0, "lr": rate}
        for (rate, is_decayed), parameters in groups.items()
    ]
    match solver.optimizer:
        case "sgd":
            return SGD(settings, lr=full, momentum=0.9)
        case "adamw":
            return AdamW(settings, lr=full)


def _stage_rates(solver: SolverConfig, stages: Mapping[str, int]) -> dict[int, float]:
    """Return the learning rate of every stage of the feature extractor, the last one's the highest."""
    if not stages and (solver.backbone_lr is not None or solver.layer_decay != 1):
        raise usage_error(
            "this model has no stages that solver.backbone_lr and solver.layer_decay could be for",
            "leave them out: solver.backbone_lr=none solver.layer_decay=1",
        )
    top = full_rate(solver) if solver.backbone_lr is None else _scaled(solver.backbone_lr, solver)
    last = max(stages.values(), default=0)
    return {stage: top * solver.layer_decay ** (last - stage) for stage in set(stages.values())}


def full_rate(solver: SolverConfig) -> float:
    """Return the learning rate after warm-up; `lr_batch_size` scales it with the batch (Goyal et al., 2017)."""
    return _scaled(solver.lr, solver)


def _scaled(rate: float, solver: SolverConfig) -> float:
    return rate if solver.lr_batch_size is None else rate * solver.batch_size / solver.lr_batch_size


def learning_rate(step: int, solver: SolverConfig) -> float:
    """Return the learning rate of step number `step` (from 0), for a solver whose lengths are in steps.

    Linear warm-up from 1/1000, then a tenth at every milestone passed, or half a cosine down to 0 at the last step.
    """
    warmup = 1.0
    if step < solver.warmup_steps:
        done = step / solver.warmup_steps
        warmup = 0.001 * (1 - done) + done
    match solver.schedule:
        case "step":
            factor = 0.1 ** sum(step >= milestone for milestone in solver.milestones)
        case "cosine":
            factor = (1 + math.cos(math.pi * min(step / solver.steps, 1.0))) / 2
    return full_rate(solver) * warmup * factor


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any], path: Path) -> None:
    """Restore the state of an optimizer from a checkpoint; its settings stay those of the recipe.

    Raises:
        BCNetError: if there is no state, as in a file of weights that was put into the run directory.
    """
    if "state" not in state:
        raise data_error(
            f"`{path}` holds weights without the state of their optimizer",
            "start a new run from these weights: --init-from",
        )
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state["state"]})
