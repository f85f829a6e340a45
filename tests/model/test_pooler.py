import torch
from torchvision.ops import roi_align

from bcnet_core.model.pooler import pool_rois, pooling_levels


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
