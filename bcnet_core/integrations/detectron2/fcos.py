"""The one-stage version as a meta architecture of detectron2: `MODEL.META_ARCHITECTURE: BilayerFCOS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import LazyCall, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, META_ARCH_REGISTRY, Backbone, GeneralizedRCNN, build_backbone
from detectron2.modeling.backbone import BasicStem, ResNet, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import LossConfig
from bcnet_core.data.dataset import Targets
from bcnet_core.errors import usage_error
from bcnet_core.integrations.detectron2.config import loss_from_config, loss_weights, model_from_config
from bcnet_core.integrations.detectron2.cropped_masks import CroppedMasks
from bcnet_core.integrations.detectron2.fields import set_maps
from bcnet_core.integrations.detectron2.heads import require_regions
from bcnet_core.masks.crops import crop_rles
from bcnet_core.model.backbones import TinyBackbone, pixel_format
from bcnet_core.model.mask_branch import Found
from bcnet_core.model.one_stage import OneStageHeads
from bcnet_core.model.recipe_heads import build_one_stage

IDENTITY = (1.0, 0.0, 1.0, 0.0)
"""`Placement` of masks that are in the frame of the network's input already."""


@META_ARCH_REGISTRY.register()
class BilayerFCOS(nn.Module):
    """FCOS with the bilayer mask branch: a detectron2 backbone under the one-stage heads of the torchvision backend.

    detectron2's own FCOS is not used: its assignment of targets and its losses differ from the official release's.

    Args:
        backbone: backbone from detectron2.
        heads: the torchvision backend's module for boxes and masks, `build_one_stage`.
        in_features: levels of the backbone that the heads read, the finest first.
        pixel_mean: mean of each channel.
        pixel_std: standard deviation of each channel.
        loss_weights: weights of the losses by name; missing ones are 1.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        heads: OneStageHeads,
        in_features: Sequence[str],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        loss_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.heads, self.in_features = backbone, heads, tuple(in_features)
        self.loss_weights = dict(loss_weights or {})
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:  # noqa: ANN401  (a CfgNode)
        """Return the arguments for a yacs config."""
        backbone, loss = build_backbone(cfg), loss_from_config(cfg)
        levels = dict(sorted(backbone.output_shape().items(), key=lambda level: int(level[1].stride)))
        strides = tuple(level.stride for level in levels.values())
        model = model_from_config(cfg, next(iter(levels.values())).channels)
        return {
            "backbone": backbone,
            "heads": build_one_stage(model, loss, strides, cfg.MODEL.ROI_HEADS.NUM_CLASSES),
            "in_features": list(levels),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "loss_weights": loss_weights(loss),
        }

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:  # noqa: ANN401  (detectron2's two-fold result)
        """Compute the losses of a batch, or predict its instances.

        Args:
            batched_inputs: one dict an image with `image`, (3, h, w) in the config's channel order, and in training
                `instances` with `gt_boxes`, `gt_classes`, `gt_masks` and, for two layers, `gt_occluders`, for whole
                masks `gt_wholes`.

        Returns:
            In training the weighted losses `loss_classification`, `loss_occludee_mask`, ...; otherwise one dict an
            image with `instances`, at the image's own size.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        instances = [one["instances"].to(self.device) for one in batched_inputs]
        require_regions(instances, self.heads.masks.head)
        targets = [_targets(one) for one in instances]
        seeds = torch.randint(2**31, (len(targets),)).tolist()
        losses = self.heads(self._features(images), images, targets, seeds)
        return {f"loss_{name}": loss * self.loss_weights.get(name, 1.0) for name, loss in losses.items()}

    def inference(self, batched_inputs: list[dict[str, Any]], *, do_postprocess: bool = True) -> Any:  # noqa: ANN401
        """Predict the instances of a batch; see `forward`.

        Without `do_postprocess` return the bare `Instances` in pixels of the network's input, masks not pasted.
        """
        images = self.preprocess_image(batched_inputs)
        found = self.heads.detect(self._features(images), images)
        results = [_instances(one, size) for one, size in zip(found, images.image_sizes, strict=True)]
        if not do_postprocess:
            return results
        return GeneralizedRCNN._postprocess(results, batched_inputs, images.image_sizes)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalize, pad and batch the images."""
        images = [(one["image"].to(self.device) - self.pixel_mean) / self.pixel_std for one in batched_inputs]
        return ImageList.from_tensors(
            images, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )

    def _features(self, images: ImageList) -> list[Tensor]:
        levels = self.backbone(images.tensor)
        return [levels[name] for name in self.in_features]


class TinyPyramid(Backbone):
    """Our `TinyBackbone` as a backbone of detectron2, with the levels `p3`, `p4` and `p5`."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.pyramid, self._channels = TinyBackbone(out_channels), out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the levels by name for (B, 3, H, W) normalized images whose sides are multiples of 32."""
        return dict(zip(self.output_shape(), self.pyramid(images), strict=True))

    @property
    def size_divisibility(self) -> int:
        """Divisor of the height and width of the input."""
        return self.pyramid.size_divisor

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each level."""
        levels = zip(("p3", "p4", "p5"), self.pyramid.strides, strict=True)
        return {name: ShapeSpec(channels=self._channels, stride=stride) for name, stride in levels}


@BACKBONE_REGISTRY.register()
def build_tiny_pyramid_backbone(cfg: Any, input_shape: ShapeSpec) -> TinyPyramid:  # noqa: ANN401
    """Build the light backbone for CPUs, with `FPN.OUT_CHANNELS` channels."""
    return TinyPyramid(cfg.MODEL.FPN.OUT_CHANNELS)


@BACKBONE_REGISTRY.register()
def build_fcos_resnet_fpn_backbone_p5(cfg: Any, input_shape: ShapeSpec) -> FPN:  # noqa: ANN401
    """Build detectron2's ResNet and FPN, with P6 from P5 and P7 from P6, as FCOS has them."""
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return FPN(
        bottom_up=build_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7(channels, channels, "p5"),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _targets(instances: Instances) -> Targets:
    """Convert the ground truth of an image to what our heads take."""
    masks = instances.gt_masks
    if not isinstance(masks, CroppedMasks):
        raise usage_error(
            f"masks of type {type(masks).__name__} cannot train FCOS with the bilayer head",
            "take bcnet_core.integrations.detectron2.BilayerDatasetMapper as the mapper of the training data",
        )
    boxes: Tensor = instances.gt_boxes.tensor
    occluders, wholes = (
        instances.get(field).crops if instances.has(field) else crop_rles([None] * len(boxes)).to(boxes.device)
        for field in ("gt_occluders", "gt_wholes")
    )
    return Targets(boxes, instances.gt_classes, masks.crops, occluders, wholes, boxes.new_tensor(IDENTITY))


def _instances(found: Found, size: tuple[int, int]) -> Instances:
    """Convert the detections of an image to detectron2's structure."""
    boxes, scores, labels = found.proposals
    instances = Instances(size)
    instances.pred_boxes, instances.scores, instances.pred_classes = Boxes(boxes), scores, labels
    set_maps([instances], found.logits)
    return instances


def bilayer_fcos(*, num_classes: int = 80, depth: int = 50) -> Any:  # noqa: ANN401  (a LazyConfig)
    """Return the one-stage detector as the `model` of a LazyConfig, on MSRA's ImageNet backbone.

    Args:
        num_classes: K; `heads.num_classes` can be changed later.
        depth: depth of the ResNet, 50 or 101.
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
            strides=(8, 16, 32, 64, 128),
            num_classes=num_classes,
        ),
        in_features=["p3", "p4", "p5", "p6", "p7"],
        pixel_mean=list(pixels.mean),
        pixel_std=list(pixels.std),
        loss_weights=loss_weights(LossConfig()),
    )
