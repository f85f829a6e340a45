"""Boxes from elsewhere to predict masks inside: COCO results of any detector or tracker, or COCO ground truth."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcnet_core.annotations.amodal import enclosing_boxes, whole_masks
from bcnet_core.annotations.coco import CocoFile, Record, read_coco, segmentation_rle
from bcnet_core.errors import usage_error
from bcnet_core.evaluation.inputs import image_records
from bcnet_core.evaluation.results import listing_path, read_results
from bcnet_core.files.json_files import begins_list
from bcnet_core.masks.order import FrontPair, front_pairs
from bcnet_core.reporting import Reporter
from bcnet_core.structures import Instances

KEPT = ("id", "track_id")
"""Keys of a box, beside its category and score, that the result inside it has too, if they are plain values."""
ROUNDING = 0.01
"""Pixels by which a box may reach beyond its photo without being counted: files round coordinates."""


class GivenBoxes(NamedTuple):
    """The N boxes of one image, in the order of their file.

    Attributes:
        corners: (N, 4) float32, xyxy in pixels of the image, cut off at its border.
        scores: (N,) float32; 1 in ground truth.
        labels: (N,) int64, positions in the categories of the file.
        records: the N entries of the file.
        places: (N,) int64, positions among all boxes of the image, of which these may be a part; None is all of them.
    """

    corners: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    records: list[Record]
    places: NDArray[np.int64] | None = None

    def at(self, places: NDArray[np.int64]) -> GivenBoxes:
        """Return the boxes at these places."""
        own = [self.records[place] for place in places.tolist()]
        return GivenBoxes(self.corners[places], self.scores[places], self.labels[places], own, places)

    def keep_in(self, results: Sequence[Record]) -> list[Record]:
        """Return the N results inside the boxes, with what their file says of each: category, score and `KEPT`."""
        return [
            {**result, "category_id": given["category_id"], "score": given["score"]}
            | {key: given[key] for key in KEPT if is_plain(given.get(key))}
            for result, given in zip(results, self.records, strict=True)
        ]


def gather(parts: Sequence[tuple[GivenBoxes, Instances]]) -> Instances:
    """Return the instances inside all boxes of an image, in the order of the boxes, from those of its parts.

    The order of two instances of different parts is what their whole masks tell, where these are predicted.
    """
    if len(parts) == 1:
        return parts[0][1]
    given = [boxes.places for boxes, _ in parts if boxes.places is not None]
    part_of = np.repeat(np.arange(len(parts)), [len(places) for places in given])
    sorting = np.argsort(np.concatenate(given))
    found, first = [one for _, one in parts], parts[0][1]
    pasted = {name: [rle for one in found for rle in one.masks[name]] for name in first.masks}
    pasted = {name: [rles[index] for index in sorting.tolist()] for name, rles in pasted.items()}
    pairs = [
        FrontPair(int(places[pair.front]), int(places[pair.back]))
        for places, one in zip(given, found, strict=True)
        for pair in one.order or ()
    ]
    if "amodal_mask" in pasted:
        part_of = part_of[sorting]
        across = front_pairs(pasted["occludee_mask"], pasted["amodal_mask"])
        pairs += [pair for pair in across if part_of[pair.front] != part_of[pair.back]]
    return Instances(
        np.concatenate([one.boxes for one in found])[sorting],
        np.concatenate([one.scores for one in found])[sorting],
        np.concatenate([one.labels for one in found])[sorting],
        first.image_size,
        pasted,
        None if first.order is None else sorted(pairs),
    )


class BoxFile(NamedTuple):
    """Boxes of a file, and the images and categories that they refer to.

    Attributes:
        path: the file.
        listed: images and categories.
        records: results, or annotations with a score of 1.
        is_truth: whether they are annotations of ground truth.
    """

    path: Path
    listed: CocoFile
    records: list[Record]
    is_truth: bool

    def choose(
        self, images: Sequence[Record], *, amodal: bool, least_score: float | None, reporter: Reporter
    ) -> dict[int, GivenBoxes]:
        """Return the boxes of images by image id, without images that have none, and report what is left out.

        Crowds and boxes without an extent in their image are left out; what reaches beyond the image is cut off.

        Args:
            images: entries of a COCO file's `images` with ids of the file.
            amodal: whether boxes enclose whole objects, where the file knows these: those of the whole masks in ground
                truth, of the `amodal_bbox` in results.
            least_score: smallest score of a box; None takes all.
            reporter: is told how many boxes there are.

        Raises:
            BCNetError: if a mask of the ground truth that is needed cannot be read.
        """
        grouped: dict[int, list[Record]] = {image["id"]: [] for image in images}
        counts = Counter[str]()
        for one in self.records:
            if one["image_id"] not in grouped:
                counts["of other photos"] += 1
            elif one.get("iscrowd", 0):
                counts["crowds"] += 1
            elif least_score is not None and one["score"] < least_score:
                counts[f"with a score below {least_score:g}"] += 1
            else:
                grouped[one["image_id"]].append(one)
        labels = {category["id"]: label for label, category in enumerate(self.listed.categories)}
        chosen: dict[int, GivenBoxes] = {}
        cut = 0
        for image in images:
            if records := grouped[image["id"]]:
                boxes = np.array(self._boxes(records, image, amodal=amodal), np.float64)
                corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
                inside = corners.clip(0, np.tile([image["width"], image["height"]], 2))
                kept = np.flatnonzero((inside[:, 2:] > inside[:, :2]).all(axis=1))
                counts["without an extent in their photo"] += len(records) - len(kept)
                cut += int((np.abs(corners - inside)[kept] > ROUNDING).any(axis=1).sum())
                if len(kept):
                    own = [records[index] for index in kept]
                    chosen[image["id"]] = GivenBoxes(
                        inside[kept].astype(np.float32),
                        np.array([one["score"] for one in own], np.float32),
                        np.array([labels[one["category_id"]] for one in own], np.int64),
                        own,
                    )
        reporter.info(self._describe(chosen, len(images), counts, cut))
        return chosen

    def _boxes(self, records: Sequence[Record], image: Record, *, amodal: bool) -> Sequence[Sequence[float]]:
        """Return the [x, y, width, height] of the boxes of one image, in pixels."""
        if self.is_truth and amodal:
            rles = [segmentation_rle(one, image) for one in records]
            return enclosing_boxes(records, whole_masks(records, rles, image), amodal=True)
        return [one["amodal_bbox" if amodal and "amodal_bbox" in one else "bbox"] for one in records]

    def _describe(self, chosen: Mapping[int, GivenBoxes], images: int, left_out: Counter[str], cut: int) -> str:
        boxes = sum(len(given.records) for given in chosen.values())
        text = f"`{self.path}`: {boxes:,} boxes in {len(chosen):,} of {images:,} photos"
        reasons = [f"{count:,} {reason}" for reason, count in left_out.items() if count]
        text += f"; left out: {', '.join(reasons)}" if reasons else ""
        return text + (f"; {cut:,} reach beyond their photo and are cut off there" if cut else "")


def read_box_file(path: Path, ids_from: CocoFile | None, *, reporter: Reporter) -> BoxFile:
    """Read the boxes of COCO results, as `read_results` does, or of COCO ground truth.

    Args:
        path: the file, gzipped or not.
        ids_from: images and categories that results refer to; None takes the list beside results of `bcnet predict`.
        reporter: is told how ids were read.

    Raises:
        BCNetError: if the file cannot be read or has faults, or the images of results are not known.
    """
    if not begins_list(path):
        coco = read_coco(path)  # first: a file that is none of both lists nothing
        if ids_from is not None:
            raise usage_error(f"`{path}` lists its images and categories itself", "leave --ids-from out")
        return BoxFile(path, coco, [{**one, "score": 1.0} for one in coco.annotations], is_truth=True)
    listing = listing_path(path)
    if ids_from is None and not listing.is_file():
        raise usage_error(
            f"`{path}` does not say which photos and classes its ids stand for",
            "give the COCO json that lists them: --ids-from FILE",
        )
    listed = ids_from or read_coco(listing, need_annotations=False)
    return BoxFile(path, listed, read_results(path, listed, reporter=reporter, keep=KEPT), is_truth=False)


def is_plain(value: object) -> bool:
    """Return whether a value is a text or a finite number, as ids are."""
    return type(value) in {int, str} or (type(value) is float and math.isfinite(value))


def checksum(boxes: Mapping[int, GivenBoxes]) -> str:
    """Return a digest of all that the predictions inside boxes depend on, and of their images."""
    digest = hashlib.sha256()
    for image, given in boxes.items():
        digest.update(str(image).encode())
        for part in given[:3]:
            digest.update(part.tobytes())
    return digest.hexdigest()


class Inputs(NamedTuple):
    """Images that a command line names, and the boxes to predict inside.

    Attributes:
        images: entries of a COCO file's `images`.
        boxes: their boxes by image id; None lets a detector find its own.
        categories: those of the boxes, None without boxes.
        truth: ground truth that has the ids of the images; None if there is none.
    """

    images: list[Record]
    boxes: dict[int, GivenBoxes] | None
    categories: list[Record] | None
    truth: Path | None


def list_inputs(
    paths: Sequence[Path],
    ids_from: Path | None,
    boxes: Path | None,
    *,
    amodal: bool,
    least_score: float | None,
    reporter: Reporter,
) -> Inputs:
    """List images with the ids of a COCO file, or of the file of boxes, and read the boxes.

    Args:
        paths: of the images.
        ids_from: COCO file with ids and sizes of the images; None counts them, if there are no boxes.
        boxes: file of boxes, if any.
        amodal: see `BoxFile.choose`.
        least_score: see `BoxFile.choose`.
        reporter: is told how boxes were read.

    Raises:
        BCNetError: if a file cannot be read, or an image is not in it.
    """
    known = read_coco(ids_from, need_annotations=False) if ids_from else None
    given = read_box_file(boxes, known, reporter=reporter) if boxes else None
    known = given.listed if given else known
    images = image_records(paths, known, option="--boxes" if given else "--ids-from")
    truth = known.path if known is not None and known.annotations else None
    if given is None:
        return Inputs(images, None, None, truth)
    chosen = given.choose(images, amodal=amodal, least_score=least_score, reporter=reporter)
    return Inputs(images, chosen, given.listed.categories, truth)
