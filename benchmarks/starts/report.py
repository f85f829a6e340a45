"""The report of the trials: final scores, paired differences, and the scores along the training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from bcnet_core.annotations.coco import Record
from bcnet_core.errors import data_error
from bcnet_core.files.json_files import write_together
from benchmarks.evidence.report import markdown_table
from benchmarks.evidence.summary import Interval
from benchmarks.heads.report import difference, difference_cell, mean_cell
from benchmarks.starts.trials import SCORES, VARIANTS, TrialResult, read_results

REPORT_FILES = ("report.md", "report.json")
REFERENCE = next(iter(VARIANTS))
HOW_TO_READ = """\
All scores are percentages after the last step; ± is the standard deviation over seeds. A difference is that of the
published weights to another start, seed by seed; brackets hold its 95 % interval (Student's t over seeds), and an *
marks one without 0. Times are those of this machine: seconds a step are a median, and the minutes to the best mask AP
hold the evaluations up to there."""


class Report(NamedTuple):
    """A written report: Markdown tables, the same numbers as fractions, and the files of both."""

    text: str
    content: Record
    files: tuple[Path, ...]


def write_report(folder: Path) -> Report:
    """Write report.md and report.json of the results in a folder."""
    results = read_results(folder)
    if not results:
        raise data_error(f"`{folder}` holds no results", "run the trials: python -m benchmarks starts DATA -o FOLDER")
    paragraphs, differences = ["# Starts", HOW_TO_READ], {}
    for data in dict.fromkeys(one.data for one in results):
        groups = {name: [one for one in results if (one.data, one.variant) == (data, name)] for name in VARIANTS}
        groups = {name: group for name, group in groups.items() if group}
        differences[data] = _differences(groups)
        paragraphs += [f"## {data}", *_tables(groups, differences[data])]
    text = "\n\n".join(paragraphs)
    known = {
        data: {
            other: {score: [None if math.isnan(value) else value for value in one] for score, one in found.items()}
            for other, found in those.items()
        }
        for data, those in differences.items()
    }
    content: Record = {"results": [one.model_dump() for one in results], "differences": known}
    files = tuple(folder / name for name in REPORT_FILES)
    pages = (f"{text}\n".encode(), json.dumps(content, indent=1).encode())
    write_together(dict(zip(files, pages, strict=True)))
    return Report(text, content, files)


def _differences(groups: dict[str, list[TrialResult]]) -> dict[str, dict[str, Interval]]:
    """Return the differences of the reference to every other variant, by variant and score."""
    if REFERENCE not in groups:
        return {}
    return {
        name: {score: difference(groups[REFERENCE], group, score) for score in SCORES}
        for name, group in groups.items()
        if name != REFERENCE
    }


def _tables(groups: dict[str, list[TrialResult]], differences: dict[str, dict[str, Interval]]) -> Iterator[str]:
    """Yield the tables of a data set: final scores, differences, and mask AP along the training."""
    costs = ("steps", "s/step", "min to the best")
    yield markdown_table(["start", "seeds", *SCORES.values(), *costs], map(_final, groups.values()))
    if differences:
        rows = [
            [VARIANTS[name].title, *(difference_cell(found[score]) for score in SCORES)]
            for name, found in differences.items()
        ]
        yield markdown_table([f"{VARIANTS[REFERENCE].title} to", *SCORES.values()], rows)
    yield "Mask AP along the training:"
    shares = sorted({share for group in groups.values() for one in group for share in _by_share(one)})
    yield markdown_table(
        ["share of the steps", *(VARIANTS[name].title for name in groups)],
        [[f"{share:.0%}", *(_at(group, share) for group in groups.values())] for share in shares],
    )


def _final(group: Sequence[TrialResult]) -> list[str]:
    """Return the row of a variant: its scores and its costs."""
    steps = sorted({one.steps for one in group})
    return [
        VARIANTS[group[0].variant].title,
        f"{len(group)}",
        *(mean_cell([one.scores[score] for one in group]) for score in SCORES),
        " to ".join(f"{one:,}" for one in dict.fromkeys((steps[0], steps[-1]))),
        f"{fmean(one.step_seconds for one in group):.2f}",
        f"{fmean(one.seconds_to(one.best_step) for one in group) / 60:.1f}",
    ]


def _by_share(one: TrialResult) -> dict[float, float]:
    """Return the mask AP of a trial by the share of its steps."""
    return {round(step / one.steps, 2): scores["mask_AP"] for step, scores in one.curve.items()}


def _at(group: Sequence[TrialResult], share: float) -> str:
    return mean_cell([found[share] for found in map(_by_share, group) if share in found])
