"""Masks inside given boxes: those of the detector's own boxes are its own, whatever their classes and order are."""

from typing import Any

import numpy as np
import pytest
import torch

from bcnet_core import BCNetError, ExitCode, masks
from bcnet_core.config.runtime import Runtime
from bcnet_core.model import detectors
from bcnet_core.model.detectors import Detector
from bcnet_core.structures import Detections
from tests.model.test_detectors import build

PICTURE = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)


@pytest.fixture(params=["fcos", "faster_rcnn"], scope="module")
def detector(request: pytest.FixtureRequest) -> Detector:
    return build(request.param, detections_per_image=40, amodal=True).eval()


def inside(detector: Detector, boxes: Any, **options: Any) -> Detections:
    (found,) = detector.predict_inside([PICTURE], [boxes], **options)
    return found


def whole_boxes(found: Detections) -> torch.Tensor:
    """Tell which boxes end inside the picture: others are cut off at its border after their maps were predicted."""
    return ((found.boxes > 0) & (found.boxes < torch.tensor([90.0, 50, 90, 50]))).all(1)


def test_own_boxes_give_the_own_maps_in_any_order(detector: Detector) -> None:
    (own,) = detector.predict([PICTURE])
    own = own.at_least(0)
    again = inside(detector, own.boxes.flip(0), scores=[own.scores.flip(0)], labels=[own.labels.flip(0)])
    assert torch.equal(again.boxes, own.boxes.flip(0)) and torch.equal(again.scores, own.scores.flip(0))
    assert torch.equal(again.labels, own.labels.flip(0)) and again.image_size == own.image_size == (50, 90)
    kept = whole_boxes(own)
    assert kept.sum() > 3 and again.maps.keys() == own.maps.keys() and "amodal_mask" in own.maps
    for name, maps in own.maps.items():
        assert torch.allclose(again.maps[name].flip(0)[kept], maps[kept], atol=1e-5)


def test_boxes_need_neither_scores_nor_labels(detector: Detector) -> None:
    found = inside(detector, [[10, 10, 40, 30], [0, 0, 90, 50]])
    assert found.scores.tolist() == [1, 1] and found.labels.tolist() == [0, 0]
    assert inside(detector, [], resize=False).occludee_mask.shape == (0, 28, 28) and inside(detector, []).rles == []


def test_boxes_are_cut_off_at_the_border_and_empty_ones_have_empty_masks(detector: Detector) -> None:
    found = inside(detector, [[-20, 10, 40, 80], [100, 10, 120, 30], [30, 20, 30, 40], [40, 30, 20, 10]])
    cut = inside(detector, [[0, 10, 40, 50]])
    assert found.boxes.tolist()[:2] == [[0, 10, 40, 50], [90, 10, 90, 30]]
    assert torch.allclose(found.occludee_mask[0], cut.occludee_mask[0], atol=1e-5)
    assert [masks.area(rle) for rle in found.rles[1:]] == [0, 0, 0] and found.order is not None


def test_many_boxes_go_through_the_head_in_parts(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    corners = np.random.default_rng(1).uniform(0, 40, (40, 2))
    boxes = np.concatenate([corners, corners + 10], axis=1)
    whole = inside(detector, boxes)
    monkeypatch.setattr(detectors, "MOST_ROIS", 16)
    counts: list[int] = []
    head = detector.heads.masks.forward
    monkeypatch.setattr(detector.heads.masks, "forward", lambda *args: counts.append(len(args[1])) or head(*args))
    parts = inside(detector, boxes)
    assert counts == [16, 16, 8]
    for name, maps in whole.maps.items():
        assert torch.allclose(parts.maps[name], maps, atol=1e-5)


def test_every_image_has_its_own_boxes(detector: Detector) -> None:
    first, second = detector.predict_inside([PICTURE, PICTURE[:, ::-1]], [[[10, 10, 40, 30]], np.zeros((0, 4))])
    assert len(first.boxes) == 1 and len(second.boxes) == 0


def test_images_of_a_size_go_through_the_network_together(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [PICTURE, PICTURE[:40], PICTURE[:, ::-1], PICTURE[::-1]]
    boxes = [np.array([[10.0, 10, 40, 30], [5, 5, 25, 35], [0, 0, 20, 20]])[: 3 - place] for place in range(4)]
    alone = detector.predict_inside(images, boxes)
    monkeypatch.setattr(detector, "runtime", Runtime(batch=2))
    sizes: list[int] = []
    forward = detector.backbone.forward
    monkeypatch.setattr(detector.backbone, "forward", lambda batch: sizes.append(len(batch)) or forward(batch))
    together = detector.predict_inside(images, boxes)
    assert sorted(sizes) == [1, 1, 2]
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.boxes, other.boxes) and one.image_size == other.image_size
        assert torch.allclose(one.occludee_mask, other.occludee_mask, atol=1e-5)


@pytest.mark.parametrize(
    ("boxes", "options", "message"),
    [
        ([[[0, 0, 5, 5]], []], {}, "boxes for 2 of 1 images"),
        ([[[0, 0, 5]]], {}, "shape is (1, 3)"),
        ([[[0, 0, 5, np.nan]]], {}, "finite"),
        ([[[0, 0, 5, 5]]], {"scores": [[0.5, 0.5]]}, "1 boxes, scores of shape (2,)"),
        ([[[0, 0, 5, 5]]], {"labels": []}, "labels for 0 of 1 images"),
    ],
)
def test_arrays_that_are_no_boxes_are_refused(
    detector: Detector, boxes: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BCNetError) as caught:
        detector.predict_inside([PICTURE], boxes, **options)
    assert message in caught.value.message and caught.value.exit_code == ExitCode.USAGE


def test_at_least_keeps_the_order_of_scores_that_are_not_sorted(detector: Detector) -> None:
    found = inside(detector, [[0, 0, 9, 9], [9, 9, 19, 19], [30, 30, 40, 40]], scores=[[0.2, 0.9, 0.5]])
    assert found.at_least(0.5).boxes.tolist() == found.boxes[1:].tolist()
    assert torch.equal(found.at_least(0.5).occludee_mask, found.occludee_mask[1:])
