"""`bcnet predict`: detect instances in any images, as COCO results."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from bcnet_cli import console
from bcnet_cli.options import (
    Batch,
    Device,
    DryRun,
    Gpus,
    Json,
    Overwrite,
    PrecisionOption,
    check_unused_options,
    reserve,
    reserve_files,
)
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from bcnet_core.annotations.coco import Record
    from bcnet_core.evaluation.clips import Clips
    from bcnet_core.evaluation.prediction_outputs import OutputPaths, Written


Images = Annotated[
    list[str], typer.Argument(help="Image files, folders, or patterns; videos with --video.", show_default=False)
]
Disjoint = Annotated[
    bool, typer.Option("--disjoint", help="Write masks that share no pixel: each goes to the instance in front.")
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar="NAME",
        show_default=False,
        help="Also write them in this format, into OUTPUT_NAME: labels (images of numbers) or panoptic (COCO's), both "
        "of which imply --disjoint, yolo, labelme or geojson; of --video mots (implies --disjoint) or ytvis. May be "
        "given several times; coco is OUTPUT itself.",
    ),
]
Video = Annotated[
    bool, typer.Option("--video", help="Track the instances of videos, or of folders of frames, by their masks.")
]
Layers = Annotated[
    bool, typer.Option("--layers", help="Also write the occluder mask and both boundaries of every instance.")
]
Score = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        show_default=False,
        help="Lowest score of a detection; 0.5 with --disjoint or a --format, otherwise 0. Of --video the score, 0.5, "
        "from which one begins a track; a fifth continues it.",
    ),
]
IdsFrom = Annotated[
    Path | None,
    typer.Option("--ids-from", metavar="FILE", help="Take ids and sizes from this COCO json, by file name."),
]
CONFIDENT = 0.5
"""Lowest score of a detection that takes pixels from others, or goes into other formats, if none is asked for."""


class Source(NamedTuple):
    """Images to predict, the clips that they are frames of, and the file that they can be scored against."""

    images: Sequence[Record]
    clips: Clips | None
    truth: Path | None


def predict(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run directory.", show_default=False)],
    images: Images,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="COCO results file to write.")],
    formats: Formats = None,
    video: Video = False,
    layers: Layers = False,
    disjoint: Disjoint = False,
    score: Score = None,
    ids_from: IdsFrom = None,
    gpus: Gpus = 1,
    device: Device = "auto",
    batch: Batch = 1,
    precision: PrecisionOption = "fp32",
    overwrite: Overwrite = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Predict images; OUTPUT_images.json beside OUTPUT lists the images and categories that the results refer to.

    After an interruption the same command resumes. An image that cannot be read is passed over; it is named at the
    end and listed in OUTPUT_images.json, and the exit code is 1.

    **Examples**

    `bcnet predict runs/tiny photos -o results.json`

    `bcnet predict bcnet_r101.pt 'val2017/*.jpg' --ids-from annotations/instances_val2017.json --layers -o val.json`

    `bcnet predict runs/cells plates --format labels --score 0.6 -o cells.json`

    `bcnet predict runs/tiny street.mp4 --video --format mots -o street.json`
    """
    from bcnet_core.config.runtime import Runtime
    from bcnet_core.engine.elastic import Cluster, check_processes
    from bcnet_core.evaluation.clips import find_clips
    from bcnet_core.evaluation.inputs import find_images
    from bcnet_core.evaluation.photo_results import photo_names
    from bcnet_core.evaluation.prediction_job import PredictionFile, PredictionJob, predict_to_disk
    from bcnet_core.evaluation.prediction_outputs import output_paths, write_predictions
    from bcnet_core.evaluation.tracks import WEAK_SHARE
    from bcnet_core.files.json_files import json_stem
    from bcnet_core.weights.loading import read_trained

    if video:
        check_unused_options(context, "ids_from", why="with --video, which numbers frames")
    paths = output_paths(output, formats or (), of_clips=video)
    disjoint = disjoint or paths.is_disjoint
    found = find_clips(images) if video else find_images(images)
    inputs = [checkpoint, *found, *([ids_from] if ids_from else [])]
    reserve_files(context, *paths.files, inputs=inputs, overwrite=overwrite, dry_run=dry_run)
    cluster = Cluster(gpus)
    check_processes(cluster, device)
    trained = read_trained(checkpoint)
    read = [trained.path, *inputs[1:]]  # a run may hold the outputs
    _reserve_folders(context, paths.folders, inputs=read, overwrite=overwrite, dry_run=dry_run)
    reporter = ConsoleReporter()
    source = _read_source(found, ids_from, reporter, video=video)
    records, clips = source.images, source.clips
    if paths.formats:
        photo_names(records if clips is None else clips.videos)  # raises before the first image is predicted
    if dry_run:
        console.err.print(f"would run {trained.path} on {len(records):,} {'frames' if video else 'images'}")
        console.show_outputs(*paths.all, dry_run=True)
        return
    least = (CONFIDENT if disjoint or paths.formats or video else 0.0) if score is None else score
    begin, least = (least, least * WEAK_SHARE) if video else (None, least)
    file = PredictionFile(output.with_name(f"{json_stem(output)}_predictions.jsonl"))
    runtime = Runtime(batch, precision)
    job = PredictionJob(
        trained.path, device, records, None, file, layers, disjoint=disjoint, score=least, runtime=runtime,
        passes_over=True, videos=() if clips is None else clips.videos, begin=begin,
    )  # fmt: skip
    predict_to_disk(job, cluster, reporter=reporter, build=partial(trained.build, device, runtime=runtime))
    written = write_predictions(job, trained.categories, paths)
    _show(written, paths, as_json=as_json, disjoint=disjoint, video=video)
    console.show_outputs(*paths.all, then=None if video else _next_command(output, paths.listing, found, source.truth))
    _check_complete(written, source, paths.listing)


def _read_source(paths: Sequence[Path], ids_from: Path | None, reporter: ConsoleReporter, *, video: bool) -> Source:
    from bcnet_core.annotations.coco import read_coco
    from bcnet_core.evaluation.clips import read_clips
    from bcnet_core.evaluation.inputs import image_records

    if video:
        clips = read_clips(paths, reporter=reporter)
        return Source(clips.images, clips, None)
    known = read_coco(ids_from, need_annotations=False) if ids_from else None
    return Source(image_records(paths, known), None, ids_from if known is not None and known.annotations else None)


def _check_complete(written: Written, source: Source, listing: Path) -> None:
    from bcnet_core.evaluation.clips import short_error
    from bcnet_core.evaluation.prediction_outputs import unreadable_error

    if written.unreadable:
        raise unreadable_error(written.unreadable, of=len(source.images), listing=listing)
    if source.clips is not None and source.clips.short:
        raise short_error(source.clips)


def _show(written: Written, paths: OutputPaths, *, as_json: bool, disjoint: bool, video: bool) -> None:
    """Print the counts."""
    left_out = {name: count for name, count in written.left_out.items() if count}
    if as_json:
        content = {
            "images": written.images,
            "detections": written.detections,
            "unreadable": [image["file_name"] for image in written.unreadable],
            "outputs": [str(path) for path in paths.all],
            **({"tracks": written.tracks} if video else {}),
            **({"covered": written.covered} if disjoint else {}),
            **({"left_out": left_out} if left_out else {}),
        }
        console.out.print(json.dumps(content))
    else:
        noun = f"detections of {written.tracks:,} tracks" if video else "detections"
        console.out.print(f"{written.detections:,} {noun} in {written.images:,} {'frames' if video else 'images'}")
    if written.covered:
        console.err.print(f"{written.covered:,} more were left without a pixel by those in front, and are not written")
    for name, count in left_out.items():
        console.err.print(f"{count:,} of them are not in `{paths.formats[name]}`: their masks have no pixel")


def _reserve_folders(
    context: typer.Context, folders: Sequence[Path], *, inputs: Sequence[Path], overwrite: bool, dry_run: bool
) -> None:
    """Reserve folders that hold no input and, unless `overwrite`, are empty."""
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
