"""The region proposal network of Faster R-CNN, on torchvision's: anchors, sampling and the head that proposes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from bcnet_core.config.choices import Geometry
from bcnet_core.model.rois import level_steps

ASPECT_RATIOS = (0.5, 1.0, 2.0)
CACHED_PAIRS = 2**17
"""Pairs of boxes that a CPU compares at once, so that they stay in its cache."""


class SeededSampler(BalancedPositiveNegativeSampler):  # type: ignore[misc]  # torchvision has no types
    """torchvision's sampler, seeded for each image: the draw for an image does not depend on the other images.

    Attributes:
        seeds: one for each image of the batch; set before each call.
        drawn: number of anchors or proposals that the last call chose.
    """

    seeds: Sequence[int] = ()
    drawn: int = 0

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return masks of the chosen positives and negatives of each image; see torchvision."""
        positives: list[Tensor] = []
        negatives: list[Tensor] = []
        with torch.random.fork_rng(devices=[one.device for one in matched_idxs[:1] if one.is_cuda]):
            for labels, seed in zip(matched_idxs, self.seeds, strict=True):
                torch.manual_seed(seed)
                (positive,), (negative,) = super().__call__([labels])
                positives.append(positive)
                negatives.append(negative)
        self.drawn = int(sum(mask.sum() for mask in (*positives, *negatives)))
        return positives, negatives


class StridedAnchors(AnchorGenerator):  # type: ignore[misc]  # torchvision has no types
    """Anchors centered at the corners of feature cells, in float32 also under autocast.

    torchvision rounds the anchors to whole pixels and divides the padded image by the size of a level, which is not its
    stride where a level was rounded up; weights of detectron2 expect neither.

    Args:
        strides: of the levels, pixels.
        scales: sides of the anchors of a place, in strides; each has all aspect ratios.
        geometry: "exact" for anchors as they are, at the strides, or "torchvision".
    """

    def __init__(self, strides: tuple[int, ...], *, scales: tuple[int, ...], geometry: Geometry) -> None:
        self.strides, self.geometry = strides, geometry  # before torchvision generates the anchors
        sides = tuple(tuple(scale * stride for scale in scales) for stride in strides)
        super().__init__(sides, (ASPECT_RATIOS,) * len(strides))

    def generate_anchors(
        self,
        scales: list[int],
        aspect_ratios: list[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008  (torchvision's signature)
    ) -> Tensor:
        """Return the (A, 4) xyxy anchors around the origin.

        Those of the exact geometry are not rounded, and all ratios of one side lie together, as in detectron2; in
        torchvision's order, all sides of one ratio do.
        """
        if self.geometry == "torchvision":
            rounded: Tensor = super().generate_anchors(scales, aspect_ratios, dtype, device)
            return rounded
        height = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        half_width = (sides[:, None] / height).flatten() / 2
        half_height = (sides[:, None] * height).flatten() / 2
        return torch.stack([-half_width, -half_height, half_width, half_height], dim=1)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the (M, 4) float32 anchors of all levels, the same for each image."""
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        steps = level_steps(feature_maps, self.strides, self.geometry)
        strides = [[torch.as_tensor(side, device=device) for side in step] for step in steps]
        anchors = torch.cat(self.grid_anchors([list(x.shape[-2:]) for x in feature_maps], strides))
        return [anchors] * len(image_list.image_sizes)


class FullPrecisionRPNHead(RPNHead):  # type: ignore[misc]  # torchvision has no types
    """torchvision's head of the proposals, with float32 outputs also under autocast.

    torchvision decodes boxes in the precision of their deltas, and bfloat16 cannot tell pixels beyond 256 apart.
    """

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the (B, A, H, W) objectness and (B, 4 A, H, W) deltas of every level."""
        objectness, deltas = super().forward(x)
        return [part.float() for part in objectness], [part.float() for part in deltas]


def build_rpn(
    *,
    channels: int,
    convs: int,
    anchors: AnchorGenerator,
    candidates_per_level: int,
    proposals: int,
) -> RegionProposalNetwork:
    """Build a region proposal network; what is not an argument is as in Faster R-CNN with FPN (Lin et al., 2017).

    Args:
        channels: of the pyramid.
        convs: 3x3 convolutions of its head.
        anchors: of the levels that propose.
        candidates_per_level: candidates of a level that are kept before NMS; twice as many in training.
        proposals: proposals of an image that are kept after it.
    """
    rpn = RegionProposalNetwork(
        anchors,
        FullPrecisionRPNHead(channels, anchors.num_anchors_per_location()[0], conv_depth=convs),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=0,  # this and the next are the sampler's, which is replaced below
        positive_fraction=0.0,
        pre_nms_top_n={"training": 2 * candidates_per_level, "testing": candidates_per_level},
        post_nms_top_n={"training": proposals, "testing": proposals},
        nms_thresh=0.7,
    )
    rpn.fg_bg_sampler = SeededSampler(batch_size_per_image=256, positive_fraction=0.5)
    rpn.box_similarity = pairwise_iou
    return rpn


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the (N, M) IoU of (N, 4) and (M, 4) float xyxy boxes: torchvision's `box_iou`, to the last bit.

    It works on coordinates, not on corners. A CPU then takes a fifth of the time, which for a hundred objects and all
    anchors of an image was a quarter of a training step.
    """
    found = first.new_empty((len(first), len(second)))
    pairs = CACHED_PAIRS if first.device.type == "cpu" else len(first) * len(second)
    step = max(pairs // max(len(first), 1), 1)
    x0, y0, x1, y1 = first.T[..., None]
    areas = (x1 - x0) * (y1 - y0)
    for part, ious in zip(torch.split(second, step), torch.split(found, step, dim=1), strict=True):
        left, top, right, bottom = part.T.contiguous()
        width = torch.minimum(x1, right).sub_(torch.maximum(x0, left)).clamp_(min=0)
        height = torch.minimum(y1, bottom).sub_(torch.maximum(y0, top)).clamp_(min=0)
        shared = width.mul_(height)
        torch.div(shared, (areas + (right - left) * (bottom - top)).sub_(shared), out=ious)
    return found
