"""`bcnet annotate`: COCO annotations that know the occluder of every instance."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.text import Text

from bcnet_cli import console
from bcnet_cli.options import DryRun, Json, Overwrite, Workers, check_unused_options, reserve_files
from bcnet_cli.reporter import ConsoleReporter
from bcnet_core.config.choices import RegionFormat
from bcnet_core.errors import usage_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from bcnet_core.annotations.build import AnnotateSummary, AnnotationId
    from bcnet_core.annotations.check import CheckSummary
    from bcnet_core.annotations.coco import CocoFile
    from bcnet_core.annotations.occluder import OccluderRule


LARGE = 50_000_000
"""Bytes from which on a file takes seconds to read and write."""
TRAINED_BY = {"instances_train2017": "tiny", "instances_train": "shapes"}
"""The recipe that trains on the images of a file, by its name."""


def annotate(
    context: typer.Context,
    source: Annotated[
        Path | None, typer.Argument(metavar="IN.json", help="COCO instances file (.json, .json.gz).")
    ] = None,
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write (.json, .json.gz).")] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="FILE", help="Validate this bilayer file instead; exits 3 if it is invalid."),
    ] = None,
    output_format: Annotated[
        RegionFormat, typer.Option("--format", help="How occluder regions are stored; rle is exact.")
    ] = "polygon",
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="How far polygons may lie from the exact outline, pixels; 0 is exact.")
    ] = 1.0,
    min_iou: Annotated[
        float, typer.Option("--min-iou", help="Only boxes that overlap with a larger IoU occlude each other.")
    ] = 0.05,
    min_area: Annotated[
        int, typer.Option("--min-area", help="Regions must have more pixels than this to be kept.")
    ] = 20,
    pixel: Annotated[
        float, typer.Option("--pixel", help="What the IoU adds to the sides of boxes; the official code counts 1 more.")
    ] = 1.0,
    crowd: Annotated[bool, typer.Option("--crowd", help="Let crowd annotations occlude others.")] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Also write what was skipped or found, with ids.")
    ] = None,
    workers: Workers = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Add the occluder region of every instance to a COCO file (key `bg_object_segmentation`).

    The region of an instance is what the masks of its neighbours cover of its box. All the rest of the file stays
    as it is: ids, order, info, licenses, unknown keys. What has no readable mask occludes nobody, keeps its entry
    and is counted. Polygons have an IoU of 0.98 or more with the exact region, whatever the tolerance.

    **Examples**

    `bcnet annotate annotations/instances_train2017.json -o bilayer_train2017.json`

    `bcnet annotate instances_val2017.json -o bilayer_val2017.json.gz --tolerance 0 --report skipped.json`

    `bcnet annotate --check bilayer_val2017.json`
    """
    from bcnet_core.annotations.coco import read_coco
    from bcnet_core.annotations.occluder import OccluderRule
    from bcnet_core.files.outputs import check_distinct, check_not_input

    rule = OccluderRule(min_iou=min_iou, min_area=min_area, crowd=crowd, pixel=pixel)
    read, written = _files(source, output, check)
    if written is None:
        check_unused_options(context, "output_format", "tolerance", why="with --check, which writes no regions")
    outputs = [path for path in (written, report) if path is not None]
    check_distinct(*outputs)
    for path in outputs:
        check_not_input(path, read)
    reserve_files(context, *outputs, overwrite=overwrite, dry_run=dry_run)
    _announce("reading", read, read)
    coco = read_coco(read)
    if written is None:
        _check(coco, rule, workers, report=None if dry_run else report, as_json=as_json)
    else:
        job = _Job(coco, written, output_format, tolerance, rule, workers)
        _annotate(job, report=report, dry_run=dry_run, as_json=as_json)


def _announce(what: str, path: Path, source: Path) -> None:
    """Say what takes a while, where it does."""
    if source.is_file() and source.stat().st_size >= LARGE:
        ConsoleReporter().info(f"{what} {path}")


class _Job(NamedTuple):
    """What `annotate` was asked to do."""

    coco: CocoFile
    output: Path
    output_format: RegionFormat
    tolerance: float
    rule: OccluderRule
    workers: int


def _files(source: Path | None, output: Path | None, check: Path | None) -> tuple[Path, Path | None]:
    """The file to read and the one to write; none is written by a check."""
    if check is not None:
        if source is not None or output is not None:
            raise usage_error("`--check` reads one file and writes none", "bcnet annotate --check FILE")
        return check, None
    if source is None or output is None:
        missing = "no input" if source is None else "no output"
        raise usage_error(f"{missing} is given", "bcnet annotate IN.json -o OUT.json", "bcnet annotate --check FILE")
    return source, output


def _annotate(job: _Job, *, report: Path | None, dry_run: bool, as_json: bool) -> None:
    from bcnet_core.annotations.build import annotate_coco
    from bcnet_core.files.json_files import json_size, write_together

    content, summary = annotate_coco(
        job.coco, rule=job.rule, output_format=job.output_format, tolerance=job.tolerance, workers=job.workers,
        reporter=ConsoleReporter(),
    )  # fmt: skip
    size = json_size(job.output, content) if dry_run else None
    if not dry_run:
        _announce("writing", job.output, job.coco.path)
        found = {} if report is None else {report: {**_header(job.coco, job.rule), **_numbers(summary)}}
        write_together({job.output: content, **found})
    _show(summary, size=size, as_json=as_json)
    if dry_run:
        console.err.print(Text(f"would write {job.output}" + ("" if report is None else f" and {report}")))
        return
    console.show_outputs(job.output, *filter(None, [report]), then=_next_command(job.coco.path, job.output))


def _next_command(source: Path, output: Path) -> str:
    """Training, where the name of the source says that a recipe trains on its images; else looking at the regions."""
    root = source.parent.parent if source.parent.name == "annotations" else Path("DATA")
    name = source.name.split(".")[0]
    if name in TRAINED_BY:
        words = ["--data-root", str(root), f"data.train.annotations={output.absolute()}"]
        return shlex.join(["bcnet", "train", TRAINED_BY[name], *words])
    images = root / name.rpartition("_")[2]
    where = str(images) if images.is_dir() else "IMAGES"
    return shlex.join(["bcnet", "viz", str(output), "--images", where, "-o", "viz"])


def _header(coco: CocoFile, rule: OccluderRule) -> dict[str, Any]:
    from bcnet_core import __version__

    return {"bcnet": __version__, "file": coco.path.name, "rule": asdict(rule)}


def _listed(groups: Mapping[Any, list[AnnotationId]], meanings: Mapping[Any, str]) -> dict[str, Any]:
    """What was skipped or found as json: by reason, what that means, how often, and where."""
    return {
        reason: {
            "meaning": meanings[reason],
            "count": len(those),
            "annotations": [{"id": one.annotation, "image_id": one.image} for one in those],
        }
        for reason, those in groups.items()
    }


def _numbers(summary: AnnotateSummary) -> dict[str, Any]:
    from bcnet_core.annotations.build import REASONS

    return {
        "images": summary.images, "instances": summary.instances, "with_occluder": summary.with_occluder,
        "skipped": _listed(summary.skipped, REASONS), "repeated_ids": summary.repeated_ids,
    }  # fmt: skip


def _show(summary: AnnotateSummary, *, size: int | None, as_json: bool) -> None:
    from bcnet_core.annotations.build import FLAWS, REASONS

    if as_json:
        console.out.print(json.dumps({**_numbers(summary), **({} if size is None else {"expected_bytes": size})}))
        return
    skipped = {REASONS[reason]: len(those) for reason, those in summary.skipped.items()}
    table = _table("Occluders", summary, skipped)
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
    from bcnet_core.annotations.check import FINDINGS, INVALID, check_occluders
    from bcnet_core.errors import data_error
    from bcnet_core.files.json_files import write_json

    summary = check_occluders(coco, rule=rule, workers=workers, reporter=ConsoleReporter())
    result = {
        "images": summary.images, "instances": summary.instances, "with_occluder": summary.with_occluder,
        "iou": summary.iou_figures(), "farthest_beyond_box": summary.farthest,
        "findings": _listed(summary.findings, FINDINGS),
    }  # fmt: skip
    if report is not None:
        write_json(report, {**_header(coco, rule), **result})
    if as_json:
        console.out.print(json.dumps(result))
    else:
        _show_check(summary)
    if report is not None:
        console.show_outputs(report)
    faults = [
        f"{len(summary.findings[one]):,} annotations {FINDINGS[one]}" for one in INVALID if one in summary.findings
    ]
    if faults:
        raise data_error(
            f"`{coco.path}` is no valid bilayer file: {', '.join(faults)}",
            "make one: bcnet annotate IN.json -o OUT.json",
        )


def _show_check(summary: CheckSummary) -> None:
    from bcnet_core.annotations.check import FINDINGS

    found = {FINDINGS[finding]: len(those) for finding, those in summary.findings.items()}
    table = _table("Occluders, held against the rule", summary, found)
    table.add_section()
    for name, value in summary.iou_figures().items():
        table.add_row(f"IoU with the exact region: {name}", f"{value:.4f}", "")
    table.add_row("farthest pixel beyond a box", f"{summary.farthest}", "")
    console.out.print(table)
