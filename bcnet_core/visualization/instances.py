"""Pictures with instances from ground truth, from a detector, or from the COCO results of any model.

Pictures are made lazily, so that only one image is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bcnet_core import masks
from bcnet_core.annotations.amodal import whole_masks
from bcnet_core.annotations.coco import AMODAL_KEY, FRONT_OF, CocoFile, Record, read_mask
from bcnet_core.annotations.occluder import occluder_regions
from bcnet_core.errors import BCNetError
from bcnet_core.evaluation.order import hidden_ids
from bcnet_core.evaluation.tiles import Tiling, predict_tiled
from bcnet_core.files.images import read_listed
from bcnet_core.masks.crops import paste_rles
from bcnet_core.masks.order import hidden_by
from bcnet_core.structures import Predictor
from bcnet_core.visualization.drawing import BLANK, Image
from bcnet_core.visualization.picture import Box, Instance, Picture, match_truth, numbered

AT_LEAST = 5
"""Detections of an image that are shown even below the requested score."""


class Truth:
    """The true instances of a COCO file; occluders are stored ones where the file has them, else derived.

    One whose mask cannot be read has none.
    """

    def __init__(self, coco: CocoFile) -> None:
        self.names = {category["id"]: str(category["name"]) for category in coco.categories}
        self._grouped = coco.annotations_by_image()
        self.is_known = bool(coco.annotations)

    def instances(self, record: Record, *, amodal: bool = True) -> tuple[Instance, ...]:
        """Return the instances of an image in file order.

        Where a whole mask is known, the occluder is what is truly in front. `amodal` false ignores whole masks, as the
        training of a detector without them does.
        """
        annotations = self._grouped[record["id"]]
        rles = [read_mask(annotation, record["height"], record["width"])[0] for annotation in annotations]
        wholes = whole_masks(annotations, rles, record) if amodal else [None] * len(rles)
        regions = occluder_regions(annotations, rles, record, wholes=wholes)
        positions = {annotation["id"]: position for position, annotation in enumerate(annotations)}
        hides = [tuple(positions[i] for i in hidden_ids(one) if i in positions) for one in annotations]
        return tuple(
            Instance(
                category=self.names[one["category_id"]],
                box=_corners(one["bbox"]),
                occludee=rle,
                occluder=region,
                crowd=bool(one.get("iscrowd", 0)),
                whole=whole,
                hides=below if FRONT_OF in one else None,
            )
            for one, rle, region, whole, below in zip(annotations, rles, regions, wholes, hides, strict=True)
        )


def annotated_pictures(coco: CocoFile, records: Sequence[Record], images: Path) -> Iterator[Picture]:
    """Make pictures of the annotated instances of images; a test-dev list gives pictures without instances."""
    truth = Truth(coco)
    return _pictures(records, images, lambda record, _: truth.instances(record))


def detected_pictures(
    detector: Predictor,
    coco: CocoFile,
    records: Sequence[Record],
    images: Path,
    *,
    score: float = 0.5,
    tiling: Tiling | None = None,
) -> Iterator[Picture]:
    """Make pictures of a detector's predictions, matched with the ground truth if there is any.

    `score` is the lowest score of a detection, but the best five of an image are always shown, so that an early run
    shows what it has learned.
    """

    def find(_: Record, pixels: Image) -> Sequence[Instance]:
        if tiling is None or max(pixels.shape) <= tiling.side:
            return detect(detector, pixels, score=score)
        return detect_in_tiles(detector, pixels, tiling, score=score)

    return _pictures(records, images, find, Truth(coco), score)


def result_pictures(
    coco: CocoFile, results: Sequence[Record], records: Sequence[Record], images: Path, *, score: float = 0.5
) -> Iterator[Picture]:
    """Make pictures of results from `read_results` that have masks, as `detected_pictures` does of predictions."""
    truth, grouped = Truth(coco), dict[int, list[Record]]()
    for result in results:
        grouped.setdefault(result["image_id"], []).append(result)

    def find(record: Record, _: Image) -> Sequence[Instance]:
        listed = grouped.get(record["id"], [])
        best = sorted(range(len(listed)), key=lambda position: -listed[position]["score"])
        best = best[: _shown([listed[position]["score"] for position in best], score, AT_LEAST)]
        places = {position: place for place, position in enumerate(best)}
        return [
            Instance(
                category=truth.names[one["category_id"]],
                box=_corners(one["bbox"]),
                occludee=one["segmentation"],
                occluder=one.get("occluder"),
                score=one["score"],
                whole=masks.union([one[AMODAL_KEY], one["segmentation"]]) if AMODAL_KEY in one else None,
                hides=tuple(places[i] for i in one["hides"] if i in places) if "hides" in one else None,
            )
            for one in (listed[position] for position in best)
        ]

    return _pictures(records, images, find, truth, score)


def _pictures(
    records: Sequence[Record],
    images: Path,
    find: Callable[[Record, Image], Sequence[Instance]],
    truth: Truth | None = None,
    score: float | None = None,
) -> Iterator[Picture]:
    """Read images one by one and find the instances in each; `score` is None for annotations."""
    for record in records:
        name, size = record["file_name"], (record["height"], record["width"])
        try:
            pixels = read_listed(images, record)
        except BCNetError as error:
            blank = np.broadcast_to(np.array(BLANK, np.uint8), (*size, 3))
            yield Picture(name, blank, fault=error.message)
            continue
        instances = find(record, pixels)
        note = _note(instances, score)
        if truth is None or not truth.is_known:
            yield Picture(name, pixels, numbered(instances), note=note)
        else:
            true = truth.instances(record, amodal=any(one.whole is not None for one in instances))
            yield Picture(name, pixels, *match_truth(instances, true), note=note)


def detect(detector: Predictor, image: Image, *, score: float, at_least: int = AT_LEAST) -> tuple[Instance, ...]:
    """Detect instances in an (H, W, 3) uint8 RGB image, best first; `at_least` are returned even below `score`."""
    found = detector.predict([image])[0].to("cpu")
    shown = _shown(found.scores.tolist(), score, at_least)
    order = found.order
    hides = None if order is None else hidden_by(len(found.boxes), order)
    boxes, size = found.boxes[:shown], found.image_size
    regions = (found.occludee_mask, found.occluder_mask, found.amodal_mask)
    occludees, occluders, wholes = (
        [None] * shown if maps is None else paste_rles(maps[:shown], boxes, *size) for maps in regions
    )
    return tuple(
        Instance(
            category=str(detector.categories[int(found.labels[index])]["name"]),
            box=(x0, y0, x1, y1),
            occludee=occludees[index],
            occluder=occluders[index],
            score=float(found.scores[index]),
            maps={name: values[index].float().numpy() for name, values in found.maps.items()},
            whole=wholes[index],
            hides=None if hides is None else tuple(one for one in hides[index] if one < shown),
        )
        for index, (x0, y0, x1, y1) in enumerate(boxes.tolist())
    )


def detect_in_tiles(detector: Predictor, image: Image, tiling: Tiling, *, score: float) -> tuple[Instance, ...]:
    """Detect as `detect` does, in an image that is seen in tiles; the joined instances have masks, but no maps."""
    found = predict_tiled(detector, image, tile=tiling.side, overlap=tiling.overlap)
    shown = _shown(found.scores.tolist(), score, AT_LEAST)
    hides = None if found.order is None else hidden_by(len(found.scores), found.order)
    return tuple(
        Instance(
            category=str(detector.categories[int(found.labels[index])]["name"]),
            box=(x0, y0, x1, y1),
            occludee=found.masks["occludee_mask"][index],
            occluder=found.masks["occluder_mask"][index] if "occluder_mask" in found.masks else None,
            score=float(found.scores[index]),
            whole=found.masks["amodal_mask"][index] if "amodal_mask" in found.masks else None,
            hides=None if hides is None else tuple(one for one in hides[index] if one < shown),
        )
        for index, (x0, y0, x1, y1) in enumerate(found.boxes[:shown].tolist())
    )


def _corners(bbox: Sequence[float]) -> Box:
    """Convert a box from [x, y, width, height] to xyxy."""
    x, y, width, height = bbox
    return x, y, x + width, y + height


def _shown(scores: Sequence[float], score: float, at_least: int) -> int:
    """Count the detections to show of these scores, best first."""
    return min(max(sum(one >= score for one in scores), at_least), len(scores))


def _note(instances: Sequence[Instance], score: float | None) -> str:
    """Return a remark if there is nothing to show, or weaker detections than requested are shown."""
    if score is None:
        differing = sum(one.box_differs for one in instances)
        if differing:
            return f"{differing:,} of {len(instances):,} instances have no mask, or a box that does not fit their mask"
        return "" if instances else "no instance is annotated here"
    confident = sum((one.score or 0.0) >= score for one in instances)
    if confident < len(instances):
        return f"{confident} of these score {score:.2f} or more; the best {AT_LEAST} are always shown"
    return "" if instances else "nothing was found here"
