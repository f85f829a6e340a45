"""`python -m benchmarks heads`: trials that show which part of the mask head costs AP on a real crowd."""

from __future__ import annotations

import typer

from bcnet_cli.options import Device, Json
from benchmarks.study.command import (
    Chosen,
    Minutes,
    Output,
    Parallel,
    Seeds,
    Steps,
    Words,
    read_plan,
    run_study,
)

STEPS = 600


def heads(
    context: typer.Context,
    words: Words,
    *,
    output: Output,
    variant: Chosen = None,
    seeds: Seeds = 3,
    steps: Steps = None,
    minutes: Minutes = None,
    parallel: Parallel = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train variants of the mask head on a real crowd, each one factor away from another, with several seeds.

    All train the same light Faster R-CNN from scratch for 600 steps, or --steps, or --minutes; torchvision's own
    MaskRCNN class with the same backbone and settings is the peer. Measures are those of `crowds`, with paired
    intervals over seeds.

    On a CPU a training has one thread. Every result is kept: the same command continues.

    **Examples**

    `python -m benchmarks heads worms -o out/heads --parallel 2`

    `python -m benchmarks heads worms -o out/two --variant two_layers --variant plain --parallel 6 --device cuda`
    """
    from benchmarks.heads.variants import RECIPE, VARIANTS
    from benchmarks.study.trials import Study

    roots, plan = read_plan("tiny", words, steps=steps, minutes=minutes, default_steps=STEPS, settings=RECIPE)
    study = Study(VARIANTS, roots, output, plan, device)
    run_study(context, study, "Mask heads", variants=variant or [], seeds=seeds, parallel=parallel, as_json=as_json)
