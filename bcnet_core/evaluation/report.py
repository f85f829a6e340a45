"""The scores that `bcnet eval` reports: COCO's numbers, by category and by occlusion, recall, and whole masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import NamedTuple

from bcnet_core.annotations.coco import CocoFile, Record, category_names
from bcnet_core.annotations.crowding import MOST_DETECTIONS
from bcnet_core.annotations.rates import LEVEL_FROM
from bcnet_core.annotations.split import SplitRule, measure_images, occluded_image_ids
from bcnet_core.config.choices import Scorer
from bcnet_core.errors import usage_error
from bcnet_core.evaluation.amodal import (
    OWN_SHARES,
    TAO_SHARES,
    AmodalScores,
    AmodalTruth,
    Shares,
    score_amodal,
    whole_results,
)
from bcnet_core.evaluation.coco import Evaluation, ScoreKind, Scores, evaluate, ground_truth, score_names
from bcnet_core.evaluation.occluded import (
    HiddenObject,
    Recall,
    annotation_levels,
    count_recall,
    hidden_objects,
    truth_of_level,
)
from bcnet_core.evaluation.results import has_masks

ROWS: dict[ScoreKind, str] = {"bbox": "boxes", "segm": "masks", "boundary": "boundaries"}
"""Name of each kind in the rows of a table."""


@dataclass(frozen=True)
class ScoreOptions:
    """Scores to compute.

    Attributes:
        boundary: whether to score boundaries too, which takes several times as long as the rest.
        occlusion: whether to score the occluded split, each occlusion level, and the recall of hidden objects too.
        occluded_ids: image ids of the occluded split; chosen by `SplitRule()` if None.
        objects: lists of hidden objects by name; derived from the ground truth if empty.
        max_dets: number of detections of each category in an image that count.
        amodal: whole masks of the same ground truth, if they are to be scored too.

    Raises:
        BCNetError: if the library does not support this.
    """

    scorer: Scorer = "faster-coco-eval"
    boundary: bool = False
    occlusion: bool = False
    occluded_ids: Sequence[int] | None = None
    objects: dict[str, list[HiddenObject]] = field(default_factory=dict)
    max_dets: int = MOST_DETECTIONS
    amodal: AmodalTruth | None = None

    def __post_init__(self) -> None:
        if self.boundary and self.scorer == "pycocotools":
            raise usage_error("pycocotools has no boundary AP", "use --backend-eval faster-coco-eval")


class ScoreReport(NamedTuple):
    """Scores of a set of results.

    Attributes:
        backend: library and version.
        rows: COCO's numbers by what was scored.
        categories: the same by kind, then by category name.
        recall: recall of hidden objects by the name of their list.
        max_dets: number of detections of each category in an image that counted.
        amodal: scores of whole masks besides AP, if asked for.
    """

    backend: str
    images: int
    detections: int
    rows: dict[str, Scores]
    categories: dict[str, dict[str, Scores]]
    recall: dict[str, Recall]
    max_dets: int = MOST_DETECTIONS
    amodal: AmodalScores | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the twelve numbers of a row."""
        return score_names(self.max_dets)

    def content(self) -> Record:
        """Return the report as JSON data."""
        return {
            "backend": self.backend,
            "images": self.images,
            "detections": self.detections,
            "max_dets": self.max_dets,
            "scores": self._named(self.rows),
            "categories": {kind: self._named(rows) for kind, rows in self.categories.items()},
            "recall": {name: {**one._asdict(), "share": one.share} for name, one in self.recall.items()},
            **({} if self.amodal is None else {"amodal": self.amodal.content()}),
        }

    def _named(self, rows: dict[str, Scores]) -> dict[str, dict[str, float]]:
        return {name: dict(zip(self.columns, row, strict=True)) for name, row in rows.items()}


def row_names(categories: Sequence[Record]) -> dict[int, str]:
    """Return the name of the row of each category by its id; categories of one name also show their ids."""
    times = Counter(category_names(categories))
    return {
        one["id"]: name if times[name] == 1 else f"{name} (id {one['id']})"
        for one, name in zip(categories, category_names(categories), strict=True)
    }


def score_results(
    coco: CocoFile, results: Sequence[Record], options: ScoreOptions, *, truth: Record | None = None
) -> ScoreReport:
    """Score COCO results from `read_results`, or from a detector; without masks only boxes are scored.

    Args:
        coco: ground truth.
        results: COCO results.
        options: what to score.
        truth: `ground_truth(coco)` if the caller has it already.

    Raises:
        BCNetError: if results have masks and the ground truth lacks one, or results have no whole masks to be scored.
    """
    whole = [] if options.amodal is None else whole_results(results)
    with_masks = has_masks(results, coco)
    truth = ground_truth(coco, need_masks=with_masks) if truth is None else truth
    kinds: list[ScoreKind] = ["bbox"]
    if with_masks:
        kinds += ["segm", "boundary"] if options.boundary else ["segm"]
    rows, categories = {}, {}
    score = partial(evaluate, results=results, scorer=options.scorer, max_dets=options.max_dets)
    names = row_names(coco.categories)
    for kind in kinds:
        found = score(truth, kind=kind)
        rows[ROWS[kind]] = found.scores
        categories[ROWS[kind]] = {names[one]: scores for one, scores in found.categories.items()}
    recall: dict[str, Recall] = {}
    if options.occlusion:
        rates = measure_images(coco, measure=SplitRule().measure)
        ids, levels = options.occluded_ids, annotation_levels(coco, rates)
        ids = occluded_image_ids(rates, rule=SplitRule()) if ids is None else ids
        for kind in kinds:
            split = score(truth, kind=kind, image_ids=ids)
            rows[f"{ROWS[kind]}, occluded split"] = split.scores
        kind = "segm" if with_masks else "bbox"
        for level in LEVEL_FROM:
            of_level = truth_of_level(truth, levels, level)
            rows[f"{ROWS[kind]}, occlusion {level}"] = score(of_level, kind=kind).scores
        if with_masks:
            objects = options.objects or dict(zip(("occluded", "separated"), hidden_objects(coco, levels), strict=True))
            recall = {name: count_recall(one, results) for name, one in objects.items()}
    amodal = None
    if options.amodal is not None:
        by_row = _score_whole(options.amodal, truth, whole, options)
        rows |= {name: found.scores for name, found in by_row.items()}
        for name in ("whole boxes", "whole masks"):
            categories[name] = {names[one]: scores for one, scores in by_row[name].categories.items()}
        amodal = score_amodal(options.amodal, results, max_dets=options.max_dets)
    return ScoreReport(
        f"{options.scorer} {version(options.scorer)}",
        len(coco.images),
        len(results),
        rows,
        categories,
        recall,
        options.max_dets,
        amodal,
    )


def _score_whole(
    amodal: AmodalTruth, truth: Record, whole: Sequence[Record], options: ScoreOptions
) -> dict[str, Evaluation]:
    """Return the evaluations of whole boxes and masks by the name of their row: of all, and by the visible share."""
    rows: dict[str, Evaluation] = {}
    for shares in (None, *TAO_SHARES, *OWN_SHARES):
        true = amodal.ground_truth(truth) if shares is None else amodal.ground_truth(truth, shares)
        kinds: tuple[ScoreKind, ...] = ("segm",) if shares in OWN_SHARES else ("bbox", "segm")
        for kind in kinds:
            name = f"whole {ROWS[kind]}" if shares is None else f"whole {ROWS[kind]}, visible {_percent(shares)}"
            rows[name] = evaluate(true, whole, kind, scorer=options.scorer, max_dets=options.max_dets)
    return rows


def _percent(shares: Shares) -> str:
    return f"{100 * shares[0]:.0f}-{100 * shares[1]:.0f}"
