"""`bcnet eval`: COCO scores of a run or of any results file, two models compared, or the file for test-dev."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcnet_cli import console
from bcnet_cli.commands.evaluate_run import Place, Wanted, evaluate_run
from bcnet_cli.options import (
    BackendName,
    DataRoot,
    Device,
    DryRun,
    Gpus,
    Json,
    Overwrite,
    Seed,
    check_unused_options,
    reserve_files,
)
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from bcnet_cli.score_tables import Format
    from bcnet_core.annotations.coco import CocoFile
    from bcnet_core.evaluation.coco import Backend
    from bcnet_core.evaluation.compare import Comparison

RunArgument = Annotated[Path | None, typer.Argument(help="A run directory, or a checkpoint.", show_default=False)]
Results = Annotated[Path | None, typer.Option("--results", metavar="FILE", help="Score this COCO results file.")]
Truth = Annotated[Path | None, typer.Option("--gt", metavar="FILE", help="Ground truth of --results or --compare.")]
Compare = Annotated[
    tuple[Path, Path] | None, typer.Option("--compare", metavar="A B", help="Compare two COCO results files.")
]
Occ = Annotated[bool, typer.Option("--occ", help="Also the occluded split, levels of occlusion, hidden objects.")]
OccIds = Annotated[
    Path | None, typer.Option("--occ-ids", metavar="FILE", help="The image ids of the occluded split, instead.")
]
Objects = Annotated[
    list[Path] | None,
    typer.Option("--objects", metavar="FILE", help="occluded_coco.pkl, separated_coco.pkl: whose recall to count."),
]
BackendEval = Annotated[str, typer.Option("--backend-eval", help="faster-coco-eval, or pycocotools, the reference.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder of what is written; default RUN/eval.", show_default=False)
]
Boundary = Annotated[bool, typer.Option("--boundary", help="Also boundary AP; it takes long.")]
Layers = Annotated[bool, typer.Option("--layers", help="Also score both layers inside the true boxes.")]
PerCategory = Annotated[bool, typer.Option("--per-category", help="Also every category.")]
TestDev = Annotated[bool, typer.Option("--test-dev", help="Write the zip for the test-dev server; no ground truth.")]
Resamples = Annotated[int, typer.Option("--resamples", min=1, help="Draws of images for --compare.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print the result as CSV.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print the result as a Markdown table.")]
OF_A_RUN = ("test_dev", "data_root", "gpus", "device", "backend")
"""What a results file has no use for."""
OF_SCORES = (
    "occ", "occ_ids", "objects", "boundary", "per_category", "layers", "backend_eval", "output", "overwrite", "dry_run"
)  # fmt: skip
"""What the comparison of two results files has no use for."""


def evaluate(
    context: typer.Context,
    run: RunArgument = None,
    *,
    results: Results = None,
    compare: Compare = None,
    gt: Truth = None,
    occ: Occ = False,
    occ_ids: OccIds = None,
    objects: Objects = None,
    boundary: Boundary = False,
    layers: Layers = False,
    per_category: PerCategory = False,
    backend_eval: BackendEval = "faster-coco-eval",
    test_dev: TestDev = False,
    output: Output = None,
    data_root: DataRoot = None,
    gpus: Gpus = 1,
    device: Device = "auto",
    backend: BackendName = "torchvision",
    resamples: Resamples = 500,
    seed: Seed = 0,
    as_json: Json = False,
    as_csv: Csv = False,
    as_markdown: Markdown = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Evaluate a run on its validation set, any results file, or two; or prepare a test-dev submission.

    An evaluation that is interrupted goes on where it was with the same command.

    **Examples**

    `bcnet eval runs/tiny --occ --per-category`

    `bcnet eval --results mask_rcnn.json --gt coco/annotations/instances_val2017.json --occ --markdown`

    `bcnet eval --compare mask_rcnn.json bcnet.json --gt coco/annotations/instances_val2017.json`
    """
    from bcnet_core.backends import named
    from bcnet_core.engine.elastic import Cluster

    style: Format = _style(json=as_json, csv=as_csv, markdown=as_markdown)
    wanted = Wanted(occ, occ_ids, tuple(objects or ()), boundary, layers, per_category, _backend(backend_eval), style)
    truth = _truth_of(run, results, compare, gt)
    if truth is not None:
        check_unused_options(context, *OF_A_RUN, why="with a results file, only with RUN")
    if compare is None:
        check_unused_options(context, "resamples", "seed", why="without --compare")
    else:
        check_unused_options(context, *OF_SCORES, why="with --compare")
    if truth is not None and compare is not None:
        _compare_files(compare, truth, wanted, resamples=resamples, seed=seed)
    elif truth is not None and results is not None:
        _score_file(context, results, truth, wanted, output=output, overwrite=overwrite, dry_run=dry_run)
    elif run is not None:
        place = Place(run, output, data_root, device, Cluster(gpus), named(backend))
        evaluate_run(context, place, wanted, test_dev=test_dev, overwrite=overwrite, dry_run=dry_run)


def _style(*, json: bool, csv: bool, markdown: bool) -> Format:
    from bcnet_core.errors import usage_error

    if json + csv + markdown > 1:
        raise usage_error("--json, --csv and --markdown exclude each other", "give one of them")
    return "json" if json else "csv" if csv else "markdown" if markdown else "table"


def _backend(name: str) -> Backend:
    from bcnet_core.errors import usage_error
    from bcnet_core.evaluation.coco import BACKENDS

    for backend in BACKENDS:
        if backend == name:
            return backend
    raise usage_error(f"no library is called `{name}`", "--backend-eval " + " | ".join(BACKENDS))


def _truth_of(
    run: Path | None, results: Path | None, compare: tuple[Path, Path] | None, gt: Path | None
) -> CocoFile | None:
    """The ground truth of result files, None where a run brings its own; refuses contradictions."""
    from bcnet_core.annotations.coco import read_coco
    from bcnet_core.errors import usage_error

    given = [name for name, value in (("RUN", run), ("--results", results), ("--compare", compare)) if value]
    if len(given) != 1:
        raise usage_error(
            f"{' and '.join(given)} exclude each other" if given else "there is nothing to evaluate",
            "bcnet eval RUN · bcnet eval --results FILE --gt FILE · bcnet eval --compare A B --gt FILE",
        )
    if (gt is None) == (run is None):
        raise usage_error(
            "a run has its own ground truth" if run else f"{given[0]} needs the ground truth",
            "another data root: --data-root DIR" if run else "--gt FILE, a COCO instances json",
        )
    return None if gt is None else read_coco(gt)


def _compare_files(files: tuple[Path, Path], coco: CocoFile, wanted: Wanted, *, resamples: int, seed: int) -> None:
    from bcnet_cli.score_tables import print_comparison
    from bcnet_core.evaluation.compare import compare_results
    from bcnet_core.evaluation.image_list import refuse_other_images
    from bcnet_core.evaluation.results import read_results

    for path in files:
        refuse_other_images(path, coco)
    first, second = (read_results(path, coco) for path in files)
    rows: dict[str, Comparison] = compare_results(
        coco, first, second, resamples=resamples, seed=seed, reporter=ConsoleReporter()
    )
    print_comparison(rows, (str(files[0]), str(files[1])), wanted.style, resamples)


def _score_file(
    context: typer.Context,
    path: Path,
    coco: CocoFile,
    wanted: Wanted,
    *,
    output: Path | None,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Score a results file, of whatever model."""
    from bcnet_cli.score_tables import print_report
    from bcnet_core.errors import usage_error
    from bcnet_core.evaluation.image_list import refuse_other_images
    from bcnet_core.evaluation.report import score_results
    from bcnet_core.evaluation.results import read_results
    from bcnet_core.files.json_files import write_json
    from bcnet_core.files.outputs import check_not_input

    if wanted.layers:
        raise usage_error("--layers needs the detector itself, a results file is not enough", "bcnet eval RUN --layers")
    target = None if output is None else output / f"{path.name.split('.')[0]}_scores.json"
    if target is not None:
        check_not_input(target, path, coco.path)
        reserve_files(context, target, overwrite=overwrite, dry_run=dry_run)
    refuse_other_images(path, coco)
    results = read_results(path, coco)
    options = wanted.options(coco)
    if dry_run:
        console.err.print(f"would score {len(results):,} results" + (f" and write {target}" if target else ""))
        return
    report = score_results(coco, results, options)
    print_report(report, wanted.style, per_category=wanted.per_category, layers={})
    if target is not None:
        write_json(target, report.content())
        console.show_outputs(target)
