"""Boxes of an image in pixels of the network's input and back, and boxes that a caller gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bcnet_core.errors import usage_error
from bcnet_core.model.mask_branch import Proposals


def scale_boxes(boxes: Tensor, size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Scale (N, 4) float xyxy boxes with an image that is resized.

    Args:
        boxes: pixels of the image before.
        size: height and width of the image before.
        new_size: those after.
    """
    scale = boxes.new_tensor([new_size[1] / size[1], new_size[0] / size[0]]).repeat(2)
    return boxes * scale


def boxes_in_image(boxes: Tensor, network_size: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Scale (N, 4) xyxy boxes of the network's input to an image's own size, and clip them to it.

    Args:
        boxes: float, pixels of the network's input.
        network_size: height and width of the network's input without padding, pixels.
        image_size: height and width of the image, pixels.
    """
    height, width = image_size
    limit = boxes.new_tensor([width, height]).repeat(2)
    return scale_boxes(boxes, network_size, image_size).clamp(min=0).minimum(limit)


def given_proposals(
    boxes: Sequence[ArrayLike | Tensor],
    scores: Sequence[ArrayLike | Tensor] | None,
    labels: Sequence[ArrayLike | Tensor] | None,
    *,
    images: int,
    device: torch.device,
) -> list[Proposals]:
    """Return the given boxes of each image as tensors, with their scores and labels.

    Args:
        boxes: (N, 4) numbers of each image, xyxy.
        scores: (N,) numbers of each image; 1 if None.
        labels: (N,) integers of each image; 0 if None.
        images: number of images.
        device: of the tensors.

    Raises:
        BCNetError: if there is not one array of each kind for every image, with a finite row for every box.
    """
    for kind, given in (("boxes", boxes), ("scores", scores), ("labels", labels)):
        if given is not None and len(given) != images:
            raise usage_error(f"there are {kind} for {len(given)} of {images} images", "give one array for each image")
    found = []
    for index, one in enumerate(boxes):
        corners = torch.as_tensor(one, dtype=torch.float32, device=device)
        corners = corners.reshape(-1, 4) if corners.numel() == 0 else corners
        shape = tuple(corners.shape)
        if corners.ndim != 2 or shape[1] != 4 or not bool(corners.isfinite().all()):
            raise usage_error(
                f"the boxes of image {index} are not (N, 4) finite numbers, their shape is {shape}",
                "give the corners x0, y0, x1, y1 of each box, in pixels of the image",
            )
        score = corners.new_ones(len(corners)) if scores is None else torch.as_tensor(scores[index]).to(corners)
        label = torch.as_tensor([0] * len(corners) if labels is None else labels[index]).to(device, torch.int64)
        if not score.shape == label.shape == shape[:1]:
            raise usage_error(
                f"image {index} has {shape[0]} boxes, scores of shape {tuple(score.shape)} and labels of shape "
                f"{tuple(label.shape)}",
                "give one score and one label for each box, or none at all",
            )
        found.append(Proposals(corners, score, label))
    return found
