"""The report of a study: means, paired differences, bounds, and what is missing, for every data set."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.stats import t as student

from bcnet_core.annotations.coco import Record
from bcnet_core.errors import data_error
from bcnet_core.files.json_files import write_together
from benchmarks.evidence.report import markdown_table
from benchmarks.evidence.summary import Interval, spread
from benchmarks.study.oracles import ORACLES
from benchmarks.study.run import Outcome
from benchmarks.study.trials import Study, TrialResult, read_results

REPORT_FILES = ("report.md", "report.json")
CONFIDENCE = 0.95
ABSENT = "-"
HOW_TO_READ = """\
All scores are percentages; ± is the standard deviation over seeds. A difference is that of a variant to the one named
after "to", seed by seed; brackets hold its 95 % interval (Student's t over seeds), and an * marks one without 0.
Seconds a step are those of this run and hold the loading of images; trainings at the same time slow each other."""

Differences = dict[str, dict[str, dict[str, Interval]]]
"""Differences of a data set by variant, by the variant that it is compared with, and by score."""


class Report(NamedTuple):
    """A written report: Markdown tables, the same numbers as fractions, and the files of both."""

    text: str
    content: Record
    files: tuple[Path, ...]


def write_report(study: Study, title: str, outcomes: Sequence[Outcome] = ()) -> Report:
    """Write report.md and report.json of the results in a study's folder.

    Args:
        study: the study.
        title: heading.
        outcomes: trials that were not measured, to name them.

    Raises:
        BCNetError: if there is no result.
    """
    results = read_results(study)
    notes = [f"{one.trial.name}: {one.note}" for one in outcomes]
    if not results:
        raise data_error(f"`{study.folder}` holds no results", *notes)
    paragraphs, differences = [f"# {title}", HOW_TO_READ], dict[str, Differences]()
    for data in dict.fromkeys(one.data for one in results):
        groups = {name: [one for one in results if (one.data, one.variant) == (data, name)] for name in study.variants}
        groups = {name: group for name, group in groups.items() if group}
        differences[data] = differences_of(study, groups)
        paragraphs += [f"## {data}", *_tables(study, groups, differences[data])]
    if notes:
        paragraphs.append("\n".join(f"- not measured: {note}" for note in notes))
    text = "\n\n".join(paragraphs)
    content: Record = {
        "results": [one.model_dump(mode="json") for one in results],
        "differences": _known(differences),
        "missing": [{**one.trial._asdict(), "note": one.note} for one in outcomes],
    }
    files = tuple(study.folder / name for name in REPORT_FILES)
    pages = (f"{text}\n".encode(), json.dumps(content, indent=1).encode())
    write_together(dict(zip(files, pages, strict=True)))
    return Report(text, content, files)


def differences_of(study: Study, groups: Mapping[str, Sequence[TrialResult]]) -> Differences:
    """Return the differences of the variants of one data set to those that they are compared with."""
    return {
        name: {
            other: {score: difference(group, groups[other], score) for score in study.measurement.scores}
            for other in study.variants[name].minus
            if other in groups
        }
        for name, group in groups.items()
    }


def difference(group: Sequence[TrialResult], others: Sequence[TrialResult], score: str) -> Interval:
    """Return the mean difference of a score over the seeds of both, and its interval; nan where it is unknown.

    Results have no score that the study did not measure then.
    """
    theirs = {one.seed: one.scores.get(score, -1.0) for one in others}
    pairs = [(one.scores.get(score, -1.0), theirs[one.seed]) for one in group if one.seed in theirs]
    return interval([own - other for own, other in pairs if min(own, other) >= 0])


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of N values and the interval of Student's t; its ends are nan for fewer than two values."""
    if len(values) < 2:
        return Interval(values[0] if values else math.nan, math.nan, math.nan)
    reach = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Interval(fmean(values), fmean(values) - reach, fmean(values) + reach)


def _known(value: dict[str, Differences]) -> Record:
    """Return differences as JSON data, with None for nan."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)  # type: ignore[no-any-return]


def _tables(study: Study, groups: Mapping[str, Sequence[TrialResult]], differences: Differences) -> Iterator[str]:
    """Yield the tables of a data set: scores, differences, bounds, and mask AP along the training."""
    variants, titles = study.variants, study.measurement.scores.values()
    costs = ("steps", "s/step", "gradient norm")
    rows = [[variants[name].title, *_means(group, study.measurement.scores)] for name, group in groups.items()]
    yield markdown_table(["variant", "seeds", *titles, *costs], rows)
    rows = [
        [f"{variants[name].title} to {variants[other].title}", *map(difference_cell, found.values())]
        for name, those in differences.items()
        for other, found in those.items()
    ]
    if rows:
        yield markdown_table(["difference", *titles], rows)
    bounds = {name: [one.oracles for one in group if one.oracles] for name, group in groups.items()}
    rows = [
        [f"{variants[name].title}, {ORACLES[oracle]}", mean_cell([one[oracle] for one in found])]
        for name, found in bounds.items()
        for oracle in ORACLES
        if found
    ]
    if rows:
        yield markdown_table(["bound", "mask AP"], rows)
    if study.evaluations > 1:
        shares = [part / study.evaluations for part in range(1, study.evaluations + 1)]
        rows = [[f"{share:.0%}", *(_at(group, share) for group in groups.values())] for share in shares]
        yield "Mask AP along the training:"
        yield markdown_table(["share of the steps", *(variants[name].title for name in groups)], rows)


def _means(group: Sequence[TrialResult], scores: Iterable[str]) -> list[str]:
    """Return the cells of a variant: number of seeds, means and deviations of the scores, and costs."""
    steps = sorted({one.steps for one in group})
    return [
        f"{len(group)}",
        *(mean_cell([one.scores.get(score, -1.0) for one in group]) for score in scores),
        " to ".join(f"{one:,}" for one in dict.fromkeys((steps[0], steps[-1]))),
        f"{fmean(one.step_seconds for one in group):.2f}",
        f"{fmean(one.gradient_norm for one in group):.1f}",
    ]


def _at(group: Sequence[TrialResult], share: float) -> str:
    """Format the mask AP of a variant after a share of its steps."""
    return mean_cell([ap for one in group for step, ap in one.curve.items() if step == -(-one.steps * share // 1)])


def mean_cell(scores: Sequence[float]) -> str:
    """Format mean and deviation of the scores of several seeds, 0..1, as percentages; -1 counts as unknown."""
    mean, deviation = spread([one for one in scores if one >= 0])
    around = "" if math.isnan(deviation) else f" ± {100 * deviation:.1f}"
    return ABSENT if math.isnan(mean) else f"{100 * mean:.1f}{around}"


def difference_cell(one: Interval) -> str:
    """Format a difference and its interval in points; * marks an interval without 0."""
    if math.isnan(one.mean):
        return ABSENT
    if math.isnan(one.low):
        return f"{100 * one.mean:+.1f}"
    return f"{100 * one.mean:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]" + " *" * one.excludes_zero
