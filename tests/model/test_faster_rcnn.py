"""The parts that differ from torchvision's."""

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from bcnet_core import BCNetError
from bcnet_core.config.load import load_recipe
from bcnet_core.model.faster_rcnn import AlignedRoIPool, StridedAnchors
from bcnet_core.model.pooler import pool_rois


def test_anchors_lie_at_the_strides_and_are_not_rounded() -> None:
    """An image of 96 px has a P6 of 2 cells, which are 64 px apart and not 48."""
    levels = [torch.zeros(1, 8, size, size) for size in (24, 12, 6, 3, 2)]
    anchors = StridedAnchors((4, 8, 16, 32, 64), scale=8)
    (boxes,) = anchors(ImageList(torch.zeros(1, 3, 96, 96), [(96, 90)]), levels)
    assert len(boxes) == 3 * (24**2 + 12**2 + 6**2 + 3**2 + 2**2)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert centres[-3:].tolist() == [[64.0, 64.0]] * 3
    sides = boxes[:3, 2:] - boxes[:3, :2]
    torch.testing.assert_close(sides.prod(1), torch.full((3,), 32.0**2))
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1.0, 2.0]))


def test_boxes_are_pooled_from_the_levels_that_masks_are_pooled_from() -> None:
    features = {str(level): torch.rand(2, 4, 64 // 2**level, 64 // 2**level) for level in range(5)}
    boxes = [torch.tensor([[3.0, 5, 80, 90]]), torch.tensor([[10.0, 10, 20, 30], [0, 0, 256, 256]])]
    pooled = AlignedRoIPool((4, 8, 16, 32), 7)(features, boxes, None)
    expected = pool_rois(
        list(features.values())[:4], torch.cat(boxes), torch.tensor([0, 1, 1]), strides=(4, 8, 16, 32), size=7
    )
    assert torch.equal(pooled, expected)


def test_the_releases_training_proposals_are_no_choice_here() -> None:
    with pytest.raises(BCNetError, match="mask_proposals=official"):
        load_recipe("tiny", ["model.detector=faster_rcnn", "model.mask_proposals=official"])
