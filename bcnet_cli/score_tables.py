"""Scores as a terminal table, as CSV for a spreadsheet, or as Markdown for a paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from bcnet_cli import console

if TYPE_CHECKING:
    from bcnet_core.evaluation.amodal import AmodalScores
    from bcnet_core.evaluation.compare import Comparison
    from bcnet_core.evaluation.report import ScoreReport

Format = Literal["table", "json", "csv", "markdown"]
SHOWN = (0, 1, 2, 3, 4, 5, 8)
"""Places of the columns of tables among the twelve numbers, all of which CSV has: AP, its details, and ARmost."""


def print_report(report: ScoreReport, style: Format, *, per_category: bool, layers: Mapping[str, float]) -> None:
    """Print a report on stdout."""
    if style == "json":
        content = {**report.content(), **({"layers": dict(layers)} if layers else {})}
        console.out.print_json(data={key: content[key] for key in content if per_category or key != "categories"})
        return
    rows = dict(report.rows)
    if per_category:
        for kind, categories in report.categories.items():
            rows |= {f"{kind}: {name}": scores for name, scores in categories.items()}
    if style == "csv":
        head = ("scored", *report.columns)
        _print_rows(style, head, [(name, *(f"{value:.6f}" for value in row)) for name, row in rows.items()])
        return
    title = f"COCO scores in %, {report.images:,} images, {report.detections:,} detections, {report.backend}"
    lines = [(name, *(_percent(row[place]) for place in SHOWN)) for name, row in rows.items()]
    _print_rows(style, ("", *(report.columns[place] for place in SHOWN)), lines, title)
    for name, one in report.recall.items():
        console.out.print(f"recall of {name} objects: {_percent(one.share)} % ({one.found:,} of {one.objects:,})")
    if report.amodal is not None:
        _print_amodal(report.amodal)
    if layers:
        shown = ", ".join(f"{name} {100 * value:.1f}" for name, value in layers.items())
        console.out.print(f"inside true boxes: {shown}")


def _print_amodal(scores: AmodalScores) -> None:
    """Print the scores of whole masks besides AP, and which instances they are about."""
    whole, hidden, order = scores.whole, scores.hidden, scores.order
    unknown = scores.instances - whole.instances
    if unknown:
        console.out.print(
            f"whole masks are known of {whole.instances:,} of {scores.instances:,} instances; the others are ignored"
        )
    for name, part in (("whole masks", whole), ("hidden parts", hidden)):
        console.out.print(
            f"IoU of {name}: {_percent(part.iou)} % ({part.found:,} of {part.instances:,} found; the others count 0)"
        )
    all_, found = _percent(order.accuracy), _percent(order.accuracy_found)
    console.out.print(f"order accuracy: {all_} % of {order.pairs:,} pairs, {found} % of the {order.found:,} found")


def print_comparison(rows: Mapping[str, Comparison], names: tuple[str, str], style: Format, resamples: int) -> None:
    """Print the comparison of two models on stdout."""
    values = {name: {**row._asdict(), "difference": row.difference} for name, row in rows.items()}
    if style == "json":
        content = {name: {**values[name], "certain": row.is_certain} for name, row in rows.items()}
        console.out.print_json(data={"models": names, "resamples": resamples, "AP": content})
        return
    if style != "table":
        columns = ("first", "second", "difference", "low", "high")
        lines = [(name, *(f"{row[column]:.6f}" for column in columns)) for name, row in values.items()]
        _print_rows(style, ("AP", *names, *columns[2:]), lines)
        return
    console.out.print(f"A: {names[0]}\nB: {names[1]}")
    lines = []
    for name, row in rows.items():
        change, interval = "-", "-"
        if row.is_measured:
            change, interval = f"{100 * row.difference:+.2f}", f"{100 * row.low:+.2f} .. {100 * row.high:+.2f}"
        mark = "*" if row.is_certain else ""
        lines.append((name, _percent(row.first), _percent(row.second), change, interval, mark))
    title = f"AP in %; B - A with its 95 % interval over {resamples:,} draws of images"
    _print_rows(style, ("", "A", "B", "B - A", "95 % interval", ""), lines, title)
    if any(row.is_certain for row in rows.values()):
        console.out.print("* the interval excludes 0")


def _print_rows(style: Format, head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print rows of cells below a head; only a table has a title."""
    if style == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([head, *rows])
        console.out.print(text.getvalue(), end="")
    elif style == "markdown":
        for row in (head, ("---", *["---:"] * (len(head) - 1)), *rows):
            cells = " | ".join(cell.replace("|", "\\|") for cell in row)
            console.out.print(f"| {cells} |")
    else:
        table = console.make_table(title, *head)
        for row in rows:
            table.add_row(*row)
        console.out.print(table)


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"
