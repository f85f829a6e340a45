"""What evaluating costs on this machine, beside the libraries that everybody uses."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, read_coco, segmentation_rle
from bcnet_core.errors import data_error
from bcnet_core.evaluation.coco import Scores, evaluate, ground_truth
from bcnet_core.evaluation.results import read_results
from bcnet_core.files.json_files import write_json
from bcnet_core.masks.paste import paste_rles
from benchmarks.speed.annotate import composed_file, repeat

KINDS = ("bbox", "segm")


@dataclass(frozen=True)
class EvalCosts:
    """What scoring costs, reading both files and converting results included.

    Attributes:
        images: of the ground truth.
        instances: of the ground truth.
        detections: of the results.
        ours: seconds.
        reference: seconds that pycocotools takes for the same.
        difference: the largest between the twelve numbers of both, boxes and masks.
    """

    images: int
    instances: int
    detections: int
    ours: float
    reference: float
    difference: float


@dataclass(frozen=True)
class PasteCosts:
    """What it costs to make run-length encoded masks of the image's size.

    Attributes:
        ours: seconds an image.
        reference: seconds that torchvision's paste and pycocotools' encoder take.
        differing: share of the image's pixels in which the two differ, since torchvision rounds boxes outwards.
    """

    ours: float
    reference: float
    differing: float


def bench_eval(source: Path | None, *, images: int, detections: int) -> EvalCosts:
    """Score perturbed ground truth with our readers and pycocotools.

    Args:
        source: a COCO file with masks, repeated to a number of images; composed scenes where it is None.
        images: of the ground truth.
        detections: of an image.

    Raises:
        BCNetError: if the source cannot be read, or has no instance with a mask.
    """
    coco = CocoFile(Path("composed.json"), composed_file()) if source is None else read_coco(source)
    found = perturbed(coco, detections)
    by_image: dict[int, list[Record]] = {}
    for result in found:
        by_image.setdefault(result["image_id"], []).append(result)
    repeated = repeat(coco, images)
    sources = [image["id"] for image in coco.images]
    results = [
        {**result, "image_id": number}
        for number in range(1, images + 1)
        for result in by_image.get(sources[(number - 1) % len(sources)], [])
    ]
    with tempfile.TemporaryDirectory(prefix="bcnet-bench-") as folder:
        truth_path, results_path = Path(folder) / "gt.json", Path(folder) / "results.json"
        write_json(truth_path, repeated)
        write_json(results_path, results)
        ours, own = _timed(lambda: _score(truth_path, results_path))
        reference, theirs = _timed(lambda: _score_with_reference(truth_path, results_path))
    difference = max(float(np.abs(np.array(a) - b).max()) for a, b in zip(own, theirs, strict=True))
    return EvalCosts(images, len(repeated["annotations"]), len(results), ours, reference, difference)


def perturbed(coco: CocoFile, detections: int) -> list[Record]:
    """Ground truth as results: shifted by a few pixels, one in ten of another category, with scores by chance.

    Args:
        coco: with masks.
        detections: of an image that has an instance with a mask.
    """
    rng = np.random.default_rng(0)
    categories = [category["id"] for category in coco.categories]
    grouped, results = coco.annotations_by_image(), []
    for image in coco.images:
        known = [(one, rle) for one in grouped[image["id"]] if (rle := segmentation_rle(one, image)) is not None]
        for number in range(detections if known else 0):
            one, rle = known[number % len(known)]
            shift = rng.integers(-3, 4, 2)
            moved = np.roll(masks.decode(rle), shift, (0, 1))
            x, y, width, height = one["bbox"]
            results.append({
                "image_id": image["id"],
                "category_id": one["category_id"] if rng.random() < 0.9 else categories[rng.integers(len(categories))],
                "bbox": [x + float(shift[1]), y + float(shift[0]), width, height],
                "score": float(rng.random()),
                "segmentation": masks.to_json(masks.encode(moved)),
            })  # fmt: skip
    if not results:
        raise data_error(f"`{coco.path}` has no instance with a mask")
    return results


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value


def _score(truth_path: Path, results_path: Path) -> list[Scores]:
    coco = read_coco(truth_path)
    results, truth = read_results(results_path, coco), ground_truth(coco)
    return [evaluate(truth, results, kind).scores for kind in ("bbox", "segm")]


def _score_with_reference(truth_path: Path, results_path: Path) -> list[Any]:
    """As its documentation says; boxes are left out of the results for masks, or they would give the sizes."""
    stats = []
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_path))
        for kind in KINDS:
            found = truth.loadRes(str(results_path))
            if kind == "segm":
                for one in found.dataset["annotations"]:
                    one["area"] = float(masks.area(one["segmentation"]))
            evaluation = COCOeval(truth, found, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            stats.append(evaluation.stats)
    return stats


def bench_paste(*, detections: int, height: int, width: int, repeats: int) -> PasteCosts:
    """Make the masks of one image's detections, in turns with torchvision.

    Args:
        detections: round objects from 12 to 400 pixels across.
        height: of the image.
        width: of the image.
        repeats: of which the median is taken.
    """
    maps, boxes = _round_objects(detections, height, width)

    def reference() -> Sequence[masks.RLE]:
        dense = paste_masks_in_image(maps[:, None], boxes, (height, width))[:, 0] >= 0.5
        return [masks.encode(mask) for mask in dense.numpy()]

    ours, theirs = [], []
    for _ in range(repeats):
        seconds, own = _timed(lambda: paste_rles(maps, boxes, height, width))
        ours.append(seconds)
        seconds, other = _timed(reference)
        theirs.append(seconds)
    differing = np.mean([(masks.decode(a) != masks.decode(b)).mean() for a, b in zip(own, other, strict=True)])
    return PasteCosts(median(ours), median(theirs), float(differing))


def _round_objects(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Maps of discs with uneven rims, and boxes of all sizes: (N, 28, 28) and (N, 4) xyxy."""
    generator = torch.Generator().manual_seed(0)
    limit = torch.tensor([width, height], dtype=torch.float32)
    centres = torch.rand(count, 2, generator=generator) * (limit - 24) + 12
    sizes = torch.exp(torch.rand(count, 2, generator=generator) * 3.5 + 2.5)
    boxes = torch.cat([(centres - sizes / 2).clamp(min=0), (centres + sizes / 2).minimum(limit)], dim=1)
    distance = torch.hypot(*torch.meshgrid(torch.arange(28) - 13.5, torch.arange(28) - 13.5, indexing="ij"))
    radius = 7 + 6 * torch.rand(count, 1, 1, generator=generator)
    return torch.sigmoid(radius - distance + 0.5 * torch.randn(count, 28, 28, generator=generator)), boxes
