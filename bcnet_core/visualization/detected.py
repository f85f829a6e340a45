"""Pictures of what was found: by a detector, or by any model that left a COCO results file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.evaluation.image_scores import result_rle
from bcnet_core.masks.paste import paste_rles
from bcnet_core.structures import Predictor
from bcnet_core.visualization.annotated import Truth, read_picture
from bcnet_core.visualization.drawing import Image
from bcnet_core.visualization.picture import Instance, Picture, matched, numbered

AT_LEAST = 5
"""Detections that are shown of an image even if they score less than asked for."""


def detected_pictures(
    detector: Predictor, coco: CocoFile, records: Sequence[Record], images: Path, *, score: float = 0.5
) -> Iterator[Picture]:
    """What a detector finds in each image, beside the truth where there is any; one picture at a time.

    Args:
        detector: predicts one image at a time.
        coco: the ground truth, or a list of images.
        records: the images to show.
        images: the folder that their file names are relative to.
        score: detections below it are left out, but never the best five of an image, so that an early run
            shows what it has learned.
    """
    truth = Truth(coco)
    for record in records:
        pixels, fault = read_picture(images, record)
        if fault is not None:
            yield Picture(record["file_name"], pixels, fault=fault)
            continue
        layers, sure = detect(detector, pixels, score=score)
        yield _picture(record, pixels, layers, truth, note=_note(sure, len(layers), score))


def result_pictures(
    coco: CocoFile, results: Sequence[Record], records: Sequence[Record], images: Path, *, score: float = 0.5
) -> Iterator[Picture]:
    """What a results file says of each image, beside the truth where there is any; one picture at a time.

    Args:
        coco: the file whose images and categories the results name.
        results: with masks, from `read_results`; an occluder's mask is shown where they carry one.
        records: the images to show.
        images: the folder that their file names are relative to.
        score: detections below it are left out, but never the best five of an image.
    """
    truth, names = Truth(coco), {category["id"]: str(category["name"]) for category in coco.categories}
    grouped: dict[int, list[Record]] = {}
    for result in results:
        grouped.setdefault(result["image_id"], []).append(result)
    for record in records:
        pixels, fault = read_picture(images, record)
        if fault is not None:
            yield Picture(record["file_name"], pixels, fault=fault)
            continue
        found = sorted(grouped.get(record["id"], []), key=lambda one: -one["score"])
        sure, shown = _shown([one["score"] for one in found], score)
        layers = [_of_result(one, names[one["category_id"]]) for one in found[:shown]]
        yield _picture(record, pixels, layers, truth, note=_note(sure, shown, score))


def detect(detector: Predictor, image: Image, *, score: float) -> tuple[tuple[Instance, ...], int]:
    """What a detector finds in an image: the instances to show, the best first, and how many reach the score.

    Args:
        detector: predicts one image at a time.
        image: (H, W, 3) uint8 RGB.
        score: detections below it are left out, but never the best five.
    """
    found = detector.predict([image])[0].to("cpu")
    sure, shown = _shown(found.scores.tolist(), score)
    size, best = found.image_size, slice(0, shown)
    boxes = found.boxes[best]
    occludees = paste_rles(found.occludee_mask[best], boxes, *size)
    occluders = None if found.occluder_mask is None else paste_rles(found.occluder_mask[best], boxes, *size)
    layers = []
    for index in range(shown):
        x0, y0, x1, y1 = boxes[index].tolist()
        layers.append(
            Instance(
                category=str(detector.categories[int(found.labels[index])]["name"]),
                box=(x0, y0, x1, y1),
                occludee=occludees[index],
                occluder=None if occluders is None else occluders[index],
                score=float(found.scores[index]),
                maps={name: part[index].float().numpy() for name, part in found.maps.items()},
            )
        )
    return numbered(layers), sure


def _picture(record: Record, pixels: Image, layers: Sequence[Instance], truth: Truth, *, note: str) -> Picture:
    """Detections, each beside what it found where the truth is known."""
    name = record["file_name"]
    if not truth.is_known:
        return Picture(name, pixels, numbered(layers), note=note)
    found, true = matched(layers, truth.of(record))
    return Picture(name, pixels, found, true, note=note)


def _of_result(result: Record, name: str) -> Instance:
    x, y, width, height = result["bbox"]
    return Instance(
        category=name,
        box=(x, y, x + width, y + height),
        occludee=result_rle(result),
        occluder=result_rle(result, "occluder") if result.get("occluder") else None,
        score=result["score"],
    )


def _shown(scores: Sequence[float], score: float) -> tuple[int, int]:
    """How many of these scores, the best first, reach the one that is asked for, and how many are shown."""
    sure = sum(one >= score for one in scores)
    return sure, min(max(sure, AT_LEAST), len(scores))


def _note(sure: int, shown: int, score: float) -> str:
    """A sentence for an image of which weaker detections are shown than asked for, or none."""
    if shown == 0:
        return "nothing was found here"
    if shown > sure:
        return f"{sure} of these score {score:.2f} or more; the best {AT_LEAST} are shown in any case"
    return ""
