"""`bcnet split-occ`: the images of a COCO file in which instances occlude each other."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from bcnet_cli import console
from bcnet_cli.options import DryRun, Json, Overwrite, reserve_files
from bcnet_cli.reporter import ConsoleReporter
from bcnet_core.config.choices import Measure, Pairs
from bcnet_core.errors import usage_error

BAR = 30
"""Length of the longest bar of the histogram, in characters."""

Source = Annotated[Path, typer.Argument(metavar="IN.json", help="COCO instances file (.json, .json.gz).")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write; OUT.manifest.json appears beside it.")]
Threshold = Annotated[float, typer.Option("--threshold", help="The rate from which on an instance is occluded.")]
MeasureOption = Annotated[
    Measure,
    typer.Option(
        "--measure", help="Box IoU; box overlap by the smaller box; neighbors' masks in the box by the own mask."
    ),
]
PairsOption = Annotated[
    Pairs, typer.Option("--pairs", help="Take images with any occluded instance, or with all occluded.")
]
Ids = Annotated[
    Path | None, typer.Option("--ids", help="Take exactly these images: numbers, a manifest, or a COCO file.")
]
Stats = Annotated[bool, typer.Option("--stats", help="Print histograms of the occlusion of instances and images.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw the histograms.")]
SameClass = Annotated[bool, typer.Option("--same-class", help="Only neighbors of the same category occlude.")]
Crowd = Annotated[bool, typer.Option("--crowd", help="Count crowd annotations as instances.")]


def split_occ(
    context: typer.Context,
    source: Source,
    *,
    output: Output,
    threshold: Threshold = 0.2,
    measure: MeasureOption = "iou",
    pairs: PairsOption = "any",
    ids: Ids = None,
    stats: Stats = False,
    plot: Plot = None,
    same_class: SameClass = False,
    crowd: Crowd = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write the occluded images of a COCO file with all their annotations, as COCO-OCC does, and a manifest.

    The rule behind COCO-OCC was never published, so the manifest records the rule, the checksum of the source, and
    the image ids. The same input and options give the same bytes.

    **Examples**

    `bcnet split-occ annotations/instances_val2017.json -o instances_val2017_occ.json --stats`

    `bcnet split-occ instances_val2017.json -o heavy.json --measure mask --same-class --plot heavy.png`

    `bcnet split-occ instances_val2017.json -o occ.json --ids official_image_ids.txt`
    """
    from bcnet_core.annotations.coco import read_coco
    from bcnet_core.annotations.split import SplitRule, plot_histogram, read_ids, split_occluded
    from bcnet_core.files.json_files import write_together
    from bcnet_core.files.outputs import check_output_file

    rule = SplitRule(threshold=threshold, measure=measure, pairs=pairs, same_class=same_class, crowd=crowd)
    check_output_file(output, overwrite=overwrite)
    outputs = [output, output.with_name(output.name.removesuffix(".gz").removesuffix(".json") + ".manifest.json")]
    if plot is not None:
        if plot.suffix.lower() != ".png":
            raise usage_error(f"the plot is a PNG, but `{plot}` has another suffix", "--plot occlusion.png")
        outputs.append(plot)
    inputs = [source] if ids is None else [source, ids]
    reserve_files(context, *outputs, inputs=inputs, overwrite=overwrite, dry_run=dry_run)
    wanted = None if ids is None else read_ids(ids)
    content, manifest = split_occluded(read_coco(source), rule=rule, ids=wanted)
    if not dry_run:
        pictures = [] if plot is None else [plot_histogram(manifest)]
        write_together(dict(zip(outputs, [content, manifest, *pictures], strict=True)))
    _show(manifest, stats=stats, as_json=as_json)
    if not content["images"] and ids is None:
        ConsoleReporter().warning("no image is occluded by this rule; a lower --threshold takes more")
    then = f"bcnet viz {shlex.quote(str(output))} --images FOLDER --most-occluded 10 -o gallery"
    console.show_outputs(*outputs, then=then, dry_run=dry_run)


def _show(manifest: dict[str, Any], *, stats: bool, as_json: bool) -> None:
    if as_json:
        console.out.print(json.dumps(manifest))
        return
    rule, counts = manifest["rule"], manifest["counts"]
    occluded = f"occluded ({rule['measure']} >= {rule['threshold']:g})"
    table = console.make_table("Occluded split", "", "split", "source")
    for name, label in {**{key: key for key in counts["split"]}, "occluded": occluded}.items():
        table.add_row(label, f"{counts['split'][name]:,}", f"{counts['source'][name]:,}")
    console.out.print(table)
    if stats:
        for unit in ("instances", "images"):
            _show_histogram(manifest, unit)


def _show_histogram(manifest: dict[str, Any], unit: str) -> None:
    histogram, levels = manifest["histogram"], manifest["levels"]
    inside, everything = histogram["split"][unit], histogram["source"][unit]
    most = max(1, *everything)
    names = ["0", *(f"{low:g} - {high:g}" for low, high in pairwise(histogram["edges"]))]
    table = console.make_table(f"Occlusion of {unit}", "rate", "split", "source")
    table.add_column("", justify="left")
    for name, part, count in zip(names, inside, everything, strict=True):
        table.add_row(name, f"{part:,}", f"{count:,}", "#" * round(BAR * count / most))
    table.add_section()
    for level, start in levels["from"].items():
        counts = (f"{levels[part][unit][level]:,}" for part in ("split", "source"))
        table.add_row(f"{level} (from {start:g})", *counts)
    console.out.print(table)
