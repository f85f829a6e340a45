"""Sources of pictures: the files that a command line means, and which of their images to show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, read_coco
from bcnet_core.annotations.faults import record_flaw
from bcnet_core.config.choices import Judgement
from bcnet_core.data.loaders import read_annotations
from bcnet_core.engine.run_dir import Run, open_run
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.evaluation.compare import image_precisions, mean_ious
from bcnet_core.evaluation.inputs import find_images
from bcnet_core.files.image_headers import image_size
from bcnet_core.visualization.instances import Truth
from bcnet_core.visualization.picture import Instance

PLACEHOLDER = (480, 640)
"""(height, width) of the panel that replaces an image of unknown size."""


class PictureSource(NamedTuple):
    """Selection of what is drawn.

    Attributes:
        coco: annotations that can be drawn, or a list of images without any.
        images: folder of the images.
        model: model to show, if any.
        results: results file to show, if any.
        omitted: number of annotations that cannot be drawn: without an id, a box, or an image and category in the file.
    """

    coco: CocoFile
    images: Path
    model: Path | None = None
    results: Path | None = None
    omitted: int = 0


def open_source(
    path: Path,
    *,
    images: Path | None = None,
    data_root: Path | None = None,
    gt: Path | None = None,
    open_run: Callable[[Path], Run] = open_run,
) -> PictureSource:
    """Find and read the annotations that a path stands for, and find their images.

    Args:
        path: a COCO json (`.json`, `.json.gz`), a run directory or a checkpoint.
        images: folder of the images, if it is not the one that the path implies; without `gt`, a model predicts any
            images in it.
        data_root: folder that a run's data paths are relative to, if it is not the one it was trained with.
        gt: ground truth of a results file or a model. Without it and without images, a model is shown on the
            validation set of its recipe.
        open_run: opens runs of the model's backend.
    """
    if not path.exists():
        raise data_error(f"`{path}` does not exist", "SOURCE is a run directory, a checkpoint or a COCO json")
    folder = None if images is None else _check_folder(images)
    if not path.is_dir() and (path.suffix == ".json" or path.name.endswith(".json.gz")):
        coco, omitted = _drawable(read_coco(gt or path, need_annotations=False, check_annotations=False))
        results = None if gt is None else path
        return PictureSource(coco, folder or _implied_images(coco.path), results=results, omitted=omitted)
    if gt is not None:
        coco, omitted = _drawable(read_coco(gt, need_annotations=False, check_annotations=False))
        return PictureSource(coco, folder or _implied_images(gt), path, omitted=omitted)
    if folder is not None:
        return PictureSource(_list_images(folder), folder, path)
    data = open_run(path).recipe.data
    data = data.model_copy(update={"root": data_root or data.root or Path()})
    listed = read_annotations(data, data.val, need_annotations=False, check_annotations=False, configurable=False)
    coco, omitted = _drawable(listed)
    return PictureSource(coco, _check_folder(data.locate(data.val)[1]), path, omitted=omitted)


def _drawable(coco: CocoFile) -> tuple[CocoFile, int]:
    """Leave out the annotations that cannot be drawn, and return their number; a box without a mask is drawn."""
    images, categories = ({one["id"] for one in records} for records in (coco.images, coco.categories))
    kept = [one for one in coco.annotations if record_flaw(one, images, categories) is None]
    omitted = len(coco.annotations) - len(kept)
    return (replace(coco, content={**coco.content, "annotations": kept}) if omitted else coco), omitted


def _list_images(folder: Path) -> CocoFile:
    """List the images of a folder as a COCO file without annotations."""
    listed = []
    for number, path in enumerate(find_images([str(folder)]), start=1):
        try:
            height, width = image_size(path)
        except BCNetError:
            height, width = PLACEHOLDER  # reading its pixels reports the problem
        listed.append({"id": number, "file_name": str(path.relative_to(folder)), "height": height, "width": width})
    return CocoFile(folder, {"images": listed, "annotations": [], "categories": []})


def _check_folder(folder: Path) -> Path:
    if folder.exists() and not folder.is_dir():
        raise data_error(f"`{folder}` is a file, not a folder of images", f"give the folder: --images {folder.parent}")
    if not folder.is_dir():
        raise data_error(f"the folder of images `{folder}` does not exist", "say where they are: --images FOLDER")
    return folder


def _implied_images(annotations: Path) -> Path:
    """Return the image folder of the COCO layout: `val2017/` for `annotations/instances_val2017.json`."""
    split = annotations.name.split(".")[0].rsplit("_", 1)[-1].replace("-dev", "")
    folder = annotations.absolute().parent
    candidates = [folder.parent / split, folder / split]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise usage_error(
        f"the images of `{annotations}` are not in `{candidates[0]}`", "say where they are: --images FOLDER"
    )


def choose_images(
    coco: CocoFile, *, ids: Sequence[int] | None = None, limit: int = 20, most_occluded: int | None = None
) -> list[Record]:
    """Choose the image records to show: those with the ids in their order, else the first `limit`.

    With `most_occluded`, that many of them are returned, ranked by the summed occlusion of their instances.
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
            raise usage_error(f"`{coco.path}` has no annotations to rank images by occlusion", "omit --most-occluded")
        truth = Truth(coco)
        scores = {image["id"]: sum(map(_covered_share, truth.instances(image))) for image in records}
        return sorted(records, key=lambda image: -scores[image["id"]])[:most_occluded]
    return records if ids is not None else records[:limit]


def _covered_share(instance: Instance) -> float:
    """Return the occlusion rate, or if it is unknown the fraction of the exact box that the occluder covers."""
    if instance.occlusion_rate is not None:
        return instance.occlusion_rate
    x0, y0, x1, y1 = instance.box
    return 0.0 if instance.occluder is None else masks.area(instance.occluder) / max((x1 - x0) * (y1 - y0), 1.0)


def worst_images(
    coco: CocoFile, results: Sequence[Record], records: Sequence[Record], count: int, *, by: Judgement, score: float
) -> list[Record]:
    """Choose `count` of the images with the worst results, the worst first.

    "iou" ranks by the mean over the true instances of the IoU with the best detection that reaches `score`, "ap" by the
    image's own AP over all detections.
    """
    scores = mean_ious(coco, results, score=score) if by == "iou" else image_precisions(coco, results)
    known = [record for record in records if record["id"] in scores]
    if not known:
        raise usage_error(f"`{coco.path}` has no instance with a mask to rank images by", "omit --worst")
    return sorted(known, key=lambda record: scores[record["id"]])[:count]
