"""`bcnet data`: check a data set, and make a clean data root of it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bcnet_cli import console
from bcnet_cli.options import DryRun, Json, Overwrite, Seed, Workers, reserve
from bcnet_cli.reporter import ConsoleReporter
from bcnet_core.errors import data_error

if TYPE_CHECKING:
    from bcnet_core.importers.check import CheckReport
    from bcnet_core.importers.convert import ImportSummary

FIRST_IDS = 5
"""Ids that the table shows of each kind of fault."""

app = typer.Typer(help="Check a data set, and make a clean data root of it.", no_args_is_help=True)
Images = Annotated[Path | None, typer.Option("--images", metavar="DIR", help="Folder of the images.")]


@app.command("check")
def check(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="COCO json file, or what `data import` reads.")],
    *,
    images: Images = None,
    workers: Workers = 0,
    as_json: Json = False,
) -> None:
    """Say how many instances of a file a training takes as they stand, and what is wrong with the others.

    Reads every annotation and, with `--images`, decodes every image. Exits with 0 if every instance trains, and with 3
    and a table of the faults otherwise. The file stays unchanged.

    **Examples**

    `bcnet data check annotations/instances_train2017.json --images train2017`

    `bcnet data check result.json --json`
    """
    from bcnet_core.importers.check import check_file

    report = check_file(source, images, workers=workers, reporter=ConsoleReporter())
    if as_json:
        console.out.print(json.dumps(report.as_json()))
    else:
        _show_findings(report)
    if not report.is_sound:
        left = report.instances - report.trainable
        what = f"{left:,} of {report.instances:,} instances do not train as they stand" if left else "has faults"
        raise data_error(f"`{source}`: {what}", f"repair what can be repaired: {report.import_command}")


@app.command("import")
def import_(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="File or folder, as a tool exported it.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="ROOT", help="The data root to create.")],
    format_name: Annotated[
        str, typer.Option("--from", metavar="FORMAT", help="auto, or the format; a wrong name lists them.")
    ] = "auto",
    images: Images = None,
    val: Annotated[
        float | None,
        typer.Option("--val", metavar="SHARE", help="Share of the images to validate on; 0 for no validation set."),
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the photos instead of linking them.")] = False,
    seed: Seed = 0,
    workers: Workers = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a data root that every recipe trains on, from what an annotation tool exported or a data set's publisher.

    Repairs what can be repaired without guessing, leaves out the rest, and says how many of what; ROOT/import.json
    has the same. A source that is split keeps its split unless `--val` is given; of others, a fifth of the images is
    drawn for validation. The source stays unchanged, photos are linked.

    **Examples**

    `bcnet data import result.json --images photos -o root`

    `bcnet data import labelme_folder -o root --val 0.1 --copy`
    """
    from bcnet_core.importers.convert import import_source
    from bcnet_core.importers.root import check_root

    inputs = [source] if images is None else [source, images]
    reserve(context, output, check=lambda root: check_root(root, *inputs, overwrite=overwrite), dry_run=dry_run)
    summary = import_source(
        source, output, format_name=format_name, images=images, val=val, copy=copy, seed=seed, overwrite=overwrite,
        dry_run=dry_run, workers=workers, reporter=ConsoleReporter(),
    )  # fmt: skip
    if as_json:
        console.out.print(json.dumps(summary.as_json()))
    else:
        _show_import(summary)
    console.show_outputs(output, then=_next_commands(output, summary), dry_run=dry_run)


def _show_import(summary: ImportSummary) -> None:
    from bcnet_core.importers.findings import KINDS

    table = console.make_table(f"Import of {summary.format_name}", "", "images", "instances")
    for name, counts in summary.splits.items():
        table.add_row(name, f"{counts.images:,}", f"{counts.instances:,}")
    console.out.print(table)
    found = [*summary.findings]
    if not found:
        return
    table = console.make_table("Faults of the source", "", "count")
    table.add_column("outcome", justify="left")
    table.add_column("first ids", justify="left")
    for kind, ids in found:
        outcome = KINDS[kind].effect.replace("_", " ")
        table.add_row(f"{KINDS[kind].subject} {KINDS[kind].text}", f"{len(ids):,}", outcome, _first(ids))
    console.out.print(table)


def _next_commands(root: Path, summary: ImportSummary) -> list[str]:
    from bcnet_core.importers.root import annotation_file, photo_folder

    split = [*summary.splits][-1]
    file, photos = annotation_file(root, split), photo_folder(root, split)
    return [
        shlex.join(["bcnet", "viz", str(file), "--images", str(photos), "-o", "truth"]),
        shlex.join(["bcnet", "train", "--data-root", str(root), "--run-dir", "runs/first"]),
    ]


def _first(ids: list[Any]) -> str:
    """Return the first of some ids as text."""
    return ", ".join(map(str, ids[:FIRST_IDS])) + (", ..." if len(ids) > FIRST_IDS else "")


def _show_findings(report: CheckReport) -> None:
    from bcnet_core.importers.findings import KINDS

    table = console.make_table("Check", "", "count", "share")
    table.add_column("first ids", justify="left")
    table.add_column("way out", justify="left")
    table.add_row("images", f"{report.images:,}")
    for name, count in {"instances": report.instances, "train as they stand": report.trainable}.items():
        table.add_row(name, f"{count:,}", _share(count, report.instances))
    totals = {"instances": report.instances, "images": report.images}
    for kind, ids in report.findings:
        what = KINDS[kind]
        way_out = what.way_out or ("import" if what.effect in {"repaired", "left_out"} else "none is needed")
        share = _share(len(ids), totals.get(what.subject, 0))
        table.add_row(f"{what.subject} {what.text}", f"{len(ids):,}", share, _first(ids), way_out)
    console.out.print(table)


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else ""
