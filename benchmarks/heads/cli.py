"""`python -m benchmarks heads`: trials that show which part of the mask head costs AP on a real crowd."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcnet_cli import console
from bcnet_cli.options import Device, Json, reserve_files
from bcnet_cli.reporter import ConsoleReporter
from bcnet_core.errors import BCNetError

if TYPE_CHECKING:
    from benchmarks.heads.run import Outcome, Sweep


def heads(
    context: typer.Context,
    root: Annotated[Path, typer.Argument(metavar="DATA_ROOT", help="Data root, laid out as COCO is.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the recipe, for every trial.")
    ] = None,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of the results; an existing one is resumed.")
    ],
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="A variant to train; may be repeated; default all.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each variant.")] = 3,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps, at most if there is a budget.")] = 600,
    parallel: Annotated[int, typer.Option("--parallel", min=1, help="Trainings at the same time.")] = 1,
    budget: Annotated[
        float | None,
        typer.Option("--budget", min=1, help="Seconds for everything: fewer steps, then fewer trials, to end in time."),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train variants of the mask head on a real crowd, each one factor away from another, with several seeds.

    All train the same light Faster R-CNN from scratch; torchvision's own MaskRCNN class with the same backbone is the
    peer. Measures are box and mask AP, AP of heavily occluded instances, and the IoU of masks in true boxes, with
    paired intervals over seeds.

    With --budget a few steps are timed first. Every result is kept: the same command continues.

    **Examples**

    `python -m benchmarks heads worms -o out/heads --seeds 3`

    `python -m benchmarks heads worms -o out/heads --parallel 12 --budget 330 --device cuda`
    """
    from benchmarks.heads.report import REPORT_FILES, write_report
    from benchmarks.heads.run import Sweep

    ends = float("inf") if budget is None else time.time() + budget
    reserve_files(context, *(output / name for name in REPORT_FILES), overwrite=True, dry_run=False)
    sweep = Sweep(root, output, steps, device, tuple(overrides or ()), ends)
    missing = _run(sweep, variant or [], seeds, parallel)
    report = write_report(output, missing)
    console.out.print(json.dumps(report.content) if as_json else report.text, soft_wrap=True)
    console.show_outputs(*report.files)
    if missing:
        raise BCNetError(f"{len(missing)} trials were not measured", "give the same command again to continue")


def _run(sweep: Sweep, variants: list[str], seeds: int, parallel: int) -> list[Outcome]:
    """Choose the steps if there is a budget, run the trials, and return those that were not measured."""
    from benchmarks.heads.run import choose_steps, run_trials
    from benchmarks.heads.trials import check_plan, plan_trials, read_results

    reporter = ConsoleReporter()
    trials = plan_trials(variants, seeds)
    measured = read_results(sweep.folder)
    for trial in trials[:1]:
        sweep.recipe(trial)  # settings that are wrong are wrong for all
    if sweep.deadline < float("inf"):
        chosen = measured[0].steps if measured else choose_steps(sweep, trials, parallel=parallel)
        sweep = replace(sweep, steps=chosen)
        reporter.info(f"{len(trials)} trials of {sweep.steps:,} steps, {parallel} at a time")
    check_plan(sweep.folder, sweep.root.name, sweep.steps)
    return run_trials(sweep, trials, parallel=parallel, reporter=reporter)
