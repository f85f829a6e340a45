"""`bcnet synth`: data sets whose true layer order is known, because they are composed here."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from bcnet_cli import console
from bcnet_cli.options import DryRun, Json, Overwrite, Workers
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from bcnet_core.synth.writer import SplitSummary

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Compose data sets that know what hides what: visible, amodal and occluder masks, true layers.",
)


@app.callback()
def _group() -> None:
    """Keep `shapes` a subcommand although it is the only one."""


@app.command()
def shapes(
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")],
    images: Annotated[int, typer.Option("--images", min=1, help="Scenes to train on.")] = 2000,
    val_images: Annotated[int, typer.Option("--val-images", min=1, help="Scenes to evaluate on.")] = 300,
    size: Annotated[int, typer.Option("--size", min=64, max=4096, help="Side of the images in pixels.")] = 128,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same bytes.")] = 0,
    workers: Workers = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Compose scenes of overlapping shapes (disc, box, star) and write them as a COCO data set.

    The folder holds train/ and val/ with PNG images, and annotations/instances_train.json and
    annotations/instances_val.json. Every annotation has the visible mask, the whole (amodal) mask, the occluder
    region, the hidden share (occlusion_rate) and the layer, 0 at the bottom.

    **Examples**

    `bcnet synth shapes -o shapes`

    `bcnet synth shapes -o big --images 10000 --val-images 1000 --size 256 --seed 7 --workers 4`
    """
    from bcnet_core.synth.writer import check_request, write_shapes

    check_request(output, images=images, val_images=val_images, size=size, seed=seed, overwrite=overwrite)
    if dry_run:
        plan = f"would write {images:,} + {val_images:,} scenes of {size} x {size} pixels to {output}"
        console.err.print(Text(plan))
        return
    summaries = write_shapes(
        output, images=images, val_images=val_images, size=size, seed=seed, workers=workers,
        overwrite=overwrite, reporter=ConsoleReporter(),
    )  # fmt: skip
    if as_json:
        splits = [summary._asdict() for summary in summaries]
        console.out.print(json.dumps({"root": str(output), "splits": splits}))
    else:
        _show(summaries)
    console.show_outputs(output, then=f"bcnet train shapes --data-root {shlex.quote(str(output))}")


def _show(summaries: list[SplitSummary]) -> None:
    table = console.make_table("Composed scenes", "split", "images", "instances", "occluded >= 10 %", "mean rate")
    for summary in summaries:
        table.add_row(
            summary.split, f"{summary.images:,}", f"{summary.instances:,}",
            f"{summary.occluded:.1%}", f"{summary.mean_occlusion_rate:.1%}",
        )  # fmt: skip
    console.out.print(table)
