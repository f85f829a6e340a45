"""The maps that the mask head predicts inside each box: one table that every room reads.

Outputs of the head, training targets and predicted maps are dicts keyed by `MapSpec.name` that hold only the maps that
exist. A consumer walks such a dict, or asks `map_specs` for the rows behind its names.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

LayerName = Literal["occludee", "occluder"]
Region = Literal["occludee", "occluder", "amodal"]
"""What a map is of: the visible part of an instance, what lies over it, or the whole instance with its hidden part."""
MapKind = Literal["mask", "boundary"]


class MapSpec(NamedTuple):
    """One map of the mask head.

    Attributes:
        name: its name in Python, in `loss.<name>` and in the state dict of the head.
        layer: the layer that predicts it.
        region: what it is of. Maps of the occludee train on every RoI, maps of the occluder on those that
            `model.occluder_sampling` chooses, amodal ones on those whose instance has a whole mask.
        kind: a mask, or the contour band of one.
        key: where a COCO result keeps it.
        title: what people read above it.
    """

    name: str
    layer: LayerName
    region: Region
    kind: MapKind
    key: str
    title: str


MAPS = (
    MapSpec("occludee_mask", "occludee", "occludee", "mask", "segmentation", "occludee mask"),
    MapSpec("occludee_boundary", "occludee", "occludee", "boundary", "occludee_boundary", "occludee boundary"),
    MapSpec("occluder_mask", "occluder", "occluder", "mask", "occluder", "occluder mask"),
    MapSpec("occluder_boundary", "occluder", "occluder", "boundary", "occluder_boundary", "occluder boundary"),
    MapSpec("amodal_mask", "occludee", "amodal", "mask", "amodal_segmentation", "whole mask"),
)
"""In the order of the head's outputs. The first is the instance's own mask, which every head predicts."""


def map_specs(names: Collection[str] | None = None) -> list[MapSpec]:
    """Return the rows of `MAPS` with these names, in the order of the table; None returns all of them."""
    return [spec for spec in MAPS if names is None or spec.name in names]


def maps_of_results(names: Collection[str]) -> list[str]:
    """Return which of a head's maps results without layers depend on: its masks of instances, and what orders those."""
    has_order = "amodal_mask" in names
    return [spec.name for spec in map_specs(names) if spec.kind == "mask" and (spec.layer == "occludee" or has_order)]
