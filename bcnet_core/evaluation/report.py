"""Everything that `bcnet eval` says of results: COCO's numbers, by occlusion, by category, and what was recalled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.annotations.rates import LEVEL_FROM
from bcnet_core.annotations.split import SplitRule, split_occluded
from bcnet_core.evaluation.coco import (
    Backend,
    Kind,
    Scores,
    backend_name,
    check_kind,
    evaluate,
    evaluate_categories,
    ground_truth,
)
from bcnet_core.evaluation.occluded import (
    HiddenObject,
    Recall,
    annotation_levels,
    count_recall,
    hidden_objects,
    truth_of_level,
)

ROWS: dict[Kind, str] = {"bbox": "boxes", "segm": "masks", "boundary": "boundaries"}
"""What a row of a table calls each kind."""


@dataclass(frozen=True)
class ScoreOptions:
    """What to score.

    Attributes:
        backend: the library.
        boundary: also boundary AP, which takes several times as long as the rest.
        occlusion: also the occluded split, each level of occlusion, and the recall of hidden objects.
        occluded_ids: the images of the occluded split; those of `SplitRule()` where None.
        objects: lists of hidden objects by name; derived from the ground truth where there are none.

    Raises:
        BCNetError: if the library does not know what is asked for.
    """

    backend: Backend = "faster-coco-eval"
    boundary: bool = False
    occlusion: bool = False
    occluded_ids: Sequence[int] | None = None
    objects: dict[str, list[HiddenObject]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.boundary:
            check_kind("boundary", self.backend)


class ScoreReport(NamedTuple):
    """What came of it.

    Attributes:
        backend: library and version.
        images: of the ground truth.
        detections: that were scored.
        rows: COCO's numbers by what was scored.
        categories: by kind and then by category name.
        recall: of hidden objects, by the name of their list.
    """

    backend: str
    images: int
    detections: int
    rows: dict[str, Scores]
    categories: dict[str, dict[str, Scores]]
    recall: dict[str, Recall]

    def content(self) -> Record:
        """The report as json."""
        return {
            "backend": self.backend,
            "images": self.images,
            "detections": self.detections,
            "scores": {name: row._asdict() for name, row in self.rows.items()},
            "categories": {
                kind: {name: row._asdict() for name, row in rows.items()} for kind, rows in self.categories.items()
            },
            "recall": {name: {**one._asdict(), "share": one.share} for name, one in self.recall.items()},
        }


def score_results(coco: CocoFile, results: Sequence[Record], options: ScoreOptions) -> ScoreReport:
    """Score COCO results.

    Args:
        coco: ground truth.
        results: from `read_results`, or of a detector. Without masks only boxes are scored.
        options: what to score.

    Raises:
        BCNetError: if results have masks and the ground truth lacks one.
    """
    with_masks = not results or "segmentation" in results[0]
    truth = ground_truth(coco, need_masks=with_masks)
    kinds: list[Kind] = ["bbox"]
    if with_masks:
        kinds += ["segm", "boundary"] if options.boundary else ["segm"]
    rows, categories = {}, {}
    names = {category["id"]: str(category["name"]) for category in coco.categories}
    for kind in kinds:
        found = evaluate_categories(truth, results, kind, backend=options.backend)
        rows[ROWS[kind]] = found.scores
        categories[ROWS[kind]] = {names[one]: scores for one, scores in found.categories.items()}
    recall: dict[str, Recall] = {}
    if options.occlusion:
        rows |= _by_occlusion(coco, truth, results, kinds, options)
        if with_masks:
            objects = options.objects or dict(zip(("occluded", "separated"), hidden_objects(coco), strict=True))
            recall = {name: count_recall(one, results) for name, one in objects.items()}
    return ScoreReport(backend_name(options.backend), len(coco.images), len(results), rows, categories, recall)


def _by_occlusion(
    coco: CocoFile, truth: Record, results: Sequence[Record], kinds: Sequence[Kind], options: ScoreOptions
) -> dict[str, Scores]:
    """The rows of the occluded split, and of the instances of each level."""
    ids, rows = options.occluded_ids, {}
    if ids is None:
        ids = [image["id"] for image in split_occluded(coco, rule=SplitRule()).content["images"]]
    for kind in kinds:
        name = f"{ROWS[kind]}, occluded split"
        rows[name] = evaluate(truth, results, kind, image_ids=ids, backend=options.backend)
    levels, kind = annotation_levels(coco), kinds[min(1, len(kinds) - 1)]
    for level in LEVEL_FROM:
        name = f"{ROWS[kind]}, occlusion {level}"
        rows[name] = evaluate(truth_of_level(truth, levels, level), results, kind, backend=options.backend)
    return rows
