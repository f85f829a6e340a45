"""`python -m benchmarks`: what things cost on this machine."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bcnet_cli import console
from bcnet_cli.options import Device, ImageSize, Json, parse_size
from bcnet_core.config.choices import RegionFormat

if TYPE_CHECKING:
    from bcnet_core.config.schema import ModelConfig
    from benchmarks.speed.model import ModelCosts

RELEASE = ("model.channels=256", "model.tower_convs=4", "model.mask_rois_per_image=64")
"""The size of the release's heads."""


def model(
    *,
    detector: Annotated[
        list[str] | None, typer.Option("--detector", help="fcos or faster_rcnn; may be repeated; default both.")
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option("--backbone", help="tiny, r18, r50, r101, x101; may be repeated; default r50."),
    ] = None,
    size: ImageSize = "800x1067",
    images: Annotated[int, typer.Option("--images", min=1, help="Images of a step.")] = 1,
    instances: Annotated[int, typer.Option("--instances", min=1, help="Instances of an image.")] = 10,
    detections: Annotated[int, typer.Option("--detections", min=1, help="Detections of an image in inference.")] = 100,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed rounds; the median is shown.")] = 5,
    device: Device = "auto",
    autocast: Annotated[
        Literal["off", "bf16", "fp16"], typer.Option("--autocast", help="Run both heads in this precision.")
    ] = "off",
    compiled: Annotated[bool, typer.Option("--compile", help="Run both heads through torch.compile.")] = False,
    as_json: Json = False,
) -> None:
    """Compare the bilayer head with torchvision's plain mask head in the same detector, side by side in one run.

    Both heads take turns: forward and backward pass of a training step, inference of one image after the other, and the
    peak memory of a process that does one step. "targets" is what building the targets takes of the bilayer step.

    **Examples**

    `python -m benchmarks model --backbone r18 --size 256x256`

    `python -m benchmarks model --detector fcos --backbone r50 --backbone r101 --instances 64 --autocast bf16 --json`
    """
    from benchmarks.speed.model import Workload, bench_model

    height, width = parse_size(size)
    work = Workload(height, width, images, instances, repeats, device, autocast, compiled)
    table = console.make_table(
        f"{images} x {size}, {instances} instances, median of {repeats}", "", "plain", "bilayer", "ratio"
    )
    results = []
    for config in _models(detector or ["fcos", "faster_rcnn"], backbone or ["r50"], detections):
        costs = bench_model(config, work)
        found = {**asdict(costs), "target_share": costs.target_share}
        results.append({"detector": config.detector, "backbone": config.backbone, **found})
        for title, cells in _rows(costs).items():
            table.add_row(f"{config.detector} {config.backbone}: {title}", *cells)
        table.add_section()
    console.out.print(json.dumps(results) if as_json else table)


def annotate(
    source: Annotated[
        Path | None, typer.Argument(metavar="COCO.json", help="A file to repeat; default composed scenes.")
    ] = None,
    *,
    images: Annotated[int, typer.Option("--images", min=1, help="Images to annotate.")] = 5000,
    workers: Annotated[
        list[int] | None, typer.Option("--workers", min=1, help="Processes; may be repeated; default 1 and all cores.")
    ] = None,
    output_format: Annotated[
        RegionFormat, typer.Option("--format", help="How occluder regions are stored.")
    ] = "polygon",
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Of polygons, in pixels.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Measure `bcnet annotate`: images a second and peak memory, reading and writing the json included.

    The file is repeated with new ids until it has enough images. 118,287 images are train2017's size.

    **Examples**

    `python -m benchmarks annotate`

    `python -m benchmarks annotate annotations/instances_val2017.json --images 118287 --workers 2 --json`
    """
    from benchmarks.speed.annotate import bench_annotate

    counts = workers or sorted({1, os.cpu_count() or 1})
    results = bench_annotate(source, images=images, workers=counts, output_format=output_format, tolerance=tolerance)
    if as_json:
        rates = ({"images_per_second": one.images_per_second, **asdict(one)} for one in results)
        console.out.print(json.dumps(list(rates)))
        return
    title = f"annotate {results[0].images:,} images, {results[0].instances:,} instances"
    table = console.make_table(title, "processes", *(f"{one.workers}" for one in results))
    table.add_row("read, s", *(f"{one.read:.1f}" for one in results))
    table.add_row("annotate, s", *(f"{one.annotate:.1f}" for one in results))
    table.add_row("write, s", *(f"{one.write:.1f}" for one in results))
    table.add_row("images/s, all of it", *(f"{one.images_per_second:,.0f}" for one in results))
    table.add_row("images/s, annotate", *(f"{one.images / one.annotate:,.0f}" for one in results))
    table.add_row("peak memory, MB", *(f"{one.memory / 1e6:,.0f}" for one in results))
    console.out.print(table)


def evaluation(
    source: Annotated[
        Path | None, typer.Argument(metavar="COCO.json", help="A file to repeat; default composed scenes.")
    ] = None,
    *,
    images: Annotated[int, typer.Option("--images", min=1, help="Images to score.")] = 5000,
    detections: Annotated[int, typer.Option("--detections", min=1, help="Detections of an image.")] = 20,
    as_json: Json = False,
) -> None:
    """Measure `bcnet eval --results` beside pycocotools, and the masks of an image beside torchvision's paste.

    Scoring is that of boxes and masks, reading both files and converting results included. The masks are those of 100
    detections in an image of 480 x 640 pixels, run-length encoded.

    **Examples**

    `python -m benchmarks eval`

    `python -m benchmarks eval coco/annotations/instances_val2017.json --images 1000 --json`
    """
    from benchmarks.speed.evaluate import bench_eval, bench_paste

    scoring = bench_eval(source, images=images, detections=detections)
    pasting = bench_paste(detections=100, height=480, width=640, repeats=5)
    if as_json:
        console.out.print(json.dumps({"scoring": asdict(scoring), "pasting": asdict(pasting)}))
        return
    title = f"{scoring.images:,} images, {scoring.instances:,} instances, {scoring.detections:,} detections"
    table = console.make_table(title, "", "library", "bcnet", "times as fast")
    for name, one, digits in (("score, s", scoring, 1), ("100 masks, s", pasting, 4)):
        values = (f"{one.reference:.{digits}f}", f"{one.ours:.{digits}f}", f"{one.reference / one.ours:.1f}")
        table.add_row(name, *values)
    console.out.print(table)
    console.out.print(f"largest difference of the scores: {scoring.difference:.1e}")
    console.out.print(f"pixels in which the masks differ: {pasting.differing:.3%}")


def drawing(
    *,
    size: ImageSize = "480x640",
    instances: Annotated[int, typer.Option("--instances", min=1, help="Instances of a picture.")] = 15,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Pictures that are timed; medians are shown.")] = 20,
    as_json: Json = False,
) -> None:
    """Measure `bcnet viz` apart from any model: five panels and three RoIs of a picture, and a page of 5,000.

    **Examples**

    `python -m benchmarks viz`

    `python -m benchmarks viz --size 1080x1920 --instances 100 --json`
    """
    from benchmarks.speed.viz import bench_viz

    height, width = parse_size(size)
    costs = bench_viz(instances=instances, height=height, width=width, repeats=repeats)
    if as_json:
        console.out.print(json.dumps(asdict(costs)))
        return
    table = console.make_table(f"{size}, {instances} instances, median of {repeats} pictures", "", "")
    table.add_row("draw five panels, ms", f"{1000 * costs.panels:.1f}")
    table.add_row("draw three RoIs, ms", f"{1000 * costs.rois:.1f}")
    table.add_row("draw and write all as jpg, ms", f"{1000 * costs.files:.1f}")
    table.add_row("page of 5,000 pictures, s", f"{costs.page:.1f}")
    table.add_row("page of 5,000 pictures, MB", f"{costs.page_bytes / 1e6:.1f}")
    console.out.print(table)


def _rows(costs: ModelCosts) -> dict[str, tuple[str, str, str]]:
    """What the table shows of one detector: the title of a row to plain, bilayer and their ratio."""
    step, inference, memory = costs.step, costs.inference, costs.memory
    return {
        "training step, s": (f"{step[0]:.3f}", f"{step[1]:.3f}", f"{step[1] / step[0]:.2f}"),
        "of it targets, s": ("", f"{costs.targets:.4f}", f"{costs.target_share:.1%}"),
        "inference, s": (f"{inference[0]:.3f}", f"{inference[1]:.3f}", f"{inference[1] / inference[0]:.2f}"),
        "detections an image": (f"{costs.detections[0]:.0f}", f"{costs.detections[1]:.0f}", ""),
        "peak memory, MB": (f"{memory[0] / 1e6:.0f}", f"{memory[1] / 1e6:.0f}", f"{memory[1] / memory[0]:.2f}"),
    }


def _models(detectors: list[str], backbones: list[str], detections: int) -> list[ModelConfig]:
    """Every detector with every backbone, with heads of the release's size."""
    from bcnet_core.config.load import load_recipe

    shared = [*RELEASE, f"model.detections_per_image={detections}"]
    return [
        load_recipe("tiny", [f"model.detector={detector}", f"model.backbone={backbone}", *shared]).model
        for detector, backbone in product(detectors, backbones)
    ]
