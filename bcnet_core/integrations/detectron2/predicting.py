"""Predicting a COCO set with detectron2's loader and its `COCOEvaluator`, in one process or in several."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.integrations.detectron2.data import register_bilayer_coco
from bcnet_core.integrations.detectron2.stored import read_stored
from bcnet_core.integrations.detectron2.trainer import UndisturbedLoader, coco_evaluator
from bcnet_core.integrations.detectron2.training import VAL_SET, detectron2_output, device_name, launch

RESULTS_FILE, SCORES_FILE = "coco_instances_results.json", "scores.json"


def predict_set(
    checkpoint: Path,
    coco: CocoFile,
    images: Path,
    categories: Sequence[Record],
    *,
    device: str,
    processes: int,
) -> tuple[list[Record], dict[str, dict[str, float]]]:
    """Predict every image of a COCO file with detectron2.

    Args:
        checkpoint: of detectron2, or one of ours.
        coco: the file; without annotations nothing is scored.
        images: the folder that its file names are relative to.
        categories: in the detector's label order.
        device: "auto", "cpu", "cuda".
        processes: on this machine, one a GPU, or gloo processes on the CPU.

    Returns:
        The COCO results, image by image in the order of the file, the best of an image first; and what `COCOEvaluator`
        says of them, in percent: `{"bbox": {"AP": ...}, "segm": {...}}`.

    Raises:
        BCNetError: if the checkpoint cannot be read, or a process fails.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        launch(
            _predict, checkpoint, coco.path, images, list(categories), device_name(device, processes=processes), folder,
            processes=processes, device=device, interrupted=_interrupted,
        )  # fmt: skip
        results: list[Record] = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        scores: dict[str, dict[str, float]] = json.loads((folder / SCORES_FILE).read_text(encoding="utf-8"))
    place = {image["id"]: position for position, image in enumerate(coco.images)}
    return sorted(results, key=lambda one: (place[one["image_id"]], -one["score"])), scores


def _interrupted() -> BCNetError:
    return BCNetError("interrupted", exit_code=ExitCode.INTERRUPTED)


def _predict(
    checkpoint: Path,
    annotations: Path,
    images: Path,
    categories: list[Record],
    device: str,
    folder: Path,
) -> None:
    """Predict this process's share; the first one writes what all of them found."""
    logging.getLogger("detectron2.evaluation.coco_evaluation").setLevel(logging.WARNING)  # the tables are ours
    with detectron2_output(None):
        register_bilayer_coco(VAL_SET, annotations, images, categories=categories)
        stored = read_stored(checkpoint)
        cfg = stored.config
        cfg.DATASETS.TEST, cfg.DATALOADER.NUM_WORKERS = (VAL_SET,), min(cfg.DATALOADER.NUM_WORKERS, 2)
        loader = UndisturbedLoader(build_detection_test_loader(cfg, VAL_SET))
        scores = inference_on_dataset(stored.build(device), loader, coco_evaluator(VAL_SET, folder))
        if comm.is_main_process():
            (folder / SCORES_FILE).write_text(json.dumps(scores), encoding="utf-8")
