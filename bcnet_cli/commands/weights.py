"""`bcnet weights`: import published weights, convert detectors between backends, export them as TorchScript or ONNX."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcnet_cli import console
from bcnet_cli.commands.published import list_published
from bcnet_cli.options import DryRun, Json, Overwrite, backend_option, parse_size, reserve_files
from bcnet_cli.reporter import ConsoleReporter
from bcnet_core.config.choices import TIMM, Backend, ExportFormat

if TYPE_CHECKING:
    from bcnet_core.integrations.detectron2.converting import Difference
    from bcnet_core.weights.export import ExportCheck
    from bcnet_core.weights.importing import ImportReport

MAX_SIDE = 16_384
"""Largest side of an exported detector's images, as in a recipe; larger ones exhaust the memory."""
SHOWN_NAMES = 4
"""Names shown of the tensors dropped for one reason; --json has all."""
NOTHING_FOUND = "finds anything in the image they were compared on; give one with objects: --image FILE"

Source = Annotated[Path, typer.Argument(metavar="RUN_OR_CKPT", help="A run directory or a checkpoint.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The checkpoint to write.")]
Categories = Annotated[
    Path | None,
    typer.Option("--categories", help="COCO json with the categories of the weights; default COCO's 80."),
]
Image = Annotated[Path | None, typer.Option("--image", help="Image on which the two are compared; default noise.")]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="List and import published weights; convert and export detectors.",
)
app.command("list")(list_published)


@app.command("import")
def import_(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="A name of `bcnet weights list`, a file, a run directory, or an http(s) or file URL.")
    ],
    *,
    output: Output,
    categories: Categories = None,
    drop_classes: Annotated[
        bool, typer.Option("--drop-classes", help="Leave out the class-dependent layers: nobody knows their classes.")
    ] = False,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="For a state dict of timm: the model that it is of, as timm/NAME.")
    ] = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Turn published weights into a checkpoint, without running code from the file.

    The official BCNet release (FCOS) becomes a whole checkpoint, for `bcnet eval`, `bcnet viz` and the Python API. The
    Faster and Mask R-CNNs and ImageNet backbones of detectron2's zoo, torchvision's, and timm's, become an
    initialization, for `bcnet train --init-from`, as does everything with --drop-classes.

    **Examples**

    `bcnet weights import fcos_r101.pth -o bcnet_r101.pt`

    `bcnet weights import torchvision/maskrcnn_resnet50_fpn_v2 -o start.pt`

    `bcnet weights import convnext_tiny.safetensors --backbone timm/convnext_tiny -o convnext.pt`
    """
    from bcnet_core.files.outputs import check_output_file
    from bcnet_core.weights.checkpoint import find_checkpoint, save_checkpoint
    from bcnet_core.weights.importing import import_weights
    from bcnet_core.weights.starts import fetch_start, find_source

    check_output_file(output, overwrite=overwrite)  # before a download
    found, path = find_source(source), find_checkpoint(fetch_start(source, ConsoleReporter()))
    inputs = [path, *([categories] if categories else [])]
    reserve_files(context, output, inputs=inputs, overwrite=overwrite, dry_run=dry_run)
    checkpoint, report = import_weights(
        path, categories=categories, drop_classes=drop_classes, backbone=backbone or found.backbone
    )
    if not dry_run:
        save_checkpoint(output, checkpoint)
    if as_json:
        console.out.print(json.dumps(asdict(report)))
    else:
        _show(report)
    console.show_outputs(output, then=_next_command(report, output), dry_run=dry_run)


@app.command()
def convert(
    context: typer.Context,
    source: Source,
    *,
    to: Annotated[Backend, typer.Option("--to", help="Target backend.")],
    output: Output,
    d2_config: Annotated[
        Path | None, typer.Option("--d2-config", help="Config of a checkpoint that detectron2 trained without bcnet.")
    ] = None,
    categories: Categories = None,
    image: Image = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Convert a detector to the other backend, and compare what the two find.

    For detectron2, its config is written beside the weights, for `bcnet train --d2-config` and for your own programs.

    **Examples**

    `bcnet weights convert runs/fcos --to detectron2 -o fcos.pth`

    `bcnet weights convert output/model_final.pth --to torchvision --d2-config output/config.yaml -o bcnet.pt`
    """
    from bcnet_core import backends
    from bcnet_core.files.images import read_image

    backends.require_detectron2()
    picture = None if image is None else read_image(image)
    targets = backends.converted_files(output, to)
    inputs = [path for path in (source, d2_config, categories, image) if path is not None]
    reserve_files(context, *targets, inputs=inputs, overwrite=overwrite, dry_run=dry_run)
    difference = backends.convert(
        source, to, config=d2_config, categories=categories, picture=picture, outputs=() if dry_run else targets
    )
    _show_difference(difference)
    console.show_outputs(*targets, then=f"bcnet eval {shlex.quote(str(output))}{backend_option(to)}", dry_run=dry_run)


@app.command()
def export(
    context: typer.Context,
    source: Source,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    form: Annotated[
        ExportFormat,
        typer.Option("--format", help="onnx needs bcnet[onnx]; a program that loads torchscript needs torchvision."),
    ] = "torchscript",
    half: Annotated[
        bool, typer.Option("--half", help="Compute in float16, which halves the file; boxes stay float32.")
    ] = False,
    size: Annotated[
        str,
        typer.Option(metavar="HxW", help="Height and width, in pixels, of the image on which the two are compared."),
    ] = ("800x1333"),
    image: Image = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Write a detector as one file that runs without bcnet, for batches and images of any size.

    The file takes (B, 3, H, W) uint8 RGB images and returns boxes, scores, labels, the index of the image and the
    (N, S, S) maps of both layers inside the boxes. It is run and compared with the detector before it is kept.

    **Examples**

    `bcnet weights export runs/tiny -o bcnet.onnx --format onnx --half`

    `bcnet weights export runs/tiny -o bcnet.torchscript --size 256x384 --image coco/val2017/000000000139.jpg`
    """
    from bcnet_core.errors import usage_error
    from bcnet_core.files.images import read_image
    from bcnet_core.weights.checkpoint import find_checkpoint
    from bcnet_core.weights.export import export_detector
    from bcnet_core.weights.loading import read_trained

    height, width = parse_size(size)
    if max(height, width) > MAX_SIDE:
        raise usage_error(
            f"an image of {height} x {width} pixels is too large", f"sides up to {MAX_SIDE:,} are possible"
        )
    inputs = [find_checkpoint(source), *([image] if image else [])]
    reserve_files(context, output, inputs=inputs, overwrite=overwrite, dry_run=dry_run)
    picture = read_image(image) if image else None
    trained = read_trained(source)
    detector = trained.build("cpu")
    if not dry_run:
        check = export_detector(
            detector, output, form=form, height=height, width=width, picture=picture, half=half, recipe=trained.recipe
        )
        _show_check(check)
    then = f"bcnet predict {shlex.quote(str(output))} PHOTOS -o results.json" if form == "onnx" else None
    console.show_outputs(output, then=then, dry_run=dry_run)


def _show_check(check: ExportCheck) -> None:
    """Print how much the file differs from the detector, as a warning if there was nothing to compare."""
    if check.instances:
        count = f"{check.alike} of {check.instances}" if check.alike < check.instances else str(check.instances)
        console.err.print(
            f"its outputs differ from the detector's by {check.difference:.1g} at most ({count} instances), boxes by "
            f"{check.pixels:.1g} pixels"
        )
    else:
        ConsoleReporter().warning(f"neither the file nor the detector {NOTHING_FOUND}")


def _show_difference(difference: Difference) -> None:
    """Print how much the two differ, as a warning if an instance of one has no match in the other."""
    first, second = difference.found
    text = f"boxes differ by {difference.boxes:.2g} pixels, maps by {difference.masks:.2g} at most"
    if first == second == 0:
        ConsoleReporter().warning(f"neither of the two {NOTHING_FOUND}")
    elif difference.alike < max(first, second):
        ConsoleReporter().warning(
            f"one finds {first} instances, the other {second}, and {difference.alike} of them match: {text}. "
            "Among equal scores, as in an untrained model, the two may keep different instances"
        )
    else:
        console.err.print(f"compared on {first} instances, which all match: {text}")


def _show(report: ImportReport) -> None:
    style = None if report.backbone.startswith(TIMM) else f"({report.style} style)"
    model = " ".join(filter(None, (report.detector, report.backbone, style)))
    classes = f", {report.classes} classes" if report.classes else ""
    becomes = "a whole checkpoint" if report.whole else "an initialization"
    origin = report.origin[0].upper() + report.origin[1:]
    table = console.make_table(f"{origin}: {becomes} of {model}{classes}", "tensors of", "placed", "fresh")
    for part in sorted(report.placed.keys() | report.fresh.keys()):
        table.add_row(part, str(report.placed.get(part, 0)), str(report.fresh.get(part, 0)))
    table.add_row("all", str(sum(report.placed.values())), str(sum(report.fresh.values())), style="bold")
    console.out.print(table)
    for reason, names in report.dropped.items():
        more = f", ... ({len(names)}; all: --json)" if len(names) > SHOWN_NAMES else ""
        console.out.print(f"not used: {', '.join(names[:SHOWN_NAMES])}{more}: {reason}")


def _next_command(report: ImportReport, output: Path) -> str:
    quoted = shlex.quote(str(output))
    if report.whole:
        return f"bcnet eval {quoted} --data-root coco"
    detector = f"model.detector={report.detector} " if report.detector else ""
    style = "" if report.backbone.startswith(TIMM) else f" model.backbone_style={report.style}"
    more = "".join(f" model.{key}={value}" for key, value in report.settings.items())
    return f"bcnet train RECIPE --init-from {quoted} {detector}model.backbone={report.backbone}{style}{more}"
