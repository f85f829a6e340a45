"""RoI heads that always have the bilayer mask head, for detectron2's Faster R-CNN and Cascade configs.

`MODEL.ROI_HEADS.NAME: BilayerROIHeads` (or `BilayerCascadeROIHeads`) is all that a Faster R-CNN config of the zoo
needs. A Mask R-CNN config may keep its RoI heads and name the mask head instead: `BilayerMaskRCNNHead`.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, LazyCall
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads

from bcnet_core.config.choices import OccluderSource
from bcnet_core.errors import usage_error
from bcnet_core.integrations.detectron2.data import BilayerDatasetMapper
from bcnet_core.integrations.detectron2.mask_head import BilayerMaskRCNNHead
from bcnet_core.model.head import BilayerMaskHead

MASK_HEAD = "BilayerMaskRCNNHead"


@ROI_HEADS_REGISTRY.register()
class BilayerROIHeads(StandardROIHeads):
    """detectron2's `StandardROIHeads` with the bilayer mask head, whatever `MASK_ON` and `ROI_MASK_HEAD.NAME` say."""

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: Any) -> dict[str, Any]:  # noqa: ANN401  (of detectron2)
        settings: dict[str, Any] = super()._init_mask_head(_with_masks(cfg), input_shape)
        return settings


@ROI_HEADS_REGISTRY.register()
class BilayerCascadeROIHeads(CascadeROIHeads):
    """detectron2's `CascadeROIHeads` with the bilayer mask head, whatever `MASK_ON` and `ROI_MASK_HEAD.NAME` say."""

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: Any) -> dict[str, Any]:  # noqa: ANN401
        settings: dict[str, Any] = super()._init_mask_head(_with_masks(cfg), input_shape)
        return settings


def _with_masks(cfg: CfgNode) -> CfgNode:
    """The same config, asking for the bilayer mask head."""
    changed = cfg.clone()
    changed.defrost()
    changed.MODEL.MASK_ON = True
    changed.MODEL.ROI_MASK_HEAD.NAME = MASK_HEAD
    return changed


def add_bilayer_head(cfg: Any, *, occluders: OccluderSource = "auto", **head: Any) -> None:  # noqa: ANN401  (a LazyConfig)
    """Give a LazyConfig of an R-CNN the bilayer mask head and a mapper that carries both layers, in place.

    Configs with masks and without, cascades too, as long as their RoI heads take `mask_head`.

    Args:
        cfg: with `model.roi_heads`, and with `dataloader.train.mapper` where it trains.
        occluders: see `BilayerDatasetMapper`.
        head: settings of `BilayerMaskHead`: `layers`, `attention`, `boundary`, `convs`.

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
            output_size=14, scales=tuple(heads.box_pooler.scales), sampling_ratio=0, pooler_type="ROIAlignV2"
        )
    channels = cfg.model.backbone.out_channels
    heads.mask_head = LazyCall(BilayerMaskRCNNHead)(head=LazyCall(BilayerMaskHead)(channels=channels, **head))
    mapper = cfg.get("dataloader", {}).get("train", {}).get("mapper")
    if mapper is not None:
        mapper["_target_"] = BilayerDatasetMapper
        mapper.occluders = occluders
