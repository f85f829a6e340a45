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
    from bcnet_core.visualization.gallery import Summary


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

    SOURCE is ground truth (a COCO json; occluders are read where it has them, else derived) or what a trained
    detector finds in its validation set. The result is a static index.html that works from disk.

    **Examples**

    `bcnet viz annotations/instances_val2017.json --most-occluded 10 -o gallery`

    `bcnet viz runs/tiny --ids 785,139 --score 0.5 -o gallery_run`
    """
    from bcnet_core import load_detector
    from bcnet_core.annotations.coco import read_coco
    from bcnet_core.outputs import atomic_directory
    from bcnet_core.visualization import sources
    from bcnet_core.visualization.gallery import refuse_foreign, write_gallery

    output = output.resolve()
    refuse_foreign(output, overwrite=overwrite)
    place = sources.locate(source, images=images, data_root=data_root)
    coco = read_coco(place.annotations, need_annotations=False)
    records = sources.choose_images(coco, ids=_parse_ids(ids), limit=limit, most_occluded=most_occluded)
    if dry_run:
        console.err.print(f"would draw {len(records)} pictures of `{place.images}` into `{output}`")
        return
    if place.model is None:
        pictures = sources.ground_truth_pictures(coco, records, place.images)
    else:
        detector = load_detector(place.model, device=device)
        pictures = sources.detected_pictures(detector, records, place.images, score=score)
    reporter = ConsoleReporter()
    with atomic_directory(output) as folder:
        summary = write_gallery(
            folder, pictures, title=f"bcnet viz: {source.name}", total=len(records), reporter=reporter
        )
    _show(summary, reporter)
    console.show_outputs(output / "index.html")


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
