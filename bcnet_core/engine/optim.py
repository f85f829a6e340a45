"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from bcnet_core.config.schema import SolverConfig


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
            return SGD(groups, lr=solver.lr, momentum=0.9)
        case "adamw":
            return AdamW(groups, lr=solver.lr)


def build_schedule(optimizer: Optimizer, solver: SolverConfig) -> LambdaLR:
    """The recipe's learning rate, as a schedule that is stepped once an optimiser step."""
    return LambdaLR(optimizer, lambda step: lr_factor(step, solver))


def lr_factor(step: int, solver: SolverConfig) -> float:
    """The share of `solver.lr` that step number `step` (from 0) trains with.

    A linear warm-up from 1/1000; then a tenth at every milestone passed, or half a cosine down to 0 at the last step.
    """
    warmup = 1.0
    if step < solver.warmup_steps:
        done = step / solver.warmup_steps
        warmup = 0.001 * (1 - done) + done
    match solver.schedule:
        case "step":
            return warmup * 0.1 ** sum(step >= milestone for milestone in solver.milestones)
        case "cosine":
            return warmup * (1 + math.cos(math.pi * min(step / solver.steps, 1.0))) / 2
