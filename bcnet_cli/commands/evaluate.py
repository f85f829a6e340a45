"""`bcnet eval`: COCO scores of a run, or the file that the test-dev server wants."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcnet_cli import console
from bcnet_cli.options import DataRoot, Device, DryRun, Json, Overwrite
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from rich.table import Table

    from bcnet_core.annotations.coco import CocoFile, Record
    from bcnet_core.evaluation.coco import Scores


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory, or a checkpoint file.", show_default=False)],
    *,
    occ: Annotated[bool, typer.Option("--occ", help="Score the images of the occluded split as well.")] = False,
    test_dev: Annotated[
        bool, typer.Option("--test-dev", help="Write the zip for the test-dev server; reads no ground truth.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for results and scores; default RUN/eval.", show_default=False),
    ] = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Evaluate a run on its validation set, or prepare its test-dev submission.

    **Examples**

    `bcnet eval runs/tiny --occ`

    `bcnet eval runs/tiny --test-dev -o submission --data-root coco`
    """
    from bcnet_core import load_detector
    from bcnet_core.data.loaders import read_annotations
    from bcnet_core.engine.run_dir import open_run
    from bcnet_core.evaluation.coco import ground_truth
    from bcnet_core.evaluation.predict import check_categories, predict_images
    from bcnet_core.evaluation.submission import SUBMISSION_NAME
    from bcnet_core.outputs import refuse_existing, write_json

    opened = open_run(run)
    data = opened.recipe.data if data_root is None else opened.recipe.data.model_copy(update={"root": data_root})
    dataset = data.test if test_dev else data.val
    coco = read_annotations(data, dataset, need_annotations=not test_dev)
    folder, stem = output or opened.path / "eval", dataset.annotations.stem
    names = [f"{SUBMISSION_NAME}.zip"] if test_dev else [f"{stem}_results.json", f"{stem}_scores.json"]
    targets = [folder / name for name in names]
    for target in targets:
        refuse_existing(target, overwrite=overwrite)
    if dry_run:
        console.err.print(f"would run {opened.checkpoint} on {len(coco.images):,} images and write {targets[0]}")
        return
    detector = load_detector(opened.checkpoint, device=device)
    check_categories(detector.categories, coco)
    truth = None if test_dev else ground_truth(coco)
    results = predict_images(detector, coco.images, data.locate(dataset)[1], reporter=ConsoleReporter())
    if truth is None:
        _submit(targets[0], coco, results, as_json=as_json)
    else:
        write_json(targets[0], results)
        rows = _score(coco, truth, results, occ=occ)
        _report(rows, targets, len(coco.images), as_json=as_json)
        console.show_outputs(then=f"bcnet viz {shlex.quote(str(run))} -o viz")


def _submit(target: Path, coco: CocoFile, results: list[Record], *, as_json: bool) -> None:
    from bcnet_core.evaluation.submission import write_submission

    write_submission(target, coco, results)
    images, found = len(coco.images), len(results)
    if as_json:
        console.out.print_json(data={"images": images, "detections": found})
    else:
        console.out.print(f"{found:,} detections in {images:,} images")
    console.show_outputs(target, then="upload the zip to the COCO test-dev server")


def _score(coco: CocoFile, truth: Record, results: list[Record], *, occ: bool) -> dict[str, Scores]:
    """The scores of boxes and masks, on request also on the occluded split."""
    from bcnet_core.evaluation.coco import evaluate
    from bcnet_core.occlusion.split import SplitRule, split_occluded

    rows = {"boxes": evaluate(truth, results, "bbox"), "masks": evaluate(truth, results, "segm")}
    if occ:
        ids = [image["id"] for image in split_occluded(coco, rule=SplitRule()).content["images"]]
        rows["boxes, occluded split"] = evaluate(truth, results, "bbox", image_ids=ids)
        rows["masks, occluded split"] = evaluate(truth, results, "segm", image_ids=ids)
    return rows


def _report(rows: dict[str, Scores], targets: list[Path], images: int, *, as_json: bool) -> None:
    """Write the scores and show them."""
    from bcnet_core.evaluation.coco import BACKEND
    from bcnet_core.outputs import write_json

    scores = {name: row._asdict() for name, row in rows.items()}
    summary = {"backend": BACKEND, "images": images, "scores": scores}
    write_json(targets[1], summary)
    if as_json:
        console.out.print_json(data=summary)
    else:
        console.out.print(_table(rows, f"COCO scores in %, {images:,} images, {BACKEND}"))
    console.show_outputs(*targets)


def _table(rows: dict[str, Scores], title: str) -> Table:
    columns = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    table = console.make_table(title, "", *columns)
    for name, scores in rows.items():
        values = [getattr(scores, column) for column in columns]
        table.add_row(name, *("-" if value < 0 else f"{100 * value:.1f}" for value in values))
    return table
