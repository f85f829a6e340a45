"""Suppression of duplicates, for both detectors: which candidates of an image become its detections.

Boxes of objects that lie across each other overlap as much as those of duplicates. Soft-NMS lowers scores instead of
dropping boxes; NMS by masks asks whether two candidates show the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image, nms, remove_small_boxes

from bcnet_core import masks
from bcnet_core.config.choices import NMS
from bcnet_core.masks.crops import paste_rles
from bcnet_core.model.mask_branch import Found, Proposals

SOFT_SIGMA = 0.5
"""Width of the Gaussian of Soft-NMS: two boxes of IoU 0.6 leave the weaker one half of its score."""
LOOSE_IOU = 0.9
"""Box IoU above which candidates are duplicates whatever their masks are."""
MASK_CANDIDATES = 2
"""Candidates that get a mask where masks decide, for each detection that is kept."""
MOST_AT_ONCE = 8192
"""Candidates of all classes that NMS takes in one call, whose time grows with their square; those of many classes are
quicker class by class."""
SMALLEST_BOX = 0.01
"""Width and height of the smallest box of Faster R-CNN, pixels of the network's input."""


@dataclass(frozen=True)
class Suppression:
    """The rule of a detector.

    Attributes:
        nms: "box" drops a box that overlaps a better one of its class by more than `iou`; "soft" is Soft-NMS (Bodla et
            al., 2017) with a Gaussian, which has no such limit; "mask" compares the predicted masks instead of the
            boxes.
        iou: largest IoU of two detections of a class, of boxes or masks.
        class_agnostic: whether classes are ignored, so that a place has one detection of any class.
        score_threshold: least class probability of a candidate, and least score that Soft-NMS leaves a detection.
        most: largest number of detections of an image.
    """

    nms: NMS
    iou: float
    class_agnostic: bool
    score_threshold: float
    most: int

    def by_boxes(self, candidates: Proposals) -> Proposals:
        """Suppress candidates by their boxes, before masks are predicted.

        Args:
            candidates: of one image, in any order.

        Returns:
            The kept ones, best first; more than `most` of them where masks decide.
        """
        if self.nms == "box":
            return self.box_nms(candidates)
        if self.nms == "mask":
            return self._hard(candidates, LOOSE_IOU, MASK_CANDIDATES * self.most)
        boxes, scores, labels = candidates
        # traced, its loop would have a constant length
        choose = torch.jit.script_if_tracing(soft_nms)  # type: ignore[no-untyped-call]
        kept, scores = choose(boxes, scores, torch.zeros_like(labels) if self.class_agnostic else labels, self.most)
        kept, scores = kept[scores > self.score_threshold], scores[scores > self.score_threshold]
        return Proposals(boxes[kept], scores, labels[kept])

    def box_nms(self, candidates: Proposals) -> Proposals:
        """Return up to `most` candidates of one image after NMS by boxes, best first."""
        return self._hard(candidates, self.iou, self.most)

    def by_masks(self, found: Found, size: tuple[int, int]) -> Found:
        """Suppress instances of one image by their masks, if masks decide; those without a pixel are dropped.

        Args:
            found: the instances, best first.
            size: height and width of the network's input without padding, pixels.
        """
        if self.nms != "mask":
            return found
        boxes, _, labels = found.proposals
        rles = paste_rles(found.logits["occludee_mask"].sigmoid(), boxes, *size)
        filled = np.flatnonzero([masks.area(rle) > 0 for rle in rles])
        overlaps = masks.ious(*([rles[index] for index in filled],) * 2)
        if not self.class_agnostic:
            classes = labels.cpu().numpy()[filled]
            overlaps *= classes[:, None] == classes
        kept = torch.from_numpy(filled[_greedy(overlaps, self.iou)][: self.most]).to(boxes.device)
        proposals = Proposals(*(part[kept] for part in found.proposals))
        return Found(proposals, {name: maps[kept] for name, maps in found.logits.items()})

    def _hard(self, candidates: Proposals, iou: float, most: int) -> Proposals:
        """Return up to `most` candidates that NMS by boxes keeps at an IoU, best first."""
        boxes, scores, labels = candidates
        if len(boxes) > MOST_AT_ONCE and not self.class_agnostic:
            kept = batched_nms(boxes, scores, labels, iou)
        else:
            kept = nms(boxes.double() if self.class_agnostic else _set_apart(boxes, labels), scores.double(), iou)
        return Proposals(*(part[kept[:most]] for part in candidates))


def _set_apart(boxes: Tensor, labels: Tensor) -> Tensor:
    """Move (N, 4) boxes so that those of different classes do not touch: (N, 4) float64, which keeps their IoU.

    torchvision's `batched_nms` moves few boxes in float32, and goes through the classes of many one by one.
    """
    wide = boxes.double()
    if len(boxes) == 0:
        return wide
    return wide + (labels * (wide.max() - wide.min() + 1))[:, None]


def soft_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, most: int, sigma: float = SOFT_SIGMA
) -> tuple[Tensor, Tensor]:
    """Choose the best boxes one by one; each lowers the scores of the others of its class (Bodla et al., 2017).

    A box that overlaps a chosen one by an IoU of o keeps exp(-o^2 / sigma) of its score.

    Args:
        boxes: (N, 4) float xyxy.
        scores: (N,) float, above 0.
        labels: (N,) int64.
        most: largest number of choices.
        sigma: width of the Gaussian.

    Returns:
        (M,) int64 indices in the order of the choices, and the (M,) scores that they then had, which never rise.
    """
    places, left = torch.arange(len(boxes), device=boxes.device), scores
    upper, lower = torch.split(boxes, 2, dim=1)  # corners
    areas = (lower - upper).prod(1)
    chosen, left_with = places[:0], scores[:0]
    for _ in range(min(most, len(boxes))):
        best = left.argmax().reshape(1)
        chosen, left_with = torch.cat([chosen, best]), torch.cat([left_with, left[best]])
        # torchvision's box_iou does not become ONNX inside a loop
        inside = torch.minimum(lower, lower[best]) - torch.maximum(upper, upper[best])
        shared = inside.clamp(min=0.0).prod(1)
        overlap = shared / (areas + areas[best] - shared).clamp(min=1e-9)
        decay = torch.exp(-overlap * overlap / sigma)
        left = torch.where(labels == labels[best], left * decay, left)
        left = torch.where(places == best, torch.full_like(left, -1.0), left)
    return chosen, left_with


def class_boxes(
    scores: Tensor,
    deltas: Tensor,
    proposals: list[Tensor],
    sizes: list[tuple[int, int]],
    *,
    decode: Callable[[Tensor, list[Tensor]], Tensor],
    score_threshold: float,
) -> list[Proposals]:
    """Decode the candidates of Faster R-CNN, one for each proposal and class, as torchvision's RoI heads do before NMS.

    Args:
        scores: (R, K + 1) float class logits of all proposals; class 0 is the background.
        deltas: (R, 4 (K + 1)) float.
        proposals: (R_i, 4) float of each image, xyxy in pixels of the network's input.
        sizes: height and width of each image before padding, which boxes are clipped to.
        decode: from deltas and proposals to (R, K + 1, 4) boxes.
        score_threshold: least class probability.

    Returns:
        The candidates of each image, in no order; those smaller than `SMALLEST_BOX` are left out.
    """
    counts = [one.shape[0] for one in proposals]  # `len` would become a constant in an exported detector
    every = decode(deltas, proposals).reshape(*scores.shape, 4)  # torchvision's coder gives (0, 4) for no proposal
    decoded, probable = torch.split(every, counts), torch.split(scores.softmax(-1), counts)
    found = []
    for boxes, probabilities, size in zip(decoded, probable, sizes, strict=True):
        place, label = (probabilities[:, 1:] > score_threshold).nonzero(as_tuple=True)
        candidates = clip_boxes_to_image(boxes[place, label + 1], size)
        large = remove_small_boxes(candidates, SMALLEST_BOX)
        found.append(Proposals(candidates[large], probabilities[place, label + 1][large], label[large]))
    return found


def _greedy(overlaps: NDArray[np.float64], limit: float) -> NDArray[np.int64]:
    """Return which of N instances, best first, overlap no better kept one by more than the limit.

    Args:
        overlaps: (N, N) of each pair.
        limit: largest overlap of two that are kept.
    """
    dropped = np.zeros(len(overlaps), bool)
    for index, row in enumerate(overlaps):
        if not dropped[index]:
            dropped[index + 1 :] |= row[index + 1 :] > limit
    return np.flatnonzero(~dropped)
