"""Training and measurement of the trials, several at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from itertools import islice
from statistics import fmean, median
from typing import NamedTuple

from bcnet_core.distributed import choose_device
from bcnet_core.errors import BCNetError
from bcnet_core.evaluation.results import to_json
from bcnet_core.files.json_files import read_json, write_json
from bcnet_core.files.workers import parallel_map
from bcnet_core.reporting import Reporter
from bcnet_core.weights.starts import fetch_start
from benchmarks.study.measures import mask_ap, measure_oracles
from benchmarks.study.training import Step, Training, one_thread
from benchmarks.study.trials import COSTS_FILE, DETECTIONS, Study, Trial, TrialResult

ROUNDS, ROUND_STEPS, WARM_UP = 3, 8, 2
"""Measurement of costs: in every round each variant trains `ROUND_STEPS` steps, after `WARM_UP` that do not count."""

Costs = dict[str, dict[str, float]]
"""Seconds of a training step by data set and variant."""


class Outcome(NamedTuple):
    """The end of a trial: whether it was measured, and a line about it."""

    trial: Trial
    measured: bool
    note: str


def run_trials(study: Study, trials: Sequence[Trial], *, parallel: int, reporter: Reporter) -> list[Outcome]:
    """Train and measure the trials that have no result yet; a trial that fails does not stop the others.

    Args:
        study: the study.
        trials: all trials.
        parallel: trainings at the same time.
        reporter: receives progress.

    Returns:
        The trials that were not measured, and why.
    """
    missing = [trial for trial in trials if not study.path(trial).exists()]
    for source in {study.recipe(trial, None).model.init for trial in missing} - {None}:
        fetch_start(str(source), reporter)
    costs = measure_costs(study, missing, parallel=parallel, reporter=reporter) if study.plan.minutes else {}
    outcomes = []
    with (
        reporter.progress("trials", len(missing)) as progress,
        parallel_map(partial(run_trial, study, costs), missing, workers=parallel, most=len(missing)) as done,
    ):
        for outcome in done:
            outcomes.append(outcome)
            progress.advance(note=f"{outcome.trial.name}: {outcome.note}")
    return [outcome for outcome in outcomes if not outcome.measured]


def run_trial(study: Study, costs: Costs, trial: Trial) -> Outcome:
    """Train and measure one trial, and write its result."""
    minutes = study.plan.minutes
    steps = study.plan.steps if minutes is None else max(1, round(60 * minutes / costs[trial.data][trial.variant]))
    try:
        with one_thread(study.device):
            result = _measure_trial(study, trial, steps)
    except (BCNetError, RuntimeError) as error:
        return Outcome(trial, measured=False, note=f"{type(error).__name__}: {error}")
    write_json(study.path(trial), result.model_dump(mode="json"))
    return Outcome(trial, measured=True, note=f"mask AP {100 * result.scores['mask_AP']:.1f}, {result.seconds:.0f} s")


def _measure_trial(study: Study, trial: Trial, steps: int | None) -> TrialResult:
    started, variant = time.perf_counter(), study.variants[trial.variant]
    training = Training(study.recipe(trial, steps), variant, study.device)
    last_step = training.recipe.solver.steps
    due = {-(-last_step * part // study.evaluations) for part in range(1, study.evaluations)}
    rows: list[Step] = []
    curve: dict[int, float] = {}
    spent, resumed = 0.0, time.perf_counter()
    for row in training.run():
        rows.append(row)
        if len(rows) in due:
            float(row.norm)  # waits for a GPU
            spent += time.perf_counter() - resumed
            curve[len(rows)] = mask_ap(training.state.best_detector.eval(), training.recipe)
            resumed = time.perf_counter()
    norms = [float(row.norm) for row in rows]
    spent += time.perf_counter() - resumed
    detector = training.state.best_detector.eval()
    measured = study.measurement.measure(detector, training.recipe)
    oracles = measure_oracles(detector, training.recipe, measured.results) if variant.oracles else {}
    write_json(study.path(trial, DETECTIONS), [to_json(one) for one in measured.results])
    last = rows[-max(1, len(rows) // 10) :]
    return TrialResult(
        **trial._asdict(),
        steps=last_step,
        seconds=time.perf_counter() - started,
        step_seconds=spent / last_step,
        gradient_norm=fmean(norms),
        losses={name: fmean(float(row.losses[name]) for row in last) for name in last[0].losses},
        scores=measured.scores,
        oracles=oracles,
        curve={**curve, last_step: measured.scores["mask_AP"]},
    )


def measure_costs(study: Study, trials: Sequence[Trial], *, parallel: int, reporter: Reporter) -> Costs:
    """Time a training step of every variant on every set, and keep the seconds in the folder's `costs.json`.

    Variants of a set alternate in one process on the same images, so that other load on the machine affects them alike;
    the median of the rounds is taken. On a CPU it is the processor's time of the one thread, which other programs on
    its core do not add to. Variants that join a set later are timed beside one that is known there, and get as much
    more or less time as they take beside it.
    """
    path = study.folder / COSTS_FILE
    costs: Costs = read_json(path) if path.exists() else {}
    pairs = dict.fromkeys((one.data, one.variant) for one in trials)
    missing = {
        data: [variant for other, variant in pairs if other == data and variant not in costs.get(data, {})]
        for data in dict.fromkeys(one.data for one in trials)
    }
    tasks = [(data, [*variants, *list(costs.get(data, {}))[:1]]) for data, variants in missing.items() if variants]
    with (
        reporter.progress("seconds a step", len(tasks)) as progress,
        parallel_map(partial(_costs_of, study), tasks, workers=parallel, most=len(tasks)) as done,
    ):
        for (data, _), found in zip(tasks, done, strict=True):
            known = costs.get(data, {})
            scale = next((seconds / found[name] for name, seconds in known.items() if name in found), 1.0)
            costs[data] = {**{name: scale * seconds for name, seconds in found.items()}, **known}
            write_json(path, costs)
            progress.advance(note=data + ": " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()))
    return costs


def _costs_of(study: Study, task: tuple[str, Sequence[str]]) -> dict[str, float]:
    """Return the seconds of a step of the variants on one set."""
    data, variants = task
    clock = time.process_time if choose_device(study.device).type == "cpu" else time.perf_counter
    steps = WARM_UP + ROUNDS * ROUND_STEPS
    spent: dict[str, list[float]] = {name: [] for name in variants}
    with one_thread(study.device):
        runs = {
            name: Training(study.recipe(Trial(data, name, 0), steps), study.variants[name], study.device).run()
            for name in variants
        }
        for length in (WARM_UP, *[ROUND_STEPS] * ROUNDS):
            for name, run in runs.items():
                started = clock()
                for step in islice(run, length):
                    float(step.norm)  # waits for a GPU
                spent[name].append((clock() - started) / length)
    return {name: median(seconds[1:]) for name, seconds in spent.items()}
