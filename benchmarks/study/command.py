"""What the commands of the studies share: their words and options, and how they run and report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcnet_cli import console
from bcnet_cli.options import reserve_files
from bcnet_cli.reporter import ConsoleReporter
from bcnet_core.errors import BCNetError, usage_error

if TYPE_CHECKING:
    from benchmarks.study.trials import Plan, Study

Words = Annotated[
    list[str], typer.Argument(metavar="DATA_ROOT... [KEY=VALUE]...", help="Data roots, and settings of the recipe.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="The folder of the results; an existing one is resumed.")]
RecipeName = Annotated[str, typer.Option("--recipe", help="The recipe to train.")]
Chosen = Annotated[
    list[str] | None, typer.Option("--variant", help="A variant to train; may be repeated; default all.")
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each variant on each set.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Training steps.")]
Minutes = Annotated[
    float | None, typer.Option("--minutes", min=0.001, help="Minutes of training steps, the same for every variant.")
]
Parallel = Annotated[int, typer.Option("--parallel", min=1, help="Trainings at the same time.")]


def split_words(words: Sequence[str]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the data roots by the name of their set, and the overrides.

    Raises:
        BCNetError: if there is no data root, or two of one name.
    """
    paths = [Path(word).resolve() for word in words if "=" not in word]
    roots = {path.name: path for path in paths}
    if not roots:
        raise usage_error("there is no data to train on", "name data roots before the settings")
    if len(roots) < len(set(paths)):
        raise usage_error("two data roots have one name, by which results are told apart", "rename one of the folders")
    return roots, tuple(word for word in words if "=" in word)


def read_plan(
    recipe: str,
    words: Sequence[str],
    *,
    steps: int | None,
    minutes: float | None,
    default_steps: int | None = None,
    default_minutes: float | None = None,
    settings: Sequence[str] = (),
) -> tuple[dict[str, Path], Plan]:
    """Return the data roots by the name of their set, and the plan of a study.

    Args:
        recipe: to train.
        words: data roots, and settings of the recipe.
        steps: that were asked for.
        minutes: that were asked for.
        default_steps: length of the trials if neither is; without any, it is the recipe's own.
        default_minutes: the same in minutes.
        settings: of the recipe, before those of the words.

    Raises:
        BCNetError: if the words name no data, or both lengths are given.
    """
    from benchmarks.study.trials import Plan

    check_length(steps, minutes)
    roots, overrides = split_words(words)
    if steps is None and minutes is None:
        steps, minutes = default_steps, default_minutes
    return roots, Plan(recipe, steps, minutes, (*settings, *overrides))


def check_length(steps: int | None, minutes: float | None) -> None:
    """Reject --steps and --minutes together."""
    if steps is not None and minutes is not None:
        raise usage_error("--steps and --minutes exclude each other", "both say how long to train")


def run_study(
    context: typer.Context,
    study: Study,
    title: str,
    *,
    variants: Sequence[str],
    seeds: int,
    parallel: int,
    as_json: bool,
) -> None:
    """Run the trials of a study that have no result yet, and print and write the report.

    Raises:
        BCNetError: if a setting is wrong, the folder belongs to another plan, or a trial was not measured.
    """
    from benchmarks.study.report import REPORT_FILES, write_report
    from benchmarks.study.run import run_trials

    trials = study.plan_trials(variants, seeds)
    for trial in {one.variant: one for one in trials}.values():
        study.recipe(trial, study.plan.steps)  # before anything is written
    study.plan.keep_in(study.folder)
    reserve_files(context, *(study.folder / name for name in REPORT_FILES), overwrite=True, dry_run=False)
    missing = run_trials(study, trials, parallel=parallel, reporter=ConsoleReporter())
    report = write_report(study, title, missing)
    console.out.print(json.dumps(report.content) if as_json else report.text, soft_wrap=True)
    console.show_outputs(*report.files)
    if missing:
        raise BCNetError(f"{len(missing)} trials were not measured", "give the same command again to continue")
