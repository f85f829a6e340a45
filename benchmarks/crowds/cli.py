"""`python -m benchmarks crowds`: the recommended recipe against Mask R-CNN as others build it, on real crowds."""

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

MINUTES = 4.0


def crowds(
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
    """Compare a recipe on real crowds with its plain head, torchvision's MaskRCNN and detectron2's Mask R-CNN.

    All have the same backbone, weights, images, augmentation and optimizer, and train for the same time: 4 minutes of
    steps, or --minutes; or the same --steps. The others are trained twice, with the settings that they usually have
    and with those of the recipe. Measures are AP of masks, by occlusion, of boundaries and of boxes, the recall of
    occluded objects, and the IoU of masks in true boxes, with paired intervals over seeds; and what bounds the recipe.

    On a CPU a training has one thread. Every result is kept: the same command continues.

    **Examples**

    `python -m benchmarks crowds worms granules street -o out/crowds --parallel 2`

    `python -m benchmarks crowds worms -o out/worms --variant ours --variant torchvision --steps 600`
    """
    from benchmarks.crowds.variants import VARIANTS, has_detectron2
    from benchmarks.study.trials import Study

    roots, plan = read_plan(recipe, words, steps=steps, minutes=minutes, default_minutes=MINUTES)
    study = Study(VARIANTS, roots, output, plan, device)
    installed = [name for name in VARIANTS if has_detectron2() or not name.startswith("detectron2")]
    run_study(
        context, study, "Real crowds", variants=variant or installed, seeds=seeds, parallel=parallel, as_json=as_json
    )
