"""Files that `bcnet predict` writes: results, the list of their images, and the same in other formats."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import NamedTuple

from bcnet_core import masks
from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.evaluation.clip_outputs import mots, youtube_vis
from bcnet_core.evaluation.label_outputs import index_path, label_images, panoptic
from bcnet_core.evaluation.photo_results import PhotoResults, WritePhoto, photo_names
from bcnet_core.evaluation.polygon_outputs import geojson, labelme, yolo
from bcnet_core.evaluation.prediction_job import PredictionJob
from bcnet_core.evaluation.results import dump_results, listing_path
from bcnet_core.files.json_files import json_stem
from bcnet_core.files.outputs import atomic_file
from bcnet_core.reporting import Reporter, SilentReporter

MOST_NAMED = 20
"""Images that cannot be read which an error names."""

RESULTS = "coco"
"""The format that is always written."""


class Format(NamedTuple):
    """A format beside COCO results: a folder with a file or more for each photo.

    Attributes:
        open: starts to write one into a folder, given the content of the list of images; complete or absent.
        is_pictures: whether the files in the folder are images themselves.
        is_disjoint: whether it holds only masks that share no pixel.
        has_index: whether there is a json beside the folder.
        is_of_clips: whether it holds the tracks of videos.
    """

    open: Callable[[Path, Record], AbstractContextManager[WritePhoto]]
    is_pictures: bool = False
    is_disjoint: bool = False
    has_index: bool = False
    is_of_clips: bool = False


FORMATS = {
    "labels": Format(label_images, is_pictures=True, is_disjoint=True),
    "panoptic": Format(panoptic, is_pictures=True, is_disjoint=True, has_index=True),
    "yolo": Format(yolo),
    "labelme": Format(labelme),
    "geojson": Format(geojson),
    "mots": Format(mots, is_disjoint=True, is_of_clips=True),
    "ytvis": Format(youtube_vis, is_of_clips=True),
}
"""Formats beside COCO results, by the names that `bcnet predict --format` takes."""


class OutputPaths(NamedTuple):
    """Outputs of a prediction.

    Attributes:
        results: the results file.
        listing: list of the images and categories that the results refer to.
        formats: folders of the other formats by their names in `FORMATS`.
    """

    results: Path
    listing: Path
    formats: dict[str, Path]

    @property
    def folders(self) -> list[Path]:
        """The folders."""
        return [*self.formats.values()]

    @property
    def pictures(self) -> list[Path]:
        """The folders of pictures."""
        return [folder for name, folder in self.formats.items() if FORMATS[name].is_pictures]

    @property
    def files(self) -> list[Path]:
        """The files."""
        indices = [index_path(folder) for name, folder in self.formats.items() if FORMATS[name].has_index]
        return [self.results, self.listing, *indices]

    @property
    def all(self) -> list[Path]:
        """All of them."""
        return self.files + self.folders

    @property
    def is_disjoint(self) -> bool:
        """Whether one of the formats needs masks that share no pixel."""
        return any(FORMATS[name].is_disjoint for name in self.formats)


def output_paths(results: Path, formats: Sequence[str] = (), *, of_clips: bool = False) -> OutputPaths:
    """Return where the outputs of a prediction are written: beside the results file, named after it.

    Args:
        results: the results file.
        formats: names in `FORMATS`; `RESULTS` adds nothing.
        of_clips: whether the results are the tracks of videos.

    Raises:
        BCNetError: if there is no format of a name, or it is one of photos and not of videos, or the other way.
    """
    unknown = [name for name in formats if name not in {RESULTS, *FORMATS}]
    if unknown:
        raise usage_error(f"`{unknown[0]}` is no format of predictions", f"one of {', '.join((RESULTS, *FORMATS))}")
    others = [name for name in formats if name != RESULTS and FORMATS[name].is_of_clips != of_clips]
    if others and of_clips:
        raise usage_error(f"`{others[0]}` is a format of photos, not of videos", f"one of {', '.join(clip_formats())}")
    if others:
        raise usage_error(f"`{others[0]}` is a format of videos", "predict videos, or folders of frames, with --video")
    stem = json_stem(results)
    folders = {name: results.with_name(f"{stem}_{name}") for name in FORMATS if name in formats}
    return OutputPaths(results, listing_path(results), folders)


def clip_formats() -> list[str]:
    """Return the formats of videos."""
    return [RESULTS, *(name for name, form in FORMATS.items() if form.is_of_clips)]


def check_names(paths: OutputPaths, things: Sequence[Record]) -> None:
    """Require the images or videos of a prediction to have different names in the folders of other formats."""
    if paths.formats:
        photo_names(things)


class Written(NamedTuple):
    """Counts of predictions that were written.

    Attributes:
        images: number of images that were predicted.
        detections: number of results.
        unreadable: entries of the images that could not be read, each with the `reason`.
        covered: number of instances that were left out because others took all of their pixels.
        left_out: number of results that a format cannot hold, by its name.
        tracks: number of tracks; None for photos.
    """

    images: int
    detections: int
    unreadable: list[Record]
    covered: int
    left_out: dict[str, int]
    tracks: int | None = None


def write_predictions(
    job: PredictionJob, categories: Sequence[Record], paths: OutputPaths, *, reporter: Reporter | None = None
) -> Written:
    """Write the outputs of a finished job, the results in place last, and remove the file to resume from.

    Formats of masks that share no pixel need a job of such masks. One photo at a time is in memory.

    Raises:
        BCNetError: if no image could be read, or a format cannot hold the results; nothing is written then.
    """
    faults = job.file.unreadable()
    predicted = [image for image in job.images if image["id"] not in faults]
    unreadable = [{**image, "reason": faults[image["id"]]} for image in job.images if image["id"] in faults]
    if not predicted:
        job.file.path.unlink()
        raise unreadable_error(unreadable, of=len(unreadable))
    content: Record = {"images": predicted, "categories": categories, "unreadable": unreadable}
    if job.videos:
        content["videos"] = job.videos
    names = _names(job) if paths.formats else {}
    covered, left_out, tracks = 0, dict.fromkeys(paths.formats, 0), set[int]()
    with ExitStack() as stack:
        progress = stack.enter_context((reporter or SilentReporter()).progress("writing", len(predicted)))
        results_file = stack.enter_context(atomic_file(paths.results))
        listing = stack.enter_context(atomic_file(paths.listing))
        listing.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        writers = {
            name: stack.enter_context(FORMATS[name].open(place, content)) for name, place in paths.formats.items()
        }

        def kept() -> Iterator[Sequence[Record]]:
            nonlocal covered
            for image, results in zip(predicted, job.results(predicted, categories), strict=True):
                left = without_covered(results) if job.disjoint else results
                covered += len(results) - len(left)
                tracks.update(result["track_id"] for result in left if "track_id" in result)
                for name, write in writers.items():
                    left_out[name] += write(PhotoResults(image, names[image["id"]], left))
                yield left
                progress.advance()

        with results_file.open("wb") as out:
            found = dump_results(out, kept())
    job.file.path.unlink()
    return Written(len(predicted), found, unreadable, covered, left_out, len(tracks) if job.videos else None)


def _names(job: PredictionJob) -> dict[int, str]:
    """Return the names of files about every image, by image id; those about a frame are about its video."""
    if not job.videos:
        return photo_names(job.images)
    names = photo_names(job.videos)
    return {image["id"]: names[image["video_id"]] for image in job.images}


def without_covered(results: Sequence[Record]) -> list[Record]:
    """Return the results of an image whose mask has a pixel; their `hides` are positions among these."""
    kept = [index for index, result in enumerate(results) if masks.area(result["segmentation"])]
    place = {index: position for position, index in enumerate(kept)}
    return [
        {**results[index], "hides": [place[other] for other in results[index]["hides"] if other in place]}
        if "hides" in results[index]
        else results[index]
        for index in kept
    ]


def unreadable_error(images: Sequence[Record], *, of: int, listing: Path | None = None) -> BCNetError:
    """Return the error that names the images that could not be read, of so many, and the file that lists them all."""
    named = [image["reason"] for image in images[:MOST_NAMED]]
    if len(images) > MOST_NAMED:
        where = "" if listing is None else f"; all are listed in `{listing}`, under `unreadable`"
        named.append(f"and {len(images) - MOST_NAMED:,} more{where}")
    if listing is None:
        return data_error(f"none of the {of:,} images can be read", *named)
    return BCNetError(f"{len(images):,} of {of:,} images cannot be read and have no results", *named)
