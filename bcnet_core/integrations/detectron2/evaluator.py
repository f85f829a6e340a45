"""detectron2's evaluator, whose results have the whole masks of a detector that predicts them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.evaluation import COCOEvaluator

from bcnet_core.evaluation.predict import to_results
from bcnet_core.evaluation.results import to_json
from bcnet_core.integrations.detectron2.fields import VISIBLE_FIELD, predicted_maps
from bcnet_core.structures import Detections


class BilayerEvaluator(COCOEvaluator):
    """`COCOEvaluator` that writes, of a detector of whole masks, the results of `to_results`.

    detectron2's own keep no map but the visible mask, and score the box of the whole object as that of its visible
    part.
    """

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Keep the results of a batch; see `COCOEvaluator`."""
        for given, output in zip(inputs, outputs, strict=True):
            found = output["instances"]
            if not found.has(VISIBLE_FIELD):
                super().process([given], [output])
                continue
            boxes = found.pred_boxes.tensor
            detections = Detections(boxes, found.scores, found.pred_classes, found.image_size, predicted_maps(found))
            labels = [{"id": label} for label in range(len(self._metadata.thing_classes))]
            results = to_results(detections.instances(), given["image_id"], labels)
            self._predictions.append({"image_id": given["image_id"], "instances": [to_json(one) for one in results]})


def coco_evaluator(dataset_name: str, folder: Path, *, max_dets: int) -> COCOEvaluator:
    """Build an evaluator that writes to a folder and, unlike detectron2's, takes COCO files without an `info`.

    `max_dets` detections of each category in an image count.
    """
    evaluator = BilayerEvaluator(dataset_name, output_dir=str(folder), max_dets_per_image=max_dets)
    evaluator._coco_api.dataset.setdefault("info", {})
    return evaluator
