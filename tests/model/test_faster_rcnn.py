"""The parts that differ from torchvision's."""

import pytest
import torch

from bcnet_core import BCNetError
from bcnet_core.config.load import load_recipe
from bcnet_core.model.faster_rcnn import AlignedRoIPool
from bcnet_core.model.pooler import pool_rois


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
