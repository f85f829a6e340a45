import torch

from bcnet_core.model.fcos import FCOSHead, Outputs, assign, centerness_of, fcos_losses, select

STRIDES = (8, 16, 32)


def empty_outputs(side: int = 128, classes: int = 3) -> Outputs:
    head = FCOSHead(channels=32, num_classes=classes, convs=1, strides=STRIDES)
    outputs: Outputs = head([torch.zeros(1, 32, side // stride, side // stride) for stride in STRIDES])
    return outputs


def test_locations_are_cell_centres() -> None:
    outputs = empty_outputs()
    assert outputs.locations[:2].tolist() == [[4, 4], [12, 4]]
    assert outputs.levels == [256, 64, 16]
    assert outputs.locations[256].tolist() == [8, 8]


def test_distances_are_never_negative_and_boxes_hold_their_location() -> None:
    outputs = empty_outputs()
    assert (outputs.distances >= 0).all()
    boxes = outputs.boxes()[0]
    assert (boxes[:, :2] <= outputs.locations).all() and (boxes[:, 2:] >= outputs.locations).all()


def test_the_smallest_instance_wins_near_its_centre() -> None:
    outputs = empty_outputs()
    boxes = torch.tensor([[20.0, 20, 80, 80], [40, 40, 60, 60]])
    labels, targets = assign(outputs, boxes, torch.tensor([0, 2]), num_classes=3)
    at = int((outputs.locations[:256] == torch.tensor([52.0, 52])).all(1).nonzero())
    assert labels[at] == 2
    assert (targets[at] * 8).tolist() == [12, 12, 8, 8]
    corner = int((outputs.locations[:256] == torch.tensor([28.0, 28])).all(1).nonzero())
    assert labels[corner] == 3  # inside the large box, but beyond 1.5 strides of its centre


def test_large_instances_belong_to_coarse_levels() -> None:
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
    (found,) = select(perfect, score_threshold=0.5, nms_iou=0.6, candidates_per_level=1000, most=100)
    assert sorted(found.labels.tolist()) == [0, 2]
    order = found.labels.argsort()
    torch.testing.assert_close(found.boxes[order], boxes)
    assert (found.scores.diff() <= 0).all()


def test_select_keeps_overlapping_boxes_of_different_classes() -> None:
    outputs = empty_outputs()
    logits = torch.full((1, 336, 3), -9.0)
    logits[0, 100, :2] = torch.tensor([3.0, 2.0])
    distances = torch.full((1, 336, 4), 2.0)
    found = select(
        outputs._replace(classes=logits, distances=distances),
        score_threshold=0.05, nms_iou=0.6, candidates_per_level=10, most=100,
    )[0]  # fmt: skip
    assert found.labels.tolist() == [0, 1]
    one = select(
        outputs._replace(classes=logits, distances=distances),
        score_threshold=0.05, nms_iou=0.6, candidates_per_level=10, most=1,
    )[0]  # fmt: skip
    assert one.labels.tolist() == [0]
