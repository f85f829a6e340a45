"""The one-stage version as a meta architecture of detectron2: `MODEL.META_ARCHITECTURE: BilayerFCOS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.backbone import build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from bcnet_core.data.dataset import Targets
from bcnet_core.integrations.detectron2.config import loss_of, loss_weights_of, model_of
from bcnet_core.integrations.detectron2.cropped_masks import CroppedMasks
from bcnet_core.integrations.detectron2.mask_head import set_maps, without_occluders
from bcnet_core.model.backbones import TinyBackbone
from bcnet_core.model.detectors import build_one_stage
from bcnet_core.model.mask_branch import Found
from bcnet_core.model.one_stage import OneStageHeads

SAME_PLACE = (1.0, 0.0, 1.0, 0.0)
"""The `Placement` of masks that are in the frame of the network's input already."""


@META_ARCH_REGISTRY.register()
class BilayerFCOS(nn.Module):
    """FCOS with the bilayer mask branch: detectron2's backbone, and the heads of our own one-stage detector.

    Args:
        backbone: of detectron2.
        heads: the pyramid to losses, or to instances; the same module as in the torchvision backend.
        in_features: the levels of the backbone that the heads look at, the finest first.
        pixel_mean: that is taken off the values of each channel.
        pixel_std: that they are divided by then.
        loss_weights: by our names of the terms; one that is missing weighs 1.
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
        """The arguments that a yacs config stands for."""
        backbone = build_backbone(cfg)
        shapes: dict[str, ShapeSpec] = backbone.output_shape()
        names = sorted(shapes, key=lambda name: shapes[name].stride)
        return {
            "backbone": backbone,
            "heads": build_one_stage(
                model_of(cfg, shapes[names[0]].channels),
                loss_of(cfg),
                tuple(shapes[name].stride for name in names),
                cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            ),
            "in_features": names,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "loss_weights": loss_weights_of(cfg),
        }

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:  # noqa: ANN401  (detectron2's two-fold result)
        """Train on, or predict, a batch.

        Args:
            batched_inputs: of each image a dict with `image`, (3, h, w) in the config's channel order, and in training
                `instances` with `gt_boxes`, `gt_classes`, `gt_masks` and, for two layers, `gt_occluders`.

        Returns:
            In training the weighted losses `loss_classification`, `loss_occludee_mask`, ...; otherwise of each image a
            dict with `instances`, at the image's own size.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        two_layers = self.heads.masks.head.occluder is not None
        targets = [_targets(one["instances"].to(self.device), two_layers=two_layers) for one in batched_inputs]
        seeds = torch.randint(2**31, (len(targets),)).tolist()
        losses = self.heads(self._features(images), images, targets, seeds)
        return {f"loss_{name}": loss * self.loss_weights.get(name, 1.0) for name, loss in losses.items()}

    def inference(self, batched_inputs: list[dict[str, Any]], *, do_postprocess: bool = True) -> Any:  # noqa: ANN401
        """Predict a batch.

        Args:
            batched_inputs: see `forward`.
            do_postprocess: whether to bring the instances to their images' own size and to paste the masks.

        Returns:
            Of each image a dict with `instances`; without `do_postprocess` the `Instances` alone, in the network's
            input.
        """
        images = self.preprocess_image(batched_inputs)
        found = self.heads.detect(self._features(images), images)
        results = [_instances(one, size) for one, size in zip(found, images.image_sizes, strict=True)]
        if not do_postprocess:
            return results
        return [
            {"instances": detector_postprocess(one, given.get("height", size[0]), given.get("width", size[1]))}
            for one, given, size in zip(results, batched_inputs, images.image_sizes, strict=True)
        ]

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise, pad and batch the images."""
        images = [(one["image"].to(self.device) - self.pixel_mean) / self.pixel_std for one in batched_inputs]
        return ImageList.from_tensors(
            images, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )

    def _features(self, images: ImageList) -> list[Tensor]:
        levels = self.backbone(images.tensor)
        return [levels[name] for name in self.in_features]


class TinyPyramid(Backbone):
    """Our `TinyBackbone` as a backbone of detectron2.

    Args:
        out_channels: C, of its levels `p3`, `p4`, `p5`.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.pyramid, self._channels = TinyBackbone(out_channels), out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The levels by their names, of (B, 3, H, W) normalised images with sides that 32 divides."""
        return dict(zip(self.output_shape(), self.pyramid(images), strict=True))

    @property
    def size_divisibility(self) -> int:
        """What height and width of its input must be divisible by."""
        return self.pyramid.size_divisor

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each level."""
        return {
            f"p{stride.bit_length() - 1}": ShapeSpec(channels=self._channels, stride=stride)
            for stride in self.pyramid.strides
        }


@BACKBONE_REGISTRY.register()
def build_tiny_pyramid_backbone(cfg: Any, input_shape: ShapeSpec) -> TinyPyramid:  # noqa: ANN401
    """The light backbone for CPUs, with `FPN.OUT_CHANNELS` channels."""
    return TinyPyramid(cfg.MODEL.FPN.OUT_CHANNELS)


@BACKBONE_REGISTRY.register()
def build_fcos_resnet_fpn_backbone_p5(cfg: Any, input_shape: ShapeSpec) -> FPN:  # noqa: ANN401
    """detectron2's ResNet and FPN, with P6 made from P5 and P7 from P6, as FCOS has them."""
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return FPN(
        bottom_up=build_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7(channels, channels, "p5"),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _targets(instances: Instances, *, two_layers: bool) -> Targets:
    """What an image holds, as our own heads want it."""
    if two_layers and not instances.has("gt_occluders"):
        raise without_occluders()
    boxes: Tensor = instances.gt_boxes.tensor
    occludees = CroppedMasks.of(instances.gt_masks, *instances.image_size).to(boxes.device)
    occluders = occludees[:0]
    if instances.has("gt_occluders"):
        occluders = CroppedMasks.of(instances.gt_occluders, *instances.image_size).to(boxes.device)
    return Targets(boxes, instances.gt_classes, occludees.crops, occluders.crops, boxes.new_tensor(SAME_PLACE))


def _instances(found: Found, size: tuple[int, int]) -> Instances:
    """What was found in an image, as detectron2's structure."""
    boxes, scores, labels = found.proposals
    instances = Instances(size)
    instances.pred_boxes, instances.scores, instances.pred_classes = Boxes(boxes), scores, labels
    set_maps([instances], found.logits)
    return instances
