"""One picture of what the mask head sees in a training image: both layers, predicted and true."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bcnet_core.data.dataset import Sample
from bcnet_core.maps import map_specs
from bcnet_core.model.detectors import Detector
from bcnet_core.model.mask_branch import MASK_SIZE
from bcnet_core.model.rois import RoIs
from bcnet_core.model.targets import bilayer_targets

INSTANCES = 4
"""Shown of an image: the most occluded."""
TILE, GAP = 84, 4
"""Side of a map in the picture, and what separates two, pixels."""


@torch.no_grad()
def layers_picture(detector: Detector, sample: Sample) -> Tensor:
    """Predict the maps of some instances of a training image inside their true boxes.

    Args:
        detector: in any mode; it is left in that mode.
        sample: with one instance or more.

    Returns:
        (3, H, W) uint8. Each instance has two rows, what is predicted (above) and what is true; its columns are the
        part of the image, and of each layer, the occluder first, boundary and mask.
    """
    training, targets = detector.training, sample.targets.to(detector.device)
    count = len(targets.boxes)
    everyone = torch.arange(count, device=detector.device)
    rois = RoIs(targets.boxes, torch.zeros_like(everyone), everyone, torch.zeros(count, device=detector.device))
    true = bilayer_targets([targets], rois, size=MASK_SIZE)
    hidden = true["occluder_mask"].flatten(1).sum(1)
    chosen = hidden.argsort(descending=True, stable=True)[:INSTANCES]
    batch = detector.eval().preprocess([sample.image])
    logits = detector.heads.masks(detector.backbone(batch.tensors), targets.boxes[chosen], torch.zeros_like(chosen))
    detector.train(training)
    image = sample.image.to(detector.device).float() / 255
    rows = []
    for index, instance in enumerate(chosen.tolist()):
        cutout = _cutout(image, targets.boxes[instance])
        wanted = {name: maps[instance].float() for name, maps in true.items()}
        predicted = {name: maps[index].sigmoid() for name, maps in logits.items()}
        rows += [_row(cutout, predicted), _row(cutout, wanted)]
    picture = functional.pad(torch.cat(rows, dim=1), (GAP, 0, GAP, 0), value=1.0)
    return (picture * 255).round().to(torch.uint8).cpu()


def _row(cutout: Tensor, maps: dict[str, Tensor]) -> Tensor:
    """Join a cutout and its maps side by side, occluder first as in the paper; a missing map is grey."""
    tiles = [cutout]
    for spec in reversed(map_specs()):
        values = maps.get(spec.name)
        grey = torch.full((1, 1, TILE, TILE), 0.5, device=cutout.device)
        tile = grey if values is None else functional.interpolate(values[None, None], size=(TILE, TILE))
        tiles.append(tile[0].expand(3, -1, -1))
    return torch.cat([functional.pad(tile, (0, GAP, 0, GAP), value=1.0) for tile in tiles], dim=2)


def _cutout(image: Tensor, box: Tensor) -> Tensor:
    """What lies in a box of a (3, h, w) image, as a tile."""
    x0, y0 = box[:2].floor().clamp(min=0).long().tolist()
    x1, y1 = box[2:].ceil().long().tolist()
    part = image[:, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return functional.interpolate(part[None], size=(TILE, TILE), mode="bilinear")[0]
