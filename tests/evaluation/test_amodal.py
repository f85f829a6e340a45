"""Scores of whole masks: against pycocotools, and against dense arrays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bcnet_core import BCNetError, ExitCode, masks
from bcnet_core.annotations.coco import AMODAL_KEY, FRONT_OF, CocoFile, Record, read_coco, segmentation_rle
from bcnet_core.config.choices import Scorer
from bcnet_core.evaluation.amodal import (
    OWN_SHARES,
    TAO_SHARES,
    match_detections,
    read_amodal_truth,
    score_amodal,
    whole_results,
)
from bcnet_core.evaluation.coco import ground_truth
from bcnet_core.evaluation.order import LEAST_OVERLAP, Order, keep_categories
from bcnet_core.evaluation.report import ScoreOptions, ScoreReport, score_results
from bcnet_core.evaluation.results import from_json
from bcnet_core.masks.order import NOISE

Dense = NDArray[np.bool_]


@pytest.fixture(scope="module")
def coco(scenes: Path) -> CocoFile:
    """Drawn scenes, in which the whole masks of some instances are unknown, one is a crowd, and one lacks a part."""
    file = read_coco(scenes / "annotations/instances_train.json")
    annotations = [{**one} for one in file.annotations]
    for one in annotations[::7]:
        del one[AMODAL_KEY]
    annotations[3]["iscrowd"] = 1
    return CocoFile(file.path, {**file.content, "annotations": annotations})


def dense(coco: CocoFile, one: Record, key: str = "segmentation") -> Dense:
    (image,) = (image for image in coco.images if image["id"] == one["image_id"])
    rle = segmentation_rle(one, image, key=key)
    assert rle is not None
    return masks.decode(rle)


def found_in(coco: CocoFile) -> list[Record]:
    """Truth as results of both masks: shifted, dropped, repeated, misclassified, with random scores and ties."""
    rng = np.random.default_rng(0)
    results = []
    for one in coco.annotations:
        for _ in range(rng.choice([0, 1, 2], p=[0.1, 0.7, 0.2])):
            seen, whole = (
                np.roll(dense(coco, one, key), rng.integers(-2, 3, 2), (0, 1))
                for key in ("segmentation", AMODAL_KEY if AMODAL_KEY in one else "segmentation")
            )
            box = masks.bounding_box(masks.encode(whole)) + rng.normal(size=4)
            results.append({
                "image_id": one["image_id"],
                "category_id": one["category_id"] if rng.random() < 0.9 else coco.categories[0]["id"],
                "score": round(float(rng.random()), 1), "bbox": one["bbox"], "segmentation": masks.encode(seen),
                AMODAL_KEY: masks.encode(whole | seen), "amodal_bbox": box.clip(0).tolist(),
            })  # fmt: skip
    return results


class Reference(COCOeval):
    """pycocotools in which an instance of the ground truth counts as its key `counts` says."""

    def _prepare(self) -> None:
        super()._prepare()
        for truth in self._gts.values():
            for one in truth:
                one["ignore"] = int(one["iscrowd"] or not one["counts"])


def reference(
    coco: CocoFile, results: list[Record], kind: str, counts: Callable[[float | None], bool], max_dets: int = 100
) -> Reference:
    """Evaluate whole masks with pycocotools alone, on dense masks; `counts` judges the visible share."""
    truth, annotations = COCO(), []
    for number, one in enumerate(coco.annotations, start=1):
        seen, share = dense(coco, one), None
        whole = seen
        if AMODAL_KEY in one and not one["iscrowd"]:
            whole = seen | dense(coco, one, AMODAL_KEY)
            share = seen.sum() / whole.sum()
        rows, columns = whole.any(1).nonzero()[0], whole.any(0).nonzero()[0]
        box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
        kept = {key: one[key] for key in ("image_id", "category_id", "iscrowd")}
        kept |= {"id": number, "area": whole.sum(), "segmentation": masks.encode(whole), "counts": counts(share)}
        annotations.append({**kept, "bbox": one["bbox"] if share is None else [float(value) for value in box]})
    truth.dataset = {**coco.content, "annotations": annotations}
    truth.createIndex()
    key, source = ("bbox", "amodal_bbox") if kind == "bbox" else ("segmentation", AMODAL_KEY)
    found = truth.loadRes([
        {**{name: one[name] for name in ("image_id", "category_id", "score")}, key: one[source]} for one in results
    ])  # fmt: skip
    evaluation = Reference(truth, found, kind)
    evaluation.params.maxDets = [1, 10, max_dets]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def report_of(coco: CocoFile, results: list[Record], scorer: Scorer = "faster-coco-eval") -> ScoreReport:
    return score_results(coco, results, ScoreOptions(scorer=scorer, amodal=read_amodal_truth(coco)))


@pytest.mark.parametrize("scorer", get_args(Scorer))
def test_whole_masks_score_like_the_reference(coco: CocoFile, scorer: Scorer) -> None:
    results = found_in(coco)
    report = report_of(coco, results, scorer)
    for kind, row in (("bbox", "boxes"), ("segm", "masks")):
        own = reference(coco, results, kind, lambda share: share is not None).stats
        assert list(report.rows[f"whole {row}"]) == pytest.approx(own.tolist(), abs=1e-9)
        assert 0.2 < report.rows[f"whole {row}"].AP < 0.95
    plain = score_results(coco, results, ScoreOptions(scorer=scorer))
    assert {name: report.rows[name] for name in ("boxes", "masks")} == plain.rows, "visible scores change"
    assert abs(report.rows["masks"].AP - report.rows["whole masks"].AP) > 0.01
    assert list(report.categories) == ["boxes", "masks", "whole boxes", "whole masks"]


@pytest.mark.parametrize("shares", [*OWN_SHARES, *TAO_SHARES])
def test_scores_by_visible_share_equal_the_reference(coco: CocoFile, shares: tuple[float, float]) -> None:
    results = found_in(coco)
    report = report_of(coco, results)
    low, high = shares
    name = f"visible {100 * low:.0f}-{100 * high:.0f}"
    for kind, row in (("bbox", "whole boxes"), ("segm", "whole masks")):
        if kind == "segm" or shares in TAO_SHARES:
            own = reference(coco, results, kind, lambda share: share is not None and low <= share <= high)
            scores = report.rows[f"{row}, {name}"]
            assert list(scores) == pytest.approx(own.stats.tolist(), abs=1e-9)
            assert scores.AP > 0.1 or shares == (0, 0.1)


def test_a_share_at_the_edge_counts_on_both_sides() -> None:
    coco = overlapping(85)
    truth = ground_truth(coco)
    areas = [read_amodal_truth(coco).ground_truth(truth, shares)["annotations"][1]["area"] for shares in OWN_SHARES]
    assert areas == [100, 100, 1e11, 1e11] and truth["annotations"][1]["area"] == 85


def overlapping(seen: int = 60, **changes: Any) -> CocoFile:
    """A box in front of another, of which it leaves some of 100 pixels to see."""
    front = masks.from_box(seen, 0, seen + 100, 1, 1, 200)
    back, whole = masks.from_box(0, 0, seen, 1, 1, 200), masks.from_box(0, 0, 100, 1, 1, 200)
    annotations = [
        {"id": 5 + index, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": masks.bounding_box(one).tolist(),
         "segmentation": one, AMODAL_KEY: other}
        for index, (one, other) in enumerate([(front, front), (back, whole)])
    ]  # fmt: skip
    annotations[0] |= changes
    images = [{"id": 1, "file_name": "1.png", "width": 200, "height": 1}]
    return CocoFile(
        Path("gt.json"), {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": annotations}
    )


def as_results(coco: CocoFile, **changes: Any) -> list[Record]:
    return [{**one, "score": 0.9 - 0.1 * index, **changes} for index, one in enumerate(coco.annotations)]


def test_iou_of_whole_and_hidden_parts_equal_dense_arrays(coco: CocoFile) -> None:
    """The matches are those of pycocotools at an IoU of 0.5."""
    results = found_in(coco)
    for max_dets in (11, 100):
        evaluation = reference(coco, results, "segm", lambda share: share is not None, max_dets)
        whole, hidden, found, found_hidden = [], [], 0, 0
        matches = {
            int(number): int(match)
            for one in evaluation.evalImgs
            if one is not None and one["aRng"] == evaluation.params.areaRng[0]
            for number, match, ignored in zip(one["gtIds"], one["gtMatches"][0], one["gtIgnore"], strict=True)
            if match and not ignored
        }
        for number, one in enumerate(coco.annotations, start=1):
            if AMODAL_KEY not in one or one["iscrowd"]:
                continue
            seen = dense(coco, one)
            true = seen | dense(coco, one, AMODAL_KEY)
            mask = masks.decode(results[matches[number] - 1][AMODAL_KEY]) if number in matches else np.zeros_like(seen)
            whole.append((mask & true).sum() / (mask | true).sum())
            found += number in matches
            if (true & ~seen).any():
                hidden.append((mask & true & ~seen).sum() / ((mask | true) & ~seen).sum())
                found_hidden += number in matches
        scores = score_amodal(read_amodal_truth(coco), results, max_dets=max_dets)
        assert scores.whole == (len(whole), found, pytest.approx(np.mean(whole)))
        assert scores.hidden == (len(hidden), found_hidden, pytest.approx(np.mean(hidden)))
        assert 0 < found < len(whole) < scores.instances and 0 < found_hidden < len(hidden)
        assert scores.instances == len(coco.annotations) - 1


def test_detections_choose_by_score_within_their_category() -> None:
    truth = read_amodal_truth(overlapping()).images[1]
    both = as_results(overlapping())
    assert match_detections(truth, both, max_dets=100) == {0: 0, 1: 1}
    assert match_detections(truth, both[::-1], max_dets=100) == {0: 1, 1: 0}
    assert match_detections(truth, both, max_dets=1) == {0: 0}
    worse = {**both[1], "score": 0.95, AMODAL_KEY: masks.from_box(0, 0, 50, 1, 1, 200)}  # an IoU of exactly 0.5
    assert match_detections(truth, [*both, worse], max_dets=100) == {0: 0, 1: 2}
    assert match_detections(truth, as_results(overlapping(), category_id=2), max_dets=100) == {}
    assert match_detections(truth, [], max_dets=100) == {}


def test_the_truth_scores_full_marks_and_visible_masks_none_on_hidden_parts() -> None:
    coco = overlapping()
    truth = read_amodal_truth(coco)
    scores = score_amodal(truth, as_results(coco))
    assert scores.whole == (2, 2, 1) and scores.hidden == (1, 1, 1) and scores.order == (1, 1, 1)
    visible = [{**one, AMODAL_KEY: one["segmentation"]} for one in as_results(coco)]
    scores = score_amodal(truth, visible)
    assert scores.whole == (2, 2, pytest.approx(0.8)) and scores.hidden == (1, 1, 0) and scores.order == (1, 1, 0)
    nothing = score_amodal(truth, [])
    assert nothing.whole == (2, 0, 0) and nothing.hidden == (1, 0, 0) and nothing.order == (1, 0, 0)


def test_a_report_of_whole_masks_is_json() -> None:
    coco = overlapping()
    content = json.loads(json.dumps(report_of(coco, as_results(coco)).content()))
    assert content["amodal"] == {
        "instances": 2,
        "whole": {"instances": 2, "found": 2, "iou": 1},
        "hidden": {"instances": 1, "found": 1, "iou": 1},
        "order": {"pairs": 1, "found": 1, "right": 1, "accuracy": 1, "accuracy_found": 1},
    }
    assert content["scores"]["whole masks, visible 60-75"]["AP"] == pytest.approx(1)
    assert content["scores"]["whole boxes, visible 0-10"]["AP"] == -1
    assert "amodal" not in score_results(coco, as_results(coco), ScoreOptions()).content()


def test_boxes_of_whole_objects_are_those_of_their_masks_where_there_is_no_other() -> None:
    results = as_results(overlapping())
    assert whole_results(results)[1]["bbox"] == [0, 0, 100, 1]
    assert whole_results([{**results[1], "amodal_bbox": [0, 0, 90, 1]}])[0]["bbox"] == [0, 0, 90, 1]


def test_what_has_no_whole_masks_is_refused() -> None:
    bare = [{key: value for key, value in one.items() if key != AMODAL_KEY} for one in overlapping().annotations]
    with pytest.raises(BCNetError, match=r"no instance of `gt\.json` has an `amodal_segmentation`") as caught:
        read_amodal_truth(CocoFile(Path("gt.json"), {**overlapping().content, "annotations": bare}))
    assert caught.value.exit_code == ExitCode.BAD_DATA and "bcnet data import" in caught.value.hints[0]
    results = as_results(overlapping())
    del results[1][AMODAL_KEY]
    with pytest.raises(BCNetError, match="1 of 2 results have no `amodal_segmentation`"):
        report_of(overlapping(), results)


def order_of(coco: CocoFile, results: list[Record]) -> Order:
    return score_amodal(read_amodal_truth(coco), results).order


def test_the_order_is_that_of_the_file_where_it_has_one() -> None:
    results = as_results(overlapping())
    assert order_of(overlapping(**{FRONT_OF: [6]}), results) == (1, 1, 1)
    reversed_ = overlapping()
    reversed_.annotations[1][FRONT_OF] = [5]
    assert order_of(reversed_, results) == (1, 1, 0)
    contradiction = overlapping(**{FRONT_OF: [6]})
    contradiction.annotations[1][FRONT_OF] = [5]
    assert order_of(contradiction, results) == (0, 0, 0)
    with pytest.raises(BCNetError, match="annotation 5: its `front_of` is '6', not a list of annotation ids"):
        order_of(overlapping(**{FRONT_OF: "6"}), results)


def test_only_pairs_that_overlap_by_more_than_a_tenth_count() -> None:
    assert [order_of(overlapping(seen), []).pairs for seen in (60, 89, 90, 95)] == [1, 1, 0, 0]


def test_results_tell_their_order_by_positions_in_the_image() -> None:
    results = as_results(overlapping(), hides=[])
    assert order_of(overlapping(), results) == (1, 1, 0), "an empty list says that nothing is hidden"
    assert order_of(overlapping(), [{**results[0], "hides": [1]}, results[1]]) == (1, 1, 1)
    assert order_of(overlapping(), [{**results[0], "hides": [1]}, {**results[1], "hides": [0]}]) == (1, 1, 0)
    elsewhere = {**results[0], "image_id": 2}  # positions count within the image
    assert order_of(overlapping(), [elsewhere, {**results[0], "hides": [1]}, results[1]]) == (1, 1, 1)
    del results[1]["hides"]
    assert order_of(overlapping(), results) == (1, 1, 1), "the masks tell it where the key is missing"
    assert order_of(overlapping(), results[:1]) == (1, 0, 0)


def test_positions_follow_the_results_that_are_kept() -> None:
    rows = [(1, 1, [1, 2]), (1, 2, [0]), (1, 1, [1]), (2, 1, None), (2, 2, [2]), (2, 1, [0, 1])]
    results: list[Record] = [
        {"image_id": image, "category_id": category, **({} if hides is None else {"hides": hides})}
        for image, category, hides in rows
    ]
    kept = keep_categories(results, {1})
    assert [one.get("hides") for one in kept] == [[1], [], None, [0]]
    assert all(one["category_id"] == 1 for one in kept) and results[0]["hides"] == [1, 2]
    assert keep_categories(results, {1, 2}) == results


def test_order_of_drawn_scenes_equals_their_layers(scenes: Path) -> None:
    """Of two layers the one in front is the one that is seen where both are, if that is more than a ragged border."""
    coco = read_coco(scenes / "annotations/instances_train.json")
    pairs = 0
    for own in coco.annotations_by_image().values():
        seen, whole = ([dense(coco, one, key) for one in own] for key in ("segmentation", AMODAL_KEY))
        for i in range(len(own)):
            for j in range(i):
                shared = whole[i] & whole[j]
                covers = (
                    (seen[i] & shared).sum() > NOISE * whole[j].sum(), (seen[j] & shared).sum() > NOISE * whole[i].sum()
                )  # fmt: skip
                pairs += bool(any(covers) and shared.sum() > LEAST_OVERLAP * min(whole[i].sum(), whole[j].sum()))
    assert order_of(coco, list(map(from_json, as_results(coco)))) == (pairs, pairs, pairs) and pairs > 5
