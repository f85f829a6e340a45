"""The bilayer head in detectron2's LazyConfigs: what `add_bcnet_config` and `MODEL.*` are in its yaml configs."""

from __future__ import annotations

from typing import Any

from detectron2.config import LazyCall
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.poolers import ROIPooler

from bcnet_core.config.schema import LossConfig, ModelConfig
from bcnet_core.errors import usage_error
from bcnet_core.integrations.detectron2.fcos import BilayerFCOS
from bcnet_core.integrations.detectron2.mapper import BilayerDatasetMapper
from bcnet_core.integrations.detectron2.mask_head import BilayerMaskRCNNHead
from bcnet_core.model.backbones import pixel_format
from bcnet_core.model.detectors import build_one_stage
from bcnet_core.model.head import BilayerMaskHead

FCOS_STRIDES = (8, 16, 32, 64, 128)


def add_bilayer_head(cfg: Any, *, occluders: str = "auto", **head: Any) -> None:  # noqa: ANN401  (a LazyConfig)
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


def bilayer_fcos(*, num_classes: int = 80, depth: int = 50) -> Any:  # noqa: ANN401  (a LazyConfig)
    """The one-stage version as the `model` of a LazyConfig, on an ImageNet backbone of MSRA.

    Args:
        num_classes: K; `heads.num_classes` can be changed later.
        depth: of the ResNet, 50 or 101.
    """
    pixels = pixel_format("r50", "caffe")
    return LazyCall(BilayerFCOS)(
        backbone=LazyCall(FPN)(
            bottom_up=LazyCall(ResNet)(
                stem=LazyCall(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
                stages=LazyCall(ResNet.make_default_stages)(depth=depth, stride_in_1x1=True, norm="FrozenBN"),
                out_features=["res3", "res4", "res5"],
                freeze_at=2,
            ),
            in_features="${.bottom_up.out_features}",
            out_channels=256,
            top_block=LazyCall(LastLevelP6P7)(in_channels=256, out_channels=256, in_feature="p5"),
        ),
        heads=LazyCall(build_one_stage)(
            model=LazyCall(ModelConfig)(),
            loss=LazyCall(LossConfig)(),
            strides=FCOS_STRIDES,
            num_classes=num_classes,
        ),
        in_features=["p3", "p4", "p5", "p6", "p7"],
        pixel_mean=list(pixels.mean),
        pixel_std=list(pixels.std),
        loss_weights={name: value for name, value in LossConfig().model_dump().items() if isinstance(value, float)},
    )
