"""`python -m benchmarks starts`: published weights against training from scratch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from bcnet_cli import console
from bcnet_cli.options import Device, Json, reserve_files
from bcnet_cli.reporter import ConsoleReporter
from bcnet_core.errors import usage_error


def starts(
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(metavar="DATA_ROOT... [KEY=VALUE]...", help="Data roots, and settings of the recipe."),
    ],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of the results; an existing one is resumed.")
    ],
    recipe: Annotated[str, typer.Option("--recipe", help="The recipe to train.")] = "own_light",
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="A start to train; may be repeated; default all.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each start on each set.")] = 3,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Training steps; by default the recipe's own schedule.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0.01, help="Minutes of training steps, the same for every start.")
    ] = None,
    parallel: Annotated[int, typer.Option("--parallel", min=1, help="Trainings at the same time.")] = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a recipe on real photos from its published weights and from scratch, with several seeds.

    Scores of the validation set are taken at a quarter, half, three quarters and the end of the steps, or whenever the
    recipe's own schedule says. Every start is trained with the same steps, or (--minutes) for the same time.

    On a CPU a training has one thread. Every result is kept: the same command continues.

    **Examples**

    `python -m benchmarks starts street worms -o out/starts --steps 600 --parallel 2`

    `python -m benchmarks starts street -o out/full --variant start --seeds 1`
    """
    from benchmarks.starts.report import REPORT_FILES, write_report
    from benchmarks.starts.run import Sweep, run_trials
    from benchmarks.starts.trials import Plan, plan_trials

    if steps is not None and minutes is not None:
        raise usage_error("--steps and --minutes exclude each other", "both say how long to train")
    roots = {Path(word).resolve().name: Path(word).resolve() for word in words if "=" not in word}
    if not roots:
        raise usage_error("there is no data to train on", "name data roots before the settings")
    overrides = tuple(word for word in words if "=" in word)
    trials = plan_trials(tuple(roots), variant or [], seeds)
    sweep = Sweep(roots, output, Plan(recipe, steps, minutes, overrides), device)
    for trial in trials[:1]:
        sweep.recipe(trial, steps)  # settings that are wrong are wrong for all
    sweep.plan.keep_in(output)
    reserve_files(context, *(output / name for name in REPORT_FILES), overwrite=True, dry_run=False)
    run_trials(sweep, trials, parallel=parallel, reporter=ConsoleReporter())
    report = write_report(output)
    console.out.print(json.dumps(report.content) if as_json else report.text, soft_wrap=True)
    console.show_outputs(*report.files)
