"""detectron2's trainer for bilayer detectors: its hooks, its checkpointer, its evaluator."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from itertools import chain, islice
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

from bcnet_core import distributed as dist
from bcnet_core.config.schema import Recipe, SolverConfig
from bcnet_core.engine.optim import build_optimizer, full_rate, learning_rate
from bcnet_core.engine.state import AUTOCAST
from bcnet_core.errors import usage_error
from bcnet_core.files.outputs import atomic_file
from bcnet_core.files.workers import deaf_children
from bcnet_core.integrations.detectron2.data import BilayerDatasetMapper
from bcnet_core.integrations.detectron2.stored import Origin, origin_of
from bcnet_core.model.global_batch import share_statistics
from bcnet_core.model.head import BilayerMaskHead
from bcnet_core.weights.checkpoint import DETECTRON2_FILE, DETECTRON2_KEY, save_content


class BilayerTrainer(DefaultTrainer):
    """detectron2's `DefaultTrainer` with a mapper that carries both layers, and `COCOEvaluator`.

    It also trains on CPUs in several processes, which `DefaultTrainer` does not.

    Args:
        cfg: with our settings in it.
        recipe: that the config was made of; its optimiser and its learning rates are taken then. None takes the
            config's own.
        origin: what is saved beside the tensors, so that the file alone says what it is of; None asks the config.
        stop: grows when somebody wants training to end; it is saved then, and `KeyboardInterrupt` raised.

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
            setup_logger()  # as `DefaultTrainer` does for programs that did not
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
            _clip_all_together(optimizer, recipe.solver.clip_norm)
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
        """The config's model, which `DefaultTrainer` would also print, on hundreds of lines."""
        model: nn.Module = build_model(cfg)
        return model

    def build_optimizer(self, cfg: CfgNode, model: nn.Module) -> Optimizer:
        """The recipe's optimiser, or the config's."""
        if self.recipe is not None:
            return build_optimizer(model, self.recipe.solver)
        optimizer: Optimizer = super().build_optimizer(cfg, model)
        return optimizer

    def build_lr_scheduler(self, cfg: CfgNode, optimizer: Optimizer) -> Any:  # noqa: ANN401  (of detectron2)
        """The recipe's learning rates, or the config's."""
        return super().build_lr_scheduler(cfg, optimizer) if self.recipe is None else RecipeRates(self.recipe.solver)

    def build_hooks(self) -> list[Any]:
        """detectron2's hooks; as many checkpoints as the recipe keeps, and the best of a run that is evaluated."""
        built: list[Any] = super().build_hooks()
        period = self.cfg.TEST.EVAL_PERIOD
        if self.recipe is not None:
            for hook in built:
                if isinstance(hook, hooks.PeriodicCheckpointer):
                    hook.max_to_keep = self.recipe.solver.keep_checkpoints
                if isinstance(hook, hooks.PeriodicWriter):
                    hook._period = self.recipe.solver.log_every
        place = next(index for index, hook in enumerate(built) if isinstance(hook, hooks.EvalHook))
        if period and comm.is_main_process():
            built.insert(place + 1, hooks.BestCheckpointer(period, self.checkpointer, "segm/AP"))
        if not period and self.recipe is not None:  # detectron2 would evaluate once, behind the last step
            del built[place]
        return [*built, StopHook(self.stop)]

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:  # noqa: ANN401
        """detectron2's loader, with our mapper."""
        return UndisturbedLoader(build_detection_train_loader(cfg, mapper=BilayerDatasetMapper(cfg, is_train=True)))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:  # noqa: ANN401
        """detectron2's loader."""
        return UndisturbedLoader(super().build_test_loader(cfg, dataset_name))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """detectron2's evaluator; its results go into the folder `inference` of the run."""
        return coco_evaluator(dataset_name, Path(cfg.OUTPUT_DIR) / "inference")


class WholeCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer, whose files are whole or absent when it is killed, or the disk is full."""

    def save(self, name: str, **kwargs: Any) -> None:  # noqa: ANN401  (of fvcore)
        """Write `name`.pth with everything, then name it as the last checkpoint."""
        if not self.save_dir or not self.save_to_disk:
            return
        parts = {"model": self.model, **self.checkpointables}
        file = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", file)
        save_content(file, {**{key: part.state_dict() for key, part in parts.items()}, **kwargs})
        self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write which checkpoint a resumed run reads."""
        with atomic_file(Path(self.save_dir) / DETECTRON2_FILE) as temporary:
            temporary.write_text(last_filename_basename, encoding="utf-8")


class RecipeRates(ParamScheduler):
    """The learning rates of a recipe as factors of the full one, where detectron2's scheduler looks for them.

    Args:
        solver: of the recipe.
    """

    def __init__(self, solver: SolverConfig) -> None:
        self.solver = solver

    def __call__(self, where: float) -> float:
        """The factor at a share of all steps, from 0 to 1."""
        return learning_rate(round(where * self.solver.steps), self.solver) / full_rate(self.solver)


class StopHook(hooks.HookBase):
    """Ends training behind the step in which somebody asked for it, with everything saved.

    Args:
        stop: grows then.
    """

    def __init__(self, stop: list[int]) -> None:
        self.stop = stop

    def after_step(self) -> None:
        """Ask all processes (a collective call), and save."""
        trainer = self.trainer
        (stopping,) = dist.any_process([bool(self.stop)], torch.device(trainer.cfg.MODEL.DEVICE))
        if stopping:
            trainer.checkpointer.save(f"model_{trainer.iter:07d}", iteration=trainer.iter)
            raise KeyboardInterrupt


def coco_evaluator(dataset_name: str, folder: Path) -> COCOEvaluator:
    """detectron2's `COCOEvaluator`, which also takes COCO files without an `info`.

    Args:
        dataset_name: of a registered set.
        folder: where it writes `coco_instances_results.json`.
    """
    evaluator = COCOEvaluator(dataset_name, output_dir=str(folder))
    evaluator._coco_api.dataset.setdefault("info", {})
    return evaluator


def _clip_all_together(optimizer: Optimizer, most: float) -> None:
    """Clip the norm of all gradients together before every step, which detectron2's own clipping does not."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]

    def clip(*_: object) -> None:
        clip_grad_norm_(parameters, most)

    optimizer.register_step_pre_hook(clip)


class UndisturbedLoader:
    """A detectron2 loader whose worker processes ignore a Ctrl-C or SIGTERM that a whole process group receives.

    Args:
        loader: the loader; it starts its processes for the first batch.
    """

    def __init__(self, loader: Any) -> None:  # noqa: ANN401  (detectron2's)
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        with deaf_children():
            first = list(islice(batches, 1))
        yield from chain(first, batches)

    def __len__(self) -> int:
        return len(self.loader)
