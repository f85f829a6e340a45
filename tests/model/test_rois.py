import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from bcnet_core.model.rois import matched_rois, pool_rois, pooling_levels
from tests.model.test_detectors import targets


def test_proposals_on_an_instance_come_first_then_the_ground_truth() -> None:
    proposals = [
        torch.tensor([[60.0, 60, 64, 64], [10, 10, 40, 29], [10, 10, 20, 30]]),  # beside it, on it, a third of it
        torch.zeros(0, 4),
        torch.tensor([[0.0, 0, 9, 9]]),
    ]
    rois = matched_rois(proposals, [targets(1), targets(0), targets(1, box=(0, 0, 8, 8))], [1, 2, 3], most=0)
    assert rois.boxes.tolist() == [[10, 10, 40, 29], [10, 10, 40, 30], [0, 0, 9, 9], [0, 0, 8, 8]]
    assert rois.images.tolist() == [0, 0, 2, 2] and rois.instances.tolist() == [0, 0, 1, 1]


def test_too_many_are_drawn_by_the_seed_and_keep_their_order() -> None:
    proposals = [torch.tensor([[10.0, 10, 40, 30 + i / 100] for i in range(50)])]
    few, again, other = (matched_rois(proposals, [targets(1)], [seed], most=8).boxes for seed in (1, 1, 2))
    assert len(few) == 8 and torch.equal(few, again) and not torch.equal(few, other)
    assert (few[:-1, 3].diff() > 0).all()


def test_levels_follow_the_rule_of_fpn() -> None:
    sides = torch.tensor([1.0, 111, 112, 224, 448, 3000])
    boxes = torch.stack([torch.zeros(6), torch.zeros(6), sides, sides], 1)
    assert pooling_levels(boxes, first=3, last=5).tolist() == [3, 3, 3, 4, 5, 5]
    assert pooling_levels(boxes, first=2, last=7).tolist() == [2, 2, 3, 4, 5, 7]


def test_pooling_keeps_the_order_of_the_boxes() -> None:
    torch.manual_seed(0)
    features = [torch.randn(2, 4, 640 // stride, 640 // stride) for stride in (8, 16, 32)]
    boxes = torch.tensor([[10.0, 10, 500, 600], [5, 5, 60, 80], [0, 0, 300, 200], [30, 40, 31, 42]])
    images = torch.tensor([1, 0, 1, 0])
    got = pool_rois(features, boxes, images, strides=(8, 16, 32))
    assert got.shape == (4, 4, 14, 14)
    for index, level in enumerate([2, 0, 1, 0]):
        roi = torch.cat([images[index : index + 1, None].float(), boxes[index : index + 1]], 1)
        expected = roi_align(features[level], roi, 14, 1 / (8 * 2**level), 0, aligned=True)
        assert torch.equal(got[index : index + 1], expected)


def test_torchvision_geometry_pools_like_its_own_module() -> None:
    torch.manual_seed(0)
    features = [torch.randn(2, 4, 640 // stride, 640 // stride) for stride in (4, 8, 16, 32)]
    boxes = [torch.rand(60, 4) * 300 for _ in range(2)]
    for box in boxes:
        box[:, 2:] = box[:, :2] + torch.logspace(-1, 2.5, 60)[:, None] * torch.tensor([1.0, 0.7])
    boxes[0][0, 2:] = boxes[0][0, :2] + 223.99992  # within the slack of the next level
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, sampling_ratio=2)
    expected = pool({str(level): x for level, x in enumerate(features)}, boxes, [(640, 640)] * 2)
    images = torch.tensor([0, 1]).repeat_interleave(60)
    strides = (4, 8, 16, 32)
    got = pool_rois(features, torch.cat(boxes), images, strides=strides, size=7, geometry="torchvision")
    assert torch.equal(got, expected)
    assert not torch.allclose(got, pool_rois(features, torch.cat(boxes), images, strides=strides, size=7), atol=0.1)
