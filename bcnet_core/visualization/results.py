"""Pictures of a COCO results file, whatever model wrote it, and the images to look at first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.errors import usage_error
from bcnet_core.evaluation.image_scores import mean_ious, result_rle
from bcnet_core.visualization import draw
from bcnet_core.visualization.panels import Layers, Picture
from bcnet_core.visualization.sources import (
    AT_LEAST,
    detected_note,
    display_box,
    display_mask,
    display_size,
    read_picture,
)


def result_pictures(
    coco: CocoFile, results: Sequence[Record], records: Sequence[Record], images: Path, *, score: float = 0.5
) -> Iterator[Picture]:
    """What a results file says of each image.

    Args:
        coco: the file whose images and categories the results name.
        results: with masks, from `read_results`; an occluder's mask is shown where they carry one.
        records: the images to show.
        images: the folder that their file names are relative to.
        score: detections below it are left out, but never the best five of an image.
    """
    names = {category["id"]: str(category["name"]) for category in coco.categories}
    grouped: dict[int, list[Record]] = {}
    for result in results:
        grouped.setdefault(result["image_id"], []).append(result)
    for record in records:
        pixels, fault = read_picture(images, record)
        found = sorted(grouped.get(record["id"], []), key=lambda one: -one["score"]) if fault is None else []
        sure = sum(one["score"] >= score for one in found)
        shown = found[: max(sure, AT_LEAST)]
        yield Picture(
            name=record["file_name"],
            image=draw.resize_image(pixels, display_size(record)),
            instances=tuple(_layers(one, record, names[one["category_id"]]) for one in shown),
            note="" if fault else detected_note(sure, len(shown), score),
            fault=fault,
        )


def _layers(result: Record, record: Record, name: str) -> Layers:
    x, y, width, height = result["bbox"]
    return Layers(
        category=name,
        box=display_box((x, y, x + width, y + height), record),
        occludee=display_mask(result_rle(result), record),
        occluder=display_mask(result_rle(result, "occluder"), record) if result.get("occluder") else None,
        score=result["score"],
    )


def worst_images(
    coco: CocoFile, results: Sequence[Record], records: Sequence[Record], count: int, *, score: float
) -> list[Record]:
    """The images that were segmented worst, the worst first.

    Args:
        coco: ground truth.
        results: of the images.
        records: the images to choose from.
        count: how many are taken.
        score: detections below it do not count.

    Raises:
        BCNetError: if no image has a true instance with a mask.
    """
    scores = mean_ious(coco, results, score=score)
    known = [record for record in records if record["id"] in scores]
    if not known:
        raise usage_error(f"`{coco.path}` has no instance with a mask to judge by", "leave out --worst")
    return sorted(known, key=lambda record: scores[record["id"]])[:count]
