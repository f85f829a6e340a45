"""`bcnet viz`: both layers of every instance, as pictures in a static gallery, or drawn into a video."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from bcnet_cli import console
from bcnet_cli.claims import claim, claim_files
from bcnet_cli.options import (
    TRAIN_ON_THESE_CATEGORIES,
    BackendName,
    DataRoot,
    Device,
    DryRun,
    Overwrite,
    refuse_unused,
)
from bcnet_cli.reporter import ConsoleReporter
from bcnet_core.config.choices import Judgement, LayerChoice, PictureFormat
from bcnet_core.errors import usage_error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bcnet_core.annotations.coco import CocoFile, Record
    from bcnet_core.config.choices import Backend, Judgement, LayerChoice
    from bcnet_core.structures import Predictor
    from bcnet_core.visualization.gallery import Summary
    from bcnet_core.visualization.picture import Picture
    from bcnet_core.visualization.sources import Place

Images = Annotated[
    Path | None,
    typer.Option(help="Folder of the images, where it is not that of the COCO layout; of a model, any images."),
]
Ids = Annotated[str | None, typer.Option(help="Image ids to show: 1,2,3.")]
Limit = Annotated[int, typer.Option(min=1, help="Pictures to show when no ids are given.")]
MostOccluded = Annotated[int | None, typer.Option(min=1, help="Show this many pictures, the most occluded first.")]
Truth = Annotated[
    Path | None,
    typer.Option("--gt", metavar="FILE", help="The ground truth of a results file or a model, a COCO json."),
]
Worst = Annotated[
    int | None, typer.Option("--worst", min=1, help="Show this many pictures, the worst segmented first.")
]
By = Annotated[
    Judgement,
    typer.Option("--by", help="What --worst judges an image by: mean IoU of its true instances, or its own AP."),
]
Score = Annotated[
    float, typer.Option(min=0, max=1, help="Leave out weaker detections, but never the best 5 of an image.")
]
LayerOption = Annotated[LayerChoice, typer.Option("--layer", help="Leave out the other layer.")]
Rois = Annotated[int, typer.Option("--rois", min=0, help="Instances of a picture to show from near, with their maps.")]
FormatOption = Annotated[
    PictureFormat, typer.Option("--format", help="Of the pictures; in svg, shapes and text stay such.")
]
Video = Annotated[
    Path | None,
    typer.Option(help="Draw what a model finds in this video; --output is a video then: .mp4 or .avi."),
]

OF_IMAGES = ("images", "gt", "ids", "limit", "most_occluded", "worst", "by", "rois", "form", "data_root")
"""What a video has no use for."""


class Choice(NamedTuple):
    """Which images are shown, and which detections of them."""

    ids: list[int] | None
    limit: int
    most_occluded: int | None
    worst: int | None
    by: Judgement
    score: float


class Runner(NamedTuple):
    """What runs a model."""

    backend: Backend
    device: str

    def load(self, model: Path) -> Predictor:
        """The detector of a run or a checkpoint."""
        from bcnet_core.backends import load_detector

        return load_detector(model, device=self.device, backend=self.backend)


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
    rois: Rois = 3,
    form: FormatOption = "jpg",
    video: Video = None,
    device: Device = "auto",
    backend: BackendName = "torchvision",
    data_root: DataRoot = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Show the layers: image, instances, occludees, occluders, boundaries, and RoIs with the four maps.

    SOURCE is ground truth (a COCO json; occluders are read where it has them, else derived), a run or a checkpoint (in
    its validation set, or --images), or any model's results (--gt). Where the truth is known it is shown beside what
    was found. A static index.html that works from disk.

    **Examples**

    `bcnet viz annotations/instances_val2017.json --most-occluded 10 -o gallery`

    `bcnet viz runs/tiny --ids 785,139 --score 0.5 --format svg -o gallery_run`

    `bcnet viz mask_rcnn.json --gt annotations/instances_val2017.json --worst 20 --by ap -o gallery_worst`

    `bcnet viz runs/tiny --video street.mp4 -o street_layers.mp4`
    """
    from bcnet_core import backends
    from bcnet_core.files.outputs import atomic_directory
    from bcnet_core.visualization.gallery import refuse_foreign, write_gallery
    from bcnet_core.visualization.sources import locate

    choice, runner = (
        Choice(_parse_ids(ids), limit, most_occluded, worst, by, score),
        Runner(backends.named(backend), device),
    )
    if video is not None:
        refuse_unused(context, *OF_IMAGES, why="with --video, which has frames and no images of a data set")
        _draw_video(context, source, video, output, choice, layer, runner, overwrite=overwrite, dry_run=dry_run)
        return
    output = output.resolve()
    claim(context, output, refuse=partial(refuse_foreign, overwrite=overwrite), dry_run=dry_run)
    open_run = partial(backends.open_run, backend=runner.backend)
    place = locate(source, images=images, data_root=data_root, gt=gt, open_run=open_run)
    reporter = ConsoleReporter()
    pictures, records = _pictures(place, choice, reporter, runner, dry_run=dry_run)
    if dry_run:
        console.err.print(f"would draw {len(records)} pictures of `{place.images}` into `{output}`")
        return
    with atomic_directory(output) as folder:
        summary = write_gallery(
            folder, pictures, title=f"bcnet viz: {source.name}", total=len(records), layer=layer, rois=rois,
            suffix=form, reporter=reporter,
        )  # fmt: skip
    _show(summary, reporter)
    console.show_outputs(output / "index.html")


def _pictures(
    place: Place, choice: Choice, reporter: ConsoleReporter, runner: Runner, *, dry_run: bool
) -> tuple[Iterable[Picture], list[Record]]:
    """What to draw, made one at a time, and of which images."""
    from bcnet_core.evaluation.image_list import refuse_other_images
    from bcnet_core.evaluation.results import read_results
    from bcnet_core.visualization.annotated import annotated_pictures
    from bcnet_core.visualization.detected import result_pictures
    from bcnet_core.visualization.sources import choose_images, read_place
    from bcnet_core.visualization.worst import worst_images

    if choice.worst is not None and choice.most_occluded is not None:
        raise usage_error("--worst and --most-occluded exclude each other", "give one of them")
    coco = read_place(place)
    limit = len(coco.images) if choice.worst else choice.limit
    records = choose_images(coco, ids=choice.ids, limit=limit, most_occluded=choice.most_occluded)
    if choice.worst is not None and not ((place.results or place.model) and coco.annotations):
        raise usage_error("--worst compares what was found with the truth", "a run, or SOURCE --gt FILE")
    if place.results is not None:
        refuse_other_images(place.results, coco)
        results = read_results(place.results, coco)
        if "segmentation" not in results[0]:
            raise usage_error(
                f"`{place.results}` holds boxes alone, there are no masks to draw", "give results with masks"
            )
        if choice.worst is not None:
            records = worst_images(coco, results, records, choice.worst, by=choice.by, score=choice.score)
        return result_pictures(coco, results, records, place.images, score=choice.score), records
    if place.model is None:
        return annotated_pictures(coco, records, place.images), records
    if dry_run:
        return (), records[: choice.worst]
    return _detected(place.model, place.images, coco, records, choice, reporter, runner)


def _detected(
    model: Path,
    images: Path,
    coco: CocoFile,
    records: list[Record],
    choice: Choice,
    reporter: ConsoleReporter,
    runner: Runner,
) -> tuple[Iterable[Picture], list[Record]]:
    """What a model finds; of its worst images after it has seen all of them."""
    from bcnet_core.evaluation.predict import check_categories, predict_images
    from bcnet_core.files.images import missing_images
    from bcnet_core.visualization.detected import detected_pictures
    from bcnet_core.visualization.worst import worst_images

    detector = runner.load(model)
    if coco.annotations:  # else there is no truth to be beside
        without = f"show what it finds without the truth: --images {shlex.quote(str(images))}"
        check_categories(detector.categories, coco, without, TRAIN_ON_THESE_CATEGORIES)
    if choice.worst is not None:
        missing = set(missing_images(images, (record["file_name"] for record in records)))
        there = [record for record in records if record["file_name"] not in missing]
        if len(there) < len(records):
            reporter.warning(f"{len(records) - len(there):,} of {len(records):,} images are not in `{images}`; the "
                             "others are judged")  # fmt: skip
        results = predict_images(detector, there, images, reporter=reporter)
        records = worst_images(coco, results, there, choice.worst, by=choice.by, score=choice.score)
    return detected_pictures(detector, coco, records, images, score=choice.score), records


def _draw_video(
    context: typer.Context,
    model: Path,
    video: Path,
    output: Path,
    choice: Choice,
    layer: LayerChoice,
    runner: Runner,
    *,
    overwrite: bool,
    dry_run: bool,
) -> None:
    from bcnet_core.files.outputs import refuse_input
    from bcnet_core.visualization.video import draw_video, refuse_unknown_suffix

    refuse_unknown_suffix(output)
    refuse_input(output, model, video)
    claim_files(context, output, overwrite=overwrite, dry_run=dry_run)
    detector = runner.load(model)
    if dry_run:
        console.err.print(f"would draw what `{model}` finds in `{video}` into `{output}`")
        return
    reporter = ConsoleReporter()
    drawn = draw_video(detector, video, output, score=choice.score, layer=layer, reporter=reporter)
    if not drawn.complete:
        reporter.warning(f"`{video}` ends before the frames that it promises, or one of them is damaged")
    console.out.print(f"{drawn.instances:,} instances in {drawn.frames:,} frames")
    console.show_outputs(output)


def _parse_ids(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise usage_error(f"--ids `{text}` are not image ids", "whole numbers with commas: --ids 139,785") from None


def _show(summary: Summary, reporter: ConsoleReporter) -> None:
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
