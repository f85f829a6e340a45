"""The report of the trials: tables for people, numbers for programs, and a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from bcnet_core.annotations.coco import Record
from bcnet_core.errors import data_error
from bcnet_core.files.json_files import write_together
from benchmarks.evidence.plot import plot_differences
from benchmarks.evidence.summary import BINS, RESAMPLES, Difference, Interval, Row, Spread, Summary, summarize
from benchmarks.evidence.trials import ARMS, REFERENCE, Trial, TrialResult, read_costs, read_results

REPORT_FILES = ("report.md", "report.json", "report.png")
ABSENT = "-"

HOW_TO_READ = f"""\
All numbers are percentages. IoU is that of the masks predicted inside the true boxes of held-out instances, by the
visible fraction of the instance. ± is the standard deviation over seeds. Differences are an arm minus
{ARMS[REFERENCE].title}, seed by seed and instance by instance; brackets hold the 95 % interval of a paired bootstrap
over seeds and images ({RESAMPLES:,} resamples), and for AP the smallest and largest difference of a seed. An * marks an
interval that excludes 0: one of twenty comparisons without any difference has it by chance. The intervals do not cover
other training scenes; with few seeds they are too narrow, and with one seed they cover its images only."""


class Report(NamedTuple):
    """A written report: Markdown tables, the same numbers as fractions, and the files of both and of the figure."""

    text: str
    content: Record
    files: tuple[Path, ...]


def write_report(folder: Path, expected: Sequence[Trial] | None = None) -> Report:
    """Write report.md, report.json and report.png of the results in a folder.

    Args:
        folder: folder of the trials.
        expected: trials to report as missing if they have no result; by default every arm with every set and seed that
            has a result.
    """
    results = read_results(folder)
    if not results:
        raise data_error(f"`{folder}` holds no results yet", "run the trials: python -m benchmarks evidence -o FOLDER")
    costs = read_costs(folder)
    summary = summarize(results, costs)
    measured = {(one.data, one.trial.name) for one in results}
    wanted = expected or _usual(results)
    missing = [trial for trial in wanted if (trial.data, trial.name) not in measured]
    text = "\n\n".join(_paragraphs(summary, missing, wanted=len(wanted)))
    keys = ("data", "matched", "arm", "seed")
    listed = [{key: getattr(trial, key) for key in keys} for trial in missing]
    content: Record = _as_json({**asdict(summary), "seconds_per_step": costs, "missing": listed})
    files = tuple(folder / name for name in REPORT_FILES)
    page = f"# Does the bilayer head help?\n\n{text}\n\n![Differences by visible fraction]({files[2].name})\n"
    pages = (page.encode(), json.dumps(content, indent=1).encode(), plot_differences(summary.differences))
    write_together(dict(zip(files, pages, strict=True)))
    return Report(text, content, files)


def _usual(results: Sequence[TrialResult]) -> list[Trial]:
    """Return the trials of all arms, for equal time of those with results, on all sets and seeds with results."""
    matched = {one.arm for one in results if one.matched}
    return [
        Trial(data, arm, seed, results[0].steps, matched=equal_time)
        for data in dict.fromkeys(one.data for one in results)
        for equal_time in (False, True)
        for arm in ARMS
        for seed in sorted({one.seed for one in results})
        if not equal_time or arm in matched
    ]


def _as_json(value: Any) -> Any:  # noqa: ANN401  (whatever json holds)
    """Replace nan by null, and named tuples by objects."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, Spread | Interval):
        return _as_json(value._asdict())
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value


def _paragraphs(summary: Summary, missing: Sequence[Trial], *, wanted: int) -> Iterator[str]:
    """Yield the introduction, the missing trials and the tables of every set."""
    yield HOW_TO_READ
    if missing:
        seeds: dict[str, dict[str, list[str]]] = {}
        for one in missing:
            seeds.setdefault(one.data, {}).setdefault(_title(one.arm, matched=one.matched), []).append(f"{one.seed}")
        yield f"{wanted - len(missing)} of {wanted} trials are there. Missing (seeds in brackets):\n\n" + "\n".join(
            f"- {data}: " + ", ".join(f"{title} ({' '.join(which)})" for title, which in arms.items())
            for data, arms in seeds.items()
        )
    for data in dict.fromkeys(row.data for row in summary.rows):
        yield f"## {data}"
        rows = [row for row in summary.rows if row.data == data]
        yield markdown_table(ROW_TITLES, map(_row_cells, rows))
        for matched, title in ((False, "Difference to {}, equal steps"), (True, "Difference to {}, equal time")):
            shown = [one for one in summary.differences if (one.data, one.matched) == (data, matched)]
            if shown:
                yield title.format(ARMS[REFERENCE].title) + ":"
                yield markdown_table(DIFFERENCE_TITLES, map(_difference_cells, shown))


def _title(arm: str, *, matched: bool) -> str:
    return ARMS[arm].title + ", equal time" * matched


ROW_TITLES = (
    "arm", "seeds", "steps", "head parameters", "s/step ratio",
    *(f"IoU {name}" for name in BINS), "occluder IoU", "AP", "occluded AP",
)  # fmt: skip
DIFFERENCE_TITLES = ("arm", "seeds", "steps", *(f"IoU {name}" for name in BINS), "AP", "occluded AP")


def _row_cells(row: Row) -> tuple[str, ...]:
    return (
        _title(row.arm, matched=row.matched),
        f"{len(row.seeds)}",
        f"{row.steps:,}",
        f"{row.head_parameters:,}",
        ABSENT if math.isnan(row.cost_ratio) else f"{row.cost_ratio:.2f}",
        *(_spread(row.iou[name], 2) for name in BINS),
        _spread(row.occluder, 2),
        _spread(row.ap, 1),
        _spread(row.occluded_ap, 1),
    )


def _difference_cells(one: Difference) -> tuple[str, ...]:
    return (
        ARMS[one.arm].title,
        f"{len(one.seeds)}",
        f"{one.steps:,}",
        *(_around(one.iou[name], 2) + " *" * one.iou[name].excludes_zero for name in BINS),
        _around(one.ap, 1),
        _around(one.occluded_ap, 1),
    )


def _spread(value: Spread, digits: int) -> str:
    """Format mean and deviation as percentages."""
    if math.isnan(value.mean):
        return ABSENT
    deviation = "" if math.isnan(value.std) else f" ± {100 * value.std:.{digits}f}"
    return f"{100 * value.mean:.{digits}f}{deviation}"


def _around(value: Interval, digits: int) -> str:
    """Format a difference and its ends as percentages."""
    if math.isnan(value.mean):
        return ABSENT
    mean, low, high = (f"{100 * part:+.{digits}f}" for part in value)
    return f"{mean} [{low}, {high}]"


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format an aligned Markdown table whose first column is text and whose others are numbers."""
    lines = [titles, *rows]
    first, *others = ([len(cell) for cell in column] for column in zip(*lines, strict=True))
    widths = [f"<{max(first)}", *(f">{max(column)}" for column in others)]
    head, *body = (" | ".join(map(format, line, widths)) for line in lines)
    rule = " | ".join(["-" * max(first), *(f"{'-' * (max(column) - 1)}:" for column in others)])
    return "\n".join(f"| {line} |" for line in (head, rule, *body))
