"""What detections were matched with, image by image, so that AP can be had of any choice of images."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import faster_coco_eval.faster_eval_api_cpp as coco_eval
import numpy as np
from numpy.typing import NDArray

from bcnet_core.annotations.coco import Record
from bcnet_core.evaluation.coco import Kind, mean_found, prepare


class MatchedResults:
    """What one model's detections were matched with, image by image; AP of any draw of images."""

    def __init__(self, truth: Record, results: Sequence[Record], kind: Kind) -> None:
        evaluation: Any = prepare(truth, results, kind, backend="faster-coco-eval")
        params = evaluation.params
        params.areaRng, params.areaRngLbl, params.maxDets = params.areaRng[:1], params.areaRngLbl[:1], [100]
        evaluation.separate_eval = True
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
        self.image_ids: list[int] = list(params.imgIds)
        self.images = len(self.image_ids)
        self._params = evaluation._paramsEval
        matches = np.array(evaluation._evalImgs_cpp, dtype=object).reshape(-1, self.images)
        places = {image: place for place, image in enumerate(params.imgIds)}
        there: dict[int, set[int]] = {}
        for one in (*truth["annotations"], *results):
            there.setdefault(one["category_id"], set()).add(places[one["image_id"]])
        self._categories = [
            (np.array(sorted(there[category])), row)
            for category, row in zip(params.catIds, matches, strict=True)
            if category in there
        ]

    def precision(self, drawn: NDArray[np.int64]) -> float:
        """AP over the images at these positions, each as often as it is there; -1 where nothing is to be found.

        Category by category, of the images alone that have anything of it: nine in ten have nothing.
        """
        times = np.bincount(drawn, minlength=self.images)
        parts = []
        for places, row in self._categories:
            matches = row[np.repeat(places, times[places])].tolist()
            if not matches:
                continue
            self._params.catIds, self._params.imgIds = [0], list(range(len(matches)))
            parts.append(np.asarray(coco_eval.COCOevalAccumulate(self._params, matches)["precision"]))
        return mean_found(np.concatenate(parts) if parts else np.zeros(0))
