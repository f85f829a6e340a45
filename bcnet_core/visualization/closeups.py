"""Close-ups of single instances (RoIs), map by map."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from bcnet_core import masks
from bcnet_core.config.choices import LayerChoice
from bcnet_core.maps import LayerName, Region, map_specs
from bcnet_core.masks import RLE
from bcnet_core.visualization import draw
from bcnet_core.visualization.drawing import CROSS, OCCLUDEE, OCCLUDER, Card, Drawing, Mask, Shape, Tile, patch_of_mask
from bcnet_core.visualization.picture import Box, Instance, Maps, Picture, pixel_box

MAP_SIDE = 28
"""Side of the maps of instances that no mask head predicted, in cells."""
TILE_SIDE = 168
"""Longer side of a close-up's tile in pixels: six per cell of a map."""
SMALL_AREA = 32 * 32
"""Box area in pixels below which an instance comes last among the close-ups (COCO's `small`)."""


def choose_rois(instances: Sequence[Instance], count: int) -> list[int]:
    """Return the indices of the most occluded instances, those too small to look at last."""

    def rank(index: int) -> tuple[bool, float]:
        instance = instances[index]
        x0, y0, x1, y1 = instance.roi
        rates = [(one.occlusion, one.occlusion_rate) for one in (instance, instance.truth or instance)]
        hidden = max(occlusion if rate is None else rate for occlusion, rate in rates)
        return (x1 - x0) * (y1 - y0) < SMALL_AREA, -hidden

    return sorted(range(len(instances)), key=rank)[:count]


def roi_card(picture: Picture, index: int, *, layer: LayerChoice = "both") -> Card:
    """Make the close-up of one instance: a row per layer with its maps, each beside the true one if known."""
    instance = picture.instances[index]
    x0, y0, x1, y1 = box = pixel_box(instance.roi, *picture.image.shape[:2])
    scale = TILE_SIDE / max(x1 - x0, y1 - y0)
    least = TILE_SIDE // 3  # never a sliver
    size = max(round((y1 - y0) * scale), least), max(round((x1 - x0) * scale), least)
    plain = draw.resize_image(picture.image[y0:y1, x0:x1], size)
    visible = _window(instance.occludee, box)
    regions = [(_window(instance.occluder, box), OCCLUDER, False), (visible, OCCLUDEE, False)]
    regions.append((_window(instance.whole, box) & ~visible, OCCLUDEE, True))
    parts = tuple(
        Shape(patch, color, hatched=hidden)
        for mask, color, hidden in regions
        if (patch := patch_of_mask(draw.resize_mask(mask, size))) is not None
    )
    maps, true = instance.maps or maps_of_masks(instance, instance.roi), Maps()
    if instance.truth is not None:
        true = maps_of_masks(instance.truth, instance.roi, side=len(maps["occludee_mask"]))
    rows: list[list[Tile]] = []
    first: dict[LayerName, Drawing] = {"occluder": Drawing(plain), "occludee": Drawing(plain, parts)}
    for name, drawing in first.items():
        if layer not in ("both", name):
            continue
        row = [Tile("box" if name == "occluder" else "both layers", drawing)]
        for spec in sorted(map_specs(), key=lambda spec: spec.kind):  # boundaries, then masks
            if spec.layer == name and (spec.region != "amodal" or spec.name in maps):
                row.append(Tile(spec.title if spec.name in maps else f"no {spec.title}", maps.get(spec.name)))
                if instance.iou is not None:
                    row.append(Tile("true" if spec.name in true else "no true one", true.get(spec.name)))
        rows.append(row)
    return Card(size, tuple(map(tuple, rows)))


def maps_of_masks(instance: Instance, box: Box, *, side: int = MAP_SIDE) -> Maps:
    """Return the maps a perfect head would predict, (side, side) each: masks cropped to the box, and their boundaries.

    There is a whole mask only where it is known. A boundary is dilation != erosion with a 3x3 cross, once for every 28
    cells; the border of the box is not one, as in training.
    """
    reach = max(side // MAP_SIDE, 1)
    regions: dict[Region, RLE | None] = {"occludee": instance.occludee, "occluder": instance.occluder}
    if instance.whole is not None:
        regions["amodal"] = instance.whole
    cells = {}
    for region, rle in regions.items():
        window = np.zeros((1, 1), np.bool_) if rle is None else _window(rle, pixel_box(box, *rle["size"]))
        coverage = cv2.resize(window.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
        cells[region] = (coverage >= 0.5).astype(np.uint8)
    maps: Maps = {}
    for spec in map_specs():
        if spec.region in cells:
            mask = cells[spec.region]
            if spec.kind == "boundary":
                edges = (morph(mask, CROSS, iterations=reach) for morph in (cv2.dilate, cv2.erode))
                mask = np.not_equal(*edges)
            maps[spec.name] = mask.astype(np.float32)
    return maps


def _window(rle: RLE | None, box: tuple[int, int, int, int]) -> Mask:
    """Decode a mask inside whole pixels x0, y0, x1, y1; a missing one is empty."""
    x0, y0, x1, y1 = box
    return np.zeros((y1 - y0, x1 - x0), np.bool_) if rle is None else masks.decode_window(rle, x0, y0, x1, y1)
