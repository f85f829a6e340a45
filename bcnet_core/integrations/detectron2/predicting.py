"""Prediction with detectron2: a detector like ours, and whole COCO sets through its loader and `COCOEvaluator`."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from numpy.typing import NDArray
from torch import nn

from bcnet_core.annotations.coco import CocoFile, Record, category_names
from bcnet_core.data.batches import shield_workers
from bcnet_core.data.transforms import resize as resize_image
from bcnet_core.data.transforms import target_size
from bcnet_core.distributed import choose_device
from bcnet_core.errors import BCNetError, ExitCode, usage_error
from bcnet_core.evaluation.results import from_json
from bcnet_core.files.images import as_image
from bcnet_core.integrations.detectron2.data import register_bilayer_coco, write_truth
from bcnet_core.integrations.detectron2.evaluator import coco_evaluator
from bcnet_core.integrations.detectron2.fields import predicted_maps
from bcnet_core.integrations.detectron2.stored import Stored, read_stored
from bcnet_core.integrations.detectron2.training import VAL_SET, detectron2_output, device_name, launch
from bcnet_core.model.boxes import boxes_in_image
from bcnet_core.structures import Detections


class Detectron2Detector:
    """A model of detectron2 with the `predict` of our `Detector`.

    Args:
        model: model in evaluation mode, with detectron2's `inference`.
        categories: COCO categories in label order.
        bgr: whether the model expects BGR channels.
        min_size: shorter side that `predict` resizes images to, pixels.
        max_size: upper bound of the longer side, pixels.
    """

    def __init__(
        self, model: nn.Module, *, categories: Sequence[Record], bgr: bool, min_size: int, max_size: int
    ) -> None:
        self.model, self.categories, self.bgr = model, list(categories), bgr
        self.min_size, self.max_size = min_size, max_size

    @property
    def class_names(self) -> list[str]:
        """The category names, in label order."""
        return category_names(self.categories)

    @torch.no_grad()
    def predict(self, images: Sequence[NDArray[np.uint8] | str | Path], *, resize: bool = True) -> list[Detections]:
        """Predict the instances of images, as `bcnet_core.model.detectors.Detector.predict` does.

        Raises:
            BCNetError: if an array is no image, a path cannot be read, or the model predicts no masks.
        """
        return [self._predict_one(as_image(image), resize=resize) for image in images]

    def _predict_one(self, image: NDArray[np.uint8], *, resize: bool) -> Detections:
        size = new_size = image.shape[0], image.shape[1]
        if resize:
            new_size = target_size(*size, min_size=self.min_size, max_size=self.max_size)
        pixels = resize_image(image, *new_size)
        channels = np.array((pixels[..., ::-1] if self.bgr else pixels).transpose(2, 0, 1))
        (found,) = self.model.inference([{"image": torch.from_numpy(channels)}], do_postprocess=False)  # type: ignore[operator]
        if not found.has("pred_masks"):
            raise usage_error("this detector finds boxes alone", "train one with masks: MODEL.MASK_ON True")
        boxes = boxes_in_image(found.pred_boxes.tensor, new_size, size)
        return Detections(boxes, found.scores, found.pred_classes, size, predicted_maps(found))


def load_detectron2(path: Path, *, device: str) -> Detectron2Detector:
    """Load a detector of either backend, a checkpoint file or a run directory, to be run by detectron2.

    Raises:
        BCNetError: if there is none, or it cannot be read.
    """
    return build_stored(read_stored(path), device=device)


def build_stored(stored: Stored, *, device: str) -> Detectron2Detector:
    """Build the detector of a checkpoint."""
    cfg = stored.config
    return Detectron2Detector(
        stored.build(str(choose_device(device))),
        categories=stored.origin.categories,
        bgr=cfg.INPUT.FORMAT == "BGR",
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
    )


def predict_set(
    checkpoint: Path,
    coco: CocoFile,
    images: Path,
    categories: Sequence[Record],
    *,
    kept: int,
    counted: int,
    device: str,
    processes: int,
) -> tuple[list[Record], dict[str, dict[str, float]]]:
    """Predict every image of a COCO file with detectron2; without annotations nothing is scored.

    `kept` detections of an image are kept, `counted` of each category are scored.

    Returns:
        The COCO results, image by image in the order of the file, the best of an image first; and the scores of
        `COCOEvaluator` in percent: `{"bbox": {"AP": ...}, "segm": {...}}`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        truth = folder / "truth.json"
        write_truth(truth, coco, categories)
        scores: dict[str, dict[str, float]] = json.loads(launch(
            _predict, checkpoint, truth, images, list(categories), device_name(device, processes=processes), folder,
            kept, counted, processes=processes, device=device,
            interrupted=lambda: BCNetError("interrupted", exit_code=ExitCode.INTERRUPTED),
        ))  # fmt: skip
        file = folder / "coco_instances_results.json"  # of `COCOEvaluator`
        results = [from_json(one) for one in json.loads(file.read_text(encoding="utf-8"))]
    place = {image["id"]: position for position, image in enumerate(coco.images)}
    return sorted(results, key=lambda one: (place[one["image_id"]], -one["score"])), scores


def _predict(
    checkpoint: Path,
    annotations: Path,
    images: Path,
    categories: list[Record],
    device: str,
    folder: Path,
    kept: int,
    counted: int,
) -> str:
    """Predict this process's share; the first process writes the results of all and returns their scores as json."""
    logging.getLogger("detectron2.evaluation.coco_evaluation").setLevel(logging.WARNING)  # bcnet prints its own tables
    with detectron2_output(None):
        register_bilayer_coco(VAL_SET, annotations, images, categories=categories)
        stored = read_stored(checkpoint)
        cfg = stored.config
        cfg.DATASETS.TEST, cfg.DATALOADER.NUM_WORKERS = (VAL_SET,), min(cfg.DATALOADER.NUM_WORKERS, 2)
        loader = shield_workers(build_detection_test_loader(cfg, VAL_SET))
        return json.dumps(inference_on_dataset(
            stored.build(device, detections_per_image=kept), loader, coco_evaluator(VAL_SET, folder, max_dets=counted)
        ))  # fmt: skip
