"""`bcnet eval RUN`: predict, then score or pack a submission."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from bcnet_cli import console
from bcnet_cli.options import TRAIN_ON_THESE_CATEGORIES, backend_option, reserve_files
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from bcnet_cli.score_tables import Format
    from bcnet_core.annotations.coco import CocoFile, Record
    from bcnet_core.config.choices import Backend
    from bcnet_core.config.runtime import Runtime
    from bcnet_core.engine.elastic import Cluster
    from bcnet_core.engine.run_dir import Run
    from bcnet_core.evaluation.report import ScoreOptions
    from bcnet_core.evaluation.tiles import Tiling
    from bcnet_core.model.detectors import Detector

    ReadOptions = Callable[[CocoFile, int], ScoreOptions]


class RunChoice(NamedTuple):
    """A run to evaluate, and how to run its detector; `max_dets` detections are kept and counted, if given.

    With a `tiling`, they are counted only: in an image of many tiles the detector keeps as many of each.
    """

    run: Path
    data_root: Path | None
    device: str
    cluster: Cluster
    library: Backend
    max_dets: int | None
    runtime: Runtime
    tiling: Tiling | None


class Output(NamedTuple):
    """Format of the printed result, and where files are written."""

    context: typer.Context
    folder: Path | None
    style: Format
    per_category: bool
    overwrite: bool
    dry_run: bool


class Opened(NamedTuple):
    """A run with its data and outputs, all checked.

    Attributes:
        kept: number of detections of an image that the detector keeps.
        build: makes the detector of the torchvision backend, once for each choice of `layers`.
    """

    run: Run
    coco: CocoFile
    images: Path
    targets: list[Path]
    kept: int
    build: Callable[..., Detector] | None


def score_run(choice: RunChoice, out: Output, read_options: ReadOptions, *, layers: bool) -> None:
    """Predict the validation set of a run and score the results."""
    from bcnet_cli.score_tables import print_report
    from bcnet_core.annotations.crowding import detections_to_count, report_crowding
    from bcnet_core.errors import usage_error
    from bcnet_core.evaluation.coco import ground_truth
    from bcnet_core.evaluation.parts import most_parts
    from bcnet_core.evaluation.report import score_results
    from bcnet_core.evaluation.results import to_json
    from bcnet_core.evaluation.true_boxes import score_true_boxes
    from bcnet_core.files.json_files import write_together

    needed = [name for name, given in (("--layers", layers), ("--tile", choice.tiling)) if given]
    if needed and choice.library == "detectron2":  # its detectors have other parts, and it predicts by itself
        raise usage_error(
            f"{needed[0]} needs a detector of the torchvision backend",
            f"convert it: bcnet weights convert {shlex.quote(str(choice.run))} --to torchvision -o bcnet.pt",
        )
    opened, reporter = _open(choice, out, test_dev=False), ConsoleReporter()
    coco, truth = opened.coco, ground_truth(opened.coco)
    kept = opened.kept * most_parts(coco.images, choice.tiling)
    counted = choice.max_dets or detections_to_count(kept)
    options, way_out = read_options(coco, counted), "keep and count more: --max-dets {most}"
    if options.amodal is not None and not opened.run.recipe.model.amodal:
        raise usage_error(
            f"`{choice.run}` predicts no whole masks, which --amodal scores",
            "train with model.amodal=true, or leave out --amodal",
        )
    report_crowding(coco, kept=kept, counted=counted, way_out=way_out, reporter=reporter)
    if _is_planned(opened, out):
        return
    inside: dict[str, float] = {}
    every_map = layers or options.amodal is not None
    with _predicted(choice, opened, counted, every_map=every_map) as predicted:
        results = _listed([result for part in predicted for result in part], opened)
        if every_map and opened.build is not None:
            inside = score_true_boxes(opened.build(layers=True), coco, opened.images, reporter=reporter).means()
        elif options.amodal is not None:
            reporter.info("masks inside true boxes are left out: they need the torchvision backend")
        report = score_results(coco, results, options, truth=truth)
        scores = {**report.content(), **({"layers": inside} if inside else {})}
        write_together(dict(zip(opened.targets, ([to_json(one) for one in results], scores), strict=True)))
        print_report(report, out.style, per_category=out.per_category, layers=inside)
    root = "" if choice.data_root is None else f" --data-root {shlex.quote(str(choice.data_root))}"
    then = f"bcnet viz {shlex.quote(str(choice.run))} -o viz{backend_option(choice.library)}{root}"
    console.show_outputs(*opened.targets, then=then)


def _listed(results: list[Record], opened: Opened) -> list[Record]:
    """Return the results of classes that the annotation file lists, and report if it lists fewer than the run."""
    from bcnet_core.evaluation.order import keep_categories

    listed, known = {category["id"] for category in opened.coco.categories}, len(opened.run.categories)
    if len(listed) < known:
        ConsoleReporter().info(
            f"{opened.coco.path} lists {len(listed)} of the {known} classes; detections of the others are left out"
        )
        results = keep_categories(results, listed)
    return results


def submit_run(choice: RunChoice, out: Output) -> None:
    """Predict test-dev and pack the results for its server."""
    from bcnet_core.annotations.crowding import MOST_DETECTIONS
    from bcnet_core.evaluation.results import write_submission

    opened = _open(choice, out, test_dev=True)
    if _is_planned(opened, out):
        return
    with _predicted(choice, opened, MOST_DETECTIONS, every_map=False) as predicted:
        found, images = write_submission(opened.targets[0], opened.coco, predicted), len(opened.coco.images)
    if out.style == "json":
        console.out.print_json(data={"images": images, "detections": found})
    else:
        console.out.print(f"{console.counted(found, 'detection')} in {console.counted(images, 'image')}")
    console.show_outputs(*opened.targets, then="upload the zip to the COCO test-dev server")


def _open(choice: RunChoice, out: Output, *, test_dev: bool) -> Opened:
    """Read a run and its data, reserve the outputs, and check that the run can be evaluated on the data."""
    from bcnet_core.annotations.crowding import MOST_DETECTIONS
    from bcnet_core.backends import check_runtime, open_run
    from bcnet_core.data.loaders import read_annotations, read_truth
    from bcnet_core.engine.elastic import check_processes
    from bcnet_core.evaluation.inputs import check_categories
    from bcnet_core.evaluation.results import SUBMISSION_NAME
    from bcnet_core.files.json_files import json_stem

    check_runtime(choice.runtime, choice.library, choice.run)
    run = open_run(choice.run, choice.library)
    data = run.recipe.data
    data = data if choice.data_root is None else data.model_copy(update={"root": choice.data_root})
    dataset = data.test if test_dev else data.val
    if test_dev:
        coco = read_annotations(data, dataset, need_annotations=False, configurable=False)
    else:
        coco = read_truth(
            data, dataset, reads_wholes=run.recipe.reads_wholes, configurable=False, reporter=ConsoleReporter()
        )
    folder, stem = out.folder or run.path / "eval", json_stem(dataset.annotations)
    names = [f"{SUBMISSION_NAME}.zip"] if test_dev else [f"{stem}_results.json", f"{stem}_scores.json"]
    targets = [folder / name for name in names]
    reserve_files(out.context, *targets, overwrite=out.overwrite, dry_run=out.dry_run)
    check_processes(choice.cluster, choice.device)
    check_categories(
        run.categories, coco, "evaluate on data with its categories: --data-root DIR", TRAIN_ON_THESE_CATEGORIES
    )
    kept = run.recipe.model.most_detections
    if choice.tiling is None:
        kept = max(kept, choice.max_dets or 0)
    if test_dev and kept > MOST_DETECTIONS:
        ConsoleReporter().info(f"COCO takes {MOST_DETECTIONS} detections an image: the best of {kept:,} are submitted")
        kept = MOST_DETECTIONS
    build = None
    if run.trained is not None:
        build = functools.cache(
            functools.partial(run.trained.build, choice.device, detections_per_image=kept, runtime=choice.runtime)
        )
    return Opened(run, coco, data.locate(dataset)[1], targets, kept, build)


def _is_planned(opened: Opened, out: Output) -> bool:
    """Return whether this is a dry run, and print what would be done."""
    if out.dry_run:
        images = len(opened.coco.images)
        console.err.print(
            f"would run {opened.run.checkpoint} on {console.counted(images, 'image')} and write {opened.targets[0]}"
        )
    return out.dry_run


@contextmanager
def _predicted(choice: RunChoice, opened: Opened, counted: int, *, every_map: bool) -> Iterator[Iterable[list[Record]]]:
    """Predict, and yield the results of each image; the file to resume from is removed when the block succeeds.

    With `every_map` the detector is built with all maps, because the caller needs it, too.
    """
    from bcnet_core.backends import predict_with_detectron2
    from bcnet_core.evaluation.prediction_file import PredictionFile
    from bcnet_core.evaluation.prediction_job import PredictionJob, predict_to_disk
    from bcnet_core.files.images import check_images

    run, coco, images, _, kept, build = opened
    device, cluster, reporter = choice.device, choice.cluster, ConsoleReporter()
    if choice.library == "detectron2":  # it cannot resume
        check_images(coco.images, images)
        yield [
            predict_with_detectron2(
                run, coco, images, kept=kept, counted=counted, device=device, cluster=cluster, reporter=reporter
            )
        ]
        return
    target = opened.targets[0]
    file = PredictionFile(target.with_name(f"{target.stem.removesuffix('_results')}_predictions.jsonl"))
    job = PredictionJob(
        run.checkpoint,
        device,
        coco.images,
        images,
        file,
        detections_per_image=kept,
        runtime=choice.runtime,
        tiling=choice.tiling,
    )
    predict_to_disk(job, cluster, reporter=reporter, build=build and functools.partial(build, layers=every_map))
    yield job.results(coco.images, run.categories)
    file.path.unlink(missing_ok=True)
