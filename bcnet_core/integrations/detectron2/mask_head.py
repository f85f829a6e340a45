"""The bilayer mask head where detectron2 looks for mask heads: `MODEL.ROI_MASK_HEAD.NAME: BilayerMaskRCNNHead`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from bcnet_core.config.choices import OccluderSampling
from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.integrations.detectron2.config import head_of, loss_weights_of
from bcnet_core.maps import LayerName, MapSpec, map_specs
from bcnet_core.model.head import BilayerMaskHead
from bcnet_core.model.losses import bilayer_losses
from bcnet_core.model.mask_branch import predict_maps
from bcnet_core.model.targets import target_maps
from bcnet_core.weights.from_detectron2 import mask_head_name


def map_field(spec: MapSpec) -> str:
    """Return the field of `Instances` that holds a map, (N, 1, 28, 28) float32 in [0, 1]."""
    if spec.key == "segmentation":
        return "pred_masks"
    return f"pred_{spec.layer}_{'boundaries' if spec.kind == 'boundary' else f'{spec.kind}s'}"


@ROI_MASK_HEAD_REGISTRY.register()
class BilayerMaskRCNNHead(nn.Module):
    """`BilayerMaskHead` for detectron2's RoI heads: losses in training, fields of `Instances` otherwise.

    Weights of Mask R-CNN's head and of the official release's are taken under their own names: the convolutions of the
    first train the occludee layer.

    Args:
        head: RoI features to maps.
        occluder_sampling: which RoIs enter the occluder losses.
        loss_weights: by our names of the maps; one that is missing weighs 1.
        rois_per_image: most RoIs of an image that train; 0 takes all.
    """

    @configurable
    def __init__(
        self,
        *,
        head: BilayerMaskHead,
        occluder_sampling: OccluderSampling = "balanced",
        loss_weights: Mapping[str, float] | None = None,
        rois_per_image: int = 0,
    ) -> None:
        super().__init__()
        self.head, self.occluder_sampling, self.rois_per_image = head, occluder_sampling, rois_per_image
        self.loss_weights = dict(loss_weights or {})
        self.register_load_state_dict_pre_hook(_rename)  # type: ignore[no-untyped-call]

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:  # noqa: ANN401  (a CfgNode)
        """The arguments that a yacs config stands for."""
        return {
            "head": head_of(cfg, input_shape.channels),
            "occluder_sampling": cfg.MODEL.BCNET.OCCLUDER_SAMPLING,
            "loss_weights": loss_weights_of(cfg),
            "rois_per_image": cfg.MODEL.BCNET.MASK_ROIS_PER_IMAGE,
        }

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:  # noqa: ANN401  (detectron2's two-fold result)
        """Train on, or predict in, the RoIs of a batch.

        Args:
            x: (R, C, S, S) float RoI features, those of the first image first.
            instances: of each image. In training the positive proposals, with `proposal_boxes`, `gt_masks` and, for two
                layers, `gt_occluders`; otherwise the boxes found.

        Returns:
            In training the weighted losses `loss_occludee_mask`, ...; otherwise the instances, with the fields of
            `map_field`.

        Raises:
            BCNetError: if the training data carries no occluder regions.
        """
        if not self.training:
            set_maps(instances, predict_maps(self.head, x))
            return instances
        if self.rois_per_image:
            x, instances = self._some(x, instances)
        targets = self._targets(instances, size=2 * x.shape[2])
        if len(x) and "occluder_mask" in targets:
            occluded = targets["occluder_mask"].flatten(1).any(1)
            get_event_storage().put_scalar("bilayer/rois_with_occluder", float(occluded.float().mean()))
        keys = torch.rand(len(x), device=x.device)
        losses = bilayer_losses(predict_maps(self.head, x), targets, keys, sampling=self.occluder_sampling)
        return {f"loss_{name}": loss * self.loss_weights.get(name, 1.0) for name, loss in losses.items()}

    def _some(self, x: Tensor, instances: list[Instances]) -> tuple[Tensor, list[Instances]]:
        """A random choice of each image's RoIs where it has too many, with their features."""
        kept = [torch.randperm(len(one))[: self.rois_per_image].sort().values for one in instances]
        parts = torch.split(x, [len(one) for one in instances])
        chosen = torch.cat([part[index.to(x.device)] for part, index in zip(parts, kept, strict=True)])
        return chosen, [one[index.to(x.device)] for one, index in zip(instances, kept, strict=True)]

    def _targets(self, instances: Sequence[Instances], *, size: int) -> dict[str, Tensor]:
        layers: dict[LayerName, list[Tensor]] = {"occludee": []}
        if self.head.occluder is not None:
            layers["occluder"] = []
        for one in instances:
            boxes: Tensor = one.proposal_boxes.tensor
            if len(boxes) == 0:
                continue
            layers["occludee"].append(one.gt_masks.crop_and_resize(boxes, size).to(boxes.device))
            if "occluder" in layers:
                if not one.has("gt_occluders"):
                    raise without_occluders()
                layers["occluder"].append(one.gt_occluders.crop_and_resize(boxes, size).to(boxes.device))
        nothing = [torch.zeros((0, size, size), dtype=torch.bool, device=next(self.parameters()).device)]
        return target_maps({layer: torch.cat(parts or nothing) for layer, parts in layers.items()})


def without_occluders() -> BCNetError:
    """The error for training data that layer 1 cannot learn from."""
    return usage_error(
        "the training data carries no occluder regions: its instances have no `gt_occluders`",
        "take bcnet_core.integrations.detectron2.BilayerDatasetMapper as its mapper",
        "or leave the occluder layer out: MODEL.BCNET.LAYERS 1",
    )


def set_maps(instances: Sequence[Instances], logits: Mapping[str, Tensor]) -> None:
    """Put the maps of R RoIs into the instances of their images, as probabilities; see `map_field`."""
    counts = [len(one) for one in instances]
    for spec in map_specs(logits):
        for one, part in zip(instances, torch.split(logits[spec.name].sigmoid()[:, None], counts), strict=True):
            one.set(map_field(spec), part)


def _rename(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Bring the names of the official release's mask head, or of Mask R-CNN's, under ours; drop what does not fit."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name in [name for name in state if name.startswith(prefix)]:
        ours = mask_head_name(name.removeprefix(prefix))
        if ours is not None:
            tensor, place = state.pop(name), own.get(f"head.{ours}")
            if place is not None and place.shape == tensor.shape:  # not so a predictor of one mask a class
                state[f"{prefix}head.{ours}"] = tensor
