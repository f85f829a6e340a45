"""`bcnet annotate`: COCO annotations that know the occluder of every instance."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from bcnet_cli import console
from bcnet_cli.options import DryRun, Json, Overwrite, Workers
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from bcnet_core.annotations.build import AnnotateSummary, Reason

REASONS: dict[Reason, str] = {
    "missing": "no segmentation",
    "empty": "a segmentation without a pixel",
    "degenerate": "polygons without an area",
    "unreadable": "a segmentation that cannot be read",
}


def annotate(
    source: Annotated[Path, typer.Argument(metavar="IN.json", help="COCO instances file (.json, .json.gz).")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write (.json, .json.gz).")],
    output_format: Annotated[
        Literal["polygon", "rle"], typer.Option("--format", help="How occluder regions are stored; both are exact.")
    ] = "polygon",
    min_iou: Annotated[
        float, typer.Option("--min-iou", help="Only boxes that overlap with a larger IoU occlude each other.")
    ] = 0.05,
    min_area: Annotated[
        int, typer.Option("--min-area", help="Regions must have more pixels than this to be kept.")
    ] = 20,
    crowd: Annotated[bool, typer.Option("--crowd", help="Let crowd annotations occlude others.")] = False,
    workers: Workers = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Add the occluder region of every instance to a COCO file (key `bg_object_segmentation`).

    The region of an instance is what the masks of its neighbours cover of its box. All the rest of the file stays
    as it is: ids, order, info, licenses, unknown keys. What has no readable mask occludes nobody, keeps its entry
    and is counted.

    **Examples**

    `bcnet annotate annotations/instances_train2017.json -o bilayer_train2017.json`

    `bcnet annotate instances_val2017.json -o bilayer_val2017.json.gz --format rle --crowd --workers 2`
    """
    from bcnet_core.annotations.build import annotate_coco
    from bcnet_core.annotations.coco import read_coco
    from bcnet_core.annotations.occluder import OccluderRule
    from bcnet_core.outputs import refuse_existing, refuse_input, write_json

    rule = OccluderRule(min_iou=min_iou, min_area=min_area, crowd=crowd)
    refuse_input(output, source)
    refuse_existing(output, overwrite=overwrite)
    content, summary = annotate_coco(
        read_coco(source), rule=rule, output_format=output_format, workers=workers, reporter=ConsoleReporter()
    )
    if not dry_run:
        write_json(output, content)
    _show(summary, as_json=as_json)
    if dry_run:
        console.err.print(Text(f"would write {output}"))
    else:
        root = source.parent.parent if source.parent.name == "annotations" else Path("DATA")
        words = ["--data-root", str(root), f"data.train.annotations={output.absolute()}"]
        console.show_outputs(output, then=f"bcnet train tiny {shlex.join(words)}")


def _show(summary: AnnotateSummary, *, as_json: bool) -> None:
    if as_json:
        skipped = {reason: {"count": len(ids), "ids": ids} for reason, ids in summary.skipped.items()}
        result = {
            "images": summary.images, "instances": summary.instances,
            "with_occluder": summary.with_occluder, "skipped": skipped,
        }  # fmt: skip
        console.out.print(json.dumps(result))
        return
    table = console.make_table("Occluders", "", "count", "share of instances")
    table.add_row("images", f"{summary.images:,}", "")
    table.add_row("instances", f"{summary.instances:,}", "")
    for name, count in [
        ("with an occluder", summary.with_occluder),
        *((f"occlude nobody: {REASONS[reason]}", len(ids)) for reason, ids in summary.skipped.items()),
    ]:
        table.add_row(name, f"{count:,}", f"{count / summary.instances:.1%}" if summary.instances else "")
    console.out.print(table)
    for reason, ids in summary.skipped.items():
        some = ", ".join(map(str, ids[:5])) + (", ... (all: --json)" if len(ids) > 5 else "")
        ConsoleReporter().warning(f"{REASONS[reason]}: annotation {some}")
