"""The bilayer mask head for detectron2's R-CNNs, in yaml configs and LazyConfigs.

A Faster R-CNN config of the zoo needs nothing but `MODEL.ROI_HEADS.NAME: BilayerROIHeads` (or
`BilayerCascadeROIHeads`). A Mask R-CNN config may keep its RoI heads: `MODEL.ROI_MASK_HEAD.NAME: BilayerMaskRCNNHead`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, LazyCall, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from bcnet_core.config.choices import MaskProposals, OccluderSampling, OccluderSource
from bcnet_core.errors import usage_error
from bcnet_core.integrations.detectron2.config import loss_from_config, loss_weights, model_from_config
from bcnet_core.integrations.detectron2.data import BilayerDatasetMapper
from bcnet_core.integrations.detectron2.fields import set_maps
from bcnet_core.maps import Region
from bcnet_core.model.head import BilayerMaskHead, roi_side
from bcnet_core.model.losses import bilayer_losses, target_maps
from bcnet_core.model.mask_branch import mask_confidence, predict_maps
from bcnet_core.model.recipe_heads import build_mask_branch
from bcnet_core.model.rois import jitter_boxes
from bcnet_core.weights.from_detectron2 import mask_head_name


@ROI_MASK_HEAD_REGISTRY.register()
class BilayerMaskRCNNHead(nn.Module):
    """`BilayerMaskHead` as a mask head of detectron2's RoI heads.

    Weights of Mask R-CNN's head and of the official release's load under their own names: the convolutions of Mask
    R-CNN's begin the occludee layer.

    Args:
        head: the mask head.
        occluder_sampling: RoIs that enter the occluder losses.
        loss_weights: weights of the losses by map name; missing ones are 1.
        dice: weight of the dice loss of the masks, see `bilayer_losses`.
        rois_per_image: upper bound of the RoIs of an image that train; 0 takes all.
        mask_scoring: whether the masks have a say in the scores, see `score_masks`.
    """

    @configurable
    def __init__(
        self,
        *,
        head: BilayerMaskHead,
        occluder_sampling: OccluderSampling = "balanced",
        loss_weights: Mapping[str, float] | None = None,
        dice: float = 0,
        rois_per_image: int = 0,
        mask_scoring: bool = False,
    ) -> None:
        super().__init__()
        self.head, self.occluder_sampling, self.rois_per_image = head, occluder_sampling, rois_per_image
        self.dice, self.mask_scoring = dice, mask_scoring
        self.loss_weights = dict(loss_weights or {})
        self.register_load_state_dict_pre_hook(_rename)  # type: ignore[no-untyped-call]

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:  # noqa: ANN401  (a CfgNode)
        """Return the arguments for a yacs config.

        Raises:
            BCNetError: if its RoIs are not pooled at the side that the head reads.
        """
        loss = loss_from_config(cfg)
        head = build_mask_branch(model_from_config(cfg, input_shape.channels), loss, ()).head
        pooled = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
        if pooled != head.roi_size:
            raise usage_error(
                f"MODEL.BCNET.MASK_SIZE {head.mask_size} needs RoIs of {head.roi_size} x {head.roi_size} cells, "
                f"this config pools {pooled} x {pooled}",
                f"set it: MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION {head.roi_size}",
            )
        return {
            "head": head,
            "occluder_sampling": cfg.MODEL.BCNET.OCCLUDER_SAMPLING,
            "loss_weights": loss_weights(loss),
            "dice": loss.mask_dice,
            "rois_per_image": cfg.MODEL.BCNET.MASK_ROIS_PER_IMAGE,
            "mask_scoring": cfg.MODEL.BCNET.MASK_SCORING,
        }

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:  # noqa: ANN401  (detectron2's two-fold result)
        """Compute the losses of a batch, or predict its maps.

        Args:
            x: (R, C, S, S) float RoI features with S the head's `roi_size`, those of the first image first.
            instances: one entry an image. In training the positive proposals, with `proposal_boxes`, `gt_masks` and,
                for two layers, `gt_occluders`, for whole masks `gt_wholes`; otherwise the predicted boxes.

        Returns:
            In training the weighted losses `loss_occludee_mask`, ...; otherwise the instances, with the fields of
            `map_field`.

        Raises:
            BCNetError: if the training data carries no occluder regions, or no whole masks.
        """
        if not self.training:
            set_maps(instances, predict_maps(self.head, x))
            return [_with_mask_scores(one) for one in instances] if self.mask_scoring else instances
        if self.rois_per_image:
            x, instances = self._sample(x, instances)
        targets = self._targets(instances, size=self.head.mask_size, device=x.device)
        if len(x) and "occluder_mask" in targets:
            occluded = targets["occluder_mask"].flatten(1).any(1)
            get_event_storage().put_scalar("bilayer/rois_with_occluder", float(occluded.float().mean()))
        keys = torch.rand(len(x), device=x.device)
        logits = predict_maps(self.head, x)
        losses = bilayer_losses(logits, targets, keys, sampling=self.occluder_sampling, dice=self.dice)
        return {f"loss_{name}": loss * self.loss_weights.get(name, 1.0) for name, loss in losses.items()}

    def _sample(self, x: Tensor, instances: list[Instances]) -> tuple[Tensor, list[Instances]]:
        """Choose RoIs at random where an image has too many, with their features."""
        kept = [torch.randperm(len(one))[: self.rois_per_image].sort().values for one in instances]
        parts = torch.split(x, [len(one) for one in instances])
        chosen = torch.cat([part[index.to(x.device)] for part, index in zip(parts, kept, strict=True)])
        return chosen, [one[index.to(x.device)] for one, index in zip(instances, kept, strict=True)]

    def _targets(self, instances: Sequence[Instances], *, size: int, device: torch.device) -> dict[str, Tensor]:
        images = [one for one in instances if len(one)]  # others may lack all fields
        require_regions(images, self.head)
        fields: dict[Region, str] = {"occludee": "gt_masks"}
        if self.head.occluder is not None:
            fields["occluder"] = "gt_occluders"
        if "amodal_mask" in self.head.outputs:
            fields["amodal"] = "gt_wholes"
        crops = {}
        for region, field in fields.items():
            parts = [one.get(field).crop_and_resize(one.proposal_boxes.tensor, size).to(device) for one in images]
            crops[region] = torch.cat([torch.zeros((0, size, size), dtype=torch.bool, device=device), *parts])
        return target_maps(crops, self.head.outputs)


def require_regions(images: Sequence[Instances], head: BilayerMaskHead) -> None:
    """Require what the head learns from in the instances: occluder regions for layer 1, whole masks."""
    mapper = "bcnet_core.integrations.detectron2.BilayerDatasetMapper"
    if head.occluder is not None and not all(one.has("gt_occluders") for one in images):
        raise usage_error(
            "the training data carries no occluder regions: its instances have no `gt_occluders`",
            f"take {mapper} as its mapper",
            "or leave the occluder layer out: MODEL.BCNET.LAYERS 1",
        )
    if "amodal_mask" in head.outputs and not all(one.has("gt_wholes") for one in images):
        raise usage_error(
            "the training data carries no whole masks: its instances have no `gt_wholes`",
            f"take {mapper} as its mapper, with amodal=True",
            "or leave the whole mask out: MODEL.BCNET.AMODAL False",
        )


def _with_mask_scores(instances: Instances) -> Instances:
    """Return the instances of an image with the scores of `score_masks`, in the order of these."""
    scores = instances.scores * mask_confidence(instances.pred_masks[:, 0])
    order = scores.argsort(descending=True)
    instances.scores = scores
    return instances[order]


def _rename(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Rename tensors of the official release's mask head or of Mask R-CNN's to ours; drop those that do not fit."""
    own = module.state_dict()
    for name in [name for name in state if name.startswith(prefix)]:
        ours = mask_head_name(name.removeprefix(prefix))
        if ours is not None:
            tensor, place = state.pop(name), own.get(f"head.{ours}")
            if place is not None and place.shape == tensor.shape:  # Mask R-CNN's predictor has one mask a class
                state[f"{prefix}head.{ours}"] = tensor


@ROI_HEADS_REGISTRY.register()
class BilayerROIHeads(StandardROIHeads):
    """detectron2's `StandardROIHeads` with the bilayer mask head, whatever `MASK_ON` and `ROI_MASK_HEAD.NAME` say.

    Args:
        mask_proposals: boxes that train the masks: the positive proposals ("decoded"), or the ground truth, jittered.
        others: of `StandardROIHeads`.
    """

    @configurable
    def __init__(self, *, mask_proposals: MaskProposals = "decoded", **others: Any) -> None:  # noqa: ANN401
        super().__init__(**others)
        self.mask_proposals = mask_proposals

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Any) -> dict[str, Any]:  # noqa: ANN401  (detectron2's)
        """Return the arguments for a yacs config.

        Raises:
            BCNetError: if the config asks for FCOS's official mask proposals.
        """
        chosen = cfg.MODEL.BCNET.MASK_PROPOSALS
        if chosen == "official":
            raise usage_error(
                "detectron2 config: MODEL.BCNET.MASK_PROPOSALS: official is for BilayerFCOS", "take decoded or jittered"
            )
        settings: dict[str, Any] = super().from_config(cfg, input_shape)
        return settings | {"mask_proposals": chosen}

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Compute the losses of a batch, or predict its instances; see detectron2's `StandardROIHeads`."""
        if not (self.training and self.mask_proposals == "jittered" and targets):
            found: tuple[list[Instances], dict[str, Tensor]] = super().forward(images, features, proposals, targets)
            return found
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self._forward_box(features, proposals) | self._forward_keypoint(features, proposals)
        return proposals, losses | self._forward_mask(features, [_jittered(one) for one in targets])

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: Any) -> Any:  # noqa: ANN401  (detectron2's)
        return super()._init_mask_head(_with_masks(cfg), input_shape)


def _jittered(instances: Instances) -> Instances:
    """Return the true instances of an image with their boxes, jittered, as `proposal_boxes`."""
    boxes = instances.gt_boxes.tensor
    moved = jitter_boxes(boxes, torch.rand(boxes.shape, device=boxes.device))
    return Instances(instances.image_size, **instances.get_fields(), proposal_boxes=Boxes(moved))


@ROI_HEADS_REGISTRY.register()
class BilayerCascadeROIHeads(CascadeROIHeads):
    """detectron2's `CascadeROIHeads` with the bilayer mask head, whatever `MASK_ON` and `ROI_MASK_HEAD.NAME` say."""

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: Any) -> Any:  # noqa: ANN401
        if cfg.MODEL.BCNET.MASK_PROPOSALS != "decoded":
            raise usage_error(
                "detectron2 config: a cascade trains its masks on its proposals", "MODEL.BCNET.MASK_PROPOSALS: decoded"
            )
        return super()._init_mask_head(_with_masks(cfg), input_shape)


def _with_masks(cfg: CfgNode) -> CfgNode:
    """Return a copy of a config that asks for the bilayer mask head."""
    changed = cfg.clone()
    changed.defrost()
    changed.MODEL.MASK_ON, changed.MODEL.ROI_MASK_HEAD.NAME = True, "BilayerMaskRCNNHead"
    return changed


def add_bilayer_head(cfg: Any, *, occluders: OccluderSource = "auto", **head: Any) -> None:  # noqa: ANN401  (a LazyConfig)
    """Give a LazyConfig of an R-CNN the bilayer mask head and a mapper that carries both layers, in place.

    Args:
        cfg: config with or without masks whose `model.roi_heads` take a `mask_head` (cascades, too); for training with
            `dataloader.train.mapper`.
        occluders: see `BilayerDatasetMapper`.
        head: settings of `BilayerMaskHead`: `layers`, `attention`, `boundary`, `amodal`, `convs`, `mask_size`. With
            `amodal`, boxes enclose whole objects; `mapper.amodal_boxes` False keeps them on the visible part.

    Raises:
        BCNetError: if the config's model has no RoI heads.
    """
    heads = cfg.model.get("roi_heads")
    if heads is None or "box_pooler" not in heads:
        raise usage_error("this config's model has no RoI heads to add a mask head to", "take one of an R-CNN")
    if heads.get("mask_in_features") is None:
        heads.mask_in_features = list(heads.box_in_features)
    if heads.get("mask_pooler") is None:
        heads.mask_pooler = LazyCall(ROIPooler)(
            scales=tuple(heads.box_pooler.scales), sampling_ratio=0, pooler_type="ROIAlignV2"
        )
    heads.mask_pooler.output_size = roi_side(head.get("mask_size", 28))
    channels = cfg.model.backbone.out_channels
    heads.mask_head = LazyCall(BilayerMaskRCNNHead)(head=LazyCall(BilayerMaskHead)(channels=channels, **head))
    mapper = cfg.get("dataloader", {}).get("train", {}).get("mapper")
    if mapper is not None:
        mapper["_target_"] = BilayerDatasetMapper
        mapper.occluders, mapper.amodal = occluders, head.get("amodal", False)
        mapper.amodal_boxes = mapper.amodal
