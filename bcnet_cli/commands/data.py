"""`bcnet data`: check a data set, and make a clean data root of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcnet_cli import console
from bcnet_cli.options import Json, Workers
from bcnet_cli.reporter import ConsoleReporter
from bcnet_core.errors import data_error

if TYPE_CHECKING:
    from bcnet_core.importers.check import CheckReport

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


def _show_findings(report: CheckReport) -> None:
    from bcnet_core.importers.findings import KINDS

    table = console.make_table("Check", "", "count", "share of instances")
    table.add_column("first ids", justify="left")
    table.add_row("images", f"{report.images:,}", "", "")
    for name, count in {"instances": report.instances, "train as they stand": report.trainable}.items():
        table.add_row(name, f"{count:,}", f"{count / report.instances:.1%}" if report.instances else "", "")
    for kind, ids in report.findings:
        first = ", ".join(map(str, ids[:FIRST_IDS])) + (", ..." if len(ids) > FIRST_IDS else "")
        share = f"{len(ids) / report.instances:.1%}" if KINDS[kind].subject == "instances" else ""
        table.add_row(f"{KINDS[kind].subject} {KINDS[kind].text}", f"{len(ids):,}", share, first)
    console.out.print(table)
