"""`bcnet predict`: detect instances in any images, as COCO results."""

from __future__ import annotations

import json
import os
import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bcnet_cli import console
from bcnet_cli.options import Device, DryRun, Gpus, Json, Overwrite, reserve_files
from bcnet_cli.reporter import ConsoleReporter


def predict(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run directory.", show_default=False)],
    images: Annotated[list[str], typer.Argument(help="Image files, folders, or patterns.", show_default=False)],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="COCO results file to write.")],
    layers: Annotated[
        bool, typer.Option("--layers", help="Also write the occluder mask and both boundaries of every instance.")
    ] = False,
    ids_from: Annotated[
        Path | None,
        typer.Option("--ids-from", metavar="FILE", help="Take ids and sizes from this COCO json, by file name."),
    ] = None,
    gpus: Gpus = 1,
    device: Device = "auto",
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
    """
    from bcnet_core.annotations.coco import read_coco
    from bcnet_core.engine.elastic import Cluster, check_processes
    from bcnet_core.evaluation.predict import find_images, image_records
    from bcnet_core.evaluation.prediction_job import (
        PredictionFile,
        PredictionJob,
        predict_to_disk,
        unreadable_error,
        write_predictions,
    )
    from bcnet_core.evaluation.results import listing_path
    from bcnet_core.files.json_files import json_stem
    from bcnet_core.weights.loading import read_trained

    paths = find_images(images)
    listing = listing_path(output)
    inputs = [checkpoint, *paths, *([ids_from] if ids_from else [])]
    reserve_files(context, output, listing, inputs=inputs, overwrite=overwrite, dry_run=dry_run)
    cluster = Cluster(gpus)
    check_processes(cluster, device)
    trained = read_trained(checkpoint)
    known = read_coco(ids_from, need_annotations=False) if ids_from else None
    records = image_records(paths, known)
    if dry_run:
        console.err.print(f"would run {trained.path} on {len(records):,} images and write {output}")
        return
    file = PredictionFile(output.with_name(f"{json_stem(output)}_predictions.jsonl"))
    job = PredictionJob(trained.path, device, records, None, file, layers, passes_over=True)
    predict_to_disk(job, cluster, reporter=ConsoleReporter(), build=partial(trained.build, device))
    written = write_predictions(job, trained.categories, output)
    if as_json:
        content = {
            "images": written.images,
            "detections": written.detections,
            "unreadable": [image["file_name"] for image in written.unreadable],
        }
        console.out.print(json.dumps(content))
    else:
        console.out.print(f"{written.detections:,} detections in {written.images:,} images")
    truth = ids_from if known is not None and known.annotations else None
    console.show_outputs(output, listing, then=_next_command(output, listing, paths, truth))
    if written.unreadable:
        raise unreadable_error(written.unreadable, of=len(records), listing=listing)


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
