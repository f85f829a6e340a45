"""FCOS with the bilayer mask branch: the official release's detector, behind the backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from bcnet_core.config.choices import GIoU, MaskProposals, Normalizer
from bcnet_core.data.dataset import Targets
from bcnet_core.model.fcos import FCOSHead, Outputs, distances_to_boxes, fcos_losses
from bcnet_core.model.mask_branch import Found, MaskBranch, Proposals
from bcnet_core.model.rois import RoIs, jittered_rois, matched_rois
from bcnet_core.model.suppression import Suppression


class OneStageHeads(nn.Module):
    """Dense boxes from every level, then the maps of both layers inside the best of them.

    Args:
        boxes: the FCOS head.
        masks: the mask branch.
        mask_proposals: boxes that train the masks: the head's own and the ground truth ("decoded"), the ground truth
            jittered, or the head's own decoded without the stride, as the official code does in training.
        mask_rois_per_image: largest number of these in an image; 0 takes all.
        suppression: which candidates become detections.
        candidates_per_level: candidates of a level that are kept before it.
        normalizer: see `fcos_losses`.
        giou: see `fcos_losses`.
    """

    def __init__(
        self,
        *,
        boxes: FCOSHead,
        masks: MaskBranch,
        mask_proposals: MaskProposals,
        mask_rois_per_image: int,
        suppression: Suppression,
        candidates_per_level: int,
        normalizer: Normalizer,
        giou: GIoU,
    ) -> None:
        super().__init__()
        self.boxes, self.masks = boxes, masks
        self.mask_proposals, self.mask_rois_per_image = mask_proposals, mask_rois_per_image
        self.suppression, self.candidates_per_level = suppression, candidates_per_level
        self.normalizer, self.giou = normalizer, giou

    def forward(
        self, features: list[Tensor], images: ImageList, targets: list[Targets], seeds: list[int]
    ) -> dict[str, Tensor]:
        """Return the unweighted losses of a batch.

        Args:
            features: the pyramid, (B, C, H / stride, W / stride) each.
            images: not used, locations follow from the features.
            targets: of each image.
            seeds: of each image, for the choice of RoIs.

        Returns:
            Scalars `classification`, `box`, `centerness` and those of the mask head, each with a graph.
        """
        outputs = self.boxes(features)
        losses = fcos_losses(
            outputs,
            [target.boxes for target in targets],
            [target.labels for target in targets],
            normalizer=self.normalizer,
            giou=self.giou,
        )
        return losses | self.masks.losses(features, self.training_rois(outputs, targets, seeds), targets)

    @torch.no_grad()
    def training_rois(self, outputs: Outputs, targets: list[Targets], seeds: list[int]) -> RoIs:
        """Choose the boxes that train the mask branch by `mask_proposals`."""
        if self.mask_proposals == "jittered":
            return jittered_rois(targets, seeds, most=self.mask_rois_per_image)
        decoded = self.mask_proposals == "decoded"
        boxes = outputs.boxes() if decoded else distances_to_boxes(outputs.distances, outputs.locations)
        candidates = self._candidates(outputs, boxes)
        proposals = [self.suppression.box_nms(one).boxes for one in candidates]  # as the release, whatever rule detects
        return matched_rois(proposals, targets, seeds, most=self.mask_rois_per_image)

    def detect(self, features: list[Tensor], images: ImageList) -> list[Found]:
        """Find the instances of a batch.

        Args:
            features: the pyramid.
            images: the network's input, of which the sizes before padding are used; boxes may reach beyond them.

        Returns:
            The instances of each image, best first.
        """
        outputs = self.boxes(features)
        candidates = self._candidates(outputs, outputs.boxes())
        found = self.masks.find(features, [self.suppression.by_boxes(one) for one in candidates])
        return [self.suppression.by_masks(one, size) for one, size in zip(found, images.image_sizes, strict=True)]

    def _candidates(self, outputs: Outputs, boxes: Tensor) -> list[Proposals]:
        return select_candidates(
            outputs, boxes, score_threshold=self.suppression.score_threshold, most=self.candidates_per_level
        )


@torch.no_grad()
def select_candidates(outputs: Outputs, boxes: Tensor, *, score_threshold: float, most: int) -> list[Proposals]:
    """Select the best candidates of each level and image; boxes are not clipped.

    Args:
        outputs: of B images.
        boxes: (B, L, 4) float xyxy in pixels, decoded from the outputs.
        score_threshold: least class probability of a candidate.
        most: largest number of candidates of a level.

    Returns:
        The candidates of each image, best first. A score is sqrt(class probability x centerness); the threshold is on
        the class probability.
    """
    probabilities, centerness = outputs.classes.sigmoid(), outputs.centerness.sigmoid()
    found = []
    for image, probability in enumerate(probabilities):
        place, label = (probability > score_threshold).nonzero(as_tuple=True)
        scores = (probability[place, label] * centerness[image, place]).sqrt()
        scores, order = scores.sort(descending=True, stable=True)  # of equals, the one at the finer level comes first
        place, label = place[order], label[order]
        if len(scores) > most:  # otherwise no level has more
            kept = _rank_in_level(place, outputs.levels) < most
            place, label, scores = place[kept], label[kept], scores[kept]
        found.append(Proposals(boxes[image, place], scores, label))
    return found


def _rank_in_level(places: Tensor, levels: list[int]) -> Tensor:
    """Return how many of the locations before each one are of its level: (N,) int64 for (N,) locations."""
    ends = torch.tensor(levels, device=places.device).cumsum(0)
    level = (places[:, None] >= ends).sum(1, keepdim=True)  # (N, 1)
    counts = (level == torch.arange(len(levels), device=places.device)).cumsum(0)  # (N, number of levels)
    return counts.gather(1, level)[:, 0] - 1
