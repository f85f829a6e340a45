"""`bcnet bench`: what things cost on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bcnet_cli import console
from bcnet_cli.options import Device, ImageSize, Json, parse_size

if TYPE_CHECKING:
    from bcnet_core.config.schema import ModelConfig

RELEASE = ("model.channels=256", "model.tower_convs=4", "model.mask_rois_per_image=64")
"""The size of the release's heads."""

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Measure what things cost on this machine.")


@app.callback()
def bench() -> None:
    """Measure what things cost on this machine."""


@app.command()
def model(
    *,
    detector: Annotated[
        list[str] | None, typer.Option("--detector", help="fcos or faster_rcnn; may be repeated; default both.")
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option("--backbone", help="tiny, r18, r50, r101, x101; may be repeated; default r50."),
    ] = None,
    size: ImageSize = "480x640",
    images: Annotated[int, typer.Option("--images", min=1, help="Images of a step.")] = 1,
    instances: Annotated[int, typer.Option("--instances", min=1, help="Instances of an image.")] = 10,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed rounds; the median is shown.")] = 5,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compare the bilayer head with the plain mask head of the same detector, side by side in one run.

    Both heads take turns: forward and backward pass of a training step, inference with 100 detections, and the peak
    memory of a process that does one step. "targets" is the share of the bilayer step that building the targets takes.

    **Examples**

    `bcnet bench model --backbone r18 --size 256x256`

    `bcnet bench model --detector fcos --backbone r50 --backbone r101 --size 800x1333 --images 2 --json`
    """
    from bcnet_core.engine.bench import Workload, bench_model

    height, width = parse_size(size)
    work = Workload(height, width, images, instances, repeats, device)
    table = console.make_table(
        f"{images} x {size}, {instances} instances, median of {repeats}; plain / bilayer",
        "model", "step, s", "ratio", "targets", "inference, s", "ratio", "memory, MB", "ratio",
    )  # fmt: skip
    results = []
    for config in _models(detector or ["fcos", "faster_rcnn"], backbone or ["r50"]):
        costs = bench_model(config, work)
        found = {**asdict(costs), "target_share": costs.target_share}
        results.append({"detector": config.detector, "backbone": config.backbone, **found})
        table.add_row(
            f"{config.detector} {config.backbone}",
            *_compared(*costs.step, digits=3),
            f"{costs.target_share:.1%}",
            *_compared(*costs.inference, digits=3),
            *_compared(costs.memory[0] / 1e6, costs.memory[1] / 1e6, digits=0),
        )
    console.out.print(json.dumps(results) if as_json else table)


def _models(detectors: list[str], backbones: list[str]) -> list[ModelConfig]:
    """Every detector with every backbone."""
    from bcnet_core.config.load import load_recipe

    return [
        load_recipe("tiny", [f"model.detector={detector}", f"model.backbone={backbone}", *RELEASE]).model
        for detector in detectors
        for backbone in backbones
    ]


def _compared(plain: float, bilayer: float, *, digits: int) -> tuple[str, str]:
    return f"{plain:.{digits}f} / {bilayer:.{digits}f}", f"{bilayer / plain:.2f}"
