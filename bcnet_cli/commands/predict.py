"""`bcnet predict`: what a detector finds in any images, as COCO results."""

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
    output: Annotated[Path, typer.Option("--output", "-o", help="The results, a COCO results json.")],
    layers: Annotated[
        bool, typer.Option("--layers", help="Also the occluder's mask and both boundaries of every instance.")
    ] = False,
    ids_from: Annotated[
        Path | None,
        typer.Option("--ids-from", metavar="FILE", help="Take ids from this COCO json, by file name."),
    ] = None,
    gpus: Gpus = 1,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Predict images: OUTPUT gets the results, OUTPUT_images.json beside it the images and categories that they name.

    A prediction that is interrupted goes on where it was with the same command.

    **Examples**

    `bcnet predict runs/tiny photos -o results.json`

    `bcnet predict bcnet_r101.pt 'val2017/*.jpg' --ids-from annotations/instances_val2017.json --layers -o val.json`
    """
    from bcnet_core.annotations.coco import read_coco
    from bcnet_core.engine.elastic import Cluster, check_processes
    from bcnet_core.engine.run_dir import open_run
    from bcnet_core.evaluation.predict import find_images, image_records
    from bcnet_core.evaluation.prediction_job import PredictionFile, PredictionJob, predict_to_disk
    from bcnet_core.evaluation.results import listing_path, write_results
    from bcnet_core.files.outputs import atomic_file, check_distinct, check_not_input

    paths = find_images(images)
    listing = listing_path(output)
    check_distinct(output, listing)
    for target in (output, listing):
        check_not_input(target, checkpoint, *paths, *([ids_from] if ids_from else []))
    reserve_files(context, output, listing, overwrite=overwrite, dry_run=dry_run)
    cluster = Cluster(gpus)
    check_processes(cluster, device)
    opened = open_run(checkpoint)
    known = read_coco(ids_from, need_annotations=False) if ids_from else None
    records = image_records(paths, known)
    if dry_run:
        console.err.print(f"would run {opened.checkpoint} on {len(records):,} images and write {output}")
        return
    file = PredictionFile(output.with_name(f"{output.stem}_predictions.jsonl"))
    job = PredictionJob(opened.checkpoint, device, records, None, file, layers)
    build = None if opened.trained is None else partial(opened.trained.build, device)
    predicted = predict_to_disk(job, cluster, reporter=ConsoleReporter(), build=build)
    with atomic_file(listing) as temporary:  # on the disk before the results come into their place
        content = {"images": records, "categories": opened.categories}
        temporary.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        found = write_results(output, predicted.read(records))
    predicted.remove()
    if as_json:
        console.out.print(json.dumps({"images": len(records), "detections": found}))
    else:
        console.out.print(f"{found:,} detections in {len(records):,} images")
    truth = ids_from if known is not None and known.annotations else None
    console.show_outputs(output, listing, then=_next_command(output, listing, paths, truth))


def _next_command(output: Path, listing: Path, paths: list[Path], truth: Path | None) -> str | None:
    """Scoring where there is a truth, else looking at the results; None where no folder has all of the images."""
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
