"""The settings of a recipe that depend on the training set or the device, as what they come to."""

from __future__ import annotations

import torch

from bcnet_core import distributed as dist
from bcnet_core.config.choices import Precision, PrecisionOrAuto
from bcnet_core.config.schema import Recipe

FIRST_WITH_BF16 = (8, 0)
"""Compute capability of the first of NVIDIA's GPUs that computes in bf16; older ones emulate it, slowly."""


def resolve_recipe(recipe: Recipe, *, images: int, objects: int, device: torch.device) -> Recipe:
    """Return a recipe with its lengths in steps, its limits and the precision of a device (collective).

    What trains, saves or describes a run sees only such recipes, so that a checkpoint and recipe.resolved.yaml say
    what was done.

    Args:
        recipe: the recipe.
        images: number of training images.
        objects: largest number of objects of one of them.
        device: device of this process.
    """
    in_numbers = in_steps(recipe, images)
    solver = in_numbers.solver.model_copy(update={"precision": precision_for(recipe.solver.precision, device)})
    return in_numbers.model_copy(update={"solver": solver, "model": recipe.model.for_objects(objects)})


def in_steps(recipe: Recipe, images: int) -> Recipe:
    """Return a recipe whose lengths in epochs, and milestones as shares of the run, have become steps.

    Every length above 0 is one step at least.

    Args:
        recipe: the recipe.
        images: number of training images, which make an epoch.
    """
    solver = recipe.solver

    def steps_of(epochs: float | None, otherwise: int) -> int:
        if epochs is None:
            return otherwise
        return max(1, round(epochs * images / solver.batch_size)) if epochs else 0

    steps = max(steps_of(solver.epochs, solver.steps), solver.min_steps)
    update = {
        "steps": steps,
        "epochs": None,
        "min_steps": 0,
        "warmup_steps": steps_of(solver.warmup_epochs, solver.warmup_steps),
        "warmup_epochs": None,
        "eval_every": steps_of(solver.eval_epochs, solver.eval_every),
        "eval_epochs": None,
        "milestones": tuple(
            milestone if isinstance(milestone, int) else max(1, round(milestone * steps))
            for milestone in solver.milestones
        ),
    }
    return recipe.model_copy(update={"solver": solver.model_copy(update=update)})


def precision_for(precision: PrecisionOrAuto, device: torch.device) -> Precision:
    """Return the precision that `auto` means on a device: bf16 if the GPUs of all processes have it (collective)."""
    if precision != "auto":
        return precision
    if device.type == "cpu":
        return "fp32"
    (lacking,) = dist.any_process([torch.cuda.get_device_capability(device) < FIRST_WITH_BF16], device)
    return "fp16" if lacking else "bf16"
