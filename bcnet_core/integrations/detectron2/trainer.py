"""detectron2's trainer for bilayer detectors, with its hooks, checkpointer and evaluator."""

from __future__ import annotations

import logging
import re
import weakref
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from bcnet_core import distributed as dist
from bcnet_core.annotations.crowding import detections_to_count
from bcnet_core.config.schema import Recipe
from bcnet_core.config.solver import SolverConfig
from bcnet_core.data.batches import shield_workers
from bcnet_core.distributed import share_statistics
from bcnet_core.engine.optimizer import build_optimizer, full_rate, learning_rate
from bcnet_core.errors import usage_error
from bcnet_core.files.outputs import atomic_file
from bcnet_core.integrations.detectron2.data import BilayerDatasetMapper
from bcnet_core.integrations.detectron2.evaluator import coco_evaluator
from bcnet_core.integrations.detectron2.fcos import TinyPyramid
from bcnet_core.integrations.detectron2.stored import Origin, origin_of
from bcnet_core.model.head import BilayerMaskHead
from bcnet_core.model.precision import AUTOCAST
from bcnet_core.weights.checkpoint import DETECTRON2_FILE, DETECTRON2_KEY, save_content


class BilayerTrainer(DefaultTrainer):
    """detectron2's `DefaultTrainer` with a mapper that carries both layers, and `COCOEvaluator`.

    `DefaultTrainer.__init__` is not called: on a CPU it trains in one process only, and in half precision as fp16 only.

    Args:
        cfg: config with our settings.
        recipe: recipe that the config was made from; provides optimizer and learning rates. None uses the config's.
        origin: description saved in every checkpoint; None derives it from the config.
        stop: becomes non-empty to request a stop: the step is finished and saved, then `KeyboardInterrupt` is raised.

    Raises:
        BCNetError: if half precision is asked for on a CPU, where detectron2 has none.
    """

    def __init__(
        self,
        cfg: CfgNode,
        *,
        recipe: Recipe | None = None,
        origin: Origin | None = None,
        stop: list[int] | None = None,
    ) -> None:
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        self.recipe, self.stop = recipe, stop if stop is not None else []
        self.cfg = cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
        if cfg.SOLVER.AMP.ENABLED and not on_gpu:
            raise usage_error("detectron2 trains in half precision on GPUs only", "solver.precision=fp32")
        model = self.build_model(cfg)
        if comm.get_world_size() > 1 and (recipe is None or recipe.solver.sync_batch_norm):
            for head in [module for module in model.modules() if isinstance(module, BilayerMaskHead)]:
                share_statistics(head)
        optimizer = self.build_optimizer(cfg, model)
        if recipe is not None and recipe.solver.clip_norm:
            _clip_gradients(optimizer, recipe.solver.clip_norm)
        loader = self.build_train_loader(cfg)
        own_device = [comm.get_local_rank()] if on_gpu else None
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=own_device)
        if cfg.SOLVER.AMP.ENABLED:
            dtype = AUTOCAST[recipe.solver.precision] if recipe is not None else torch.float16
            self._trainer = AMPTrainer(model, loader, optimizer, precision=dtype)
        else:
            self._trainer = SimpleTrainer(model, loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        known = {"trainer": weakref.proxy(self), DETECTRON2_KEY: origin or origin_of(cfg)}
        self.checkpointer = WholeCheckpointer(model, cfg.OUTPUT_DIR, **known)
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the config's model without logging it, as `DefaultTrainer` does on hundreds of lines."""
        model: nn.Module = build_model(cfg)
        return model

    def build_optimizer(self, cfg: CfgNode, model: nn.Module) -> Optimizer:
        """Build the recipe's optimizer, or the config's."""
        if self.recipe is not None:
            return build_optimizer(model, self.recipe.solver, parameter_stages(model))
        own: Optimizer = super().build_optimizer(cfg, model)
        return own

    def build_lr_scheduler(self, cfg: CfgNode, optimizer: Optimizer) -> Any:  # noqa: ANN401  (detectron2's)
        """Build the recipe's learning rate schedule, or the config's."""
        return super().build_lr_scheduler(cfg, optimizer) if self.recipe is None else RecipeRates(self.recipe.solver)

    def build_hooks(self) -> list[Any]:
        """Build detectron2's hooks, with the recipe's intervals and the best checkpoint."""
        built: list[Any] = []
        period, solver = self.cfg.TEST.EVAL_PERIOD, self.recipe and self.recipe.solver
        for hook in super().build_hooks():
            if solver and isinstance(hook, hooks.PeriodicCheckpointer):
                hook.max_to_keep = solver.keep_checkpoints
            if solver and isinstance(hook, hooks.PeriodicWriter):
                hook._period = solver.log_every
            if solver and isinstance(hook, hooks.EvalHook) and not period:
                continue  # it would evaluate once after the last step
            built.append(hook)
            if isinstance(hook, hooks.EvalHook) and period and comm.is_main_process():
                built.append(hooks.BestCheckpointer(period, self.checkpointer, "segm/AP"))
        return built

    def after_step(self) -> None:
        """Save and raise `KeyboardInterrupt` if any process was asked to stop (a collective call)."""
        super().after_step()
        (stopping,) = dist.any_process([bool(self.stop)], torch.device(self.cfg.MODEL.DEVICE))
        if stopping:
            self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
            raise KeyboardInterrupt

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:  # noqa: ANN401
        """Build detectron2's loader with our mapper."""
        loader = build_detection_train_loader(cfg, mapper=BilayerDatasetMapper(cfg, is_train=True))
        shield_workers(loader if isinstance(loader, DataLoader) else loader.dataset)  # wrapped, to group aspect ratios
        return loader

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:  # noqa: ANN401
        """Build detectron2's loader."""
        return shield_workers(super().build_test_loader(cfg, dataset_name))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """Build detectron2's evaluator for the folder `inference` of the run."""
        counted = detections_to_count(cfg.TEST.DETECTIONS_PER_IMAGE)
        return coco_evaluator(dataset_name, Path(cfg.OUTPUT_DIR) / "inference", max_dets=counted)


class WholeCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer with atomic writes: a kill or a full disk leaves no half file."""

    def save(self, name: str, **kwargs: Any) -> None:  # noqa: ANN401  (fvcore's)
        """Write `name`.pth, then record it as the last checkpoint."""
        if not self.save_dir or not self.save_to_disk:
            return
        file = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", file)
        parts = {"model": self.model, **self.checkpointables}
        save_content(file, {key: part.state_dict() for key, part in parts.items()} | kwargs)
        self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Record the checkpoint that a resumed run reads."""
        with atomic_file(Path(self.save_dir) / DETECTRON2_FILE) as temporary:
            temporary.write_text(last_filename_basename, encoding="utf-8")


class RecipeRates(ParamScheduler):
    """The learning rates of a recipe's solver settings as multipliers for detectron2's scheduler."""

    def __init__(self, solver: SolverConfig) -> None:
        self.solver = solver

    def __call__(self, where: float) -> float:
        """Return the multiplier at a fraction of all steps, 0..1."""
        return learning_rate(round(where * self.solver.steps), self.solver) / full_rate(self.solver)


def parameter_stages(model: Any) -> dict[str, int]:  # noqa: ANN401  (a meta architecture)
    """Return the stage of every parameter of a model's feature extractor, below its pyramid; the stem is 0."""
    if isinstance(model.backbone, TinyPyramid):
        own = model.backbone.pyramid.parameter_stages()
        return {f"backbone.pyramid.{name}": stage for name, stage in own.items()}
    found = (
        (name, re.match(r"backbone\.bottom_up\.(?:stem|res(\d+))\.", name)) for name, _ in model.named_parameters()
    )
    return {name: int(place[1] or 1) - 1 for name, place in found if place}


def _clip_gradients(optimizer: Optimizer, max_norm: float) -> None:
    """Clip the norm of all gradients together before every step, unlike detectron2, which clips each alone."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]

    def clip(*_: object) -> None:
        clip_grad_norm_(parameters, max_norm)

    optimizer.register_step_pre_hook(clip)
