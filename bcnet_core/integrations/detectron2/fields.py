"""The maps of the mask head as fields of detectron2's `Instances`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.structures import Instances
from torch import Tensor

from bcnet_core.maps import MapSpec, map_specs

VISIBLE_FIELD = "pred_occludee_masks"
"""Field that repeats `pred_masks` beside whole masks; detectron2's postprocessing turns `pred_masks` into bitmaps."""


def map_field(spec: MapSpec) -> str:
    """Return the field of `Instances` that holds a map, (N, 1, S, S) float32 in [0, 1]."""
    if spec.key == "segmentation":
        return "pred_masks"
    return f"pred_{spec.region}_{'boundaries' if spec.kind == 'boundary' else f'{spec.kind}s'}"


def set_maps(instances: Sequence[Instances], logits: Mapping[str, Tensor]) -> None:
    """Store the maps of R RoIs in the instances of their images, as probabilities; see `map_field`."""
    counts = [len(one) for one in instances]
    for spec in map_specs(logits):
        for one, part in zip(instances, torch.split(logits[spec.name].sigmoid()[:, None], counts), strict=True):
            one.set(map_field(spec), part)
    if "amodal_mask" in logits:
        for one in instances:
            one.set(VISIBLE_FIELD, one.pred_masks)


def predicted_maps(instances: Instances) -> dict[str, Tensor]:
    """Return the (N, S, S) maps by name of the instances of an image; see `set_maps`.

    Maps of visible parts beside whole ones are there after detectron2's postprocessing, too.
    """
    fields = {spec.name: map_field(spec) for spec in map_specs()}
    if instances.has(VISIBLE_FIELD):
        fields["occludee_mask"] = VISIBLE_FIELD
    return {name: instances.get(field)[:, 0] for name, field in fields.items() if instances.has(field)}
