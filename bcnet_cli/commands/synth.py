"""`bcnet synth`: composed data sets with a known layer order."""

from __future__ import annotations

import json
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from bcnet_cli import console
from bcnet_cli.options import DryRun, ImageSize, Json, Overwrite, Seed, Workers, parse_range, parse_size, reserve
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from bcnet_core.synth.plan import PastePlan
    from bcnet_core.synth.scenes import SplitSummary

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Compose data sets that know what hides what: visible, amodal and occluder masks, true layers.",
)

Output = Annotated[Path, typer.Option("--output", "-o", help="The folder to create.")]
Occlusion = Annotated[
    str, typer.Option("--occlusion", metavar="A..B", help="The hidden share of an object, if others hide any of it.")
]
Scale = Annotated[
    str, typer.Option("--scale", metavar="A..B", help="Factor on the size an object had in its own image.")
]
Objects = Annotated[
    str, typer.Option("--objects", metavar="A..B", help="Objects in a scene; those that do not fit are left out.")
]
MinArea = Annotated[
    int, typer.Option("--min-area", min=16, help="Smallest area of an object in its own image, in pixels.")
]
Bank = Annotated[int, typer.Option("--bank", min=10, help="Maximum number of objects to cut out, chosen at random.")]


@app.command()
def shapes(
    context: typer.Context,
    *,
    output: Output,
    images: Annotated[int, typer.Option("--images", min=1, help="Scenes to train on.")] = 2000,
    val_images: Annotated[int, typer.Option("--val-images", min=1, help="Scenes to evaluate on.")] = 300,
    size: Annotated[int, typer.Option("--size", min=64, max=4096, help="Side of the images in pixels.")] = 128,
    hard: Annotated[
        bool, typer.Option("--hard", help="Heaps of one class in one look: only the layers tell the objects apart.")
    ] = False,
    seed: Seed = 0,
    workers: Workers = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Compose scenes of overlapping shapes (disc, box, star, figure, worm) and write them as a COCO data set.

    The folder holds train/ and val/ with PNG images, and annotations/instances_train.json and
    annotations/instances_val.json. Every annotation has the visible mask, the whole (amodal) mask, the occluder
    region, the hidden share (occlusion_rate) and the layer, 0 at the bottom.

    **Examples**

    `bcnet synth shapes -o shapes`

    `bcnet synth shapes -o heaps --hard --images 10000 --val-images 1000 --size 256 --seed 7 --workers 4`
    """
    from bcnet_core.synth.sets import check_shapes, write_shapes

    check = partial(check_shapes, images=images, val_images=val_images, size=size, seed=seed, overwrite=overwrite)
    reserve(context, output, check=check, dry_run=dry_run)
    if dry_run:
        plan = f"would write {images:,} + {val_images:,} {'hard ' * hard}scenes of {size} x {size} pixels to {output}"
        console.err.print(Text(plan))
        if as_json:
            splits = [{"split": "train", "images": images}, {"split": "val", "images": val_images}]
            console.out.print(json.dumps({"root": str(output), "splits": splits}))
        return
    summaries = write_shapes(
        output, images=images, val_images=val_images, size=size, hard=hard, seed=seed, workers=workers,
        overwrite=overwrite, reporter=ConsoleReporter(),
    )  # fmt: skip
    _show(summaries, root=output, as_json=as_json)
    console.show_outputs(output, then=f"bcnet train shapes --data-root {shlex.quote(str(output))}")


@app.command()
def paste(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="COCO.json", help="The set to cut from, with masks.")],
    *,
    images: Annotated[Path, typer.Option("--images", metavar="DIR", help="The folder of its images.")],
    output: Output,
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="Scenes to train on.")] = 2000,
    val_scenes: Annotated[int, typer.Option("--val-scenes", min=1, help="Scenes to evaluate on.")] = 300,
    size: ImageSize = "480x640",
    occlusion: Occlusion = "0.2..0.6",
    scale: Scale = "0.7..1.4",
    objects: Objects = "3..6",
    min_area: MinArea = 1024,
    bank: Bank = 5000,
    seed: Seed = 0,
    workers: Workers = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Cut complete objects out of a COCO data set and compose scenes in which they hide each other.

    An object is complete if nothing can hide it: not at the border, in one piece, touching no other object. The
    backgrounds are the set's own images with their objects painted over; a fifth of the images is reserved for the val
    scenes. The folder has the layout of COCO (annotations/, train2017/, val2017/), so every recipe finds it; bank/
    holds what was cut out.

    **Examples**

    `bcnet synth paste coco/annotations/instances_train2017.json --images coco/train2017 -o pasted --scenes 100000`

    `bcnet synth paste own.json --images photos -o pasted --occlusion 0.4..0.8 --objects 5..10 --dry-run`
    """
    from bcnet_core.annotations.coco import read_coco
    from bcnet_core.synth.composition import PasteRule
    from bcnet_core.synth.plan import plan_pasted
    from bcnet_core.synth.sets import PasteRequest, check_pasted, write_pasted

    number = parse_range(objects, "--objects", whole=True)
    rule = PasteRule(
        parse_range(occlusion, "--occlusion"), parse_range(scale, "--scale"), (int(number[0]), int(number[1]))
    )
    height, width = parse_size(size)
    request = PasteRequest(scenes, val_scenes, (height, width), seed)
    check = partial(check_pasted, source=source, images=images, request=request, overwrite=overwrite)
    reserve(context, output, check=check, dry_run=dry_run)
    reporter = ConsoleReporter()
    plan = plan_pasted(
        read_coco(source), images, min_area=min_area, most_objects=bank, seed=seed, workers=workers, reporter=reporter
    )
    if dry_run or not as_json:
        _show_plan(plan, as_json=as_json)
    if dry_run:
        console.err.print(Text(f"would write {scenes:,} + {val_scenes:,} scenes of {size} pixels to {output}"))
        return
    summaries = write_pasted(output, plan, request, rule=rule, workers=workers, overwrite=overwrite, reporter=reporter)
    _show(summaries, root=output, as_json=as_json)
    console.show_outputs(output, then=f"bcnet train tiny --data-root {shlex.quote(str(output))}")


def _show_plan(plan: PastePlan, *, as_json: bool) -> None:
    from bcnet_core.synth.plan import FLAWS

    counts = plan.as_json()
    if as_json:
        console.out.print(json.dumps(counts))
        return
    table = console.make_table("Contents of the set", "", "count")
    table.add_row("images", f"{counts['images']:,}")
    table.add_row("annotations", f"{counts['annotations']:,}")
    table.add_row("complete objects", f"{counts['complete']:,}")
    for flaw, count in plan.found.flaws.items():
        table.add_row(f"left out: {FLAWS[flaw]}", f"{count:,}")
    table.add_section()
    for name, parts in counts["splits"].items():
        for part, count in parts.items():
            table.add_row(f"{name}: {part}", f"{count:,}")
    console.out.print(table)


def _show(summaries: list[SplitSummary], *, root: Path, as_json: bool) -> None:
    if as_json:
        splits = [summary._asdict() for summary in summaries]
        console.out.print(json.dumps({"root": str(root), "splits": splits}))
        return
    table = console.make_table("Composed scenes", "split", "images", "instances", "occluded >= 10 %", "mean rate")
    for summary in summaries:
        table.add_row(
            summary.split, f"{summary.images:,}", f"{summary.instances:,}",
            f"{summary.occluded:.1%}", f"{summary.mean_occlusion_rate:.1%}",
        )  # fmt: skip
    console.out.print(table)
