"""The training of one trial, step by step: no checkpoints, since only its scores are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import get_total_norm

from bcnet_core.config.schema import Recipe
from bcnet_core.data.batches import StepSampler
from bcnet_core.data.dataset import Sample, TrainingSet
from bcnet_core.data.loaders import open_training_set
from bcnet_core.data.transforms import mirror, resize_shorter
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
        self.samples, dataset = open_samples(recipe, chosen)
        self.recipe = resolve_recipe(recipe, dataset, chosen)
        job = TrainingJob(recipe=self.recipe, run_dir=Path(), device=device, command="")
        self.state = TrainingState(job, dataset.survey.coco.categories, chosen)
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


def open_samples(recipe: Recipe, device: torch.device) -> tuple[Samples, TrainingSet]:
    """Open the training set of a recipe; its samples are kept where an image has no others than itself and its mirror.

    Args:
        recipe: with its data root.
        device: of kept samples.

    Returns:
        The samples, and the set that they are of.
    """
    dataset, _ = open_training_set(recipe)
    kinds = [getattr(step, "func", step) for step in dataset.steps]
    if kinds == [mirror, resize_shorter] and not recipe.data.train_sizes:
        return KeptSamples(dataset, flip=recipe.data.flip, device=device), dataset
    return dataset, dataset


class KeptSamples:
    """The samples of a training set whose images are mirrored, or not, and always of one size, kept on a device.

    Args:
        dataset: its first random choice is whether to mirror.
        flip: the probability of that.
        device: of the kept images and targets.
    """

    def __init__(self, dataset: TrainingSet, *, flip: float, device: torch.device) -> None:
        self._dataset, self._flip, self._device = dataset, flip, device
        self._kept: dict[tuple[int, bool], Sample] = {}
        self.wide = dataset.wide

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """Return the sample of a position and a seed, which decides whether it is mirrored."""
        position, seed = item
        key = (position, bool(np.random.default_rng(seed).random() < self._flip))
        if key not in self._kept:
            sample = self._dataset[item]
            targets = sample.targets.to(self._device)
            self._kept[key] = sample._replace(image=sample.image.to(self._device), targets=targets)
        return self._kept[key]._replace(seed=seed)


@contextmanager
def one_thread(device: str) -> Iterator[None]:
    """Limit torch to one thread on a CPU: sums of tensors depend on the number of threads."""
    before = torch.get_num_threads()
    if choose_device(device).type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
