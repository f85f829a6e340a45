"""An estimate of the memory that training needs, made before it starts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bcnet_core.config.schema import Recipe
from bcnet_core.model.detectors import Detector, build_detector
from bcnet_core.model.one_stage import OneStageHeads

CLASS_LOSS_COPIES = 4
"""Tensors as large as the class logits that their loss keeps: one-hot targets, probabilities and factors."""


class MemoryEstimate(NamedTuple):
    """Peak memory of one process in a step, in bytes, without PyTorch itself, data loader workers and workspaces.

    Attributes:
        weights: parameters and buffers, and their EMA if there is one.
        gradients: gradients of the trainable parameters.
        optimizer: optimizer state.
        activations: tensors that the forward pass keeps for the backward pass.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int


def estimate_memory(recipe: Recipe, *, num_classes: int, processes: int) -> MemoryEstimate:
    """Estimate the memory that each of the processes that share a step needs.

    Runs the layers on meta tensors, with the largest input and as many RoIs as the recipe allows, and counts what
    autograd would keep.
    """
    solver = recipe.solver
    with torch.device("meta"):
        detector = build_detector(recipe, [{"id": label, "name": str(label)} for label in range(num_classes)])
        images = max(1, solver.batch_size // (processes * solver.accumulate))
        activations = _activations(detector, recipe, images)
    state = sum(map(_size, [*detector.parameters(), *detector.buffers()]))
    trained = sum(_size(parameter) for parameter in detector.parameters() if parameter.requires_grad)
    return MemoryEstimate(
        weights=state * (2 if solver.ema else 1),
        gradients=trained,
        optimizer=trained * (2 if solver.optimizer == "adamw" else 1),
        activations=activations // (1 if solver.precision == "fp32" else 2),
    )


def _activations(detector: Detector, recipe: Recipe, images: int) -> int:
    """Count the bytes that the forward pass of a step keeps, in float32."""
    model, data = recipe.model, recipe.data
    shorter, longer = max((data.min_size, *data.train_sizes)), data.max_size
    if data.scale_jitter is not None:
        shorter = longer
    height, width = detector.padded_size(shorter, longer)
    rois = images * (model.mask_rois_per_image or model.most_detections)
    kept: dict[int, Tensor] = {}  # by storage, which several may share

    def count(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        batch = torch.zeros(images, 3, height, width).contiguous(memory_format=detector.memory_format)
        features = detector.backbone(batch)
        head = detector.heads.masks.head
        pooled = torch.zeros(rois, model.channels, head.roi_size, head.roi_size, requires_grad=True)
        maps = head(pooled)
        if isinstance(detector.heads, OneStageHeads):
            outputs = detector.heads.boxes(features)
            losses = CLASS_LOSS_COPIES * _size(outputs.classes)
        else:
            objectness, _ = detector.heads.rpn.head(features)
            boxes = torch.zeros(images * model.box_rois_per_image, model.channels, 7, 7, requires_grad=True)
            scores, _ = detector.heads.roi_heads.box_predictor(detector.heads.roi_heads.box_head(boxes))
            losses = CLASS_LOSS_COPIES * (_size(scores) + sum(map(_size, objectness)))
    mask_losses = 2 * sum(map(_size, maps.values()))
    return sum(map(_size, kept.values())) + losses + mask_losses


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
