"""The parts that differ from torchvision's."""

import pytest

from bcnet_core import BCNetError
from bcnet_core.config.load import load_recipe


def test_the_releases_training_proposals_are_no_choice_here() -> None:
    with pytest.raises(BCNetError, match="mask_proposals=official"):
        load_recipe("tiny", ["model.detector=faster_rcnn", "model.mask_proposals=official"])
