"""`bcnet predict`: what a detector finds in any images, as COCO results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bcnet_cli import console
from bcnet_cli.claims import claim_files
from bcnet_cli.options import Device, DryRun, Gpus, Json, Overwrite
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
    from bcnet_core.evaluation.image_list import find_images, image_records
    from bcnet_core.evaluation.predict import PredictionJob, predict_to_disk
    from bcnet_core.evaluation.results import write_results
    from bcnet_core.outputs import atomic_file, refuse_input, refuse_same

    paths = find_images(images)
    listing = output.with_name(f"{output.stem}_images.json")
    refuse_same(output, listing)
    for target in (output, listing):
        refuse_input(target, checkpoint, *paths, *([ids_from] if ids_from else []))
    claim_files(context, output, listing, overwrite=overwrite, dry_run=dry_run)
    cluster = Cluster(gpus)
    check_processes(cluster, device)
    opened = open_run(checkpoint)
    records = image_records(paths, read_coco(ids_from, need_annotations=False) if ids_from else None)
    if dry_run:
        console.err.print(f"would run {opened.checkpoint} on {len(records):,} images and write {output}")
        return
    folder = output.with_name(f"{output.stem}_predictions")
    job = PredictionJob(opened.checkpoint, device, records, None, folder, layers)
    predicted = predict_to_disk(job, cluster, reporter=ConsoleReporter())
    with atomic_file(listing) as temporary:  # on the disk before the results come into their place
        content = {"images": records, "categories": opened.categories}
        temporary.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        found = write_results(output, predicted.read(records))
    predicted.remove()
    if as_json:
        console.out.print(json.dumps({"images": len(records), "detections": found}))
    else:
        console.out.print(f"{found:,} detections in {len(records):,} images")
    console.show_outputs(output, listing)
