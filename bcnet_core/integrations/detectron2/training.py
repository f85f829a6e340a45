"""Training with detectron2, in one process or in several: a recipe of ours, or a user's own config."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from bcnet_core.config.schema import DataConfig, Recipe
from bcnet_core.data.loaders import open_training_set, read_annotations
from bcnet_core.engine.interrupts import stop_requests
from bcnet_core.engine.job import RunOptions
from bcnet_core.engine.loop import describe
from bcnet_core.engine.run_dir import exclusive_run, refuse_other_recipe, write_header
from bcnet_core.errors import BCNetError, ExitCode, usage_error
from bcnet_core.evaluation.predict import check_categories
from bcnet_core.evaluation.validation import check_validation
from bcnet_core.files.outputs import atomic_file
from bcnet_core.integrations.detectron2.config import config_from, config_of, recipe_of
from bcnet_core.integrations.detectron2.datasets import register_bilayer_coco
from bcnet_core.integrations.detectron2.processes import device_name, launch_processes, told
from bcnet_core.integrations.detectron2.stored import (
    Origin,
    detectron2_tensors,
    find_stored,
    origin_of,
    read_stored,
)
from bcnet_core.integrations.detectron2.trainer import BilayerTrainer
from bcnet_core.model.detectors import build_detector
from bcnet_core.reporting import Reporter
from bcnet_core.weights.checkpoint import DETECTRON2_FILE, find_checkpoint, read_checkpoint
from bcnet_core.weights.loading import load_weights

TRAIN_SET, VAL_SET = "bcnet_train", "bcnet_val"
"""The names under which our data sets are registered with detectron2."""
BILAYER = {"BilayerFCOS", "BilayerROIHeads", "BilayerCascadeROIHeads", "BilayerMaskRCNNHead"}
CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class Detectron2Job:
    """What detectron2 is asked to train, as it travels to every process.

    Attributes:
        origin: the whole config, with its data sets, its device and its output folder; and what is saved beside it.
        options: how it is done.
    """

    origin: Origin
    options: RunOptions

    @property
    def cfg(self) -> CfgNode:
        """The config, to be changed at will."""
        return config_from(self.origin.config)

    @property
    def recipe(self) -> Recipe | None:
        """The recipe that the config was made of, None where it is a user's own."""
        return Recipe.model_validate(self.origin.recipe) if self.origin.recipe else None


def train_recipe(recipe: Recipe, options: RunOptions, reporter: Reporter) -> Path:
    """Train a recipe with detectron2's trainer.

    Args:
        recipe: resolved, with its data root.
        options: how; `run_dir` becomes detectron2's output folder.
        reporter: told what is trained on.

    Returns:
        The last checkpoint.

    Raises:
        BCNetError: on bad data, settings that detectron2 does not have, a loss that is not finite, or an interruption.
    """
    dataset, coco = open_training_set(recipe.data, need_occluders=recipe.trains_occluders)
    if recipe.solver.eval_every:
        check_validation(recipe, coco)
    describe(dataset, recipe, reporter)
    cfg = config_of(recipe, num_classes=len(coco.categories))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (TRAIN_SET,), (VAL_SET,)
    plain = recipe.model_dump(mode="json")
    return _run(cfg, Origin("", coco.categories, plain["data"], plain), options)


def train_config(cfg: CfgNode, data: DataConfig | None, options: RunOptions, reporter: Reporter) -> Path:
    """Train a user's own config of detectron2.

    Args:
        cfg: read by `stored.read_config`, with overrides.
        data: the data root's COCO sets, which take the place of the config's; None leaves those.
        options: how; `run_dir` becomes detectron2's output folder, `init_from` replaces `MODEL.WEIGHTS`.
        reporter: told where the config has no bilayer head.

    Returns:
        The last checkpoint.

    Raises:
        BCNetError: see `train_recipe`.
    """
    names = {cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_MASK_HEAD.NAME}
    if not names & BILAYER:
        reporter.warning(
            f"this config has no bilayer head, its mask head is {cfg.MODEL.ROI_MASK_HEAD.NAME}; with one: "
            "MODEL.ROI_HEADS.NAME=BilayerROIHeads"
        )
    if data is None:
        return _run(cfg, origin_of(cfg), options)
    categories = sorted(read_annotations(data, data.train).categories, key=lambda one: int(one["id"]))
    check_categories(categories, read_annotations(data, data.val))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = len(categories)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (TRAIN_SET,), (VAL_SET,)
    return _run(cfg, Origin("", categories, data.model_dump(mode="json"), {}), options)


def _run(cfg: CfgNode, origin: Origin, options: RunOptions) -> Path:
    """Train, with detectron2's launcher; a run that fails before its first checkpoint leaves nothing behind."""
    run_dir, processes = options.run_dir, options.processes
    cfg.OUTPUT_DIR, cfg.MODEL.DEVICE = str(run_dir), device_name(options.device, processes=processes)
    origin.config = cfg.dump()
    job = Detectron2Job(origin, options)
    images = cfg.SOLVER.IMS_PER_BATCH
    if images % processes:
        key = "solver.batch_size" if origin.recipe else "SOLVER.IMS_PER_BATCH"
        raise usage_error(
            f"a batch of {images} images cannot be split evenly over {processes} processes",
            f"choose another: {key}={-(-images // processes) * processes}",
        )
    if options.resume:
        _refuse_other_run(job)
    with exclusive_run(run_dir, None if options.resume else options.command):
        try:
            launch_processes(_train, job, processes=processes)
        except KeyboardInterrupt:
            raise _interrupted(options) from None
    return find_stored(run_dir)


def _train(job: Detectron2Job) -> None:
    """Train, as one of the processes of detectron2's `launch`."""
    cfg, folder = job.cfg, Path(job.cfg.OUTPUT_DIR)
    register_data(job.origin)
    on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
    with told(folder, processes=job.options.processes, on_gpu=on_gpu), stop_requests() as stop:
        if comm.is_main_process():
            _write_header(job, folder)
        seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
        cfg.freeze()
        trainer = BilayerTrainer(cfg, recipe=job.recipe, origin=job.origin, stop=stop)
        _load(trainer, job)
        try:
            trainer.train()
        except ZeroDivisionError:  # detectron2's printer, on its way out of a run's very first steps
            if not stop:
                raise
            raise KeyboardInterrupt from None


def _load(trainer: BilayerTrainer, job: Detectron2Job) -> None:
    """Weights to go on with, or to begin with; an `init_from` of ours is brought under detectron2's names."""
    path = job.options.init_from
    if job.options.resume:
        trainer.resume_or_load(resume=True)
    elif path is not None and (path.is_dir() or path.suffix == ".pt") and not (path / DETECTRON2_FILE).is_file():
        file = find_checkpoint(path)
        recipe = job.recipe or recipe_of(trainer.cfg)
        detector = build_detector(recipe, job.origin.categories)
        load_weights(detector, recipe, read_checkpoint(file).for_inference(), file)
        model = trainer.checkpointer.model
        model.load_state_dict(detectron2_tensors(detector.state_dict(), model))
    else:
        source = trainer.cfg.MODEL.WEIGHTS if path is None else str(find_stored(path))
        trainer.checkpointer.load(source, checkpointables=[])


def register_data(origin: Origin) -> None:
    """Register the data sets of a run under `TRAIN_SET` and `VAL_SET`, in its label order."""
    data = DataConfig.model_validate(origin.data)
    for name, dataset in ((TRAIN_SET, data.train), (VAL_SET, data.val)):
        annotations, images = data.locate(dataset)
        if annotations.exists():
            register_bilayer_coco(name, annotations, images, categories=origin.categories)


def _write_header(job: Detectron2Job, folder: Path) -> None:
    """Write what the run is, before its first step."""
    with atomic_file(folder / CONFIG_FILE) as temporary:
        temporary.write_text(job.origin.config, encoding="utf-8")
    if job.recipe is not None:
        write_header(folder, job.recipe, world_size=job.options.processes, device=torch.device(job.cfg.MODEL.DEVICE))


def _refuse_other_run(job: Detectron2Job) -> None:
    """Refuse to go on with a run that is not there, or was asked for something else."""
    run_dir = job.options.run_dir
    if not (run_dir / DETECTRON2_FILE).is_file():
        raise usage_error(f"`{run_dir}` holds no checkpoint of detectron2", "is it the --run-dir of such a run?")
    before = read_stored(run_dir)
    if job.recipe is not None:
        refuse_other_recipe(before.path, before.recipe, job.recipe)


def _interrupted(options: RunOptions) -> BCNetError:
    run_dir = options.run_dir
    if not (run_dir / DETECTRON2_FILE).is_file():
        return BCNetError("interrupted before the first step was saved", exit_code=ExitCode.INTERRUPTED)
    return BCNetError(
        f"interrupted; saved {find_stored(run_dir).name}",
        f"go on with it: {options.command} --run-dir {shlex.quote(str(run_dir))} --resume",
        exit_code=ExitCode.INTERRUPTED,
    )
