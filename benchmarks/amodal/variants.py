"""The detectors that are compared: ours, heads without an occluder layer, and ours without one of its parts."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from bcnet_core.config.schema import Recipe
from bcnet_core.model.detectors import Detector
from benchmarks.crowds.variants import ONE_LAYER, PLAIN
from benchmarks.study.trials import Variant


def predict_whole_alone(detector: Detector, _: Recipe) -> None:
    """Give the whole mask for the visible one, too: a head with a single mask, which is trained on whole masks."""

    def repeat(_: nn.Module, __: tuple[Tensor], maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**maps, "occludee_mask": maps["amodal_mask"]}

    detector.heads.masks.head.register_forward_hook(repeat)


WHOLE_ALONE = "loss.occludee_mask=0"
THEIRS = {
    "plain": Variant("plain head: visible and whole mask", ONE_LAYER),
    "plain_only": Variant("plain head: whole mask alone", (*ONE_LAYER, WHOLE_ALONE), predict_whole_alone),
    "mask_rcnn": Variant("the same, 28 cells (Mask R-CNN)", (*PLAIN, WHOLE_ALONE), predict_whole_alone),
    "visible": Variant("visible mask alone", ("model.amodal=false",)),
    "no_occluder": Variant("no occluder loss", ("loss.occluder_mask=0", "loss.occluder_boundary=0")),
}
VARIANTS = {"ours": Variant("recommended recipe", minus=tuple(THEIRS)), **THEIRS}
"""The most important first. Amodal Mask R-CNN is elsewhere a plain head that predicts the whole mask alone."""
