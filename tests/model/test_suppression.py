"""Duplicates among hand-made boxes and masks, and both detectors under every rule."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from bcnet_core import BCNetError, masks
from bcnet_core.config.model import ModelConfig
from bcnet_core.masks.crops import paste_rles
from bcnet_core.model import suppression
from bcnet_core.model.faster_rcnn import build_roi_heads
from bcnet_core.model.mask_branch import Found, Proposals
from bcnet_core.model.suppression import Suppression, class_boxes, soft_nms
from bcnet_core.weights.export import export_detector
from tests.model.test_detectors import build, targets

SIZE = (100, 100)
LEFT, RIGHT = (slice(None), slice(0, 14)), (slice(None), slice(14, 28))


def rule(nms: str = "box", **changes: Any) -> Suppression:
    usual: dict[str, Any] = {"iou": 0.6, "class_agnostic": False, "score_threshold": 0.05, "most": 100}
    return Suppression(**{"nms": nms, **usual, **changes})


def candidates(*parts: tuple[tuple[float, float, float, float], float, int]) -> Proposals:
    boxes, scores, labels = zip(*parts, strict=True)
    return Proposals(torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores), torch.tensor(labels))


NEIGHBORS = candidates(  # IoU of the first with the second 0.8, of any with the last 0
    ((0, 0, 10, 8), 0.8, 0), ((0, 0, 10, 10), 0.9, 0), ((0, 0, 10, 10), 0.7, 1), ((50, 50, 60, 60), 0.2, 1)
)


def found_with(proposals: Proposals, *areas: tuple[slice, slice] | None) -> Found:
    """Instances whose masks fill some of the cells of their boxes."""
    logits = torch.full((len(areas), 28, 28), -9.0)
    for index, area in enumerate(areas):
        if area is not None:
            logits[(index, *area)] = 9.0
    return Found(proposals, {"occludee_mask": logits, "occluder_mask": logits + 1})


def test_nms_by_boxes_looks_at_each_class_alone_unless_it_is_class_agnostic() -> None:
    assert rule().by_boxes(NEIGHBORS).scores.tolist() == pytest.approx([0.9, 0.7, 0.2])
    assert rule(iou=0.85).by_boxes(NEIGHBORS).scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.2])
    assert rule(class_agnostic=True).by_boxes(NEIGHBORS).labels.tolist() == [0, 1]
    assert rule(most=1).by_boxes(NEIGHBORS).boxes.tolist() == [[0, 0, 10, 10]]
    found = found_with(NEIGHBORS, None, None, None, None)
    assert rule().by_masks(found, SIZE) is found


@pytest.mark.parametrize("agnostic", [False, True])
def test_nms_of_many_candidates_keeps_what_that_of_few_does(monkeypatch: pytest.MonkeyPatch, agnostic: bool) -> None:
    noise = torch.Generator().manual_seed(3)
    corners = torch.rand(2500, 2, generator=noise) * 400
    boxes = torch.cat([corners, corners + 5 + torch.rand(2500, 2, generator=noise) * 60], dim=1)
    scores = (1 + torch.randperm(2500, generator=noise)) / 2500  # no two are equal
    found = Proposals(boxes, scores, torch.randint(0, 40, (2500,), generator=noise))
    few = rule(class_agnostic=agnostic, most=2500).box_nms(found)
    monkeypatch.setattr(suppression, "MOST_AT_ONCE", 100)
    many = rule(class_agnostic=agnostic, most=2500).box_nms(found)
    assert 100 < len(few.boxes) < 2500
    assert all(torch.equal(one, other) for one, other in zip(few, many, strict=True))


def test_soft_nms_lowers_scores_by_the_overlap() -> None:
    kept = rule("soft").by_boxes(NEIGHBORS)
    lowered = 0.8 * math.exp(-(0.8**2) / 0.5)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.7, lowered, 0.2])
    assert kept.labels.tolist() == [0, 1, 0, 1] and kept.boxes[2].tolist() == [0, 0, 10, 8]
    assert len(rule("soft", score_threshold=0.21).by_boxes(NEIGHBORS).boxes) == 3
    assert rule("soft", most=2).by_boxes(NEIGHBORS).scores.tolist() == pytest.approx([0.9, 0.7])
    agnostic = rule("soft", class_agnostic=True).by_boxes(NEIGHBORS)
    assert agnostic.scores.tolist() == pytest.approx([0.9, lowered, 0.2]), "the third loses most of its score"


def test_soft_nms_survives_boxes_without_area_and_no_boxes() -> None:
    flat = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 9, 9]])
    order, scores = soft_nms(flat, torch.tensor([0.3, 0.4, 0.5]), torch.zeros(3, dtype=torch.int64), 10)
    assert order.tolist() == [2, 1, 0] and scores.tolist() == pytest.approx([0.5, 0.4, 0.3])
    nothing = Proposals(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    for nms in ("box", "soft", "mask"):
        assert len(rule(nms).by_boxes(nothing).boxes) == 0
        assert len(rule(nms).by_masks(found_with(nothing), SIZE).proposals.boxes) == 0


def test_nms_by_masks_keeps_objects_that_share_a_box_but_no_pixels() -> None:
    boxes = candidates(((10, 10, 66, 66), 0.9, 0), ((10, 10, 66, 66.5), 0.8, 0), ((10, 10, 66, 66), 0.7, 0))
    by_masks = rule("mask", iou=0.5).by_masks
    kept = by_masks(found_with(boxes, LEFT, RIGHT, LEFT), SIZE)
    assert kept.proposals.scores.tolist() == pytest.approx([0.9, 0.8])
    assert kept.logits.keys() == {"occludee_mask", "occluder_mask"}
    assert torch.equal(kept.logits["occluder_mask"], found_with(boxes, LEFT, RIGHT).logits["occluder_mask"])
    assert len(rule(iou=0.5).by_boxes(boxes).boxes) == 1, "their boxes alone are duplicates"
    third = (slice(None), slice(0, 19))  # IoU 14 / 19 with the left half
    assert len(by_masks(found_with(boxes, LEFT, third, RIGHT), SIZE).proposals.boxes) == 2
    assert len(rule("mask", iou=0.75).by_masks(found_with(boxes, LEFT, third, RIGHT), SIZE).proposals.boxes) == 3
    assert by_masks(found_with(boxes, None, RIGHT, LEFT), SIZE).proposals.scores.tolist() == pytest.approx([0.8, 0.7])


def test_nms_by_masks_looks_at_each_class_alone_unless_it_is_class_agnostic() -> None:
    boxes = candidates(((10, 10, 66, 66), 0.9, 0), ((10, 10, 66, 66), 0.8, 1))
    found = found_with(boxes, LEFT, LEFT)
    assert rule("mask").by_masks(found, SIZE).proposals.labels.tolist() == [0, 1]
    assert rule("mask", class_agnostic=True).by_masks(found, SIZE).proposals.labels.tolist() == [0]
    assert rule("mask", most=1).by_masks(found, SIZE).proposals.labels.tolist() == [0]


def test_candidates_for_masks_are_few_and_no_duplicates_by_their_boxes() -> None:
    rows = [((0.0, 20.0 * i, 10.0, 20.0 * i + 10), 0.9 - 0.1 * i, 0) for i in range(5)]
    twins = candidates(*rows, ((0, 0, 10, 9.5), 0.85, 0))
    assert rule("mask", most=50).by_boxes(twins).scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
    assert len(rule("mask", most=2).by_boxes(twins).boxes) == 4, "twice as many as are kept"


def test_faster_rcnn_with_nms_by_boxes_finds_what_torchvision_does() -> None:
    heads = build_roi_heads(channels=32, num_classes=3, box_head="linear", box_head_channels=8, rois_per_image=4)
    heads.score_thresh, heads.nms_thresh, heads.detections_per_img = 0.2, 0.5, 12
    draw = torch.Generator().manual_seed(3)
    corners = torch.rand((120, 2), generator=draw) * 60
    sides = torch.rand((120, 2), generator=draw) * 60 - torch.tensor([0.0, 6])  # some have no height
    proposals = list(torch.cat([corners, corners + sides.clamp(min=0)], 1).split([70, 0, 50]))
    scores, deltas = torch.randn((120, 4), generator=draw), torch.randn((120, 16), generator=draw)
    sizes = [(80, 90), (64, 64), (100, 70)]
    theirs = zip(*heads.postprocess_detections(scores, deltas, proposals, sizes), strict=True)
    ours = class_boxes(scores, deltas, proposals, sizes, decode=heads.box_coder.decode, score_threshold=0.2)
    for candidate, (boxes, found, labels) in zip(ours, theirs, strict=True):
        kept = rule(iou=0.5, most=12).by_boxes(candidate)
        assert torch.equal(kept.boxes, boxes) and torch.equal(kept.scores, found)
        assert torch.equal(kept.labels + 1, labels)
    assert [len(one.boxes) > 12 for one in ours] == [True, False, True], "there was something to suppress"
    nothing = class_boxes(scores[:0], deltas[:0], [proposals[1]] * 3, sizes, decode=heads.box_coder.decode,
                          score_threshold=0.2)  # fmt: skip
    assert [one.boxes.shape for one in nothing] == [(0, 4)] * 3


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_both_detectors_obey_every_rule(kind: str) -> None:
    threshold = 0.004 if kind == "fcos" else 0.2
    pixels = np.random.default_rng(0).integers(0, 256, (96, 120, 3), np.uint8)
    boxes, by_mask = {}, {}
    for nms in ("box", "soft", "mask"):
        detector = build(kind, nms=nms, nms_iou=0.3, class_agnostic_nms=True, score_threshold=threshold).eval()
        if kind == "fcos":  # without training its boxes have no area
            torch.nn.init.constant_(detector.heads.boxes.distances.bias, 2.0)
        batch = detector.prepare(pixels, resize=False)
        with torch.no_grad():
            (found,) = detector.heads.detect(detector.backbone(batch.tensors), batch)
        corners, scores, _ = found.proposals
        assert 1 < len(corners) == len(found.logits["occluder_mask"]) <= 100
        assert (scores.diff() <= 0).all() and scores[-1] > threshold
        boxes[nms] = float((box_iou(corners, corners).nan_to_num(0).fill_diagonal_(0)).max())
        rles = paste_rles(found.logits["occludee_mask"].sigmoid(), corners, 96, 120)
        by_mask[nms] = float((masks.ious(rles, rles) - np.eye(len(rles))).max())
    assert boxes["box"] <= 0.3 < min(boxes["soft"], boxes["mask"])
    assert by_mask["mask"] <= 0.3


def test_training_rois_of_fcos_do_not_depend_on_the_rule() -> None:
    detector = build("fcos", mask_proposals="decoded", score_threshold=0.0)
    outputs = detector.heads.boxes(detector.backbone(torch.zeros(1, 3, 64, 64)))
    chosen = []
    for nms in ("box", "soft", "mask"):
        detector.heads.suppression = replace(detector.heads.suppression, nms=nms)
        chosen.append(detector.heads.training_rois(outputs, [targets(2)], [0]).boxes)
    assert torch.equal(chosen[0], chosen[1]) and torch.equal(chosen[0], chosen[2])


def test_an_export_with_nms_by_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BCNetError, match=r"this detector has model\.nms=mask") as caught:
        export_detector(build(nms="mask").eval(), tmp_path / "x", form="torchscript", height=64, width=64)
    assert 'nms="soft"' in caught.value.hints[0] and not list(tmp_path.iterdir())


def test_limits_of_auto_follow_the_objects() -> None:
    model = ModelConfig(detections_per_image="auto", proposals_per_image=300, candidates_per_level=400)
    assert model.most_detections == 100
    few, many = model.for_training_set(objects=40), model.for_training_set(objects=213)
    assert (few.detections_per_image, few.proposals_per_image, few.candidates_per_level) == (100, 300, 400)
    assert (many.detections_per_image, many.proposals_per_image, many.candidates_per_level) == (320, 640, 640)
    assert many.for_training_set(objects=1000) == many, "numbers stay"
    given = ModelConfig(detections_per_image=30, proposals_per_image=20)
    assert given.for_training_set(objects=213) == given
