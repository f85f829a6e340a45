"""`bcnet eval RUN`: predict, then score or pack."""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bcnet_cli import console
from bcnet_cli.options import TRAIN_ON_THESE_CATEGORIES, backend_option, reserve_files
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bcnet_cli.score_tables import Format
    from bcnet_core.annotations.coco import CocoFile, Record
    from bcnet_core.config.choices import Backend
    from bcnet_core.engine.elastic import Cluster
    from bcnet_core.engine.run_dir import Run
    from bcnet_core.evaluation.coco import Backend as Scorer
    from bcnet_core.evaluation.report import ScoreOptions


@dataclass(frozen=True)
class Wanted:
    """What to score, and how to show it."""

    occ: bool
    occ_ids: Path | None
    objects: tuple[Path, ...]
    boundary: bool
    layers: bool
    per_category: bool
    backend: Scorer
    style: Format

    def options(self, coco: CocoFile) -> ScoreOptions:
        """The same for the scorer, its files read."""
        from bcnet_core.annotations.split import read_ids
        from bcnet_core.evaluation.occluded import read_objects
        from bcnet_core.evaluation.report import ScoreOptions

        return ScoreOptions(
            backend=self.backend,
            boundary=self.boundary,
            occlusion=self.occ or self.occ_ids is not None or bool(self.objects),
            occluded_ids=None if self.occ_ids is None else read_ids(self.occ_ids),
            objects={path.stem: read_objects(path, coco) for path in self.objects},
        )


@dataclass(frozen=True)
class Place:
    """Which run is evaluated, and where."""

    run: Path
    output: Path | None
    data_root: Path | None
    device: str
    cluster: Cluster
    library: Backend


def evaluate_run(
    context: typer.Context, place: Place, wanted: Wanted, *, test_dev: bool, overwrite: bool, dry_run: bool
) -> None:
    """Predict, then score or pack."""
    from bcnet_core.backends import open_run
    from bcnet_core.data.loaders import read_annotations
    from bcnet_core.engine.elastic import check_processes
    from bcnet_core.evaluation.coco import ground_truth
    from bcnet_core.evaluation.predict import check_categories
    from bcnet_core.evaluation.submission import SUBMISSION_NAME

    _refuse_scores(wanted, test_dev=test_dev)
    _refuse_layers(wanted, place)
    opened = open_run(place.run, place.library)
    data = opened.recipe.data
    data = data if place.data_root is None else data.model_copy(update={"root": place.data_root})
    dataset = data.test if test_dev else data.val
    coco = read_annotations(data, dataset, need_annotations=not test_dev, configurable=False)
    folder, stem = place.output or opened.path / "eval", dataset.annotations.stem
    names = [f"{SUBMISSION_NAME}.zip"] if test_dev else [f"{stem}_results.json", f"{stem}_scores.json"]
    targets = [folder / name for name in names]
    reserve_files(context, *targets, overwrite=overwrite, dry_run=dry_run)
    check_processes(place.cluster, place.device)
    check_categories(
        opened.categories, coco, "evaluate on data with its categories: --data-root DIR", TRAIN_ON_THESE_CATEGORIES
    )
    if not test_dev:
        ground_truth(coco)
    options = wanted.options(coco)
    if dry_run:
        console.err.print(f"would run {opened.checkpoint} on {len(coco.images):,} images and write {targets[0]}")
        return
    images = data.locate(dataset)[1]
    with _predicted(place, opened, coco, images, folder / f"{stem}_predictions") as results:
        if test_dev:
            _submit(targets[0], coco, results, as_json=wanted.style == "json")
        else:
            layers = _score_layers(opened, coco, images, place.device) if wanted.layers else {}
            _score(targets, coco, results, options, wanted, layers)
    if not test_dev:
        root = "" if place.data_root is None else f" --data-root {shlex.quote(str(place.data_root))}"
        then = f"bcnet viz {shlex.quote(str(place.run))} -o viz{backend_option(place.library)}{root}"
        console.show_outputs(*targets, then=then)


@contextmanager
def _predicted(
    place: Place, opened: Run, coco: CocoFile, images: Path, folder: Path
) -> Iterator[Iterable[list[Record]]]:
    """The results of each image, kept in a folder on the way, so that an interrupted evaluation can go on.

    Only the torchvision backend keeps them; what is kept goes when the block ends well.
    """
    from bcnet_core.backends import predict_with_detectron2
    from bcnet_core.evaluation.predict import PredictionJob, predict_to_disk, refuse_missing

    if place.library == "detectron2":
        refuse_missing(coco.images, images)
        yield [
            predict_with_detectron2(
                opened, coco, images, device=place.device, cluster=place.cluster, reporter=ConsoleReporter()
            )
        ]
        return
    job = PredictionJob(opened.checkpoint, place.device, coco.images, images, folder)
    predicted = predict_to_disk(job, place.cluster, reporter=ConsoleReporter())
    yield predicted.read(coco.images)
    predicted.remove()


def _submit(target: Path, coco: CocoFile, results: Iterable[list[Record]], *, as_json: bool) -> None:
    from bcnet_core.evaluation.submission import write_submission

    found, images = write_submission(target, coco, results), len(coco.images)
    if as_json:
        console.out.print_json(data={"images": images, "detections": found})
    else:
        console.out.print(f"{found:,} detections in {images:,} images")
    console.show_outputs(target, then="upload the zip to the COCO test-dev server")


def _score(
    targets: list[Path],
    coco: CocoFile,
    predicted: Iterable[list[Record]],
    options: ScoreOptions,
    wanted: Wanted,
    layers: dict[str, float],
) -> None:
    """Write results and scores, and show them."""
    from bcnet_cli.score_tables import print_report
    from bcnet_core.evaluation.report import score_results
    from bcnet_core.files.json_files import write_together

    results = [result for part in predicted for result in part]
    report = score_results(coco, results, options)
    scores = {**report.content(), **({"layers": layers} if layers else {})}
    write_together(dict(zip(targets, (results, scores), strict=True)))
    print_report(report, wanted.style, per_category=wanted.per_category, layers=layers)


def _score_layers(opened: Run, coco: CocoFile, images: Path, device: str) -> dict[str, float]:
    from bcnet_core import load_detector
    from bcnet_core.evaluation.true_boxes import score_true_boxes

    detector = load_detector(opened.checkpoint, device=device)
    return score_true_boxes(detector, coco, images, reporter=ConsoleReporter()).means()


def _refuse_layers(wanted: Wanted, place: Place) -> None:
    """Refuse to look into a detector of detectron2, whose parts have other names."""
    from bcnet_core.errors import usage_error

    if wanted.layers and place.library == "detectron2":
        raise usage_error(
            "--layers looks into a detector of the torchvision backend",
            f"make it one: bcnet weights convert {shlex.quote(str(place.run))} --to torchvision -o bcnet.pt",
        )


def _refuse_scores(wanted: Wanted, *, test_dev: bool) -> None:
    """Refuse to score a submission, whose ground truth nobody here has."""
    from bcnet_core.errors import usage_error

    asked = {
        "--occ": wanted.occ, "--occ-ids": wanted.occ_ids, "--objects": wanted.objects, "--boundary": wanted.boundary,
        "--layers": wanted.layers, "--per-category": wanted.per_category, "--csv": wanted.style == "csv",
        "--markdown": wanted.style == "markdown",
    }  # fmt: skip
    given = [name for name, value in asked.items() if value]
    if test_dev and given:
        raise usage_error(f"--test-dev has no ground truth, so {given[0]} says nothing", "leave one of them out")
