"""Training with detectron2, in one process or in several: one of our recipes, or a user's own config."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import record

from bcnet_core.annotations.coco import in_id_order
from bcnet_core.annotations.crowding import report_crowding
from bcnet_core.config.data import DataConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.data.dataset import TrainingSet
from bcnet_core.data.loaders import read_annotations, read_truth
from bcnet_core.distributed import choose_device
from bcnet_core.engine.elastic import Cluster, process_of, run_processes, stop_requests
from bcnet_core.engine.launch import check_split, open_data, report_instances, report_wholes
from bcnet_core.engine.run_dir import exclusive_run, interruption, require_same_recipe, write_header
from bcnet_core.engine.state import RunOptions
from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.evaluation.inputs import check_categories
from bcnet_core.evaluation.validation import VALIDATION
from bcnet_core.files.outputs import atomic_file
from bcnet_core.integrations.detectron2.config import config_from_recipe, config_from_yaml, recipe_from_config
from bcnet_core.integrations.detectron2.data import recipe_of_data, register_bilayer_coco, write_truth
from bcnet_core.integrations.detectron2.stored import (
    Origin,
    detectron2_tensors,
    find_stored,
    origin_of,
    read_stored,
    to_torchvision,
)
from bcnet_core.integrations.detectron2.trainer import BilayerTrainer
from bcnet_core.model.detectors import build_detector
from bcnet_core.reporting import Reporter
from bcnet_core.weights.checkpoint import DETECTRON2_FILE, DETECTRON2_KEY, Checkpoint
from bcnet_core.weights.files import read_weight_file
from bcnet_core.weights.loading import load_weights
from bcnet_core.weights.starts import fetch_start, read_start

TRAIN_SET, VAL_SET = "bcnet_train", "bcnet_val"
"""The names under which our data sets are registered with detectron2."""
BILAYER = {"BilayerFCOS", "BilayerROIHeads", "BilayerCascadeROIHeads", "BilayerMaskRCNNHead"}


def train_recipe(recipe: Recipe, options: RunOptions, reporter: Reporter) -> Path:
    """Train a recipe with detectron2's trainer, and return the last checkpoint; see `backends.train`.

    Raises:
        BCNetError: on bad data, settings that detectron2 does not have, a loss that is not finite, or an interruption.
    """
    _, coco, recipe = open_data(recipe, VALIDATION, choose_device(options.device), reporter)
    cfg = config_from_recipe(recipe, num_classes=len(coco.categories))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (TRAIN_SET,), (VAL_SET,)
    plain = recipe.model_dump(mode="json")
    return _run(cfg, Origin("", coco.categories, plain["data"], plain), options, reporter)


def train_config(cfg: CfgNode, data: DataConfig | None, options: RunOptions, reporter: Reporter) -> Path:
    """Train a user's own config of detectron2, and return the last checkpoint; see `backends.train_config`.

    Args:
        cfg: config with its overrides.
        data: COCO sets that replace those of the config; None keeps them.
        options: options of the run; `run_dir` becomes `OUTPUT_DIR`, `init_from` replaces `MODEL.WEIGHTS`.
        reporter: receives a warning if the config has no bilayer head, and what `open_data` reports.
    """
    return _run(cfg, prepare_config(cfg, data, reporter), options, reporter)


def prepare_config(cfg: CfgNode, data: DataConfig | None, reporter: Reporter) -> Origin:
    """Check a user's config, and put the COCO sets of a data root in the place of its own.

    Raises:
        BCNetError: if training, or an evaluation, would fail on these sets.
    """
    names = {cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_MASK_HEAD.NAME}
    if not names & BILAYER:
        reporter.warning(
            f"this config has no bilayer head, its mask head is {cfg.MODEL.ROI_MASK_HEAD.NAME}; with one: "
            "MODEL.ROI_HEADS.NAME=BilayerROIHeads"
        )
    if data is None:
        return origin_of(cfg)
    coco = read_annotations(data, data.train, check_annotations=False, configurable=False)
    asked = recipe_of_data(cfg)
    dataset = TrainingSet(
        coco, data.locate(data.train)[1], occluders=asked.data.occluders, amodal=asked.model.amodal,
        amodal_boxes=asked.amodal_boxes,
    )  # fmt: skip
    survey = dataset.survey
    report_instances(survey, reporter)
    report_wholes(dataset, reporter)
    if (kept := cfg.TEST.DETECTIONS_PER_IMAGE) > 0:
        way_out = "keep and count more: TEST.DETECTIONS_PER_IMAGE={most}"
        report_crowding(survey.coco, kept=kept, counted=kept, way_out=way_out, reporter=reporter)
    categories = in_id_order(coco.categories)
    check_categories(categories, read_truth(data, data.val, configurable=False, reporter=reporter))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = len(categories)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (TRAIN_SET,), (VAL_SET,)
    return Origin("", categories, data.model_dump(mode="json"), {})


def _run(cfg: CfgNode, origin: Origin, options: RunOptions, reporter: Reporter) -> Path:
    """Train in as many processes as asked for; a run that fails before its first checkpoint leaves nothing behind."""
    run_dir, processes, images = options.run_dir, options.processes, cfg.SOLVER.IMS_PER_BATCH
    cfg.OUTPUT_DIR, cfg.MODEL.DEVICE = str(run_dir), device_name(options.device, processes=processes)
    origin.config = cfg.dump()
    check_split(images, processes, setting="solver.batch_size" if origin.recipe else "SOLVER.IMS_PER_BATCH")
    if options.resume:
        if not (run_dir / DETECTRON2_FILE).is_file():
            raise usage_error(f"`{run_dir}` holds no checkpoint of detectron2", "is it the --run-dir of such a run?")
        before, recipe = read_stored(run_dir), _recipe(origin)
        if recipe is not None:
            require_same_recipe(before.path, before.recipe, recipe)
    elif options.init_from is not None:
        fetch_start(options.init_from, reporter)
    with exclusive_run(run_dir, None if options.resume else options.command), TemporaryDirectory() as temporary:
        truth = Path(temporary) / "truth.json"
        if VAL_SET in cfg.DATASETS.TEST and (cfg.TEST.EVAL_PERIOD or not origin.recipe):
            data = DataConfig.model_validate(origin.data)
            write_truth(truth, read_truth(data, data.val), origin.categories)
        name = launch(
            _train, origin, options, truth, reporter,
            processes=processes, device=options.device, interrupted=lambda: _interrupted(options),
        )  # fmt: skip
    return run_dir / name


def _train(origin: Origin, options: RunOptions, truth: Path, reporter: Reporter) -> str:
    """Train in one of the processes of a run, and return the name of the last checkpoint.

    `truth` has the annotations of the validation set; without the file it is not evaluated.
    """
    cfg, recipe, folder = config_from_yaml(origin.config), _recipe(origin), options.run_dir
    data = DataConfig.model_validate(origin.data)
    (annotations, images), (_, held_out) = data.locate(data.train), data.locate(data.val)
    for name, file, pictures in ((TRAIN_SET, annotations, images), (VAL_SET, truth, held_out)):
        if file.exists():
            register_bilayer_coco(
                name, file, pictures, categories=origin.categories, occluders=cfg.INPUT.OCCLUDERS,
                reads_wholes=recipe_of_data(cfg).reads_wholes,
            )  # fmt: skip
    try:
        with detectron2_output(folder), stop_requests() as stop:
            if comm.is_main_process():
                with atomic_file(folder / "config.yaml") as temporary:
                    temporary.write_text(origin.config, encoding="utf-8")
                if recipe is not None:
                    write_header(folder, recipe, world_size=options.processes, device=torch.device(cfg.MODEL.DEVICE))
            seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
            cfg.freeze()
            weights = _initial_weights(cfg, origin, options.init_from, reporter)
            trainer = BilayerTrainer(cfg, recipe=recipe, origin=origin, stop=stop)
            if options.resume:
                trainer.resume_or_load(resume=True)
            elif weights is not None:
                model = trainer.checkpointer.model
                model.load_state_dict(detectron2_tensors(weights, model))
            else:
                source = cfg.MODEL.WEIGHTS if options.init_from is None else str(find_stored(Path(options.init_from)))
                trainer.checkpointer.load(source, checkpointables=[])
            try:
                trainer.train()
            except ZeroDivisionError:  # raised by detectron2's printer when a run stops within its first steps
                if not stop:
                    raise
                raise KeyboardInterrupt from None
    except KeyboardInterrupt:
        raise _interrupted(options) from None
    return find_stored(folder).name


def _initial_weights(
    cfg: CfgNode, origin: Origin, init_from: str | None, reporter: Reporter
) -> dict[str, Tensor] | None:
    """Read the weights of a source through our own detector.

    None leaves them to detectron2: its own files, for a user's own config.
    """
    if init_from is None:
        return None
    path, recipe = Path(init_from), _recipe(origin)
    is_theirs = path.exists() and ((path / DETECTRON2_FILE).is_file() or not (path.is_dir() or path.suffix == ".pt"))
    if is_theirs and recipe is None:
        return None
    checkpoint, file = _read_theirs(path) if is_theirs else read_start(init_from)
    recipe = recipe or recipe_from_config(cfg)
    detector = build_detector(recipe, origin.categories)
    start = load_weights(detector, recipe, checkpoint, file)
    if comm.is_main_process():
        start.report(init_from, reporter)
    return detector.state_dict()


def _read_theirs(path: Path) -> tuple[Checkpoint, Path]:
    """Read a run or a file of detectron2, of this backend or published, as a checkpoint of the torchvision backend."""
    file = find_stored(path)
    content = read_weight_file(file)
    if isinstance(content, dict) and DETECTRON2_KEY in content:
        return to_torchvision(read_stored(file)), file
    return read_start(str(file))


def _recipe(origin: Origin) -> Recipe | None:
    """Return the recipe that a config was made from, None for a user's own config."""
    return Recipe.model_validate(origin.recipe) if origin.recipe else None


def _interrupted(options: RunOptions) -> BCNetError:
    saved = find_stored(options.run_dir).name if (options.run_dir / DETECTRON2_FILE).is_file() else None
    return interruption(options.run_dir, options.command, saved)


def device_name(device: str, *, processes: int) -> str:
    """Return the `MODEL.DEVICE` for a user's `--device`; a single process may have a GPU of its choice."""
    chosen = choose_device(device)
    return str(chosen) if processes == 1 else chosen.type


def launch(
    worker: Callable[..., str], *arguments: object, processes: int, device: str, interrupted: Callable[[], BCNetError]
) -> str:
    """Call a module's function in this process, or in several on this machine; see `run_processes`."""
    if processes == 1:
        return worker(*arguments)
    cluster = Cluster(processes)
    return run_processes(
        _process, worker, arguments, cluster, device, cluster=cluster, name="detectron2", interrupted=interrupted
    )


@record
def _process(worker: Callable[..., str], arguments: tuple[object, ...], cluster: Cluster, device: str) -> str:
    with process_of(cluster, device):
        comm.create_local_process_group(cluster.processes)  # as detectron2's own `launch` does
        return worker(*arguments)


@contextmanager
def detectron2_output(folder: Path | None) -> Iterator[None]:
    """Send detectron2's log lines and pycocotools' prints to stderr, and turn a loss that is not finite into an error.

    detectron2's own `setup_logger` keeps its first file open, also for the next run of this process.

    Args:
        folder: folder of detectron2's `log.txt`; None writes none.
    """
    rank = comm.get_rank()
    handlers: list[logging.Handler] = [] if rank else [logging.StreamHandler(sys.stderr)]
    if folder is not None:
        handlers.append(logging.FileHandler(folder / (f"log.txt.rank{rank}" if rank else "log.txt"), encoding="utf-8"))
    loggers = [logging.getLogger(name) for name in ("fvcore", "detectron2")]
    for logger, handler in product(loggers, handlers):
        handler.setFormatter(logging.Formatter("[%(asctime)s %(name)s]: %(message)s", "%m/%d %H:%M:%S"))
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        with redirect_stdout(sys.stderr):
            yield
    except FloatingPointError as error:
        raise BCNetError(
            f"the loss is not finite: {str(error).splitlines()[0]}",
            "the last checkpoint is kept; try a smaller learning rate, a longer warm-up, or clipped gradients",
        ) from None
    finally:
        for logger, handler in product(loggers, handlers):
            logger.removeHandler(handler)
            handler.close()
