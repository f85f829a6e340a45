"""One instance from near: what each layer says inside its box, map by map, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.config.choices import LayerChoice
from bcnet_core.maps import map_specs
from bcnet_core.masks import RLE
from bcnet_core.visualization import draw
from bcnet_core.visualization.drawing import (
    OCCLUDEE,
    OCCLUDER,
    Blank,
    Card,
    Drawing,
    Heat,
    Mask,
    Shape,
    Tile,
    patch_of_mask,
)
from bcnet_core.visualization.picture import Box, Instance, Picture, pixel_box

MAP_SIDE = 28
"""Side of the mask head's four maps (METHOD: 28 x 28)."""
TILE_SIDE = 168
"""Longer side of one tile of an RoI in pixels: six for each cell of a map."""
SMALL_AREA = 32 * 32
"""Box area in pixels below which an instance comes last among the RoIs (COCO's `small`)."""
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


Maps = dict[str, NDArray[np.floating]]
"""Maps of one instance by name, (S, S) in [0, 1] each."""


class Roi(NamedTuple):
    """The card of one instance, and its position in the picture's list."""

    instance: int
    card: Card


def choose_rois(instances: Sequence[Instance], count: int) -> list[int]:
    """The positions of the most occluded instances; those too small to look at come last."""

    def rank(index: int) -> tuple[bool, float]:
        x0, y0, x1, y1 = instances[index].box
        layers = instances[index]
        return (x1 - x0) * (y1 - y0) < SMALL_AREA, -max(layers.occlusion, (layers.truth or layers).occlusion)

    return sorted(range(len(instances)), key=rank)[:count]


def roi_card(picture: Picture, index: int, *, layer: LayerChoice = "both") -> Card:
    """The card of one instance, a row for each layer: its boundary and its mask, each beside the true one if known."""
    layers = picture.instances[index]
    x0, y0, x1, y1 = pixel_box(layers.box, *picture.image.shape[:2])
    crop = picture.image[y0:y1, x0:x1]
    size = _tile_size(*crop.shape[:2])
    plain = draw.resize_image(crop, size)
    parts = [
        Shape(patch, color)
        for rle, color in ((layers.occluder, OCCLUDER), (layers.occludee, OCCLUDEE))
        if (patch := patch_of_mask(draw.resize_mask(_window(rle, (x0, y0, x1, y1)), size))) is not None
    ]
    maps = layers.maps or maps_of_masks(layers.occludee, layers.occluder, layers.box)
    truth = layers.truth
    true = None if truth is None else maps_of_masks(truth.occludee, truth.occluder, layers.box)
    left = {"occluder": Tile("box", Drawing(plain)), "occludee": Tile("both layers", Drawing(plain, tuple(parts)))}
    rows = [
        (left[name], *_map_tiles(name, maps, true, beside=layers.iou is not None))
        for name in ("occluder", "occludee")
        if layer in ("both", name)
    ]
    return Card(size, tuple(rows))


def _map_tiles(layer: str, maps: Maps, true: Maps | None, *, beside: bool) -> list[Tile]:
    """Make the tiles of the maps of a layer, boundary first; a missing map gives a blank one."""
    tiles = []
    for spec in reversed(map_specs()):
        if spec.layer == layer:
            tiles.append(_map_tile(maps.get(spec.name), spec.title, f"no {spec.title}"))
            if beside:
                tiles.append(_map_tile((true or {}).get(spec.name), "true", "no true one"))
    return tiles


def _map_tile(values: NDArray[np.floating] | None, title: str, without: str) -> Tile:
    return Tile(without, Blank()) if values is None else Tile(title, Heat(values))


def maps_of_masks(occludee: RLE | None, occluder: RLE | None, box: Box, *, side: int = MAP_SIDE) -> Maps:
    """Make the maps that a perfect head would give: true masks cut to the box, and their boundaries.

    A boundary is dilation != erosion with a 3x3 cross; the border of the box is none (as in training).

    Args:
        occludee: of the image, or None for an empty one.
        occluder: the same.
        box: xyxy in pixels.
        side: S of the maps.
    """
    cells = {}
    for layer, rle in (("occludee", occludee), ("occluder", occluder)):
        window = np.zeros((1, 1), np.bool_) if rle is None else _window(rle, pixel_box(box, *rle["size"]))
        share = cv2.resize(window.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
        cells[layer] = (share >= 0.5).astype(np.uint8)
    edges = {layer: cv2.dilate(mask, _CROSS) != cv2.erode(mask, _CROSS) for layer, mask in cells.items()}
    return {
        spec.name: np.asarray((cells if spec.kind == "mask" else edges)[spec.layer], np.float32) for spec in map_specs()
    }


def _window(rle: RLE | None, box: tuple[int, int, int, int]) -> Mask:
    """The part of a mask inside whole pixels x0, y0, x1, y1; an empty one of no mask."""
    x0, y0, x1, y1 = box
    return np.zeros((y1 - y0, x1 - x0), np.bool_) if rle is None else masks.decode_window(rle, x0, y0, x1, y1)


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of a tile: the shape of the box, but never a sliver."""
    scale = TILE_SIDE / max(height, width)
    return max(round(height * scale), TILE_SIDE // 3), max(round(width * scale), TILE_SIDE // 3)
