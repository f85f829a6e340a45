"""A detector as a function of tensors alone: what TorchScript and ONNX files are traced from.

The steps are those of the detectors, for all images of a batch at once: a loop over images or a list of their
instances would have the length that it had while it was traced. Numbers of candidates that differ between images
become entries with a score below 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from bcnet_core.model.detectors import Detector
from bcnet_core.model.faster_rcnn import TwoStageHeads
from bcnet_core.model.mask_branch import mask_confidence
from bcnet_core.model.one_stage import OneStageHeads
from bcnet_core.model.suppression import SMALLEST_BOX, Suppression, soft_nms

INPUT = "images"
"""Name of the input."""
INSTANCE_OUTPUTS = ("boxes", "scores", "labels", "image_index")
"""Names of the outputs before the maps."""
NOTHING = -1.0
"""Score of an entry that is no candidate."""


class Candidates(NamedTuple):
    """Up to D candidates of each of B images.

    Attributes:
        boxes: (B, D, 4) float32 xyxy in pixels of the network's input.
        scores: (B, D) float32, `NOTHING` where an image has no more.
        labels: (B, D) int64.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Graph(Protocol):
    """torch's graph of an ONNX file that is being written."""

    def op(self, name: str, /, *inputs: object, **attributes: object) -> object:
        """Add an operator, and return its output."""


class TensorDetector(nn.Module):
    """A detector in evaluation mode as a function of one tensor, without resizing, with maps inside their boxes.

    Args:
        detector: on the CPU.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of `forward`."""
        return (*INSTANCE_OUTPUTS, *self.detector.heads.masks.head.outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Find the N instances of (B, 3, H, W) uint8 RGB images.

        Returns:
            (N, 4) boxes in pixels, (N,) scores, (N,) int64 labels, (N,) int64 indices of their images, ascending and
            best first in an image, and the (N, S, S) maps, as in `Detections`.
        """
        detector, heads = self.detector, self.detector.heads
        size, divisor = images.shape[-2:], detector.backbone.size_divisor
        below, right = ((side + divisor - 1) // divisor * divisor - side for side in size)
        padded = functional.pad(detector.normalize(images), (0, right, 0, below))
        features = detector.backbone(padded.to(next(detector.backbone.parameters()).dtype))
        pooled_from = [x.float() for x in features]  # half precision cannot tell boxes beyond 2,048 pixels apart
        if isinstance(heads, OneStageHeads):
            candidates = _one_stage_candidates(heads, features)
        else:
            candidates = _two_stage_candidates(heads, features, pooled_from, size, batch=images.shape[0])
        index, place, scores = _suppress(heads.suppression, candidates, classes=len(detector.categories))
        boxes, labels = candidates.boxes[index, place], candidates.labels[index, place]
        maps = {name: logits.sigmoid() for name, logits in heads.masks(pooled_from, boxes, index).items()}
        boxes = _clip(boxes, size)
        if heads.masks.mask_scoring:
            scores = scores * mask_confidence(maps["occludee_mask"])
            order = (scores.double() - 2 * index).sort(descending=True).indices  # in an image, scores differ by 1
            boxes, scores, labels, index = (part[order] for part in (boxes, scores, labels, index))
            maps = {name: part[order] for name, part in maps.items()}
        return (boxes, scores, labels, index, *maps.values())


def _one_stage_candidates(heads: OneStageHeads, features: list[Tensor]) -> Candidates:
    """Select the best candidates of each level and image, as `select_candidates` does."""
    outputs = heads.boxes(features)
    probabilities = outputs.classes.sigmoid()
    scores = (probabilities * outputs.centerness.sigmoid()[..., None]).sqrt()
    scores = torch.where(probabilities > heads.suppression.score_threshold, scores, NOTHING)
    classes, start = outputs.classes.shape[2], 0
    best, chosen = [], []
    for x in features:
        end = start + x.shape[-2] * x.shape[-1]
        level, index = _top(scores[:, start:end].flatten(1), heads.candidates_per_level)
        best.append(level)
        chosen.append(index + start * classes)
        start = end
    index = torch.cat(chosen, 1)
    boxes = outputs.boxes().gather(1, (index // classes)[..., None].expand(-1, -1, 4))
    return Candidates(boxes, torch.cat(best, 1), index % classes)


def _two_stage_candidates(
    heads: TwoStageHeads, features: list[Tensor], pooled_from: list[Tensor], size: torch.Size, *, batch: int
) -> Candidates:
    """Propose, and decode the candidates of every proposal and class, as `class_boxes` does."""
    rois, images = _propose(heads, features, size)
    logits, deltas = heads.box_outputs(pooled_from, rois, images)
    classes = logits.shape[1] - 1
    boxes = heads.roi_heads.box_coder.decode_single(deltas, rois).reshape(-1, classes + 1, 4)[:, 1:]
    boxes, scores = _clip(boxes, size), logits.softmax(-1)[:, 1:]  # (R, K, 4), (R, K)
    roi, label = ((scores > heads.suppression.score_threshold) & _large(boxes, SMALLEST_BOX)).nonzero(as_tuple=True)
    belongs = (images[roi][:, None] == torch.arange(batch, device=rois.device)).long()  # (N, B)
    rank = (belongs.cumsum(0) * belongs).sum(1) - 1  # in its image
    most = belongs.sum(0).max() + 1
    where = (images[roi], rank)
    return Candidates(
        boxes.new_zeros((batch, most, 4)).index_put(where, boxes[roi, label]),  # type: ignore[arg-type]  # traced
        boxes.new_full((batch, most), NOTHING).index_put(where, scores[roi, label]),  # type: ignore[arg-type]
        label.new_zeros((batch, most)).index_put(where, label),  # type: ignore[arg-type]
    )


def _propose(heads: TwoStageHeads, features: list[Tensor], size: torch.Size) -> tuple[Tensor, Tensor]:
    """Return the (R, 4) proposals of all images and the (R,) image of each, as torchvision's network proposes."""
    rpn = heads.rpn
    objectness, deltas = rpn.head(features)
    (anchors,) = rpn.anchor_generator(ImageList(features[0], [(0, 0)]), features)  # the same for every image
    counts = [x.shape[1] * x.shape[2] * x.shape[3] for x in objectness]
    batch = objectness[0].shape[0]
    joined, coded = concat_box_prediction_layers(objectness, deltas)
    joined, coded = joined.reshape(batch, -1), coded.reshape(batch, -1, 4)
    best, chosen, levels, start = [], [], [], 0
    for level, count in enumerate(counts):
        logits, index = _top(joined[:, start : start + count], rpn.pre_nms_top_n())
        best.append(logits)
        chosen.append(index + start)
        levels.append(torch.full_like(index, level))
        start = start + count
    index = torch.cat(chosen, 1)
    picked = coded.gather(1, index[..., None].expand(-1, -1, 4)).reshape(-1, 4)
    boxes = _clip(rpn.box_coder.decode_single(picked, anchors[index.flatten()]).reshape(batch, -1, 4), size)
    scores = torch.where(_large(boxes, rpn.min_size), torch.cat(best, 1).sigmoid(), NOTHING)
    image, place = _keep(
        boxes, scores, torch.cat(levels, 1), iou=rpn.nms_thresh, most=rpn.post_nms_top_n(), groups=len(counts)
    )
    return boxes[image, place], image


def _suppress(rule: Suppression, candidates: Candidates, *, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the image, the place and the score of each of the candidates that are kept, best first in an image."""
    boxes, scores, labels = candidates
    labels = torch.zeros_like(labels) if rule.class_agnostic else labels
    if rule.nms == "soft":
        choose = torch.jit.script_if_tracing(_choose_softly)  # type: ignore[no-untyped-call]
        image, place, left = choose(boxes, scores, labels, rule.most)
        kept = (left > rule.score_threshold).nonzero()[:, 0]
        return image[kept], place[kept], left[kept]
    image, place = _keep(boxes, scores, labels, iou=rule.iou, most=rule.most, groups=classes)
    return image, place, scores[image, place]


def _choose_softly(boxes: Tensor, scores: Tensor, labels: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the image, the place and the remaining score of what `soft_nms` chooses of each image."""
    images, places, left = labels[0, :0], labels[0, :0], scores[0, :0]
    for image in range(boxes.shape[0]):
        chosen, left_with = soft_nms(boxes[image], scores[image], labels[image], most)
        images = torch.cat([images, torch.full_like(chosen, image)])
        places, left = torch.cat([places, chosen]), torch.cat([left, left_with])
    return images, places, left


def _keep(
    boxes: Tensor, scores: Tensor, groups_of: Tensor, *, iou: float, most: int, groups: int
) -> tuple[Tensor, Tensor]:
    """Return the image and the place of up to `most` boxes of each image that NMS in their groups keeps, best first.

    The groups are put beside each other, as in torchvision's NMS in one call, but in a square: in a row, float32 could
    not tell the pixels of the last of many groups apart.
    """
    side, extent = math.ceil(math.sqrt(groups)), boxes.max() - boxes.min() + 1
    cell = torch.stack([groups_of % side, groups_of // side], 2).repeat(1, 1, 2)
    apart = boxes + cell * extent
    if torch.onnx.is_in_onnx_export():
        kept = _BatchedNMS.apply(apart, scores, iou, most)
    else:
        kept = torch.jit.script_if_tracing(_nms)(apart, scores, iou, most)  # type: ignore[no-untyped-call]
    return kept[:, 0], kept[:, 1]


def _nms(boxes: Tensor, scores: Tensor, iou: float, most: int) -> Tensor:
    """Return (N, 2) int64: the image and the place of the boxes that NMS keeps, best first in an image."""
    kept = torch.zeros((0, 2), dtype=torch.int64, device=boxes.device)
    for image in range(boxes.shape[0]):
        there = (scores[image] >= 0).nonzero()[:, 0]
        places = there[torch.ops.torchvision.nms(boxes[image][there], scores[image][there], iou)[:most]]
        kept = torch.cat([kept, torch.stack([torch.full_like(places, image), places], 1)])
    return kept


class _BatchedNMS(torch.autograd.Function):
    """`_nms` as one operator of ONNX: in a loop over images, runtimes have trouble with results of unknown length."""

    @staticmethod
    def forward(ctx: object, boxes: Tensor, scores: Tensor, iou: float, most: int) -> Tensor:
        """See `_nms`."""
        return _nms(boxes, scores, iou, most)

    @staticmethod
    def symbolic(g: Graph, boxes: object, scores: object, iou: float, most: int) -> object:
        """Return the operator's (N, 3) image, class and place, without the class."""

        def constant(value: object, dtype: torch.dtype) -> object:
            return g.op("Constant", value_t=torch.tensor([value], dtype=dtype))

        found = g.op(
            "NonMaxSuppression",
            boxes,
            g.op("Unsqueeze", scores, constant(1, torch.int64)),
            constant(most, torch.int64),
            constant(iou, torch.float32),
            constant(-0.5, torch.float32),
        )
        return g.op("Gather", found, g.op("Constant", value_t=torch.tensor([0, 2])), axis_i=1)


def _top(x: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the up to `most` largest entries of each row, and where they are."""
    count = torch.minimum(torch.as_tensor(x.shape[1]), torch.tensor(most))
    values, places = x.topk(count, 1)  # type: ignore[arg-type]  # a number that is traced
    return values, places


def _clip(boxes: Tensor, size: torch.Size) -> Tensor:
    """Clip xyxy boxes (..., 4) to images of a height and width, which are traced."""
    height, width = (torch.as_tensor(side, device=boxes.device) for side in size)
    return boxes.clamp(min=0).minimum(torch.stack([width, height, width, height]).to(boxes))


def _large(boxes: Tensor, least: float) -> Tensor:
    """Return whether both sides of xyxy boxes (..., 4) are of a least length."""
    return (boxes[..., 2:] - boxes[..., :2]).amin(-1) >= least
