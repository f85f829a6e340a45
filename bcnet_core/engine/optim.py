"""Optimizers and learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from bcnet_core.config.schema import SolverConfig
from bcnet_core.errors import data_error


def build_optimizer(model: nn.Module, solver: SolverConfig) -> Optimizer:
    """Build the recipe's optimizer over all trainable parameters; biases and norms get no weight decay."""
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
    """Return the learning rate after warm-up; `lr_batch_size` scales it with the batch (Goyal et al., 2017)."""
    return solver.lr if solver.lr_batch_size is None else solver.lr * solver.batch_size / solver.lr_batch_size


def learning_rate(step: int, solver: SolverConfig) -> float:
    """Return the learning rate of step number `step` (from 0).

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
