"""`python -m benchmarks evidence`: trials that show what the bilayer head is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from bcnet_cli import console
from bcnet_cli.options import Device, DryRun, Json, Workers, reserve_files
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.evidence.data import EvidencePlan
    from benchmarks.evidence.trials import Trial


def evidence(
    context: typer.Context,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of the trials; an existing one is resumed.")
    ],
    coco: Annotated[
        Path | None,
        typer.Option("--coco", metavar="FILE", help="Also run scenes pasted from this COCO set."),
    ] = None,
    images: Annotated[Path | None, typer.Option("--images", metavar="DIR", help="The folder of its images.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each head on each set.")] = 3,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps of 4 scenes.")] = 1500,
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="Training scenes of a set.")] = 2000,
    held_out: Annotated[int, typer.Option("--held-out", min=1, help="Held-out scenes of a set.")] = 400,
    equal_time: Annotated[
        bool,
        typer.Option("--equal-time/--no-equal-time", help="Also train the cheaper heads for as long as bilayer takes."),
    ] = True,
    workers: Workers = 0,
    device: Device = "auto",
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Only report the results so far; other options are ignored.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Test whether the bilayer head and its occluder supervision help: train it, its ablations and plain heads.

    Every head is trained in the same small detector on easy, hard (heaps of objects of one class and look) and, with
    --coco, pasted scenes, with several seeds. Measures are the IoU of masks in true boxes by visible fraction, with
    paired intervals over seeds and images, and AP; at equal steps and, for cheaper heads, at equal time.

    A training takes minutes on one CPU core: hours in all. Ctrl-C stops; the same command resumes.

    **Examples**

    `python -m benchmarks evidence -o out/evidence --coco instances_train2017.json --images train2017`

    `python -m benchmarks evidence -o quick --seeds 1 --steps 100 --scenes 200 --held-out 50 --no-equal-time`
    """
    from benchmarks.evidence.data import EvidencePlan
    from benchmarks.evidence.report import REPORT_FILES, write_report

    plan = EvidencePlan(scenes, held_out, steps, coco, images)
    if dry_run:
        _show_plan(output, plan, seeds, equal_time=equal_time)
        return
    reserve_files(context, *(output / name for name in REPORT_FILES), overwrite=True, dry_run=False)
    trials = None
    if not report_only:
        trials = _run(output, plan, seeds, equal_time=equal_time, workers=workers, device=device)
    report = write_report(output, trials)
    console.out.print(json.dumps(report.content) if as_json else report.text)
    console.show_outputs(*report.files)


def _run(
    output: Path, plan: EvidencePlan, seeds: int, *, equal_time: bool, workers: int, device: str
) -> Sequence[Trial]:
    """Make the data, run the trials without a result, and return all trials."""
    from benchmarks.evidence.data import prepare_data
    from benchmarks.evidence.run import measure_costs, run_trials
    from benchmarks.evidence.trials import plan_matched, plan_trials

    reporter = ConsoleReporter()
    data = prepare_data(output, plan, workers=workers, reporter=reporter)
    trials = plan_trials(tuple(data), seeds, plan.steps)
    run_trials(output, trials, data, workers=workers, device=device, reporter=reporter)
    if not equal_time:
        return trials
    costs = measure_costs(output, data, device=device, reporter=reporter)
    matched = plan_matched(tuple(data), seeds, plan.steps, costs)
    run_trials(output, matched, data, workers=workers, device=device, reporter=reporter)
    return [*trials, *matched]


def _show_plan(output: Path, plan: EvidencePlan, seeds: int, *, equal_time: bool) -> None:
    """Check the folder and print what would be run."""
    from benchmarks.evidence.data import check_folder, data_sets
    from benchmarks.evidence.trials import CHEAPER, is_measured, plan_trials

    check_folder(output, plan)
    sets = tuple(data_sets(output, plan))
    trials = plan_trials(sets, seeds, plan.steps)
    missing = sum(not is_measured(output, trial) for trial in trials)
    lines = [f"would train and measure {missing} of {len(trials)} trials of {plan.steps:,} steps on {', '.join(sets)}"]
    if equal_time:
        lines.append(f"then {len(CHEAPER) * len(sets) * seeds} trials of equal time, less those with a result")
    console.err.print(Text("\n".join([*lines, f"and write their report to {output}"])))
