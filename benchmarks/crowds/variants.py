"""The detectors that are compared: ours, our plain head, and the Mask R-CNN of other libraries."""

from __future__ import annotations

from importlib.util import find_spec

from bcnet_core.backends import require_detectron2
from bcnet_core.config.schema import Recipe
from bcnet_core.model.detectors import Detector
from benchmarks.crowds.peers import PeerSettings, own_settings, usual_settings
from benchmarks.crowds.torchvision_peer import use_torchvision, use_torchvision_with_ours
from benchmarks.study.trials import Variant

DETECTRON2_PROPOSALS = (1000, 1000)
"""detectron2's proposals in training and in test."""


def use_detectron2(detector: Detector, recipe: Recipe) -> None:
    """Replace everything behind the backbone by detectron2's Mask R-CNN with its usual settings."""
    _use_detectron2(detector, recipe, usual_settings(detector, recipe, proposals=DETECTRON2_PROPOSALS))


def use_detectron2_with_ours(detector: Detector, recipe: Recipe) -> None:
    """Replace everything behind the backbone by detectron2's Mask R-CNN with the settings of the recipe."""
    _use_detectron2(detector, recipe, own_settings(detector, recipe))


def _use_detectron2(detector: Detector, recipe: Recipe, settings: PeerSettings) -> None:
    require_detectron2()
    from benchmarks.crowds.detectron2_peer import build_heads

    detector.register_module("heads", build_heads(detector, recipe, settings))


def has_detectron2() -> bool:
    """Return whether detectron2 is installed."""
    return find_spec("detectron2") is not None


PLAIN = (
    "model.layers=1", "model.attention=false", "model.boundary=false", "model.mask_size=28", "model.mask_scoring=false",
)  # fmt: skip
"""Settings of Mask R-CNN's head."""
THEIRS = {
    "plain": Variant("plain head", PLAIN),
    "torchvision": Variant("torchvision, usual settings", PLAIN, use_torchvision),
    "torchvision_ours": Variant("torchvision, our settings", PLAIN, use_torchvision_with_ours),
    "detectron2": Variant("detectron2, usual settings", PLAIN, use_detectron2),
    "detectron2_ours": Variant("detectron2, our settings", PLAIN, use_detectron2_with_ours),
}
VARIANTS = {"ours": Variant("recommended recipe", minus=tuple(THEIRS), oracles=True), **THEIRS}
