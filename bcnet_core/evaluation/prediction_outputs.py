"""Files that `bcnet predict` writes: results and the list of their images, label images, and COCO's panoptic format."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcnet_core import masks
from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.evaluation.prediction_job import PredictionJob
from bcnet_core.evaluation.results import dump_results, listing_path
from bcnet_core.files.json_files import json_stem
from bcnet_core.files.outputs import atomic_directory, atomic_file

MOST_NAMED = 20
"""Images that cannot be read which an error names."""

DEEPEST_PNG = 65_535
"""Largest value of a PNG with one channel."""


class OutputPaths(NamedTuple):
    """Outputs of a prediction; None for those that are not asked for.

    Attributes:
        results: the results file.
        listing: list of the images and categories that the results refer to.
        labels: folder of label images.
        panoptic: COCO's panoptic json.
        panoptic_images: folder of its PNG files.
    """

    results: Path
    listing: Path
    labels: Path | None
    panoptic: Path | None
    panoptic_images: Path | None

    @property
    def files(self) -> list[Path]:
        """The files."""
        return [path for path in (self.results, self.listing, self.panoptic) if path is not None]

    @property
    def folders(self) -> list[Path]:
        """The folders."""
        return [path for path in (self.labels, self.panoptic_images) if path is not None]

    @property
    def all(self) -> list[Path]:
        """All of them."""
        return [path for path in self if path is not None]


def output_paths(results: Path, *, labels: bool = False, panoptic: bool = False) -> OutputPaths:
    """Return where the outputs of a prediction are written: beside the results file, named after it."""
    stem = json_stem(results)
    return OutputPaths(
        results,
        listing_path(results),
        results.with_name(f"{stem}_labels") if labels else None,
        results.with_name(f"{stem}_panoptic.json") if panoptic else None,
        results.with_name(f"{stem}_panoptic") if panoptic else None,
    )


class Written(NamedTuple):
    """Counts of predictions that were written.

    Attributes:
        images: number of images that were predicted.
        detections: number of results.
        unreadable: entries of the images that could not be read, each with the `reason`.
        covered: number of instances that were left out because others took all of their pixels.
    """

    images: int
    detections: int
    unreadable: list[Record]
    covered: int = 0


def write_predictions(job: PredictionJob, categories: Sequence[Record], paths: OutputPaths) -> Written:
    """Write the outputs of a finished job, the results in place last, and remove the file to resume from.

    Label images and the panoptic format need a job of disjoint masks. An image keeps its place below the folder that
    all images have in common, with the suffix of a label image.

    Raises:
        BCNetError: if no image could be read; nothing is written then.
    """
    faults = job.file.unreadable()
    predicted = [image for image in job.images if image["id"] not in faults]
    unreadable = [{**image, "reason": faults[image["id"]]} for image in job.images if image["id"] in faults]
    if not predicted:
        job.file.path.unlink()
        raise unreadable_error(unreadable, of=len(unreadable))
    content = {"images": predicted, "categories": categories, "unreadable": unreadable}
    names = label_names(job.images) if paths.folders else {}
    panoptic: list[Record] = []
    covered = 0
    with ExitStack() as stack:
        files = {path: stack.enter_context(atomic_file(path)) for path in paths.files}
        folders = {path: stack.enter_context(atomic_directory(path)) for path in paths.folders}

        def kept() -> Iterator[list[Record]]:
            nonlocal covered
            for image, results in zip(predicted, job.results(predicted, categories), strict=True):
                left = without_covered(results) if job.disjoint else results
                covered += len(results) - len(left)
                labels = draw_labels(image, left) if folders else None
                if labels is not None and paths.labels:
                    _save_labels(folders[paths.labels] / names[image["id"]], labels, len(left))
                if labels is not None and paths.panoptic_images:
                    annotation = {"image_id": image["id"], "file_name": f"{names[image['id']]}.png"}
                    panoptic.append({**annotation, "segments_info": segments(left)})
                    _save(folders[paths.panoptic_images] / annotation["file_name"], colors(labels))
                yield left

        with files[paths.results].open("wb") as out:
            found = dump_results(out, kept())
        _dump(files[paths.listing], content)
        if paths.panoptic:
            things = [{**category, "isthing": 1} for category in categories]
            _dump(files[paths.panoptic], {"images": predicted, "annotations": panoptic, "categories": things})
    job.file.path.unlink()
    return Written(len(predicted), found, unreadable, covered)


def _dump(path: Path, content: Record) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


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


def label_names(images: Sequence[Record]) -> dict[int, str]:
    """Return the path of the label image of every image, without its suffix, by image id.

    It is the path of the image, relative to the folder that all images have in common.

    Raises:
        BCNetError: if two images have the same; they differ in their suffix.
    """
    paths = {image["id"]: Path(os.path.abspath(image["file_name"])) for image in images}  # noqa: PTH100  (without links)
    top = os.path.commonpath([path.parent for path in paths.values()])
    names: dict[str, int] = {}
    for image_id, path in paths.items():
        name = path.relative_to(top).with_suffix("").as_posix()
        if name in names:
            raise usage_error(
                f"`{paths[names[name]].name}` and `{path.name}` would have the same label image `{name}.png`",
                "predict one of them into another output",
            )
        names[name] = image_id
    return {image_id: name for name, image_id in names.items()}


def draw_labels(image: Record, results: Sequence[Record]) -> NDArray[np.int32]:
    """Return (H, W) int32: n where the n-th of results with disjoint masks is seen, counted from 1, otherwise 0."""
    labels = np.zeros((image["height"], image["width"]), np.int32)
    for number, result in enumerate(results, start=1):
        x, y, width, height = masks.bounding_box(result["segmentation"]).astype(int).tolist()
        inside = masks.decode_window(result["segmentation"], x, y, x + width, y + height)
        labels[y : y + height, x : x + width][inside] = number
    return labels


def segments(results: Sequence[Record]) -> list[Record]:
    """Return the `segments_info` of COCO's panoptic format (https://cocodataset.org/#format-data)."""
    return [
        {
            "id": number,
            "category_id": result["category_id"],
            "area": masks.area(result["segmentation"]),
            "bbox": masks.bounding_box(result["segmentation"]).astype(int).tolist(),
            "iscrowd": 0,
            "score": result["score"],
        }
        for number, result in enumerate(results, start=1)
    ]


def colors(labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 RGB picture of (H, W) ids in COCO's panoptic format: id = R + 256 G + 65,536 B."""
    return np.stack([labels >> shift & 255 for shift in (0, 8, 16)], axis=2).astype(np.uint8)


def _save_labels(stem: Path, labels: NDArray[np.int32], highest: int) -> None:
    """Save a label image as a PNG of 16 bits, or as a TIFF of 32 bits if its values need them."""
    if highest > DEEPEST_PNG:
        _save(stem.with_name(f"{stem.name}.tif"), labels)
    else:
        _save(stem.with_name(f"{stem.name}.png"), labels.astype(np.uint16))


def _save(path: Path, pixels: NDArray[np.int32] | NDArray[np.uint16] | NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def unreadable_error(images: Sequence[Record], *, of: int, listing: Path | None = None) -> BCNetError:
    """Return the error that names the images that could not be read, of so many, and the file that lists them all."""
    named = [image["reason"] for image in images[:MOST_NAMED]]
    if len(images) > MOST_NAMED:
        where = "" if listing is None else f"; all are listed in `{listing}`, under `unreadable`"
        named.append(f"and {len(images) - MOST_NAMED:,} more{where}")
    if listing is None:
        return data_error(f"none of the {of:,} images can be read", *named)
    return BCNetError(f"{len(images):,} of {of:,} images cannot be read and have no results", *named)
