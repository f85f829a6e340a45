import math

import pytest
import torch
from torch import Tensor

from bcnet_core.model.fcos import FCOSHead, Outputs, assign, centerness_of, fcos_losses
from bcnet_core.model.mask_branch import Proposals
from bcnet_core.model.one_stage import select_candidates
from bcnet_core.model.suppression import Suppression

STRIDES = (8, 16, 32)


def select(
    outputs: Outputs, boxes: Tensor, *, score_threshold: float, nms_iou: float, candidates_per_level: int, most: int
) -> list[Proposals]:
    candidates = select_candidates(outputs, boxes, score_threshold=score_threshold, most=candidates_per_level)
    rule = Suppression("box", iou=nms_iou, class_agnostic=False, score_threshold=score_threshold, most=most)
    return [rule.by_boxes(one) for one in candidates]


def empty_outputs(side: int = 128, classes: int = 3) -> Outputs:
    head = FCOSHead(channels=32, num_classes=classes, convs=1, strides=STRIDES, geometry="exact")
    outputs: Outputs = head([torch.zeros(1, 32, side // stride, side // stride) for stride in STRIDES])
    return outputs


def test_locations_are_cell_centers() -> None:
    outputs = empty_outputs()
    assert outputs.locations[:2].tolist() == [[4, 4], [12, 4]]
    assert outputs.levels == [256, 64, 16]
    assert outputs.locations[256].tolist() == [8, 8]


def test_locations_of_torchvision_geometry_are_cell_corners_of_the_padded_input() -> None:
    """A pyramid of three levels over 96 x 64 pixels whose last level has two rows where one and a half would do."""
    head = FCOSHead(channels=32, num_classes=1, convs=1, strides=(16, 32, 64), geometry="torchvision")
    outputs = head([torch.zeros(1, 32, height, width) for height, width in ((6, 4), (3, 2), (2, 1))])
    assert outputs.locations[:5].tolist() == [[0, 0], [16, 0], [32, 0], [48, 0], [0, 16]]
    assert outputs.locations[-2:].tolist() == [[0, 0], [0, 48]]
    assert outputs.strides[-2:].tolist() == [64, 64], "distances are in strides of the level all the same"


def test_distances_are_never_negative_and_boxes_hold_their_location() -> None:
    outputs = empty_outputs()
    assert (outputs.distances >= 0).all()
    boxes = outputs.boxes()[0]
    assert (boxes[:, :2] <= outputs.locations).all() and (boxes[:, 2:] >= outputs.locations).all()


def test_the_smallest_instance_wins_near_its_center() -> None:
    outputs = empty_outputs()
    boxes = torch.tensor([[20.0, 20, 80, 80], [40, 40, 60, 60]])
    labels, targets = assign(outputs, boxes, torch.tensor([0, 2]), num_classes=3)
    at = int((outputs.locations[:256] == torch.tensor([52.0, 52])).all(1).nonzero())
    assert labels[at] == 2
    assert (targets[at] * 8).tolist() == [12, 12, 8, 8]
    corner = int((outputs.locations[:256] == torch.tensor([28.0, 28])).all(1).nonzero())
    assert labels[corner] == 3  # inside the large box, but beyond 1.5 strides of its center


def test_large_instances_are_assigned_to_coarse_levels() -> None:
    outputs = empty_outputs()
    labels, _ = assign(outputs, torch.tensor([[0.0, 0, 127, 127]]), torch.tensor([1]), num_classes=3)
    positive = (labels < 3).nonzero()[:, 0]
    assert len(positive) and (outputs.locations[positive] - 63.5).abs().max() <= 1.5 * 32
    reach = torch.cat([outputs.locations[positive], 127 - outputs.locations[positive]], 1).amax(1)
    stride = outputs.strides[positive]
    assert ((stride == 8) == (reach <= 64)).all()


def test_an_image_without_instances_is_all_background() -> None:
    labels, _ = assign(empty_outputs(), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), num_classes=3)
    assert (labels == 3).all()
    losses = fcos_losses(empty_outputs(), [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)])
    assert losses["box"].item() == losses["centerness"].item() == 0 < losses["classification"].item()
    assert all(loss.requires_grad for loss in losses.values())


def test_centerness_is_one_in_the_middle_and_falls_to_the_border() -> None:
    got = centerness_of(torch.tensor([[5.0, 5, 5, 5], [1, 5, 9, 5], [0, 5, 10, 5]]))
    torch.testing.assert_close(got, torch.tensor([1.0, (1 / 9) ** 0.5, 0.0]))


def test_perfect_predictions_have_no_box_loss_and_are_found_again() -> None:
    outputs = empty_outputs()
    boxes, labels = torch.tensor([[20.0, 24, 70, 64], [60, 60, 100, 110]]), torch.tensor([0, 2])
    assigned, targets = assign(outputs, boxes, labels, num_classes=3)
    logits = torch.full((1, len(assigned), 3), -9.0)
    positive = (assigned < 3).nonzero()[:, 0]
    logits[0, positive, assigned[positive]] = 9
    perfect = outputs._replace(classes=logits, distances=targets.clamp(min=0)[None])
    assert fcos_losses(perfect, [boxes], [labels])["box"].abs() < 1e-5
    (found,) = select(perfect, perfect.boxes(), score_threshold=0.5, nms_iou=0.6, candidates_per_level=1000, most=100)
    assert sorted(found.labels.tolist()) == [0, 2]
    order = found.labels.argsort()
    torch.testing.assert_close(found.boxes[order], boxes)
    assert (found.scores.diff() <= 0).all()


def test_select_keeps_overlapping_boxes_of_different_classes() -> None:
    outputs = empty_outputs()
    logits = torch.full((1, 336, 3), -9.0)
    logits[0, 100, :2] = torch.tensor([3.0, 2.0])
    distances = torch.full((1, 336, 4), 2.0)
    outputs = outputs._replace(classes=logits, distances=distances)
    found = select(
        outputs, outputs.boxes(),
        score_threshold=0.05, nms_iou=0.6, candidates_per_level=10, most=100,
    )[0]  # fmt: skip
    assert found.labels.tolist() == [0, 1]
    one = select(
        outputs, outputs.boxes(),
        score_threshold=0.05, nms_iou=0.6, candidates_per_level=10, most=1,
    )[0]  # fmt: skip
    assert one.labels.tolist() == [0]


def one_candidate(*, logit: float = 3.0, centerness: float = 9.0, places: tuple[int, ...] = (100,)) -> Outputs:
    """Locations that each claim class 0 with a box of 4 x 4 strides."""
    logits = torch.full((1, 336, 3), -9.0)
    logits[0, list(places), 0] = logit
    return empty_outputs()._replace(
        classes=logits, distances=torch.full((1, 336, 4), 2.0), centerness=torch.full((1, 336), centerness)
    )


def test_the_score_is_the_root_of_class_times_centerness_and_the_threshold_is_on_the_class() -> None:
    outputs = one_candidate(logit=0.0, centerness=-2.0)  # class 0.5, centerness 0.119: score 0.244
    rest = {"nms_iou": 0.6, "candidates_per_level": 10, "most": 100}
    (found,) = select(outputs, outputs.boxes(), score_threshold=0.45, **rest)
    assert found.scores.tolist() == pytest.approx([(0.5 / (1 + math.exp(2))) ** 0.5])
    (found,) = select(outputs, outputs.boxes(), score_threshold=0.55, **rest)
    assert len(found.boxes) == 0


def test_neighbors_are_suppressed_by_their_iou() -> None:
    outputs = one_candidate(places=(100, 101))  # boxes of 32 px, 8 px apart: IoU 24 / 40 = 0.6
    rest = {"score_threshold": 0.1, "candidates_per_level": 10, "most": 100}
    assert len(select(outputs, outputs.boxes(), nms_iou=0.65, **rest)[0].boxes) == 2
    assert len(select(outputs, outputs.boxes(), nms_iou=0.55, **rest)[0].boxes) == 1


def test_each_level_gives_its_best_candidates_only() -> None:
    outputs = one_candidate(places=(0, 15, 240, 255, 300))
    rest = {"score_threshold": 0.1, "nms_iou": 0.6, "most": 100}
    assert len(select(outputs, outputs.boxes(), candidates_per_level=10, **rest)[0].boxes) == 5
    assert len(select(outputs, outputs.boxes(), candidates_per_level=2, **rest)[0].boxes) == 3


def test_the_losses_by_hand() -> None:
    outputs = one_candidate(logit=-1.0, centerness=0.5, places=())
    box = torch.tensor([[20.0, 20, 60, 76]])
    assigned, targets = assign(outputs, box, torch.tensor([1]), num_classes=3)
    positive = (assigned == 1).nonzero()[:, 0]
    assert len(positive) > 3
    losses = fcos_losses(outputs, [box], [torch.tensor([1])])
    probability = outputs.classes[0].sigmoid()
    focal = 0.75 * probability**2 * -(1 - probability).log()
    hit = probability[positive, 1]
    focal[positive, 1] = 0.25 * (1 - hit) ** 2 * -hit.log()
    torch.testing.assert_close(losses["classification"], focal.sum() / len(positive))
    weights = centerness_of(targets[positive])
    predicted = torch.full((len(positive), 4), 2.0)
    inter = torch.minimum(predicted, targets[positive]).reshape(-1, 2, 2).sum(1).prod(1)
    hull = torch.maximum(predicted, targets[positive]).reshape(-1, 2, 2).sum(1).prod(1)
    union = 16 + targets[positive].reshape(-1, 2, 2).sum(1).prod(1) - inter
    giou = 1 - (inter / union - (hull - union) / hull)
    torch.testing.assert_close(losses["box"], (giou * weights).sum() / weights.sum())
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.full_like(weights, 0.5), weights)
    torch.testing.assert_close(losses["centerness"], expected)
