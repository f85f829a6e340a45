"""Around the network: images that go through it together, and its instances as detections of their images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bcnet_core.model.mask_branch import Found
from bcnet_core.structures import Detections


def batches_of_a_size(sizes: Sequence[tuple[int, int]], most: int) -> list[list[int]]:
    """Return the positions of sizes as groups of equal sizes, each of at most so many."""
    positions: dict[tuple[int, int], list[int]] = {}
    for position, size in enumerate(sizes):
        positions.setdefault(size, []).append(position)
    return [group[first : first + most] for group in positions.values() for first in range(0, len(group), most)]


def to_detections(found: Found, network_size: tuple[int, int], image_size: tuple[int, int]) -> Detections:
    """Scale the instances of the network's input to an image's own size.

    Args:
        found: the instances.
        network_size: height and width of the network's input without padding, pixels.
        image_size: height and width of the image, pixels.
    """
    boxes, scores, labels = found.proposals
    maps = {name: logits.sigmoid() for name, logits in found.logits.items()}
    return Detections(boxes_in_image(boxes, network_size, image_size), scores, labels, image_size, maps)


def boxes_in_image(boxes: Tensor, network_size: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Scale (N, 4) xyxy boxes of the network's input to an image's own size, and clip them to it.

    Args:
        boxes: float, pixels of the network's input.
        network_size: height and width of the network's input without padding, pixels.
        image_size: height and width of the image, pixels.
    """
    (new_height, new_width), (height, width) = network_size, image_size
    scale = boxes.new_tensor([width / new_width, height / new_height]).repeat(2)
    limit = boxes.new_tensor([width, height]).repeat(2)
    return (boxes * scale).clamp(min=0).minimum(limit)
