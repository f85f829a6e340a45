"""`bcnet weights list`: the published weights that a training can start from."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from bcnet_cli import console
from bcnet_cli.options import Json

if TYPE_CHECKING:
    from bcnet_core.weights.sources import Published


def list_published(
    part: Annotated[
        str, typer.Argument(metavar="PART", help="Only names with this part, like torchvision/mask or timm/convnext.")
    ] = "",
    *,
    as_json: Json = False,
) -> None:
    """List published weights, for `bcnet train --init-from NAME` and model.init, with their scores as published.

    AP is on COCO val2017, top-1 on ImageNet. Sizes and scores that the publisher does not tell are left out. Of timm's
    models, a few are shown unless PART asks for others.

    **Examples**

    `bcnet weights list`

    `bcnet weights list timm/convnext --json`
    """
    from bcnet_core.errors import usage_error
    from bcnet_core.weights.sources import count_timm, find_listed

    rows = find_listed(part)
    if not rows:
        raise usage_error(f"no published weights have `{part}` in their name", "all names: bcnet weights list")
    if as_json:
        console.out.print(json.dumps([asdict(row) for row in rows]))
        return
    for origin in dict.fromkeys(row.origin for row in rows):
        console.out.print(_table([row for row in rows if row.origin == origin]))
    if not part:
        more = count_timm()
        text = f"timm: {more:,} names in all; list some: bcnet weights list timm/convnext" if more else (
            "timm's models are listed where it is installed: pip install 'bcnet[timm]'"
        )  # fmt: skip
        console.err.print(Text(text))


def _table(rows: list[Published]) -> Table:
    """Make the table of one publisher: a column that is empty in it, or the same in all rows, is left out."""
    licences = {row.licence for row in rows}
    title = f"{rows[0].origin}, licence {rows[0].licence}" if len(licences) == 1 else rows[0].origin
    columns = {
        "size": [f"{row.size / 1e6:.0f} MB" if row.size else "" for row in rows],
        "box\nAP": [_percent(row.box_ap) for row in rows],
        "mask\nAP": [_percent(row.mask_ap) for row in rows],
        "top-1": [_percent(row.accuracy) for row in rows],
        "licence": [row.licence if len(licences) > 1 else "" for row in rows],
    }
    shown = {head: cells for head, cells in columns.items() if any(cells)}
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("name", overflow="fold")
    for head in shown:
        table.add_column(head, justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        table.add_row(row.name, *(cells[index] for cells in shown.values()))
    return table


def _percent(score: float | None) -> str:
    return "" if score is None else f"{score:.1f}"
