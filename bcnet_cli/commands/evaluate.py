"""`bcnet eval`: score a run or a results file, compare two results files, or prepare a test-dev submission."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcnet_cli import console
from bcnet_cli.commands.evaluate_run import Output, RunChoice, score_run, submit_run
from bcnet_cli.options import (
    USUAL_OVERLAP,
    BackendName,
    Batch,
    Compile,
    DataRoot,
    Device,
    DryRun,
    Gpus,
    Json,
    Overlap,
    Overwrite,
    PrecisionOption,
    Tile,
    check_unused_options,
    read_tiling,
    reserve_files,
)  # fmt: skip
from bcnet_cli.reporter import ConsoleReporter
from bcnet_core.config.choices import Scorer

if TYPE_CHECKING:
    from bcnet_cli.commands.evaluate_run import ReadOptions
    from bcnet_cli.score_tables import Format
    from bcnet_core.annotations.coco import CocoFile
    from bcnet_core.evaluation.report import ScoreOptions

_run, _files, _scores = (partial(typer.Option, rich_help_panel=title) for title in ("Run", "Results files", "Scores"))

_TABLES = {"as_csv", "as_markdown"}
_SCORES = {"occ", "occ_ids", "objects", "amodal", "boundary", "per_category", "scorer", "max_dets", *_TABLES}
_OUTPUT = {"output", "overwrite", "dry_run"}
_DETECTOR = {"data_root", "gpus", "device", "backend", "batch", "precision"}
MODES = {
    "a run": {"run", "layers", "tile", "overlap", *_SCORES, *_OUTPUT, *_DETECTOR},
    "--test-dev": {"run", "test_dev", *_OUTPUT, *_DETECTOR},
    "--results": {"results", "gt", *_SCORES, *_OUTPUT},
    "--compare": {"compare", "gt", "resamples", "seed", "max_dets", *_TABLES},
}
"""Options of each mode; --json belongs to all of them."""

COUNT_ALL = "count more: --max-dets {most}"

MaxDets = Annotated[
    int | None,
    _scores(
        min=11,
        max=1_000_000,
        help="Detections of each category in an image that count; default: 100 as in COCO, or all that a run keeps.",
        show_default=False,
    ),
]


def evaluate(
    context: typer.Context,
    run: Annotated[Path | None, typer.Argument(help="A run directory, or a checkpoint.", show_default=False)] = None,
    *,
    test_dev: Annotated[bool, _run("--test-dev", help="Write the zip for the test-dev server.")] = False,
    layers: Annotated[bool, _run("--layers", help="Also score both layers inside the true boxes.")] = False,
    data_root: DataRoot = None,
    tile: Tile = None,
    overlap: Overlap = USUAL_OVERLAP,
    results: Annotated[Path | None, _files(metavar="FILE", help="Score this COCO results file.")] = None,
    compare: Annotated[tuple[Path, Path] | None, _files(metavar="A B", help="Compare two COCO results files.")] = None,
    gt: Annotated[Path | None, _files(metavar="FILE", help="Ground truth of --results or --compare.")] = None,
    resamples: Annotated[int, _files(min=1, help="Bootstrap samples of --compare.")] = 500,
    seed: Annotated[int, _files(min=0, help="Seed of the bootstrap samples.")] = 0,
    occ: Annotated[bool, _scores("--occ", help="Also the occluded split, occlusion levels, hidden objects.")] = False,
    occ_ids: Annotated[Path | None, _scores(metavar="FILE", help="Image ids of the occluded split, for --occ.")] = None,
    objects: Annotated[
        list[Path] | None, _scores(metavar="FILE", help="occluded_coco.pkl, separated_coco.pkl: objects, for --occ.")
    ] = None,
    amodal: Annotated[bool, _scores("--amodal", help="Also whole masks: AP, hidden parts, who is in front.")] = False,
    boundary: Annotated[bool, _scores("--boundary", help="Also boundary AP, which is slow.")] = False,
    per_category: Annotated[bool, _scores("--per-category", help="Also every category.")] = False,
    scorer: Annotated[Scorer, _scores("--backend-eval", help="Library that computes AP.")] = "faster-coco-eval",
    max_dets: MaxDets = None,
    gpus: Gpus = 1,
    device: Device = "auto",
    batch: Batch = 1,
    precision: PrecisionOption = "fp32",
    compiled: Compile = False,
    backend: BackendName = "torchvision",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output folder; default RUN/eval.", show_default=False)
    ] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the result as CSV.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the result as a Markdown table.")] = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Evaluate a run on its validation set, any results file, or two; or prepare a test-dev submission.

    After an interruption the same command resumes.

    **Examples**

    `bcnet eval runs/tiny --occ --per-category`

    `bcnet eval --results mask_rcnn.json --gt coco/annotations/instances_val2017.json --occ --markdown`

    `bcnet eval --compare mask_rcnn.json bcnet.json --gt coco/annotations/instances_val2017.json`
    """
    from bcnet_core.annotations.coco import read_coco
    from bcnet_core.annotations.crowding import MOST_DETECTIONS
    from bcnet_core.backends import require_backend
    from bcnet_core.config.runtime import Runtime
    from bcnet_core.engine.elastic import Cluster

    given = [name for name, value in (("RUN", run), ("--results", results), ("--compare", compare)) if value]
    _check_options(context, given, has_truth=gt is not None, test_dev=test_dev)
    style = _style(json=as_json, csv=as_csv, markdown=as_markdown)
    out = Output(context, output, style, per_category=per_category, overwrite=overwrite, dry_run=dry_run)
    tiling = read_tiling(context, tile, overlap)
    options = partial(
        _read_options, scorer=scorer, boundary=boundary, occ=occ, occ_ids=occ_ids, objects=objects or [], amodal=amodal
    )
    if run is not None:
        runtime = Runtime(batch, precision, compiled)
        choice = RunChoice(run, data_root, device, Cluster(gpus), require_backend(backend), max_dets, runtime, tiling)
        if test_dev:
            submit_run(choice, out)
        else:
            score_run(choice, out, options, layers=layers)
    elif results is not None and gt is not None:
        _score_file(results, read_coco(gt), out, options, max_dets or MOST_DETECTIONS)
    elif compare is not None and gt is not None:
        _compare_files(
            compare, read_coco(gt), style, resamples=resamples, seed=seed, max_dets=max_dets or MOST_DETECTIONS
        )


def _check_options(context: typer.Context, given: list[str], *, has_truth: bool, test_dev: bool) -> None:
    """Require exactly one thing to evaluate, its ground truth, and no option of another mode."""
    from bcnet_core.errors import usage_error

    if len(given) != 1:
        raise usage_error(
            f"{' and '.join(given)} exclude each other" if given else "there is nothing to evaluate",
            "bcnet eval RUN · bcnet eval --results FILE --gt FILE · bcnet eval --compare A B --gt FILE",
        )
    mode = ("--test-dev" if test_dev else "a run") if given == ["RUN"] else given[0]
    check_unused_options(context, *set().union(*MODES.values()) - MODES[mode], why=f"with {mode}")
    if "gt" in MODES[mode] and not has_truth:
        raise usage_error(f"{mode} needs the ground truth", "--gt FILE, a COCO instances json")


def _style(*, json: bool, csv: bool, markdown: bool) -> Format:
    from bcnet_core.errors import usage_error

    if json + csv + markdown > 1:
        raise usage_error("--json, --csv and --markdown exclude each other", "give one of them")
    return "json" if json else "csv" if csv else "markdown" if markdown else "table"


def _read_options(
    coco: CocoFile,
    max_dets: int,
    *,
    scorer: Scorer,
    boundary: bool,
    occ: bool,
    occ_ids: Path | None,
    objects: list[Path],
    amodal: bool,
) -> ScoreOptions:
    """Read the whole masks, images and objects that options name, and return what to score."""
    from bcnet_core.annotations.split import read_ids
    from bcnet_core.evaluation.amodal import read_amodal_truth
    from bcnet_core.evaluation.occluded import read_objects
    from bcnet_core.evaluation.report import ScoreOptions

    return ScoreOptions(
        scorer=scorer,
        boundary=boundary,
        occlusion=occ or occ_ids is not None or bool(objects),
        occluded_ids=None if occ_ids is None else read_ids(occ_ids),
        objects={path.stem: read_objects(path, coco) for path in objects},
        max_dets=max_dets,
        amodal=read_amodal_truth(coco) if amodal else None,
    )


def _score_file(path: Path, coco: CocoFile, out: Output, read_options: ReadOptions, max_dets: int) -> None:
    """Score a results file of any model."""
    from bcnet_cli.score_tables import print_report
    from bcnet_core.annotations.crowding import report_crowding
    from bcnet_core.evaluation.report import score_results
    from bcnet_core.evaluation.results import check_same_images, read_results
    from bcnet_core.files.json_files import write_json

    target = None if out.folder is None else out.folder / f"{path.name.split('.')[0]}_scores.json"
    if target is not None:
        inputs = [path, coco.path]
        reserve_files(out.context, target, inputs=inputs, overwrite=out.overwrite, dry_run=out.dry_run)
    check_same_images(path, coco)
    reporter = ConsoleReporter()
    results, options = read_results(path, coco, reporter=reporter), read_options(coco, max_dets)
    report_crowding(coco, reporter=reporter, counted=max_dets, way_out=COUNT_ALL)
    if out.dry_run:
        console.err.print(f"would score {len(results):,} results" + (f" and write {target}" if target else ""))
        return
    report = score_results(coco, results, options)
    print_report(report, out.style, per_category=out.per_category, layers={})
    if target is not None:
        write_json(target, report.content())
        console.show_outputs(target)


def _compare_files(
    files: tuple[Path, Path], coco: CocoFile, style: Format, *, resamples: int, seed: int, max_dets: int
) -> None:
    """Compare two results files."""
    from bcnet_cli.score_tables import print_comparison
    from bcnet_core.annotations.crowding import report_crowding
    from bcnet_core.evaluation.compare import compare_results
    from bcnet_core.evaluation.results import check_same_images, read_results

    for path in files:
        check_same_images(path, coco)
    reporter = ConsoleReporter()
    first, second = (read_results(path, coco, reporter=reporter) for path in files)
    report_crowding(coco, reporter=reporter, counted=max_dets, way_out=COUNT_ALL)
    rows = compare_results(coco, first, second, resamples=resamples, seed=seed, max_dets=max_dets, reporter=reporter)
    print_comparison(rows, (str(files[0]), str(files[1])), style, resamples)
