"""Training samples of the trials, which need them again and again."""

from __future__ import annotations

import numpy as np
import torch

from bcnet_core.config.schema import Recipe
from bcnet_core.data.dataset import Sample
from bcnet_core.data.loaders import open_training_set
from bcnet_core.errors import usage_error


class KeptSamples:
    """Training samples, kept on the device: without scale jitter an image has two, one of them mirrored.

    Args:
        recipe: with its data root, one training size, no jitter and no pasted objects.
        device: of the kept images and targets.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        data = recipe.data
        varied = data.scale_jitter or data.train_sizes or data.color_jitter or data.copy_paste.probability
        if varied or data.flip_vertical:
            raise usage_error(
                "the trials keep their samples in memory, so an image has one size and one look",
                "leave data.scale_jitter, train_sizes, color_jitter, copy_paste and flip_vertical as they are",
            )
        sides = [data.model_copy(update={"flip": flip}) for flip in (0.0, 1.0)]
        (self._plain, self.coco), (self._mirrored, _) = (
            open_training_set(side, need_occluders=recipe.trains_occluders) for side in sides
        )
        self._flip, self._device = data.flip, device
        self._kept: dict[tuple[int, bool], Sample] = {}
        self.wide = self._plain.wide & data.group_aspects

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """Return the sample of a position and a seed, which decides whether it is mirrored."""
        position, seed = item
        mirrored = bool(np.random.default_rng(seed).random() < self._flip)
        if (position, mirrored) not in self._kept:
            sample = (self._mirrored if mirrored else self._plain)[item]
            moved = sample._replace(image=sample.image.to(self._device), targets=sample.targets.to(self._device))
            self._kept[position, mirrored] = moved
        return self._kept[position, mirrored]._replace(seed=seed)
