"""The training of one trial, step by step: no checkpoints, since only its scores are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import get_total_norm

from bcnet_core.annotations.coco import CocoFile
from bcnet_core.annotations.crowding import most_objects
from bcnet_core.config.schema import Recipe
from bcnet_core.data.batches import StepSampler
from bcnet_core.data.dataset import Sample
from bcnet_core.data.loaders import open_training_set
from bcnet_core.data.transforms import mirror, resize_shorter, training_steps
from bcnet_core.distributed import choose_device
from bcnet_core.engine.resolving import resolve_recipe
from bcnet_core.engine.state import TrainingJob, TrainingState
from bcnet_core.errors import BCNetError
from benchmarks.study.trials import Variant


class Step(NamedTuple):
    """The losses of a step and the norm of its gradient, as scalars on the device."""

    losses: dict[str, Tensor]
    norm: Tensor


class Samples(Protocol):
    """Training samples, asked for by position and seed, and which of their images are wide."""

    @property
    def wide(self) -> NDArray[np.bool_]:
        """(images,) whether each image is wider than high."""

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """Return the sample of a position and a seed."""


class Training:
    """A detector of a variant in training; all is in this process, the loading of images, too.

    Args:
        recipe: of the trial, with its data root.
        variant: its change is applied to the recipe's detector.
        device: "auto", "cpu" or "cuda".
    """

    def __init__(self, recipe: Recipe, variant: Variant, device: str) -> None:
        chosen = choose_device(device)
        self.samples, coco = open_samples(recipe, chosen)
        images, objects = len(self.samples.wide), most_objects(coco)
        self.recipe = resolve_recipe(recipe, images=images, objects=objects, device=chosen)
        job = TrainingJob(recipe=self.recipe, run_dir=Path(), device=device, command="")
        self.state = TrainingState(job, coco.categories, chosen)
        if variant.change is not None:
            detector = self.state.detector
            variant.change(detector, self.recipe)
            detector.to(chosen).to(memory_format=detector.memory_format)
            self.state.start_optimizer()

    def run(self) -> Iterator[Step]:
        """Train step by step, to the recipe's last.

        Raises:
            BCNetError: if a loss is not finite, or an image cannot be read.
        """
        recipe, state = self.recipe, self.state
        sampler = StepSampler(
            wide=self.samples.wide & recipe.data.group_aspects, batch_size=recipe.solver.batch_size, first_step=0,
            last_step=recipe.solver.steps, seed=recipe.seed, rank=0, world_size=1,
        )  # fmt: skip
        for items in sampler:
            state.model.train()
            losses = state.backward([self.samples[item] for item in items])
            if not torch.stack(list(losses.values())).isfinite().all():
                raise BCNetError(f"the loss of step {state.step + 1} is not finite")
            norm = get_total_norm([one.grad for one in state.detector.parameters() if one.grad is not None])
            state.update()
            yield Step(losses, norm)


def open_samples(recipe: Recipe, device: torch.device) -> tuple[Samples, CocoFile]:
    """Open the training set of a recipe: kept in memory if an image has two samples, itself and its mirror image."""
    data = recipe.data
    kinds = [getattr(step, "func", step) for step in training_steps(data)]
    if kinds == [mirror, resize_shorter] and not data.train_sizes and not data.copy_paste.probability:
        kept = KeptSamples(recipe, device)
        return kept, kept.coco
    return open_training_set(data, need_occluders=recipe.trains_occluders)


class KeptSamples:
    """Training samples, kept on the device: without scale jitter an image has two, one of them mirrored.

    Args:
        recipe: with its data root, one training size and no augmentation but flips.
        device: of the kept images and targets.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        sides = [recipe.data.model_copy(update={"flip": flip}) for flip in (0.0, 1.0)]
        (self._plain, self.coco), (self._mirrored, _) = (
            open_training_set(side, need_occluders=recipe.trains_occluders) for side in sides
        )
        self._flip, self._device = recipe.data.flip, device
        self._kept: dict[tuple[int, bool], Sample] = {}
        self.wide = self._plain.wide

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """Return the sample of a position and a seed, which decides whether it is mirrored."""
        position, seed = item
        mirrored = bool(np.random.default_rng(seed).random() < self._flip)
        if (position, mirrored) not in self._kept:
            sample = (self._mirrored if mirrored else self._plain)[item]
            moved = sample._replace(image=sample.image.to(self._device), targets=sample.targets.to(self._device))
            self._kept[position, mirrored] = moved
        return self._kept[position, mirrored]._replace(seed=seed)
