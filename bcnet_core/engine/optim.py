"""Optimisers and learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from bcnet_core.config.schema import SolverConfig
from bcnet_core.errors import BCNetError, data_error

KEPT: dict[type[Optimizer], set[str]] = {SGD: {"momentum_buffer"}, AdamW: {"step", "exp_avg", "exp_avg_sq"}}
"""What an optimiser remembers of each parameter."""


def build_optimizer(model: nn.Module, solver: SolverConfig) -> Optimizer:
    """The recipe's optimiser over all parameters that train; biases and norms are not decayed."""
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": solver.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    match solver.optimizer:
        case "sgd":
            return SGD(groups, lr=full_rate(solver), momentum=0.9)
        case "adamw":
            return AdamW(groups, lr=full_rate(solver))


def full_rate(solver: SolverConfig) -> float:
    """The learning rate after the warm-up: `lr`, scaled linearly to the batch (Goyal et al., 2017) where asked for."""
    return solver.lr if solver.lr_batch_size is None else solver.lr * solver.batch_size / solver.lr_batch_size


def learning_rate(step: int, solver: SolverConfig) -> float:
    """The learning rate that step number `step` (from 0) trains with.

    A linear warm-up from 1/1000; then a tenth at every milestone passed, or half a cosine down to 0 at the last step.
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
    """Put what an optimiser remembered into a new one; its settings stay those of the recipe.

    Args:
        optimizer: over the same parameters.
        state: its state dict in a checkpoint.
        path: the checkpoint, for the message.

    Raises:
        BCNetError: if the state is that of another optimiser, of other parameters, or none.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = state.get("state")
    if not isinstance(kept, dict) or not all(
        type(number) is int and 0 <= number < len(parameters) and _fits(values, parameters[number], type(optimizer))
        for number, values in kept.items()
    ):
        raise _of_other(path, "optimiser")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": kept})


def load_scaler(scaler: torch.amp.GradScaler, state: Mapping[str, Any], path: Path) -> None:
    """Put a loss scaler's state in a checkpoint into a new one; one that is not enabled has none.

    Raises:
        BCNetError: if it is not that of a scaler.
    """
    own = scaler.state_dict()
    if state.keys() != own.keys() or not all(isinstance(value, int | float) for value in state.values()):
        raise _of_other(path, "loss scaler")
    scaler.load_state_dict(dict(state))


def _fits(values: object, parameter: Tensor, kind: type[Optimizer]) -> bool:
    if not isinstance(values, dict) or values.keys() != KEPT[kind]:
        return False
    return all(
        isinstance(value, Tensor) and value.shape == (() if name == "step" else parameter.shape)
        for name, value in values.items()
    )


def _of_other(path: Path, what: str) -> BCNetError:
    return data_error(
        f"the state of the {what} in `{path}` is damaged, or that of another one",
        "begin a new run from its weights: --init-from",
    )
