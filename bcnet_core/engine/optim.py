"""Optimisers and learning rates."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

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
