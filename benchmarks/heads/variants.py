"""The variants of the mask head that are compared, each one factor away from another."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bcnet_core.config.schema import Recipe
from bcnet_core.model.detectors import Detector
from bcnet_core.model.head import BilayerMaskHead, Layer
from benchmarks.crowds.torchvision_peer import use_torchvision_with_ours
from benchmarks.study.trials import Variant

RECIPE = (
    "data.min_size=384", "data.max_size=480", "model.detector=faster_rcnn", "model.backbone=tiny", "model.channels=64",
    "model.anchor_scale=[4,8]", "model.candidates_per_level=1000", "model.attention=true",
    "model.box_rois_per_image=128", "model.proposals_per_image=300",
    "model.box_head_channels=1024", "model.mask_proposals=jittered", "model.mask_rois_per_image=32", "loss.box=1",
    "solver.batch_size=2", "solver.optimizer=adamw", "solver.lr=0.002", "solver.weight_decay=0.01",
    "solver.warmup_steps=50", "solver.schedule=cosine", "solver.clip_norm=5",
)  # fmt: skip
"""Overrides of the recipe `tiny` that all variants share."""


def normalize_sum(detector: Detector, _: Recipe) -> None:
    """Pass the sum of RoI features and layer 1's output through a GroupNorm on its way into layer 2."""
    head = detector.heads.masks.head
    norm = nn.GroupNorm(8, head.get_parameter("occludee.convs.0.weight").shape[1])
    head.add_module("sum_norm", norm)
    head.occludee.register_forward_pre_hook(lambda _, inputs: (norm(inputs[0]),))


def detach_occluder(detector: Detector, _: Recipe) -> None:
    """Add layer 1's output to the RoI features without a gradient, so that only its own losses train layer 1."""
    _pass_on(detector.heads.masks.head, torch.detach)


def gate_occluder(detector: Detector, _: Recipe) -> None:
    """Weight layer 1's output before it is added to the RoI features, by a sigmoid of a 1x1 convolution of itself.

    It starts at weights of a half, everywhere.
    """
    head = detector.heads.masks.head
    channels = head.get_parameter("occludee.convs.0.weight").shape[1]
    gate = nn.Conv2d(channels, channels, 1)
    for parameter in gate.parameters():
        nn.init.zeros_(parameter)
    head.add_module("gate", gate)
    _pass_on(head, lambda occluder: occluder * gate(occluder).sigmoid())


def _pass_on(head: BilayerMaskHead, message: Callable[[Tensor], Tensor]) -> None:
    """Add `message` of layer 1's output to the RoI features instead of the output itself."""
    seen: list[Tensor] = []
    _layer_1(head).register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0], output)))

    def add_message(_: nn.Module, __: tuple[Tensor]) -> tuple[Tensor]:
        features, occluder = seen
        seen.clear()
        return (features + message(occluder),)

    head.occludee.register_forward_pre_hook(add_message)


def share_convolutions(detector: Detector, _: Recipe) -> None:
    """Let both layers use the same convolutions: layer 2 reads the features plus what they made of them."""
    head = detector.heads.masks.head
    head.occludee.convs = _layer_1(head).convs


def stop_layer_1_gradients(detector: Detector, _: Recipe) -> None:
    """Let no gradient of layer 1 reach the feature pyramid."""
    _layer_1(detector.heads.masks.head).register_forward_pre_hook(lambda _, inputs: (inputs[0].detach(),))


def _layer_1(head: BilayerMaskHead) -> Layer:
    assert head.occluder is not None
    return head.occluder


NO_ATTENTION, NO_BOUNDARY = "model.attention=false", "model.boundary=false"
TWO_LAYERS = (NO_ATTENTION, NO_BOUNDARY)
PLAIN = (*TWO_LAYERS, "model.layers=1")
LIGHT = ("loss.occludee_boundary=0.25", "loss.occluder_boundary=0.25")

VARIANTS = {
    "two_layers": Variant("two layers alone", TWO_LAYERS, minus=("torchvision",)),
    "plain": Variant("plain, one layer", PLAIN, minus=("two_layers",)),
    "boundary": Variant("two layers, boundary", (NO_ATTENTION,), minus=("two_layers",)),
    "attention": Variant("two layers, attention", (NO_BOUNDARY,), minus=("two_layers",)),
    "published": Variant("two layers, boundary, attention", minus=("two_layers",)),
    "torchvision": Variant("torchvision's MaskRCNN", PLAIN, use_torchvision_with_ours, ("plain",)),
    "attention_zero": Variant(
        "attention, gamma 0 at the start", (NO_BOUNDARY, "model.zero_init_residual=true"), minus=("attention",)
    ),
    "light_boundary": Variant("boundary, loss weight 0.25", (NO_ATTENTION, *LIGHT), minus=("boundary",)),
    "no_occluder_loss": Variant("no occluder loss", (*TWO_LAYERS, "loss.occluder_mask=0"), minus=("two_layers",)),
    "detached": Variant("occluder features detached", TWO_LAYERS, detach_occluder, ("two_layers",)),
    "sum_norm": Variant("GroupNorm on the sum", TWO_LAYERS, normalize_sum, ("two_layers",)),
    "dice": Variant("boundary and dice loss", (NO_ATTENTION, "loss.mask_dice=1"), minus=("boundary",)),
    "gated": Variant("boundary, gate between the layers", (NO_ATTENTION,), gate_occluder, ("boundary",)),
    "shared": Variant("boundary, layers share convolutions", (NO_ATTENTION,), share_convolutions, ("boundary",)),
    "stopped": Variant("no gradient of layer 1 into the pyramid", TWO_LAYERS, stop_layer_1_gradients, ("two_layers",)),
}
"""In the order in which they are measured: the most important first."""
