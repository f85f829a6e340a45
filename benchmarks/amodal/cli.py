"""`python -m benchmarks amodal`: what whole masks bring and cost, on sets whose hidden parts are known."""

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

STEPS = 600


def amodal(
    context: typer.Context,
    words: Words,
    *,
    output: Output,
    recipe: RecipeName = "own_amodal",
    variant: Chosen = None,
    seeds: Seeds = 3,
    steps: Steps = None,
    minutes: Minutes = None,
    parallel: Parallel = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compare a recipe that predicts whole masks with plain heads, and with itself without one of its parts.

    All train for 600 steps, or --steps, or --minutes, on sets with whole masks: drawn scenes, objects pasted over each
    other, or imported amodal sets. Measures are AP of visible and of whole masks and boxes, and, inside true boxes, the
    IoU of the visible mask, of the whole one, and of the hidden part where the visible mask is given (C2F-Seg, ICCV
    2023), and the share of overlapping pairs whose order is right; with paired intervals over seeds. The last column is
    the IoU with the whole mask that the true visible mask alone would have.

    On a CPU a training has one thread. Every result is kept: the same command continues.

    **Examples**

    `python -m benchmarks amodal pasted -o out/amodal --parallel 2`

    `python -m benchmarks amodal pasted -o out/two --variant ours --variant plain_only --steps 1500`
    """
    from benchmarks.amodal.measures import WHOLE_MASKS, require_wholes
    from benchmarks.amodal.variants import VARIANTS
    from benchmarks.study.trials import Study, Trial

    roots, plan = read_plan(recipe, words, steps=steps, minutes=minutes, default_steps=STEPS)
    study = Study(VARIANTS, roots, output, plan, device, WHOLE_MASKS)
    for data in roots:  # before anything is trained
        require_wholes(study.recipe(Trial(data, "ours", 0), None))
    run_study(context, study, "Whole masks", variants=variant or [], seeds=seeds, parallel=parallel, as_json=as_json)
