"""Scores as a terminal table, as CSV for a spreadsheet, or as Markdown for a paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from bcnet_cli import console

if TYPE_CHECKING:
    from rich.table import Table

    from bcnet_core.evaluation.coco import Scores
    from bcnet_core.evaluation.compare import Comparison
    from bcnet_core.evaluation.report import ScoreReport

Format = Literal["table", "json", "csv", "markdown"]
SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
"""Columns of tables; CSV has all twelve numbers."""


def print_report(report: ScoreReport, style: Format, *, per_category: bool, layers: Mapping[str, float]) -> None:
    """Print a report on stdout."""
    if style == "json":
        content = report.content()
        if not per_category:
            del content["categories"]
        console.out.print_json(data={**content, **({"layers": dict(layers)} if layers else {})})
        return
    rows = dict(report.rows)
    if per_category:
        for kind, categories in report.categories.items():
            rows |= {f"{kind}: {name}": scores for name, scores in categories.items()}
    if style == "csv":
        head = ("scored", *next(iter(rows.values()))._fields)
        console.out.print(_csv(head, ((name, *(f"{value:.6f}" for value in row)) for name, row in rows.items())))
        return
    if style == "markdown":
        console.out.print(_markdown(("", *SHOWN), ((name, *_shown(scores)) for name, scores in rows.items())))
    else:
        title = f"COCO scores in %, {report.images:,} images, {report.detections:,} detections, {report.backend}"
        console.out.print(_table(rows, title))
    for line in _other_lines(report, layers):
        console.out.print(line)


def print_comparison(rows: Mapping[str, Comparison], names: tuple[str, str], style: Format, resamples: int) -> None:
    """Print the comparison of two models on stdout."""
    if style == "json":
        content = {
            name: {**row._asdict(), "difference": row.difference, "certain": row.is_certain}
            for name, row in rows.items()
        }
        console.out.print_json(data={"models": names, "resamples": resamples, "AP": content})
        return
    if style != "table":
        head = ("AP", *names, "difference", "low", "high")
        lines = [
            (name, *(f"{value:.6f}" for value in (row.first, row.second, row.difference, row.low, row.high)))
            for name, row in rows.items()
        ]
        console.out.print(_csv(head, lines) if style == "csv" else _markdown(head, lines))
        return
    console.out.print(f"A: {names[0]}\nB: {names[1]}")
    title = f"AP in %; B - A with its 95 % interval over {resamples:,} draws of images"
    table = console.make_table(title, "", "A", "B", "B - A", "95 % interval", "")
    for name, row in rows.items():
        change, interval = "-", "-"
        if row.is_measured:
            change, interval = f"{100 * row.difference:+.2f}", f"{100 * row.low:+.2f} .. {100 * row.high:+.2f}"
        values = (_percent(row.first), _percent(row.second), change, interval)
        table.add_row(name, *values, "*" if row.is_certain else "")
    console.out.print(table)
    if any(row.is_certain for row in rows.values()):
        console.out.print("* the interval excludes 0")


def _table(rows: Mapping[str, Scores], title: str) -> Table:
    table = console.make_table(title, "", *SHOWN)
    for name, scores in rows.items():
        table.add_row(name, *_shown(scores))
    return table


def _csv(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *lines])
    return text.getvalue().rstrip("\n")


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ("---", *["---:"] * (len(head) - 1))
    cells = [head, rule, *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in cells)


def _shown(scores: Scores) -> list[str]:
    return [_percent(getattr(scores, column)) for column in SHOWN]


def _other_lines(report: ScoreReport, layers: Mapping[str, float]) -> Iterable[str]:
    for name, one in report.recall.items():
        yield f"recall of {name} objects: {_percent(one.share)} % ({one.found:,} of {one.objects:,})"
    if layers:
        yield "inside true boxes: " + ", ".join(f"{name} {100 * value:.1f}" for name, value in layers.items())


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"
