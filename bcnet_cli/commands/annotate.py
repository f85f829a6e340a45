"""`bcnet annotate`: COCO annotations with the occluder region of every instance."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from bcnet_cli import console
from bcnet_cli.options import DryRun, Json, Overwrite, Workers, check_unused_options, reserve_files
from bcnet_cli.reporter import ConsoleReporter
from bcnet_core.config.choices import RegionFormat
from bcnet_core.errors import usage_error

if TYPE_CHECKING:
    from rich.table import Table

    from bcnet_core.annotations.build import AnnotateSummary
    from bcnet_core.annotations.check import CheckSummary
    from bcnet_core.annotations.coco import CocoFile
    from bcnet_core.annotations.occluder import OccluderRule

LARGE = 50_000_000
"""File size in bytes from which on reading and writing takes seconds."""
TRAINED_BY = {"instances_train2017": "tiny", "instances_train": "shapes"}
"""Recipe that trains on the images of a file, by the file's name."""

Source = Annotated[Path | None, typer.Argument(metavar="IN.json", help="COCO instances file (.json, .json.gz).")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="The file to write (.json, .json.gz).")]
Check = Annotated[
    Path | None,
    typer.Option("--check", metavar="FILE", help="Validate this bilayer file instead; exits 3 if it is invalid."),
]
Format = Annotated[RegionFormat, typer.Option("--format", help="How occluder regions are stored; rle is exact.")]
Tolerance = Annotated[
    float, typer.Option("--tolerance", help="How far polygons may lie from the exact outline, pixels; 0 is exact.")
]
MinIoU = Annotated[
    float, typer.Option("--min-iou", help="Only boxes that overlap with a larger IoU occlude each other.")
]
MinArea = Annotated[int, typer.Option("--min-area", help="Regions must have more pixels than this to be kept.")]
Pixel = Annotated[
    float, typer.Option("--pixel", help="Pixels added to the sides of boxes in the IoU; the official code adds 1.")
]
Crowd = Annotated[bool, typer.Option("--crowd", help="Let crowd annotations occlude others.")]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="Also write what was skipped or found, with ids.")
]


def annotate(
    context: typer.Context,
    source: Source = None,
    *,
    output: Output = None,
    check: Check = None,
    output_format: Format = "polygon",
    tolerance: Tolerance = 1.0,
    min_iou: MinIoU = 0.05,
    min_area: MinArea = 20,
    pixel: Pixel = 1.0,
    crowd: Crowd = False,
    report: Report = None,
    workers: Workers = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Add the occluder region of every instance to a COCO file (key `bg_object_segmentation`).

    The region of an instance is the part of its box that its neighbors' masks cover. The rest of the file stays
    unchanged: ids, order, info, licenses, unknown keys. An instance without a readable mask occludes nobody, keeps its
    entry and is counted. Polygons have an IoU of 0.98 or more with the exact region, whatever the tolerance.

    **Examples**

    `bcnet annotate annotations/instances_train2017.json -o bilayer_train2017.json`

    `bcnet annotate instances_val2017.json -o bilayer_val2017.json.gz --tolerance 0 --report skipped.json`

    `bcnet annotate --check bilayer_val2017.json`
    """
    from bcnet_core.annotations.build import annotate_coco
    from bcnet_core.annotations.coco import read_coco
    from bcnet_core.annotations.occluder import OccluderRule
    from bcnet_core.files.json_files import json_size, write_together

    rule = OccluderRule(min_iou=min_iou, min_area=min_area, crowd=crowd, pixel=pixel)
    read, written = _files(source, output, check)
    if written is None:
        check_unused_options(context, "output_format", "tolerance", why="with --check, which writes no regions")
    outputs = [path for path in (written, report) if path is not None]
    reserve_files(context, *outputs, inputs=[read], overwrite=overwrite, dry_run=dry_run)
    _announce("reading", read, read)
    coco = read_coco(read)
    if written is None:
        _check(coco, rule, workers, report=None if dry_run else report, as_json=as_json)
        return
    content, summary = annotate_coco(
        coco, rule=rule, output_format=output_format, tolerance=tolerance, workers=workers, reporter=ConsoleReporter()
    )
    if dry_run:
        _show(summary, size=json_size(written, content), as_json=as_json)
        console.err.print(Text(f"would write {' and '.join(map(str, outputs))}"))
        return
    _announce("writing", written, read)
    write_together({written: content, **({} if report is None else {report: _report(coco, rule, summary)})})
    _show(summary, as_json=as_json)
    console.show_outputs(*outputs, then=_next_command(read, written))


def _files(source: Path | None, output: Path | None, check: Path | None) -> tuple[Path, Path | None]:
    """Return the file to read and the file to write, which is None for a check."""
    if check is not None:
        if source is not None or output is not None:
            raise usage_error("`--check` reads one file and writes none", "bcnet annotate --check FILE")
        return check, None
    if source is None or output is None:
        missing = "no input" if source is None else "no output"
        raise usage_error(f"{missing} is given", "bcnet annotate IN.json -o OUT.json", "bcnet annotate --check FILE")
    return source, output


def _announce(action: str, path: Path, source: Path) -> None:
    """Report the start of a slow step."""
    if source.is_file() and source.stat().st_size >= LARGE:
        ConsoleReporter().info(f"{action} {path}")


def _report(coco: CocoFile, rule: OccluderRule, summary: AnnotateSummary | CheckSummary) -> dict[str, Any]:
    from bcnet_core import __version__

    return {"bcnet": __version__, "file": coco.path.name, "rule": asdict(rule), **summary.as_json()}


def _next_command(source: Path, output: Path) -> str:
    """Suggest training if a recipe trains on the images of the source, or else looking at the regions."""
    root = source.parent.parent if source.parent.name == "annotations" else Path("DATA")
    name = source.name.split(".")[0]
    if name in TRAINED_BY:
        words = ["--data-root", str(root), f"data.train.annotations={output.absolute()}"]
        return shlex.join(["bcnet", "train", TRAINED_BY[name], *words])
    images = root / name.rpartition("_")[2]
    where = str(images) if images.is_dir() else "IMAGES"
    return shlex.join(["bcnet", "viz", str(output), "--images", where, "-o", "viz"])


def _show(summary: AnnotateSummary, *, size: int | None = None, as_json: bool) -> None:
    from bcnet_core.annotations.build import FLAWS, REASONS

    if as_json:
        console.out.print(json.dumps({**summary.as_json(), **({} if size is None else {"expected_bytes": size})}))
        return
    table = _table("Occluders", summary, {REASONS[reason]: len(those) for reason, those in summary.skipped.items()})
    if size is not None:
        table.add_row("expected size, MB", f"{size / 1e6:,.1f}", "")
    console.out.print(table)
    faults = {REASONS[reason]: [one.annotation for one in summary.skipped.get(reason, [])] for reason in FLAWS}
    for name, ids in {**faults, "shares its id with another": summary.repeated_ids}.items():
        if ids:
            some = ", ".join(map(str, ids[:5])) + (", ... (all: --report FILE)" if len(ids) > 5 else "")
            ConsoleReporter().warning(f"{name}: annotation {some}")


def _table(title: str, summary: AnnotateSummary | CheckSummary, counts: dict[str, int]) -> Table:
    table = console.make_table(title, "", "count", "share of instances")
    table.add_row("images", f"{summary.images:,}", "")
    table.add_row("instances", f"{summary.instances:,}", "")
    for name, count in {"with an occluder": summary.with_occluder, **counts}.items():
        table.add_row(name, f"{count:,}", f"{count / summary.instances:.1%}" if summary.instances else "")
    return table


def _check(coco: CocoFile, rule: OccluderRule, workers: int, *, report: Path | None, as_json: bool) -> None:
    from bcnet_core.annotations.check import FINDINGS, check_occluders, require_valid
    from bcnet_core.files.json_files import write_json

    summary = check_occluders(coco, rule=rule, workers=workers, reporter=ConsoleReporter())
    if report is not None:
        write_json(report, _report(coco, rule, summary))
    if as_json:
        console.out.print(json.dumps(summary.as_json()))
    else:
        found = {FINDINGS[finding]: len(those) for finding, those in summary.findings.items()}
        table = _table("Occluders compared with the rule", summary, found)
        table.add_section()
        for name, value in summary.iou_figures().items():
            table.add_row(f"IoU with the exact region: {name}", f"{value:.4f}", "")
        table.add_row("farthest pixel beyond a box", f"{summary.farthest}", "")
        console.out.print(table)
    if report is not None:
        console.show_outputs(report)
    require_valid(coco, summary)
