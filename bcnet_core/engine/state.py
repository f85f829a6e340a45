"""What changes from step to step: weights, optimiser, schedule and the step itself."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bcnet_core.annotations.coco import Record
from bcnet_core.engine import dist
from bcnet_core.engine.checkpoint import (
    Checkpoint,
    checkpoint_path,
    find_checkpoint,
    latest_checkpoint,
    load_weights,
    read_checkpoint,
    recipe_of,
    save_checkpoint,
)
from bcnet_core.engine.job import TrainingJob
from bcnet_core.engine.optim import build_optimizer, build_schedule
from bcnet_core.engine.run_dir import refuse_other_recipe
from bcnet_core.model.detectors import build_detector


class TrainingState:
    """The detector under training: fresh, resumed, or with another run's weights, as the job asks.

    Args:
        job: what to train.
        categories: of the training set, in label order.
        device: of this process.

    Attributes:
        step: optimiser steps done.
        detector: the bare detector, for saving.
        model: what is called for the losses; in several processes it averages the gradients.
    """

    def __init__(self, job: TrainingJob, categories: list[Record], device: torch.device) -> None:
        torch.manual_seed(job.recipe.seed)
        self.job, self.device, self.step = job, device, 0
        self.detector = build_detector(job.recipe, categories).to(device)
        self.optimizer = build_optimizer(self.detector, job.recipe.solver)
        self.schedule = build_schedule(self.optimizer, job.recipe.solver)
        if job.resume:
            self._resume()
        elif job.init_from is not None:
            path = find_checkpoint(job.init_from)
            load_weights(self.detector, read_checkpoint(path), path)
        self.model: nn.Module = self.detector
        if dist.world_size() > 1:
            device_ids = [device] if device.type == "cuda" else None
            self.model = DistributedDataParallel(self.detector, device_ids=device_ids)

    def save(self) -> None:
        """Write the checkpoint of this step, then drop the one before."""
        previous = latest_checkpoint(self.job.run_dir)
        path = checkpoint_path(self.job.run_dir, self.step)
        content = Checkpoint(
            step=self.step,
            recipe=self.job.recipe.model_dump(mode="json"),
            categories=self.detector.categories,
            model=self.detector.state_dict(),
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
        )
        save_checkpoint(path, content)
        if previous is not None and previous != path:
            previous.unlink()

    def _resume(self) -> None:
        path = find_checkpoint(self.job.run_dir)
        checkpoint = read_checkpoint(path)
        refuse_other_recipe(path, recipe_of(checkpoint, path), self.job.recipe)
        load_weights(self.detector, checkpoint, path)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.schedule.load_state_dict(checkpoint.schedule)
        self.step = checkpoint.step
