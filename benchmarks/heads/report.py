"""The report of the trials: means, paired differences and what is missing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple, Protocol

from scipy.stats import t as student

from bcnet_core.annotations.coco import Record
from bcnet_core.errors import data_error
from bcnet_core.files.json_files import write_together
from benchmarks.evidence.report import markdown_table
from benchmarks.evidence.summary import Interval, spread
from benchmarks.heads.run import Outcome
from benchmarks.heads.trials import SCORES, TrialResult, read_results
from benchmarks.heads.variants import VARIANTS

REPORT_FILES = ("report.md", "report.json")
CONFIDENCE = 0.95
ABSENT = "-"

HOW_TO_READ = """\
All scores are percentages; ± is the standard deviation over seeds. A difference is that of a variant to the one named
after "to", seed by seed; brackets hold its 95 % interval (Student's t over seeds), and an * marks one without 0."""


class Report(NamedTuple):
    """A written report: Markdown tables, the same numbers as fractions, and the files of both."""

    text: str
    content: Record
    files: tuple[Path, ...]


def write_report(folder: Path, outcomes: Sequence[Outcome] = ()) -> Report:
    """Write report.md and report.json of the results in a folder.

    Args:
        folder: folder of the trials.
        outcomes: trials that were not measured, to name them.
    """
    results = read_results(folder)
    if not results:
        notes = [f"{one.trial.name}: {one.note}" for one in outcomes]
        raise data_error(f"`{folder}` holds no results", *notes)
    groups = {name: [one for one in results if one.variant == name] for name in VARIANTS}
    groups = {name: group for name, group in groups.items() if group}
    differences = {
        name: {score: difference(group, groups[VARIANTS[name].versus], score) for score in SCORES}
        for name, group in groups.items()
        if VARIANTS[name].versus in groups
    }
    first = results[0]
    seconds = fmean(one.step_seconds for one in results)
    paragraphs = [
        f"# Mask heads on {first.data}",
        f"{first.steps:,} steps a trial, {seconds:.3f} s a step on average. {HOW_TO_READ}",
        markdown_table(["variant", "seeds", *SCORES.values(), "gradient norm", "s/step"], map(_means, groups.values())),
    ]
    if differences:
        rows = [_differences(name, groups, found) for name, found in differences.items()]
        paragraphs.append(markdown_table(["variant", "to", "seeds", *SCORES.values()], rows))
    if outcomes:
        paragraphs.append("\n".join(f"- not measured: {one.trial.name}: {one.note}" for one in outcomes))
    text = "\n\n".join(paragraphs)
    content: Record = {
        "results": [one.model_dump() for one in results],
        "differences": {name: {key: _known(one) for key, one in found.items()} for name, found in differences.items()},
        "missing": [{**one.trial._asdict(), "note": one.note} for one in outcomes],
    }
    files = tuple(folder / name for name in REPORT_FILES)
    pages = (f"{text}\n".encode(), json.dumps(content, indent=1).encode())
    write_together(dict(zip(files, pages, strict=True)))
    return Report(text, content, files)


class Scored(Protocol):
    """The result of a trial that is compared with others: its seed, and its scores, 0..1, -1 where unknown."""

    @property
    def seed(self) -> int:
        """Seed, which the two of a pair share."""

    @property
    def scores(self) -> Mapping[str, float]:
        """Scores by name."""


def difference(group: Sequence[Scored], others: Sequence[Scored], score: str) -> Interval:
    """Return the mean difference of a score over the seeds of both, and its interval; nan where it is unknown."""
    theirs = {one.seed: one.scores[score] for one in others}
    pairs = [(one.scores[score], theirs[one.seed]) for one in group if one.seed in theirs]
    return interval([own - other for own, other in pairs if min(own, other) >= 0])


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of N values and the interval of Student's t; its ends are nan for fewer than two values."""
    if len(values) < 2:
        return Interval(values[0] if values else math.nan, math.nan, math.nan)
    reach = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Interval(fmean(values), fmean(values) - reach, fmean(values) + reach)


def _known(one: Interval) -> list[float | None]:
    return [None if math.isnan(value) else value for value in one]


def mean_cell(scores: Sequence[float]) -> str:
    """Format mean and deviation of the scores of several seeds, 0..1, as percentages; -1 counts as unknown."""
    mean, deviation = spread([one for one in scores if one >= 0])
    around = "" if math.isnan(deviation) else f" ± {100 * deviation:.1f}"
    return ABSENT if math.isnan(mean) else f"{100 * mean:.1f}{around}"


def _means(group: Sequence[TrialResult]) -> list[str]:
    """Return the row of a variant: the mean and deviation of every score."""
    cells = [VARIANTS[group[0].variant].title, f"{len(group)}"]
    cells += [mean_cell([one.scores[score] for one in group]) for score in SCORES]
    norm, seconds = (fmean(getattr(one, name) for one in group) for name in ("gradient_norm", "step_seconds"))
    return [*cells, f"{norm:.1f}", f"{seconds:.3f}"]


def _differences(name: str, groups: dict[str, list[TrialResult]], found: dict[str, Interval]) -> list[str]:
    """Return the row of a variant: the difference of every score, in points."""
    versus = VARIANTS[name].versus
    seeds = {one.seed for one in groups[name]} & {one.seed for one in groups[versus]}
    return [VARIANTS[name].title, VARIANTS[versus].title, f"{len(seeds)}", *map(difference_cell, found.values())]


def difference_cell(one: Interval) -> str:
    """Format a difference and its interval in points; * marks an interval without 0."""
    if math.isnan(one.mean):
        return ABSENT
    if math.isnan(one.low):
        return f"{100 * one.mean:+.1f}"
    return f"{100 * one.mean:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]" + " *" * one.excludes_zero
