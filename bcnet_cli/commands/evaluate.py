"""`bcnet eval`: COCO scores of a run, or the file that the test-dev server wants."""

from __future__ import annotations

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
    from bcnet_core.evaluation.predict import check_categories, predict_images
    from bcnet_core.evaluation.submission import SUBMISSION_NAME
    from bcnet_core.outputs import refuse_existing

    opened = open_run(run)
    data = opened.recipe.data if data_root is None else opened.recipe.data.model_copy(update={"root": data_root})
    dataset = data.test if test_dev else data.val
    coco = read_annotations(data, dataset, need_annotations=not test_dev)
    name = f"{SUBMISSION_NAME}.zip" if test_dev else f"{dataset.annotations.stem}_results.json"
    target = (output or opened.path / "eval") / name
    refuse_existing(target, overwrite=overwrite)
    if dry_run:
        console.err.print(f"would run {opened.checkpoint} on {len(coco.images):,} images and write {target}")
        return
    detector = load_detector(opened.checkpoint, device=device)
    check_categories(detector, coco)
    results = predict_images(detector, coco.images, data.locate(dataset)[1], reporter=ConsoleReporter())
    if test_dev:
        _submit(target, coco, results, as_json=as_json)
    else:
        _score(target, coco, results, occ=occ, as_json=as_json)
        console.show_outputs(then=f"bcnet viz {run} -o viz")


def _submit(target: Path, coco: CocoFile, results: list[Record], *, as_json: bool) -> None:
    from bcnet_core.evaluation.submission import write_submission

    write_submission(target, coco, results)
    images, found = len(coco.images), len(results)
    if as_json:
        console.out.print_json(data={"images": images, "detections": found})
    else:
        console.out.print(f"{found:,} detections in {images:,} images")
    console.show_outputs(target, then="upload the zip to the COCO test-dev server")


def _score(target: Path, coco: CocoFile, results: list[Record], *, occ: bool, as_json: bool) -> None:
    """Score, write results and scores, and show the table."""
    from bcnet_core.evaluation.coco import BACKEND, evaluate
    from bcnet_core.occlusion.split import SplitRule, split_occluded
    from bcnet_core.outputs import write_json

    rows = {"boxes": evaluate(coco, results, "bbox"), "masks": evaluate(coco, results, "segm")}
    if occ:
        ids = [image["id"] for image in split_occluded(coco, rule=SplitRule()).content["images"]]
        rows["boxes, occluded split"] = evaluate(coco, results, "bbox", image_ids=ids)
        rows["masks, occluded split"] = evaluate(coco, results, "segm", image_ids=ids)
    summary = {
        "backend": BACKEND,
        "images": len(coco.images),
        "scores": {name: scores._asdict() for name, scores in rows.items()},
    }
    scores_path = target.with_name(target.name.replace("_results", "_scores"))
    write_json(target, results)
    write_json(scores_path, summary)
    if as_json:
        console.out.print_json(data=summary)
    else:
        console.out.print(_table(rows, f"COCO scores in %, {len(coco.images):,} images, {BACKEND}"))
    console.show_outputs(target, scores_path)


def _table(rows: dict[str, Scores], title: str) -> Table:
    columns = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    table = console.make_table(title, "", *columns)
    for name, scores in rows.items():
        values = [getattr(scores, column) for column in columns]
        table.add_row(name, *("-" if value < 0 else f"{100 * value:.1f}" for value in values))
    return table
