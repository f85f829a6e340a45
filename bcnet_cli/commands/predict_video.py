"""`bcnet predict --video`: detect instances in the frames of clips, and follow them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import typer

from bcnet_cli import console
from bcnet_cli.commands.predict import CONFIDENT, check_complete, progress_file, reserve_folders, show
from bcnet_cli.options import check_unused_options, read_tiling, reserve_files
from bcnet_cli.reporter import ConsoleReporter
from bcnet_core.config.choices import Precision


def predict_clips(
    context: typer.Context,
    *,
    checkpoint: Path,
    images: Sequence[str],
    output: Path,
    formats: Sequence[str] | None,
    layers: bool,
    disjoint: bool,
    score: float | None,
    tile: int | None,
    overlap: float,
    gpus: int,
    device: str,
    batch: int,
    precision: Precision,
    compiled: bool,
    overwrite: bool,
    as_json: bool,
    dry_run: bool,
    **_unused: object,
) -> None:
    """Predict clips and write their tracks, with the parameters of `bcnet predict`."""
    from bcnet_core.config.runtime import Runtime
    from bcnet_core.engine.elastic import Cluster, check_processes
    from bcnet_core.evaluation.clips import find_clips, read_clips, short_error
    from bcnet_core.evaluation.prediction_job import PredictionJob, predict_to_disk
    from bcnet_core.evaluation.prediction_outputs import check_names, output_paths, write_predictions
    from bcnet_core.evaluation.tracks import WEAK_SHARE
    from bcnet_core.weights.exported import open_trained

    check_unused_options(context, "ids_from", "boxes", why="with --video")
    cluster, runtime, tiling = Cluster(gpus), Runtime(batch, precision, compiled), read_tiling(context, tile, overlap)
    paths = output_paths(output, formats or (), of_clips=True)
    disjoint = disjoint or paths.is_disjoint
    found = find_clips(images)
    reserve_files(context, *paths.files, inputs=[checkpoint, *found], overwrite=overwrite, dry_run=dry_run)
    check_processes(cluster, device)
    trained, reporter = open_trained(checkpoint), ConsoleReporter()
    reserve_folders(context, paths.folders, inputs=[trained.path, *found], overwrite=overwrite, dry_run=dry_run)
    clips = read_clips(found, reporter=reporter)
    check_names(paths, clips.videos)
    if dry_run:
        frames, of = console.counted(len(clips.images), "frame"), console.counted(len(found), "clip")
        console.err.print(f"would run {trained.path} on {frames} of {of}")
        console.show_outputs(*paths.all, dry_run=True)
        return
    begin = CONFIDENT if score is None else score
    job = PredictionJob(
        trained.path, device, clips.images, None, progress_file(output), layers, disjoint=disjoint,
        score=begin * WEAK_SHARE, passes_over=True, runtime=runtime, tiling=tiling, videos=clips.videos,
        begin=begin,
    )  # fmt: skip
    predict_to_disk(job, cluster, reporter=reporter, build=partial(job.build, trained))
    written = write_predictions(job, trained.categories, paths, reporter=reporter)
    show(written, paths, as_json=as_json, disjoint=disjoint)
    console.show_outputs(*paths.all)
    check_complete(written, paths.listing)
    if clips.short:
        raise short_error(clips)
