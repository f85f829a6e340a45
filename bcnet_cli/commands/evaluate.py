"""`bcnet eval`: COCO scores of a run or of any results file, two models compared, or the file for test-dev."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcnet_cli import console
from bcnet_cli.options import DataRoot, Device, DryRun, Gpus, Json, Overwrite, Seed
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from bcnet_cli.score_tables import Format
    from bcnet_core.annotations.coco import CocoFile
    from bcnet_core.engine.elastic import Cluster
    from bcnet_core.engine.run_dir import Run
    from bcnet_core.evaluation.coco import Backend
    from bcnet_core.evaluation.compare import Comparison
    from bcnet_core.evaluation.predictions import PredictionFolder
    from bcnet_core.evaluation.report import ScoreOptions

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


def evaluate(
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
    from bcnet_core.engine.elastic import Cluster

    style: Format = _style(json=as_json, csv=as_csv, markdown=as_markdown)
    wanted = _Wanted(occ, occ_ids, tuple(objects or ()), boundary, layers, per_category, _backend(backend_eval), style)
    truth = _truth_of(run, results, compare, gt)
    if truth is not None and compare is not None:
        _compare_files(compare, truth, wanted, resamples=resamples, seed=seed)
    elif truth is not None and results is not None:
        _score_file(results, truth, wanted, output=output, overwrite=overwrite, dry_run=dry_run)
    elif run is not None:
        place = _Place(run, output, data_root, device, Cluster(gpus))
        _evaluate_run(place, wanted, test_dev=test_dev, overwrite=overwrite, dry_run=dry_run)


@dataclass(frozen=True)
class _Wanted:
    """What to score, and how to show it."""

    occ: bool
    occ_ids: Path | None
    objects: tuple[Path, ...]
    boundary: bool
    layers: bool
    per_category: bool
    backend: Backend
    style: Format

    def options(self, coco: CocoFile) -> ScoreOptions:
        """The same for the scorer, its files read."""
        from bcnet_core.evaluation.occluded import read_objects
        from bcnet_core.evaluation.report import ScoreOptions
        from bcnet_core.occlusion.split import read_ids

        return ScoreOptions(
            backend=self.backend,
            boundary=self.boundary,
            occlusion=self.occ or self.occ_ids is not None or bool(self.objects),
            occluded_ids=None if self.occ_ids is None else read_ids(self.occ_ids),
            objects={path.stem: read_objects(path, coco) for path in self.objects},
        )


@dataclass(frozen=True)
class _Place:
    """Which run is evaluated, and where."""

    run: Path
    output: Path | None
    data_root: Path | None
    device: str
    cluster: Cluster


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


def _compare_files(files: tuple[Path, Path], coco: CocoFile, wanted: _Wanted, *, resamples: int, seed: int) -> None:
    from bcnet_cli.score_tables import print_comparison
    from bcnet_core.evaluation.compare import compare_results
    from bcnet_core.evaluation.results import read_results

    first, second = (read_results(path, coco) for path in files)
    rows: dict[str, Comparison] = compare_results(
        coco, first, second, resamples=resamples, seed=seed, reporter=ConsoleReporter()
    )
    print_comparison(rows, (str(files[0]), str(files[1])), wanted.style, resamples)


def _score_file(
    path: Path, coco: CocoFile, wanted: _Wanted, *, output: Path | None, overwrite: bool, dry_run: bool
) -> None:
    """Score a results file, of whatever model."""
    from bcnet_cli.score_tables import print_report
    from bcnet_core.errors import usage_error
    from bcnet_core.evaluation.report import score_results
    from bcnet_core.evaluation.results import read_results
    from bcnet_core.outputs import refuse_existing, refuse_input, write_json

    if wanted.layers:
        raise usage_error("--layers needs the detector itself, a results file is not enough", "bcnet eval RUN --layers")
    target = None if output is None else output / f"{path.name.split('.')[0]}_scores.json"
    if target is not None:
        refuse_input(target, path, coco.path)
        refuse_existing(target, overwrite=overwrite)
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


def _evaluate_run(place: _Place, wanted: _Wanted, *, test_dev: bool, overwrite: bool, dry_run: bool) -> None:
    """Predict, then score or pack."""
    from bcnet_core.data.loaders import read_annotations
    from bcnet_core.engine.elastic import check_processes
    from bcnet_core.engine.run_dir import open_run
    from bcnet_core.evaluation.coco import ground_truth
    from bcnet_core.evaluation.predict import PredictionJob, check_categories, predict_to_disk
    from bcnet_core.evaluation.submission import SUBMISSION_NAME
    from bcnet_core.outputs import refuse_existing

    opened = open_run(place.run)
    data = opened.recipe.data
    data = data if place.data_root is None else data.model_copy(update={"root": place.data_root})
    dataset = data.test if test_dev else data.val
    coco = read_annotations(data, dataset, need_annotations=not test_dev)
    folder, stem = place.output or opened.path / "eval", dataset.annotations.stem
    names = [f"{SUBMISSION_NAME}.zip"] if test_dev else [f"{stem}_results.json", f"{stem}_scores.json"]
    targets = [folder / name for name in names]
    for target in targets:
        refuse_existing(target, overwrite=overwrite)
    check_processes(place.cluster, place.device)
    check_categories(opened.categories, coco)
    if not test_dev:
        ground_truth(coco)
    options = wanted.options(coco)
    if dry_run:
        console.err.print(f"would run {opened.checkpoint} on {len(coco.images):,} images and write {targets[0]}")
        return
    images = data.locate(dataset)[1]
    job = PredictionJob(opened.checkpoint, place.device, coco.images, images, folder / f"{stem}_predictions")
    predicted = predict_to_disk(job, place.cluster, reporter=ConsoleReporter())
    if test_dev:
        _submit(targets[0], coco, predicted, as_json=wanted.style == "json")
    else:
        layers = _score_layers(opened, coco, images, place.device) if wanted.layers else {}
        _score(targets, coco, predicted, options, wanted, layers)
    predicted.remove()
    if not test_dev:
        console.show_outputs(*targets, then=f"bcnet viz {shlex.quote(str(place.run))} -o viz")


def _submit(target: Path, coco: CocoFile, predicted: PredictionFolder, *, as_json: bool) -> None:
    from bcnet_core.evaluation.submission import write_submission

    found, images = write_submission(target, coco, predicted.read(coco.images)), len(coco.images)
    if as_json:
        console.out.print_json(data={"images": images, "detections": found})
    else:
        console.out.print(f"{found:,} detections in {images:,} images")
    console.show_outputs(target, then="upload the zip to the COCO test-dev server")


def _score(
    targets: list[Path],
    coco: CocoFile,
    predicted: PredictionFolder,
    options: ScoreOptions,
    wanted: _Wanted,
    layers: dict[str, float],
) -> None:
    """Write results and scores, and show them."""
    from bcnet_cli.score_tables import print_report
    from bcnet_core.evaluation.report import score_results
    from bcnet_core.evaluation.results import write_results
    from bcnet_core.outputs import write_json

    write_results(targets[0], predicted.read(coco.images))
    results = [result for part in predicted.read(coco.images) for result in part]
    report = score_results(coco, results, options)
    write_json(targets[1], {**report.content(), **({"layers": layers} if layers else {})})
    print_report(report, wanted.style, per_category=wanted.per_category, layers=layers)


def _score_layers(opened: Run, coco: CocoFile, images: Path, device: str) -> dict[str, float]:
    from bcnet_core import load_detector
    from bcnet_core.evaluation.true_boxes import score_true_boxes

    detector = load_detector(opened.checkpoint, device=device)
    return score_true_boxes(detector, coco, images, reporter=ConsoleReporter()).means()
