"""One instance from near: what each layer says inside its box, map by map, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
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
from bcnet_core.visualization.picture import Box, Instance, Maps, Picture, pixel_box

LayerChoice = Literal["both", "occludee", "occluder"]

MAP_SIDE = 28
"""Side of the mask head's four maps (METHOD: 28 x 28)."""
TILE_SIDE = 168
"""Longer side of one tile of an RoI in pixels: six for each cell of a map."""
SMALL_AREA = 32 * 32
"""Box area in pixels below which an instance comes last among the RoIs (COCO's `small`)."""
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


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
    """The boundary and the mask of a layer; a blank one for a map that there is not."""
    tiles = []
    for part in ("boundary", "mask"):
        title = f"{layer} {part}"
        tiles.append(_map_tile(getattr(maps, f"{layer}_{part}"), title, f"no {title}"))
        if beside:
            tiles.append(_map_tile(None if true is None else getattr(true, f"{layer}_{part}"), "true", "no true one"))
    return tiles


def _map_tile(values: NDArray[np.floating] | None, title: str, without: str) -> Tile:
    return Tile(without, Blank()) if values is None else Tile(title, Heat(values))


def maps_of_masks(occludee: RLE | None, occluder: RLE | None, box: Box, *, side: int = MAP_SIDE) -> Maps:
    """The four maps that a perfect head would give: true masks cut to the box, and their boundaries.

    A boundary is dilation != erosion with a 3x3 cross; the border of the box is none (as in training).

    Args:
        occludee: of the image, or None for an empty one.
        occluder: the same.
        box: xyxy in pixels.
        side: S of the maps.
    """
    cells = []
    for rle in (occluder, occludee):
        window = np.zeros((1, 1), np.bool_) if rle is None else _window(rle, pixel_box(box, *rle["size"]))
        share = cv2.resize(window.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
        cells.append((share >= 0.5).astype(np.uint8))
    edges = [cv2.dilate(mask, _CROSS) != cv2.erode(mask, _CROSS) for mask in cells]
    occluder_boundary, occludee_boundary, occluder_mask, occludee_mask = (
        np.asarray(part, np.float32) for part in (*edges, *cells)
    )
    return Maps(occluder_boundary, occluder_mask, occludee_boundary, occludee_mask)


def _window(rle: RLE | None, box: tuple[int, int, int, int]) -> Mask:
    """The part of a mask inside whole pixels x0, y0, x1, y1; an empty one of no mask."""
    x0, y0, x1, y1 = box
    return np.zeros((y1 - y0, x1 - x0), np.bool_) if rle is None else masks.decode_window(rle, x0, y0, x1, y1)


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of a tile: the shape of the box, but never a sliver."""
    scale = TILE_SIDE / max(height, width)
    return max(round(height * scale), TILE_SIDE // 3), max(round(width * scale), TILE_SIDE // 3)
