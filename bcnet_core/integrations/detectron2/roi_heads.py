"""RoI heads that always have the bilayer mask head, for detectron2's Faster R-CNN and Cascade configs.

`MODEL.ROI_HEADS.NAME: BilayerROIHeads` (or `BilayerCascadeROIHeads`) is all that a Faster R-CNN config of the zoo
needs. A Mask R-CNN config may keep its RoI heads and name the mask head instead: `BilayerMaskRCNNHead`.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads

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
