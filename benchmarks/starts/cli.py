"""`python -m benchmarks starts`: published weights against training from scratch."""

from __future__ import annotations

import typer

from bcnet_cli.options import Device, Json
from benchmarks.study.command import (
    Chosen,
    Minutes,
    Output,
    Parallel,
    RecipeName,
    Seeds,
    Steps,
    Words,
    read_plan,
    run_study,
)


def starts(
    context: typer.Context,
    words: Words,
    *,
    output: Output,
    recipe: RecipeName = "own_light",
    variant: Chosen = None,
    seeds: Seeds = 3,
    steps: Steps = None,
    minutes: Minutes = None,
    parallel: Parallel = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a recipe on real photos from its published weights and from scratch, with several seeds.

    Every start is trained for the recipe's own schedule, or for the same --steps, or for the same time (--minutes).
    Mask AP is taken at a quarter, half and three quarters of the steps, all scores after the last.

    On a CPU a training has one thread. Every result is kept: the same command continues.

    **Examples**

    `python -m benchmarks starts street worms -o out/starts --steps 600 --parallel 2`

    `python -m benchmarks starts street -o out/full --variant start --seeds 1`
    """
    from benchmarks.starts.variants import EVALUATIONS, VARIANTS
    from benchmarks.study.trials import Study

    roots, plan = read_plan(recipe, words, steps=steps, minutes=minutes)
    study = Study(VARIANTS, roots, output, plan, device, evaluations=EVALUATIONS)
    run_study(context, study, "Starts", variants=variant or [], seeds=seeds, parallel=parallel, as_json=as_json)
