"""`bcnet predict`: detect instances in any images, as COCO results."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcnet_cli import console
from bcnet_cli.options import (
    USUAL_OVERLAP,
    Batch,
    Compile,
    Device,
    DryRun,
    Gpus,
    Json,
    Overlap,
    Overwrite,
    PrecisionOption,
    Tile,
    read_tiling,
    reserve,
    reserve_files,
)
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from bcnet_core.evaluation.prediction_file import PredictionFile
    from bcnet_core.evaluation.prediction_outputs import OutputPaths, Written


_what, _files = (partial(typer.Option, rich_help_panel=title) for title in ("What is predicted", "What is written"))
Images = Annotated[
    list[str], typer.Argument(help="Image files, folders, or patterns; videos with --video.", show_default=False)
]
Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A run directory, a checkpoint, or an exported .onnx file.", show_default=False
    ),
]
Disjoint = Annotated[
    bool, _files("--disjoint", help="Write masks that share no pixel: each goes to the instance in front.")
]
Formats = Annotated[
    list[str] | None,
    _files(
        "--format",
        metavar="NAME",
        show_default=False,
        help="Also write this format, into the folder OUTPUT_NAME: labelme, yolo, geojson, labels (label images) or "
        "panoptic; with --video mots or ytvis. May be given several times; coco is OUTPUT itself. labels, panoptic and "
        "mots imply --disjoint.",
    ),
]
Video = Annotated[bool, _what("--video", help="Read videos, or folders of frames, and track instances through them.")]
Layers = Annotated[bool, _files("--layers", help="Also write the occluder mask and both boundaries of every instance.")]
Score = Annotated[
    float | None,
    _what(
        "--score",
        min=0,
        max=1,
        show_default=False,
        help="Lowest score of a detection; default 0, with --disjoint or --format 0.5. With --video, the lowest score "
        "that begins a track, default 0.5; a fifth of it continues the track.",
    ),
]
IdsFrom = Annotated[
    Path | None,
    _what("--ids-from", metavar="FILE", help="COCO json that gives the images, by file name, their ids and sizes."),
]
Boxes = Annotated[
    Path | None,
    _what(
        "--boxes",
        metavar="FILE",
        show_default=False,
        help="Predict masks inside these boxes instead of detecting: COCO results of another detector or of a tracker, "
        "or COCO ground truth. They may be of any classes.",
    ),
]
CONFIDENT = 0.5
"""Lowest score of a detection that takes pixels from others, or goes into other formats, if none is asked for."""


def predict(
    context: typer.Context,
    checkpoint: Model,
    images: Images,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="COCO results file to write.")],
    score: Score = None,
    ids_from: IdsFrom = None,
    boxes: Boxes = None,
    video: Video = False,
    formats: Formats = None,
    layers: Layers = False,
    disjoint: Disjoint = False,
    tile: Tile = None,
    overlap: Overlap = USUAL_OVERLAP,
    gpus: Gpus = 1,
    device: Device = "auto",
    batch: Batch = 1,
    precision: PrecisionOption = "fp32",
    compiled: Compile = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Find the instances in any images or videos, and write them as COCO results.

    OUTPUT_images.json lists the images and categories that the results refer to, and what could not be read, which is
    skipped and makes the exit code 1. After an interruption the same command resumes.

    **Examples**

    `bcnet predict runs/tiny photos -o results.json`

    `bcnet predict bcnet_r101.pt 'val2017/*.jpg' --ids-from annotations/instances_val2017.json --layers -o val.json`

    `bcnet predict runs/cells plates --format labels --score 0.6 -o cells.json`

    `bcnet predict runs/trees orthophoto.tif --tile 1024 -o trees.json`

    `bcnet predict runs/tiny street.mp4 --video --format mots -o street.json`

    `bcnet predict runs/coco val2017 --boxes rf_detr.json --ids-from annotations/instances_val2017.json -o masks.json`
    """
    from bcnet_cli.commands.predict_video import predict_clips
    from bcnet_core.config.runtime import Runtime
    from bcnet_core.engine.elastic import Cluster, check_processes
    from bcnet_core.evaluation.given_boxes import list_inputs
    from bcnet_core.evaluation.prediction_job import PredictionJob, predict_to_disk
    from bcnet_core.evaluation.prediction_outputs import check_names, output_paths, write_predictions
    from bcnet_core.weights.exported import open_trained

    if video:
        predict_clips(context, **context.params)
        return
    paths = output_paths(output, formats or ())
    disjoint, tiling = disjoint or paths.is_disjoint, read_tiling(context, tile, overlap)
    found = _find_photos(images, paths)
    files = [*found, *filter(None, (ids_from, boxes))]
    reserve_files(context, *paths.files, inputs=[checkpoint, *files], overwrite=overwrite, dry_run=dry_run)
    cluster, runtime = Cluster(gpus), Runtime(batch, precision, compiled)
    check_processes(cluster, device)
    trained, reporter = open_trained(checkpoint), ConsoleReporter()
    reserve_folders(context, paths.folders, inputs=[trained.path, *files], overwrite=overwrite, dry_run=dry_run)
    least = CONFIDENT if score is None and (disjoint or paths.formats) else score
    inputs = list_inputs(found, ids_from, boxes, amodal=trained.amodal_boxes, least_score=least, reporter=reporter)
    check_names(paths, inputs.images)
    if dry_run:
        console.err.print(f"would run {trained.path} on {console.counted(len(inputs.images), 'image')}")
        console.show_outputs(*paths.all, dry_run=True)
        return
    job = PredictionJob(
        trained.path, device, inputs.images, None, progress_file(output), layers, disjoint=disjoint,
        score=least or 0.0, passes_over=True, runtime=runtime, boxes=inputs.boxes, tiling=tiling,
    )  # fmt: skip
    predict_to_disk(job, cluster, reporter=reporter, build=partial(job.build, trained))
    written = write_predictions(job, inputs.categories or trained.categories, paths, reporter=reporter)
    show(written, paths, as_json=as_json, disjoint=disjoint)
    console.show_outputs(*paths.all, then=_next_command(output, paths.listing, found, inputs.truth))
    check_complete(written, paths.listing)


def _find_photos(names: Sequence[str], paths: OutputPaths) -> list[Path]:
    """Return the images that a command line names, in whose folders no pictures are to be written."""
    from bcnet_core.evaluation.inputs import find_images
    from bcnet_core.files.outputs import check_not_among

    for folder in paths.pictures:
        check_not_among(folder, *(path for name in names if (path := Path(name)).is_dir()))
    return find_images(names)


def check_complete(written: Written, listing: Path) -> None:
    """Raise the error about images that could not be read, if there are any."""
    from bcnet_core.evaluation.prediction_outputs import unreadable_error

    if written.unreadable:
        raise unreadable_error(written.unreadable, of=written.images + len(written.unreadable), listing=listing)


def progress_file(output: Path) -> PredictionFile:
    """Return the file that keeps what is predicted until all is."""
    from bcnet_core.evaluation.prediction_file import PredictionFile
    from bcnet_core.files.json_files import json_stem

    return PredictionFile(output.with_name(f"{json_stem(output)}_predictions.jsonl"))


def show(written: Written, paths: OutputPaths, *, as_json: bool, disjoint: bool) -> None:
    """Print the counts."""
    left_out = {name: count for name, count in written.left_out.items() if count}
    if as_json:
        content = {
            "images": written.images,
            "detections": written.detections,
            "unreadable": [image["file_name"] for image in written.unreadable],
            "outputs": [str(path) for path in paths.all],
            **({} if written.tracks is None else {"tracks": written.tracks}),
            **({"covered": written.covered} if disjoint else {}),
            **({"left_out": left_out} if left_out else {}),
        }
        console.out.print(json.dumps(content))
    else:
        found = console.counted(written.detections, "detection")
        if written.tracks is None:
            console.out.print(f"{found} in {console.counted(written.images, 'image')}")
        else:
            tracks, frames = console.counted(written.tracks, "track"), console.counted(written.images, "frame")
            console.out.print(f"{found} of {tracks} in {frames}")
    if written.covered:
        console.err.print(f"{written.covered:,} more were left without a pixel by those in front, and are not written")
    for name, count in left_out.items():
        console.err.print(f"{count:,} of them are not in `{paths.formats[name]}`: their masks have no pixel")


def reserve_folders(
    context: typer.Context, folders: Sequence[Path], *, inputs: Sequence[Path], overwrite: bool, dry_run: bool
) -> None:
    """Reserve folders without an input in them (a run may hold outputs) and, unless `overwrite`, with nothing."""
    from bcnet_core.files.outputs import check_apart, check_output_folder

    def check(folder: Path) -> None:
        check_apart(folder, *inputs)
        check_output_folder(folder, overwrite=overwrite)

    reserve(context, *folders, check=check, dry_run=dry_run)


def _next_command(output: Path, listing: Path, paths: list[Path], truth: Path | None) -> str | None:
    """Return the command that scores the results, or shows them; None if no folder contains all images."""
    if truth is not None:
        return shlex.join(["bcnet", "eval", "--results", str(output), "--gt", str(truth)])
    if all(path.is_absolute() for path in paths):
        folder = os.path.commonpath([path.parent for path in paths])
    elif not any(path.is_absolute() or ".." in path.parts for path in paths):
        folder = "."
    else:
        return None
    words = ["bcnet", "viz", str(output), "--gt", str(listing), "--images", folder, "-o", "viz"]
    return shlex.join(words)
