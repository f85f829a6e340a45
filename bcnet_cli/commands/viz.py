"""`bcnet viz`: draw both layers of every instance into a static gallery, or into a video."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from bcnet_cli import console
from bcnet_cli.options import (
    TRAIN_ON_THESE_CATEGORIES,
    USUAL_OVERLAP,
    BackendName,
    DataRoot,
    Device,
    DryRun,
    Overlap,
    Overwrite,
    Tile,
    check_unused_options,
    read_tiling,
    reserve,
    reserve_files,
)
from bcnet_cli.reporter import ConsoleReporter
from bcnet_core.config.choices import Judgement, LayerChoice, PictureFormat
from bcnet_core.errors import usage_error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bcnet_core.annotations.coco import Record
    from bcnet_core.evaluation.tiles import Tiling
    from bcnet_core.structures import Predictor
    from bcnet_core.visualization.gallery import Summary
    from bcnet_core.visualization.picture import Picture
    from bcnet_core.visualization.sources import PictureSource

    Load = Callable[[], Predictor]

_data, _choice, _drawing = (
    partial(typer.Option, rich_help_panel=title) for title in ("Data", "Which images", "What is drawn")
)
Images = Annotated[Path | None, _data(help="Image folder, if not that of COCO's layout; for a model, any images.")]
Truth = Annotated[Path | None, _data("--gt", metavar="FILE", help="Ground truth (COCO json) of results or a model.")]
Video = Annotated[Path | None, _data(help="Video to draw a model's predictions on; --output is then an .mp4 or .avi.")]
Ids = Annotated[str | None, _choice(help="Ids of the images to show: 1,2,3.")]
Limit = Annotated[int, _choice(min=1, help="Images to show without --ids.")]
MostOccluded = Annotated[int | None, _choice(min=1, help="Show this many images, the most occluded first.")]
Worst = Annotated[int | None, _choice(min=1, help="Show this many images, the worst results first.")]
By = Annotated[Judgement, _choice(help="Rank --worst by the mean IoU of an image's true instances, or by its own AP.")]
Score = Annotated[float, _drawing(min=0, max=1, help="Lowest score of a detection, but for an image's best 5.")]
LayerOption = Annotated[LayerChoice, _drawing("--layer", help="Layer to draw, or both.")]
Boxes = Annotated[
    bool, _drawing("--boxes", help="Draw every box; without it, true boxes that are not those of their masks.")
]
Order = Annotated[bool, _drawing("--order", help="Draw arrows over whole masks: from the front one to the one behind.")]
Rois = Annotated[int, _drawing(min=0, help="Close-ups per image, of its most occluded instances.")]
FormatOption = Annotated[PictureFormat, _drawing("--format", help="Picture format; svg keeps shapes and text as such.")]

NOT_FOR_VIDEO = (
    "images", "gt", "ids", "limit", "most_occluded", "worst", "by", "order", "rois", "form", "data_root",
    "tile", "overlap",
)  # fmt: skip
"""Options without meaning for a video."""


class Choice(NamedTuple):
    """Which images to show, and which detections of them."""

    ids: list[int] | None
    limit: int
    most_occluded: int | None
    worst: int | None
    by: Judgement
    score: float
    tiling: Tiling | None


def viz(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="Run directory, checkpoint, or COCO json.", metavar="SOURCE")],
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the gallery.")],
    images: Images = None,
    gt: Truth = None,
    ids: Ids = None,
    limit: Limit = 20,
    most_occluded: MostOccluded = None,
    worst: Worst = None,
    by: By = "iou",
    score: Score = 0.5,
    layer: LayerOption = "both",
    boxes: Boxes = False,
    order: Order = False,
    rois: Rois = 3,
    form: FormatOption = "jpg",
    video: Video = None,
    tile: Tile = None,
    overlap: Overlap = USUAL_OVERLAP,
    device: Device = "auto",
    backend: BackendName = "torchvision",
    data_root: DataRoot = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Show both layers: image, instances, occludees, occluders, boundaries, whole masks, and close-ups with their maps.

    SOURCE is ground truth (a COCO json; stored occluders are used, others derived), a run or a checkpoint (shown on
    its validation set, or on --images), or the results of any model (with --gt). Predictions are shown beside the
    ground truth where it is known; where whole (amodal) masks are known, hidden parts are hatched. The output is a
    static index.html that works from disk.

    **Examples**

    `bcnet viz annotations/instances_val2017.json --most-occluded 10 -o gallery`

    `bcnet viz runs/tiny --ids 785,139 --score 0.5 --format svg -o gallery_run`

    `bcnet viz mask_rcnn.json --gt annotations/instances_val2017.json --worst 20 --by ap -o gallery_worst`

    `bcnet viz annotations/instances_val.json --order -o gallery_order`

    `bcnet viz runs/tiny --video street.mp4 -o street_layers.mp4`
    """
    from bcnet_core import backends
    from bcnet_core.config.runtime import PLAIN
    from bcnet_core.files.outputs import atomic_directory, check_not_among
    from bcnet_core.visualization.gallery import check_replaceable, write_gallery
    from bcnet_core.visualization.sources import open_source

    _check_exclusive(worst, most_occluded, layer, order=order)
    named, tiling = backends.require_backend(backend), read_tiling(context, tile, overlap)
    choice = Choice(_parse_ids(ids), limit, most_occluded, worst, by, score, tiling)
    load = partial(backends.load_detector, source, device=device, backend=named, runtime=PLAIN)
    reporter = ConsoleReporter()
    if video is not None:
        _draw_video(
            context, source, load, video, output, score, layer, boxes=boxes, overwrite=overwrite, dry_run=dry_run
        )
        return
    output = output.resolve()
    reserve(context, output, check=partial(check_replaceable, overwrite=overwrite), dry_run=dry_run)
    open_run = partial(backends.open_run, backend=named)
    opened = open_source(source, images=images, data_root=data_root, gt=gt, open_run=open_run)
    if opened.model is not None and images is not None and gt is None:  # of a folder, all images are taken
        check_not_among(output, images)
    _report_omitted(opened, reporter)
    pictures, records = _pictures(opened, choice, reporter, load, dry_run=dry_run)
    if dry_run:
        console.err.print(f"would draw {len(records)} pictures of `{opened.images}` into `{output}`")
        return
    with atomic_directory(output) as folder:
        summary = write_gallery(
            folder, pictures, title=f"bcnet viz: {source.name}", total=len(records), layer=layer, boxes=boxes,
            order=order, rois=rois, suffix=form, reporter=reporter,
        )  # fmt: skip
    _show(summary, reporter, order=order)
    console.show_outputs(output / "index.html")


def _report_omitted(source: PictureSource, reporter: ConsoleReporter) -> None:
    from bcnet_core.annotations.coco import ways_out

    if source.omitted:
        noun = "annotation" if source.omitted == 1 else "annotations"
        reporter.warning(f"{source.omitted:,} {noun} cannot be drawn; {ways_out(source.coco.path)[0]}")


def _pictures(
    source: PictureSource, choice: Choice, reporter: ConsoleReporter, load: Load, *, dry_run: bool
) -> tuple[Iterable[Picture], list[Record]]:
    """Return the pictures to draw, made one at a time, and the records of their images."""
    from bcnet_core.evaluation.inputs import check_categories
    from bcnet_core.evaluation.results import check_same_images, read_results
    from bcnet_core.visualization.instances import annotated_pictures, detected_pictures, result_pictures
    from bcnet_core.visualization.sources import choose_images, worst_images

    coco = source.coco
    if choice.tiling is not None and source.model is None:
        raise usage_error("--tile has no meaning without a detector that predicts", "leave out --tile, or give a run")
    limit = len(coco.images) if choice.worst else choice.limit
    records = choose_images(coco, ids=choice.ids, limit=limit, most_occluded=choice.most_occluded)
    if choice.worst is not None and not ((source.results or source.model) and coco.annotations):
        raise usage_error("--worst compares predictions with the ground truth", "a run, or SOURCE --gt FILE")
    if source.results is not None:
        check_same_images(source.results, coco)
        results = read_results(source.results, coco, reporter=reporter)
        if results and "segmentation" not in results[0]:
            raise usage_error(f"`{source.results}` holds boxes but no masks to draw", "give results with masks")
        if choice.worst is not None:
            records = worst_images(coco, results, records, choice.worst, by=choice.by, score=choice.score)
        return result_pictures(coco, results, records, source.images, score=choice.score), records
    if source.model is None:
        return annotated_pictures(coco, records, source.images), records
    if dry_run:
        return (), records[: choice.worst]
    detector = load()
    if coco.annotations:
        without = f"show predictions without the ground truth: --images {shlex.quote(str(source.images))}"
        check_categories(detector.categories, coco, without, TRAIN_ON_THESE_CATEGORIES)
    if choice.worst is not None:
        records = _worst_of_model(detector, source, records, choice, reporter)
    return detected_pictures(detector, coco, records, source.images, score=choice.score, tiling=choice.tiling), records


def _worst_of_model(
    detector: Predictor, source: PictureSource, records: list[Record], choice: Choice, reporter: ConsoleReporter
) -> list[Record]:
    """Predict all images that exist, and return the records of the worst."""
    from bcnet_core.evaluation.predict import predict_images
    from bcnet_core.files.images import missing_images
    from bcnet_core.visualization.sources import worst_images

    missing = set(missing_images(source.images, (record["file_name"] for record in records)))
    there = [record for record in records if record["file_name"] not in missing]
    if missing:
        reporter.warning(
            f"{len(records) - len(there):,} of {len(records):,} images are not in `{source.images}`; only the others "
            "are ranked"
        )
    results = predict_images(detector, there, source.images, reporter=reporter, tiling=choice.tiling)
    return worst_images(source.coco, results, there, choice.worst or 1, by=choice.by, score=choice.score)


def _draw_video(
    context: typer.Context,
    model: Path,
    load: Load,
    video: Path,
    output: Path,
    score: float,
    layer: LayerChoice,
    *,
    boxes: bool,
    overwrite: bool,
    dry_run: bool,
) -> None:
    from bcnet_core.files.outputs import check_not_input
    from bcnet_core.visualization.video import check_video_suffix, draw_video

    check_unused_options(context, *NOT_FOR_VIDEO, why="with --video, which has frames instead of a data set's images")
    check_video_suffix(output)
    check_not_input(output, model, video)
    reserve_files(context, output, overwrite=overwrite, dry_run=dry_run)
    detector = load()
    if dry_run:
        console.err.print(f"would draw the predictions of `{model}` on `{video}` into `{output}`")
        return
    reporter = ConsoleReporter()
    drawn = draw_video(detector, video, output, score=score, layer=layer, boxes=boxes, reporter=reporter)
    if not drawn.complete:
        reporter.warning(f"`{video}` has fewer readable frames than it announces; it may be truncated or damaged")
    console.out.print(f"{console.counted(drawn.instances, 'instance')} in {console.counted(drawn.frames, 'frame')}")
    console.show_outputs(output)


def _parse_ids(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise usage_error(f"--ids `{text}` is not a list of ids", "whole numbers with commas: --ids 139,785") from None


def _check_exclusive(worst: int | None, most_occluded: int | None, layer: LayerChoice, *, order: bool) -> None:
    if worst is not None and most_occluded is not None:
        raise usage_error("--worst and --most-occluded exclude each other", "give one of them")
    if order and layer == "occluder":
        raise usage_error("--order draws on whole masks, which --layer occluder leaves out", "omit one of them")


def _show(summary: Summary, reporter: ConsoleReporter, *, order: bool) -> None:
    table = console.make_table("gallery", "", "count")
    truth = (("true instances", summary.true), ("true instances that were missed", summary.missed))
    for name, count in (
        ("pictures", summary.pictures), ("images that could not be read", len(summary.faults)),
        ("instances", summary.instances), ("instances with an occluder", summary.occluded),
        *(truth if summary.true is not None else ()),
    ):  # fmt: skip
        table.add_row(name, f"{count:,}")
    console.out.print(table)
    if summary.faults:
        more = f" (and {len(summary.faults) - 1:,} more)" if len(summary.faults) > 1 else ""
        reporter.warning(f"{summary.faults[0]}{more}; a gray panel stands for each")
    if order and not summary.wholes:
        reporter.warning("no order is drawn: no instance has a whole mask (amodal_segmentation)")
