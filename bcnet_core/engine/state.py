"""A training run: its job, and its state of weights, averages, optimizer, loss scaler and step count."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bcnet_core import distributed as dist
from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.config.schema import DataConfig, Recipe, SolverConfig
from bcnet_core.data.dataset import Sample
from bcnet_core.distributed import share_statistics
from bcnet_core.engine.run_dir import require_same_recipe
from bcnet_core.errors import data_error
from bcnet_core.model.detectors import Detector, build_detector
from bcnet_core.reporting import Reporter
from bcnet_core.weights.checkpoint import (
    Checkpoint,
    checkpoint_path,
    drop_old_checkpoints,
    find_checkpoint,
    read_checkpoint,
    recipe_of,
    save_checkpoint,
)
from bcnet_core.weights.loading import check_shapes, load_weights, shapes_of
from bcnet_core.weights.starts import read_start

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Validation:
    """Evaluation during training; the one implementation is `bcnet_core.evaluation.validation.VALIDATION`.

    Attributes:
        check: checks before the first step that the validation set goes with the categories of the training set and
            can be scored, and returns it if it is there; the third argument is the recipe's `solver.eval_every`.
        score: scores a detector in evaluation mode, each process its share of the images; rank 0 gets the scores,
            `mask_AP` among them, the others an empty dict. All get None once its last argument returns True.
    """

    check: Callable[[DataConfig, Sequence[Record], int, Reporter], CocoFile | None]
    score: Callable[[Detector, Recipe, Reporter, Callable[[], bool]], dict[str, float] | None]


@dataclass(frozen=True)
class TrainingJob:
    """A training run: recipe, folder, device and start.

    Attributes:
        recipe: resolved recipe, with its data root.
        device: "auto", "cpu" or "cuda".
        command: command line without --run-dir, --resume and --init-from, for messages.
        init_from: source of the weights to start from, see `weights.starts`; None for the recipe's `model.init`.
        validation: evaluation every `solver.eval_every` steps.
    """

    recipe: Recipe
    run_dir: Path
    device: str
    command: str
    resume: bool = False
    init_from: str | None = None
    validation: Validation | None = None
    tensorboard: bool = False

    @property
    def init(self) -> str | None:
        """Return the source of the weights to start from; None for random ones, and for a run that is resumed."""
        return None if self.resume else self.init_from or self.recipe.model.init


@dataclass(frozen=True)
class RunOptions:
    """Place and manner of a training with detectron2, apart from its recipe; see `TrainingJob` and `Cluster`."""

    run_dir: Path
    device: str
    processes: int
    command: str
    resume: bool = False
    init_from: str | None = None


class TrainingState:
    """The detector in training: new, resumed, or initialized from another run, as the job says.

    Attributes:
        step: number of optimizer steps done.
        detector: the bare detector, for saving.
        model: module to call for the losses; in several processes it averages the gradients.
        averaged: moving average (EMA) of the detector, or None.
    """

    def __init__(self, job: TrainingJob, categories: list[Record], device: torch.device) -> None:
        torch.manual_seed(job.recipe.seed)
        solver = job.recipe.solver
        self.job, self.device, self.step = job, device, 0
        self.detector = build_detector(job.recipe, categories).to(device)
        if solver.sync_batch_norm and dist.world_size() > 1:
            share_statistics(self.detector)
        self.optimizer = build_optimizer(self.detector, solver)
        self.scaler = torch.amp.GradScaler(device.type, enabled=solver.precision == "fp16")
        if job.init is not None:
            load_weights(self.detector, job.recipe, *read_start(job.init))
        self.averaged: AveragedModel | None = None
        if solver.ema:
            average = get_ema_multi_avg_fn(solver.ema)  # type: ignore[no-untyped-call]
            self.averaged = AveragedModel(self.detector, multi_avg_fn=average, use_buffers=True)
            self.averaged.requires_grad_(requires_grad=False)
        if job.resume:
            self._resume()
        if solver.compile:
            self.detector.backbone.compile()
            self.detector.heads.masks.head.compile()
        self.model: nn.Module = self.detector
        if dist.world_size() > 1:
            device_ids = [device] if device.type == "cuda" else None
            self.model = DistributedDataParallel(self.detector, device_ids=device_ids)
        self.model.train()

    @property
    def best_detector(self) -> Detector:
        """Return the detector to evaluate: with EMA weights if available."""
        detector = self.detector if self.averaged is None else self.averaged.module
        assert isinstance(detector, Detector)
        return detector

    def backward(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Accumulate the gradients of this process's share of a step; return the losses, averaged over its parts."""
        solver = self.job.recipe.solver
        size = -(-len(samples) // solver.accumulate)
        parts = [samples[start : start + size] for start in range(0, len(samples), size)]
        sums: dict[str, Tensor] = {}
        for part in parts:
            with ExitStack() as stack:
                if isinstance(self.model, DistributedDataParallel) and part is not parts[-1]:
                    stack.enter_context(self.model.no_sync())
                losses = self._losses(part)
                total = torch.stack(list(losses.values())).sum() / len(parts)
                torch.autograd.backward(self.scaler.scale(total))
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach() / len(parts)
        return sums

    def _losses(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        dtype = AUTOCAST.get(self.job.recipe.solver.precision)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            losses: dict[str, Tensor] = self.model(
                [sample.image.to(self.device, non_blocking=True) for sample in samples],
                [sample.targets.to(self.device) for sample in samples],
                [sample.seed for sample in samples],
            )
        return losses

    def update(self) -> float:
        """Take one optimizer step with the accumulated gradients; return its learning rate."""
        solver = self.job.recipe.solver
        rate = learning_rate(self.step, solver)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if solver.clip_norm:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.detector.parameters(), solver.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.averaged is not None:
            self.averaged.update_parameters(self.detector)
        self.step += 1
        return rate

    def save(self) -> None:
        """Write the checkpoint of this step, then delete the oldest."""
        content = Checkpoint(
            step=self.step,
            recipe=self.job.recipe.model_dump(mode="json"),
            categories=self.detector.categories,
            model=self.detector.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            averaged={} if self.averaged is None else self.averaged.module.state_dict(),
        )
        save_checkpoint(checkpoint_path(self.job.run_dir, self.step), content)
        drop_old_checkpoints(self.job.run_dir, keep=self.job.recipe.solver.keep_checkpoints)

    def _resume(self) -> None:
        """Resume from the newest checkpoint that rank 0 sees: a network disk may show it to other machines later."""
        path = dist.broadcast(find_checkpoint(self.job.run_dir) if dist.rank() == 0 else self.job.run_dir)
        checkpoint = read_checkpoint(path)
        require_same_recipe(path, recipe_of(checkpoint, path), self.job.recipe)
        load_weights(self.detector, self.job.recipe, checkpoint, path)
        load_optimizer(self.optimizer, checkpoint.optimizer, path)
        self.scaler.load_state_dict(checkpoint.scaler)
        self.step = checkpoint.step
        if self.averaged is not None:
            check_shapes(shapes_of(self.averaged.module.state_dict()), checkpoint.averaged, path)
            self.averaged.module.load_state_dict(checkpoint.averaged)
            self.averaged.n_averaged.fill_(self.step)


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
