"""`bcnet viz`: both layers of every instance, as pictures in a static gallery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcnet_cli import console
from bcnet_cli.options import DataRoot, Device, DryRun, Overwrite
from bcnet_cli.reporter import ConsoleReporter
from bcnet_core.errors import usage_error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bcnet_core.annotations.coco import CocoFile, Record
    from bcnet_core.visualization.gallery import Summary
    from bcnet_core.visualization.panels import Picture
    from bcnet_core.visualization.sources import Place


def viz(
    source: Annotated[Path, typer.Argument(help="Run directory, checkpoint, or COCO json.", metavar="SOURCE")],
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the gallery.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the images; by default the one that the COCO layout or the run implies."),
    ] = None,
    ids: Annotated[str | None, typer.Option(help="Image ids to show: 1,2,3.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Pictures to show when no ids are given.")] = 20,
    most_occluded: Annotated[
        int | None, typer.Option(min=1, help="Show this many pictures, the most occluded first.")
    ] = None,
    gt: Annotated[
        Path | None, typer.Option("--gt", metavar="FILE", help="The ground truth of SOURCE, a COCO results file.")
    ] = None,
    worst: Annotated[
        int | None, typer.Option("--worst", min=1, help="Show this many pictures, the worst segmented first.")
    ] = None,
    score: Annotated[
        float,
        typer.Option(min=0, max=1, help="Leave out weaker detections, but never the best 5 of an image."),
    ] = 0.5,
    device: Device = "auto",
    data_root: DataRoot = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Show the layers: image, instances, occludees, occluders, boundaries, and close-ups with the four maps.

    SOURCE is ground truth (a COCO json; occluders are read where it has them, else derived), what a trained
    detector finds in its validation set, or any model's results (--gt). A static index.html that works from disk.

    **Examples**

    `bcnet viz annotations/instances_val2017.json --most-occluded 10 -o gallery`

    `bcnet viz runs/tiny --ids 785,139 --score 0.5 -o gallery_run`

    `bcnet viz mask_rcnn.json --gt annotations/instances_val2017.json --worst 20 -o gallery_worst`
    """
    from bcnet_core.annotations.coco import read_coco
    from bcnet_core.outputs import atomic_directory
    from bcnet_core.visualization import sources
    from bcnet_core.visualization.gallery import refuse_foreign, write_gallery

    output = output.resolve()
    refuse_foreign(output, overwrite=overwrite)
    place = sources.locate(source, images=images, data_root=data_root, gt=gt)
    if worst is not None and (most_occluded is not None or place.results is None):
        raise usage_error("--worst judges a results file, and excludes --most-occluded", "SOURCE --gt FILE --worst 20")
    coco = read_coco(place.annotations, need_annotations=False)
    chosen, every = _parse_ids(ids), len(coco.images)
    records = sources.choose_images(coco, ids=chosen, limit=every if worst else limit, most_occluded=most_occluded)
    pictures, records = _pictures(place, coco, records, score=score, worst=worst, device=device, dry_run=dry_run)
    if dry_run:
        console.err.print(f"would draw {len(records)} pictures of `{place.images}` into `{output}`")
        return
    reporter = ConsoleReporter()
    with atomic_directory(output) as folder:
        summary = write_gallery(
            folder, pictures, title=f"bcnet viz: {source.name}", total=len(records), reporter=reporter
        )
    _show(summary, reporter)
    console.show_outputs(output / "index.html")


def _pictures(
    place: Place,
    coco: CocoFile,
    records: list[Record],
    *,
    score: float,
    worst: int | None,
    device: str,
    dry_run: bool,
) -> tuple[Iterable[Picture], list[Record]]:
    """What to draw, made one at a time, and of which images."""
    from bcnet_core import load_detector
    from bcnet_core.evaluation.results import read_results
    from bcnet_core.visualization import sources
    from bcnet_core.visualization.results import result_pictures, worst_images

    if place.results is not None:
        results = read_results(place.results, coco)
        if "segmentation" not in results[0]:
            raise usage_error(
                f"`{place.results}` holds boxes alone, there are no masks to draw", "give results with masks"
            )
        if worst is not None:
            records = worst_images(coco, results, records, worst, score=score)
        return result_pictures(coco, results, records, place.images, score=score), records
    if dry_run or place.model is None:
        return sources.ground_truth_pictures(coco, records, place.images), records
    detector = load_detector(place.model, device=device)
    return sources.detected_pictures(detector, records, place.images, score=score), records


def _parse_ids(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise usage_error(f"--ids `{text}` are not image ids", "whole numbers with commas: --ids 139,785") from None


def _show(summary: Summary, reporter: ConsoleReporter) -> None:
    table = console.make_table("gallery", "", "count")
    for name, count in (
        ("pictures", summary.pictures), ("images that could not be read", len(summary.faults)),
        ("instances", summary.instances), ("instances with an occluder", summary.occluded),
    ):  # fmt: skip
        table.add_row(name, f"{count:,}")
    console.out.print(table)
    if summary.faults:
        more = f" (and {len(summary.faults) - 1:,} more)" if len(summary.faults) > 1 else ""
        reporter.warning(f"{summary.faults[0]}{more}; a grey panel stands for each")
