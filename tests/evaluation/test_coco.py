from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bcnet_core import BCNetError, masks
from bcnet_core.annotations.coco import CocoFile, read_coco, segmentation_rle
from bcnet_core.config.choices import Scorer
from bcnet_core.evaluation.coco import evaluate, ground_truth


def perturbed(coco: CocoFile) -> list[dict[str, Any]]:
    """Ground truth as results: shifted, dropped, duplicated, misclassified, with random scores."""
    rng = np.random.default_rng(0)
    images = {image["id"]: image for image in coco.images}
    results = []
    for annotation in coco.annotations:
        rle = segmentation_rle(annotation, images[annotation["image_id"]])
        if rng.random() < 0.1 or rle is None:
            continue
        for _ in range(1 + (rng.random() < 0.2)):
            shift = rng.integers(-2, 3, 2)
            moved = np.roll(masks.decode(rle), shift, (0, 1))
            other = coco.categories[rng.integers(len(coco.categories))]["id"]
            x, y, width, height = annotation["bbox"]
            results.append({
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"] if rng.random() < 0.9 else other,
                "bbox": [x + float(shift[1]), y + float(shift[0]), width, height],
                "score": float(rng.random()),
                "segmentation": masks.encode(moved),
            })  # fmt: skip
    return results


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_twelve_numbers_equal_the_reference(
    scenes: Path, kind: Literal["bbox", "segm"], capsys: pytest.CaptureFixture[str]
) -> None:
    coco = read_coco(scenes / "annotations/instances_train.json")
    results = perturbed(coco)
    scores = evaluate(ground_truth(coco), results, kind).scores
    assert capsys.readouterr().out == ""
    truth = COCO()
    truth.dataset = deepcopy(coco.content)
    truth.createIndex()
    ignored = "bbox" if kind == "segm" else "segmentation"
    found = truth.loadRes([{key: value for key, value in result.items() if key != ignored} for result in results])
    reference = COCOeval(truth, found, kind)
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    assert list(scores) == pytest.approx(list(reference.stats), abs=1e-9)
    assert 0.2 < scores.AP < 0.95


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_real_images_score_like_the_reference(coco_mini: Path, kind: Literal["bbox", "segm"]) -> None:
    """COCO's own annotations, including crowds: both libraries agree on all categories."""
    coco = read_coco(coco_mini / "annotations/instances_val2017.json")
    truth, results = ground_truth(coco), perturbed(coco)
    ours, theirs = (evaluate(truth, results, kind, scorer=scorer) for scorer in get_args(Scorer))
    assert list(ours.scores) == pytest.approx(list(theirs.scores), abs=1e-9) and 0.2 < ours.scores.AP < 0.95
    assert ours.categories.keys() == theirs.categories.keys() and len(ours.categories) == 80
    for category, scores in ours.categories.items():
        assert list(scores) == pytest.approx(list(theirs.categories[category]), abs=1e-9)
    with_any = [scores.AP for scores in ours.categories.values() if scores.AP >= 0]
    assert np.mean(with_any) == pytest.approx(ours.scores.AP, abs=1e-9)


def test_no_detection_scores_zero(scenes: Path) -> None:
    scores = evaluate(ground_truth(read_coco(scenes / "annotations/instances_val.json")), [], "segm").scores
    assert scores.AP == scores.ARmost == 0


def test_scores_can_be_limited_to_some_images(scenes: Path) -> None:
    coco = read_coco(scenes / "annotations/instances_train.json")
    first = coco.images[0]["id"]
    results = [result for result in perturbed(coco) if result["image_id"] == first]
    truth = ground_truth(coco)
    one, every = (evaluate(truth, results, "segm", image_ids=ids).scores for ids in ([first], None))
    assert one.ARmost > 3 * every.ARmost


def test_evaluation_does_not_change_its_inputs(scenes: Path) -> None:
    coco = read_coco(scenes / "annotations/instances_val.json")
    results = perturbed(coco)
    before = deepcopy((coco.content, results))
    evaluate(ground_truth(coco), results, "bbox")
    assert (coco.content, results) == before


def test_annotation_ids_of_zero_or_repeated_do_not_change_the_score(scenes: Path) -> None:
    coco = read_coco(scenes / "annotations/instances_val.json")
    results = perturbed(coco)
    expected = evaluate(ground_truth(coco), results, "segm")
    for number in (lambda index: index, lambda index: 7):
        changed = [{**annotation, "id": number(index)} for index, annotation in enumerate(coco.annotations)]
        content = {**coco.content, "annotations": changed}
        assert evaluate(ground_truth(CocoFile(coco.path, content)), results, "segm") == expected


def test_ground_truth_needs_masks_but_no_areas(scenes: Path) -> None:
    coco = read_coco(scenes / "annotations/instances_val.json")
    bare = [{k: v for k, v in a.items() if k not in {"area", "iscrowd"}} for a in coco.annotations]
    truth = ground_truth(CocoFile(coco.path, {**coco.content, "annotations": bare}))
    assert truth["annotations"] == ground_truth(coco)["annotations"]
    no_mask = [{**coco.annotations[0], "segmentation": []}]
    with pytest.raises(BCNetError, match="has no mask") as caught:
        ground_truth(CocoFile(coco.path, {**coco.content, "annotations": no_mask}))
    assert caught.value.exit_code == 3
