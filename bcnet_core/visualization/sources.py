"""Where pictures come from: which files a source means, and which of its images are shown."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, read_coco, segmentation_rle
from bcnet_core.annotations.occluder import occluder_regions
from bcnet_core.engine.run_dir import Run, open_run
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.evaluation.image_list import find_images
from bcnet_core.files.images import image_size

PLACEHOLDER = (480, 640)
"""(height, width) of the panel that stands for an image of unknown size."""
BEGINNING = 1000
"""Bytes of a json that tell a list from an object."""


class Place(NamedTuple):
    """Where annotations and images are.

    Attributes:
        annotations: a COCO json; None where images alone are shown.
        images: a folder.
        model: the run or checkpoint to predict with, if any.
        results: the results file to show, if any.
    """

    annotations: Path | None
    images: Path
    model: Path | None = None
    results: Path | None = None


def locate(
    source: Path,
    *,
    images: Path | None = None,
    data_root: Path | None = None,
    gt: Path | None = None,
    open_run: Callable[[Path], Run] = open_run,
) -> Place:
    """Find the annotations and images that a source means.

    Args:
        source: a COCO json (`.json`, `.json.gz`), a run directory or a checkpoint.
        images: the folder of the images, where it is not the one that the source implies; what a model finds in any
            images, without `gt`.
        data_root: what a run's data paths are relative to, where that is not what it was trained with.
        gt: the ground truth of a results file or a model. Without it, and without images, a model means the validation
            set that it was trained beside.
        open_run: of the backend that the model belongs to.

    Raises:
        BCNetError: if there is no such source, or its images are nowhere to be found.
    """
    if not source.exists():
        raise data_error(f"`{source}` does not exist", "SOURCE is a run directory, a checkpoint or a COCO json")
    if not source.is_dir() and (source.suffix == ".json" or source.name.endswith(".json.gz")):
        if gt is None and images is None and _is_list(source):  # else reading it says so
            raise data_error(f"`{source}` is a results file, which goes with its ground truth", "name it: --gt FILE")
        annotations = gt or source
        return Place(annotations, _folder(images, annotations), results=None if gt is None else source)
    if gt is not None:
        return Place(gt, _folder(images, gt), source)
    if images is not None:
        return Place(None, _folder(images, images), source)
    data = open_run(source).recipe.data
    root = data_root or data.root or Path()
    annotations = root / data.val.annotations
    if not annotations.is_file():
        raise data_error(
            f"the validation set of `{source}` is not at `{annotations}`",
            "say where the data is: --data-root; or what to look at: --images FOLDER",
        )
    return Place(annotations, _folder(root / data.val.images, annotations), source)


def read_place(place: Place) -> CocoFile:
    """The annotations of a place; of images alone, a file that lists them and nothing else.

    Raises:
        BCNetError: if the annotations cannot be read, or there is no image.
    """
    if place.annotations is not None:
        return read_coco(place.annotations, need_annotations=False)
    listed = []
    for number, path in enumerate(find_images([str(place.images)]), start=1):
        try:
            height, width = image_size(path)
        except BCNetError:
            height, width = PLACEHOLDER  # reading its pixels says what is wrong with it
        name = str(path.relative_to(place.images))
        listed.append({"id": number, "file_name": name, "height": height, "width": width})
    return CocoFile(place.images, {"images": listed, "annotations": [], "categories": []})


def choose_images(
    coco: CocoFile, *, ids: Sequence[int] | None = None, limit: int = 20, most_occluded: int | None = None
) -> list[Record]:
    """Choose the image records to show.

    Args:
        coco: the file.
        ids: image ids, shown in this order; None means all.
        limit: how many are shown of all; ids that were asked for are all shown.
        most_occluded: show this many instead, those first whose boxes are covered most by occluders (the sum
            of the covered shares over the image's instances).

    Raises:
        BCNetError: if an id is not in the file, the file lists no image, or nothing says what is occluded.
    """
    if not coco.images:
        raise data_error(f"`{coco.path}` lists no image to show")
    by_id = {image["id"]: image for image in coco.images}
    unknown = [image_id for image_id in ids or () if image_id not in by_id]
    if unknown:
        raise usage_error(
            f"`{coco.path}` has no image with the id {unknown[0]}",
            f"ids there: {', '.join(str(image_id) for image_id in list(by_id)[:5])}, ...",
        )
    records = list(coco.images) if ids is None else [by_id[image_id] for image_id in dict.fromkeys(ids)]
    if most_occluded is not None:
        if not coco.annotations:
            raise usage_error(f"`{coco.path}` says of no instance how occluded it is", "leave out --most-occluded")
        grouped = coco.annotations_by_image()
        scores = {image["id"]: _occlusion(image, grouped[image["id"]]) for image in records}
        return sorted(records, key=lambda image: -scores[image["id"]])[:most_occluded]
    return records if ids is not None else records[:limit]


def _folder(images: Path | None, annotations: Path) -> Path:
    """The folder of the images, by default that of the COCO layout."""
    folder = images or _implied_images(annotations)
    if folder.exists() and not folder.is_dir():
        raise data_error(f"`{folder}` is a file, not a folder of images", f"give the folder: --images {folder.parent}")
    if not folder.is_dir():
        raise data_error(f"the folder of images `{folder}` does not exist", "say where they are: --images FOLDER")
    return folder


def _is_list(path: Path) -> bool:
    """Whether the json in a file is a list, as results are; no more than its beginning is read."""
    if not path.is_file():
        return False
    with suppress(OSError, EOFError, zlib.error), path.open("rb") as raw:  # reading all of it says what is wrong
        file = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        return file.read(BEGINNING).lstrip().startswith(b"[")
    return False


def _implied_images(annotations: Path) -> Path:
    """The image folder of the COCO layout: `annotations/instances_val2017.json` belongs to `val2017/`."""
    split = annotations.name.split(".")[0].rsplit("_", 1)[-1].replace("-dev", "")
    folder = annotations.absolute().parent
    places = [folder.parent / split, folder / split]
    for place in places:
        if place.is_dir():
            return place
    raise usage_error(f"the images of `{annotations}` are not in `{places[0]}`", "say where they are: --images FOLDER")


def _occlusion(record: Record, annotations: Sequence[Record]) -> float:
    """How much of its instances' boxes occluders cover, summed over the instances of an image."""
    rles = [segmentation_rle(annotation, record) for annotation in annotations]
    regions = occluder_regions(annotations, rles, record)
    shares = (
        masks.area(region) / max(annotation["bbox"][2] * annotation["bbox"][3], 1.0)
        for annotation, region in zip(annotations, regions, strict=True)
        if region is not None
    )
    return float(sum(shares))
