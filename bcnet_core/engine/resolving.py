"""The settings of a recipe that depend on the training set or the device, as what they come to."""

from __future__ import annotations

from statistics import fmean

import torch

from bcnet_core import distributed as dist
from bcnet_core import masks
from bcnet_core.config.choices import MaskSize, Precision, PrecisionOrAuto
from bcnet_core.config.model import LEAST_MASK_SIZE
from bcnet_core.config.schema import Recipe
from bcnet_core.data.dataset import TrainingSet, spread
from bcnet_core.masks.crops import crop_rles, paste_rles
from bcnet_core.model.losses import crop_to_boxes

WELL_DRAWN = 0.95
"""Mean IoU from which on maps suit the masks; street photos have 0.96 with 28 cells, crossing worms 0.91."""
LARGER_MASK_SIZE: MaskSize = 56
SAMPLED, SAMPLED_INSTANCES = 100, 10
"""Images, and instances of each, whose masks are drawn."""
FIRST_WITH_BF16 = (8, 0)
"""Compute capability of the first of NVIDIA's GPUs that computes in bf16; older ones emulate it, slowly."""


def resolve_recipe(recipe: Recipe, dataset: TrainingSet, device: torch.device) -> Recipe:
    """Return a recipe with its lengths in steps, its limits, its masks' size and a device's precision (collective).

    What trains, saves or describes a run sees only such recipes, so that a checkpoint and recipe.resolved.yaml say
    what was done.

    Args:
        recipe: the recipe.
        dataset: the training set.
        device: device of this process.
    """
    in_numbers = in_steps(recipe, len(dataset))
    solver = in_numbers.solver.model_copy(update={"precision": precision_for(recipe.solver.precision, device)})
    size = fitting_mask_size(dataset) if recipe.model.mask_size == "auto" else recipe.model.mask_size
    model = recipe.model.for_training_set(objects=dataset.most_objects, mask_size=size)
    return in_numbers.model_copy(update={"solver": solver, "model": model})


def fitting_mask_size(dataset: TrainingSet) -> MaskSize:
    """Return the side of maps that suits the masks of a training set: 28, or 56 if it draws them too badly."""
    return LEAST_MASK_SIZE if drawn_iou(dataset, LEAST_MASK_SIZE) >= WELL_DRAWN else LARGER_MASK_SIZE


def drawn_iou(dataset: TrainingSet, size: MaskSize) -> float:
    """Return the mean IoU of true masks with themselves, drawn in maps of `size` cells a side inside their boxes.

    That is what a perfect mask head would reach. It is measured on at most `SAMPLED` images and `SAMPLED_INSTANCES` of
    each, spread evenly.
    """
    found: list[float] = []
    for position in spread(len(dataset), SAMPLED):
        truth = dataset.instances(position)
        chosen = spread(len(truth.masks), SAMPLED_INSTANCES)
        rles, boxes = [truth.masks[index] for index in chosen], torch.from_numpy(truth.boxes[chosen]).float()
        maps = crop_to_boxes(crop_rles(rles), torch.arange(len(rles)), boxes, size=size)
        drawn = paste_rles(maps.float(), boxes, *rles[0]["size"])
        found += map(masks.iou, rles, drawn)
    return fmean(found)


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
