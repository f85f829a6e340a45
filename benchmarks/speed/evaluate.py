"""`python -m benchmarks eval`: speed of `bcnet eval --results` beside pycocotools, and of masks beside torchvision."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from bcnet_cli import console
from bcnet_cli.options import Json
from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, read_coco, segmentation_rle
from bcnet_core.errors import data_error
from bcnet_core.evaluation.coco import Scores, ground_truth
from bcnet_core.evaluation.coco import evaluate as score
from bcnet_core.evaluation.results import read_results
from bcnet_core.files.json_files import write_json
from bcnet_core.masks.crops import paste_rles
from bcnet_core.reporting import SilentReporter
from benchmarks.speed.annotate import composed_file, repeat


def evaluate(
    source: Annotated[
        Path | None, typer.Argument(metavar="COCO.json", help="A file to repeat; default composed scenes.")
    ] = None,
    *,
    images: Annotated[int, typer.Option("--images", min=1, help="Images to score.")] = 5000,
    detections: Annotated[int, typer.Option("--detections", min=1, help="Detections of an image.")] = 20,
    as_json: Json = False,
) -> None:
    """Measure `bcnet eval --results` beside pycocotools, and the masks of an image beside torchvision's paste.

    Scores boxes and masks, reading both files and converting results included; then encodes the masks of 100 detections
    in an image of 480 x 640 pixels.

    **Examples**

    `python -m benchmarks eval`

    `python -m benchmarks eval coco/annotations/instances_val2017.json --images 1000 --json`
    """
    scoring = _compare_scoring(source, images, detections)
    pasting = _compare_pasting(100, 480, 640)
    if as_json:
        console.out.print(json.dumps({"scoring": scoring, "pasting": pasting}))
        return
    title = f"{images:,} images, {scoring['instances']:,} instances, {scoring['detections']:,} detections"
    table = console.make_table(title, "", "library", "bcnet", "times as fast")
    for name, one, digits in (("score, s", scoring, 1), ("100 masks, s", pasting, 4)):
        values = (
            f"{one['reference']:.{digits}f}",
            f"{one['ours']:.{digits}f}",
            f"{one['reference'] / one['ours']:.1f}",
        )
        table.add_row(name, *values)
    console.out.print(table)
    console.out.print(f"largest difference of the scores: {scoring['difference']:.1e}")
    console.out.print(f"pixels in which the masks differ: {pasting['differing']:.3%}")


def _compare_scoring(source: Path | None, images: int, detections: int) -> dict[str, float]:
    """Score perturbed ground truth with both libraries; returns seconds and the largest difference of a score."""
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
    return {
        "images": images, "instances": len(repeated["annotations"]), "detections": len(results),
        "ours": ours, "reference": reference, "difference": difference,
    }  # fmt: skip


def perturbed(coco: CocoFile, detections: int) -> list[Record]:
    """Turn ground truth into results: shifted by a few pixels, one in ten mislabeled, with random scores.

    Args:
        coco: a file with masks.
        detections: number of detections of an image that has an instance with a mask.
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
    results, truth = read_results(results_path, coco, reporter=SilentReporter()), ground_truth(coco)
    return [score(truth, results, kind).scores for kind in ("bbox", "segm")]


def _score_with_reference(truth_path: Path, results_path: Path) -> list[Any]:
    """Score with pycocotools; the areas of masks are set, which it would take from the boxes."""
    stats = []
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_path))
        for kind in ("bbox", "segm"):
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


def _compare_pasting(detections: int, height: int, width: int, *, repeats: int = 5) -> dict[str, float]:
    """Encode the masks of one image's detections, alternating with torchvision; returns medians of seconds."""
    maps, boxes = _round_objects(detections, height, width)

    def reference() -> list[masks.RLE]:
        dense = paste_masks_in_image(maps[:, None], boxes, (height, width))[:, 0] >= 0.5
        return [masks.encode(mask) for mask in dense.numpy()]

    ours, theirs = [], []
    for _ in range(repeats):
        seconds, own = _timed(lambda: paste_rles(maps, boxes, height, width))
        ours.append(seconds)
        seconds, other = _timed(reference)
        theirs.append(seconds)
    differing = np.mean([(masks.decode(a) != masks.decode(b)).mean() for a, b in zip(own, other, strict=True)])
    return {"ours": median(ours), "reference": median(theirs), "differing": float(differing)}


def _round_objects(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Draw maps of discs with uneven rims, (N, 28, 28), in boxes of 12 to 400 pixels, (N, 4) xyxy."""
    generator = torch.Generator().manual_seed(0)
    limit = torch.tensor([width, height], dtype=torch.float32)
    centres = torch.rand(count, 2, generator=generator) * (limit - 24) + 12
    sizes = torch.exp(torch.rand(count, 2, generator=generator) * 3.5 + 2.5)
    boxes = torch.cat([(centres - sizes / 2).clamp(min=0), (centres + sizes / 2).minimum(limit)], dim=1)
    distance = torch.hypot(*torch.meshgrid(torch.arange(28) - 13.5, torch.arange(28) - 13.5, indexing="ij"))
    radius = 7 + 6 * torch.rand(count, 1, 1, generator=generator)
    return torch.sigmoid(radius - distance + 0.5 * torch.randn(count, 28, 28, generator=generator)), boxes
