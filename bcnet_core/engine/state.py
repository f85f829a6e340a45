"""A training run: its job, and its state of weights, averages, optimizer, loss scaler and step count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bcnet_core import distributed as dist
from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.config.data import DataConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.data.dataset import Sample
from bcnet_core.distributed import share_statistics
from bcnet_core.engine.optimizer import build_optimizer, full_rate, learning_rate, load_optimizer
from bcnet_core.engine.run_dir import require_same_recipe
from bcnet_core.model.detectors import Detector, build_detector
from bcnet_core.model.precision import AUTOCAST
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
from bcnet_core.weights.loading import check_shapes, load_trained, load_weights, shapes_of
from bcnet_core.weights.report import Start
from bcnet_core.weights.starts import read_start


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
        recipe: recipe with its data root; a `TrainingState` needs a resolved one, see `resolve_recipe`.
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
        start: what it took from the weights that it starts from, or None.
    """

    def __init__(self, job: TrainingJob, categories: list[Record], device: torch.device) -> None:
        torch.manual_seed(job.recipe.seed)
        solver = job.recipe.solver
        self.job, self.device, self.step = job, device, 0
        self.detector = build_detector(job.recipe, categories).to(device)
        if solver.sync_batch_norm and dist.world_size() > 1:
            share_statistics(self.detector)
        self.scaler = torch.amp.GradScaler(device.type, enabled=solver.precision == "fp16")
        self.start: Start | None = None
        if job.init is not None:
            self.start = load_weights(self.detector, job.recipe, *read_start(job.init))
        self.start_optimizer()
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

    def start_optimizer(self) -> None:
        """Begin the optimizer and the average of the detector's weights; again if other parts have replaced some."""
        solver = self.job.recipe.solver
        stages = {f"backbone.{name}": stage for name, stage in self.detector.backbone.parameter_stages().items()}
        self.optimizer = build_optimizer(self.detector, solver, stages)
        self._shares = [group["lr"] / full_rate(solver) for group in self.optimizer.param_groups]
        self.averaged: AveragedModel | None = None
        if solver.ema:
            average = get_ema_multi_avg_fn(solver.ema)  # type: ignore[no-untyped-call]
            self.averaged = AveragedModel(self.detector, multi_avg_fn=average, use_buffers=True)
            self.averaged.requires_grad_(requires_grad=False)

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
        """Take one optimizer step with the accumulated gradients; return its learning rate, that of the heads."""
        solver = self.job.recipe.solver
        rate = learning_rate(self.step, solver)
        for group, share in zip(self.optimizer.param_groups, self._shares, strict=True):
            group["lr"] = rate * share
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
        load_trained(self.detector, self.job.recipe, checkpoint, path)
        load_optimizer(self.optimizer, checkpoint.optimizer, path)
        self.scaler.load_state_dict(checkpoint.scaler)
        self.step = checkpoint.step
        if self.averaged is not None:
            check_shapes(shapes_of(self.averaged.module.state_dict()), checkpoint.averaged, path)
            self.averaged.module.load_state_dict(checkpoint.averaged)
            self.averaged.n_averaged.fill_(self.step)
