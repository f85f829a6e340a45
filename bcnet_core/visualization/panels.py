"""The panels of one picture: what both layers say about it, over the whole image and close up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bcnet_core.visualization import draw
from bcnet_core.visualization.draw import Colour, Image, Mask

Box = tuple[float, float, float, float]

MAP_SIDE = 28
"""Side of the mask head's four maps (METHOD: 28 x 28)."""
CLOSEUP_SIDE = 168
"""Longer side of one tile of a close-up in pixels: six for each cell of a map."""
SMALL_AREA = 32 * 32
"""Box area in pixels below which an instance comes last among the close-ups (COCO's `small`)."""
PANELS = {
    "image": "image",
    "instances": "instances",
    "occludee": "occludee layer",
    "occluder": "occluder layer",
    "boundaries": "boundaries",
}
"""Key and title of the panels, in the order they are shown."""
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


class Maps(NamedTuple):
    """The mask head's four maps of one instance, each (S, S) floating point in [0, 1] inside its box.

    None where the head has no such output.
    """

    occluder_boundary: NDArray[np.floating] | None
    occluder_mask: NDArray[np.floating] | None
    occludee_boundary: NDArray[np.floating] | None
    occludee_mask: NDArray[np.floating] | None


@dataclass(frozen=True)
class Layers:
    """One instance and the two layers of its box.

    Attributes:
        category: its class name.
        box: xyxy in pixels.
        occludee: (H, W) bool, the visible mask of the instance.
        occluder: (H, W) bool, what else overlaps it inside its box; None where nothing does.
        score: of a detection, in [0, 1]; None for ground truth.
        maps: the four maps that were predicted; None draws those of the two masks, as training sees them.
    """

    category: str
    box: Box
    occludee: Mask
    occluder: Mask | None = None
    score: float | None = None
    maps: Maps | None = None

    @property
    def label(self) -> str:
        """What is written beside the instance."""
        return self.category if self.score is None else f"{self.category} {self.score:.2f}"

    @property
    def occlusion(self) -> float:
        """The share of the box that the occluder covers, in [0, 1]."""
        if self.occluder is None:
            return 0.0
        cut = _cut(self.box, self.occluder)
        return float(self.occluder[cut].mean())


@dataclass(frozen=True)
class Picture:
    """One picture to show.

    Attributes:
        name: for people, usually the file name.
        image: (H, W, 3) uint8 RGB; a blank of the right size where the file could not be read.
        instances: what is in it; the position in this list decides an instance's colour.
        note: a sentence about this picture, or nothing.
        fault: why the image could not be read; None where all is well.
    """

    name: str
    image: Image
    instances: tuple[Layers, ...] = ()
    note: str = ""
    fault: str | None = None


class Closeup(NamedTuple):
    """The card of one instance: its position in the picture's list, and the card."""

    instance: int
    image: Image


class Rendered(NamedTuple):
    """All that is drawn of one picture: the panels by the keys of `PANELS`, and a few close-ups."""

    panels: dict[str, Image]
    closeups: tuple[Closeup, ...]


def render(picture: Picture, *, closeups: int = 3) -> Rendered:
    """Draw one picture.

    Args:
        picture: what to draw.
        closeups: how many instances get a close-up, the most occluded first.

    Returns:
        Five panels as large as the image and the close-ups; for an unreadable image one panel that says why.
    """
    if picture.fault is not None:
        return Rendered({"image": _placeholder(picture)}, ())
    cards = (Closeup(index, closeup(picture, index)) for index in choose_closeups(picture.instances, closeups))
    return Rendered(
        {
            "image": picture.image,
            "instances": _instances_panel(picture),
            "occludee": _occludee_panel(picture),
            "occluder": _occluder_panel(picture),
            "boundaries": _boundaries_panel(picture),
        },
        tuple(cards),
    )


def choose_closeups(instances: Sequence[Layers], count: int) -> list[int]:
    """The positions of the most occluded instances; those too small to look at come last."""

    def rank(index: int) -> tuple[bool, float]:
        x0, y0, x1, y1 = instances[index].box
        return (x1 - x0) * (y1 - y0) < SMALL_AREA, -instances[index].occlusion

    return sorted(range(len(instances)), key=rank)[:count]


def closeup(picture: Picture, index: int) -> Image:
    """The card of one instance: above the box and what layer 1 says of it, below both layers and layer 2."""
    layers = picture.instances[index]
    cut = _cut(layers.box, layers.occludee)
    maps = layers.maps or maps_of_masks(layers.occludee, layers.occluder, layers.box)
    crop = picture.image[cut]
    size = _tile_size(*crop.shape[:2])
    bar = draw.captioned(draw.scale_bar(size[0]), "")
    plain = draw.resize_image(crop, size)
    occludee, occluder = (
        draw.resize_mask(mask[cut], size) for mask in (layers.occludee, _or_empty(layers.occluder, layers.occludee))
    )
    both = draw.overlay(plain, [occluder, occludee], [draw.OCCLUDER, draw.OCCLUDEE])
    upper = [("box", plain), *_heatmaps(maps, ("occluder_boundary", "occluder_mask"), size)]
    lower = [("both layers", both), *_heatmaps(maps, ("occludee_boundary", "occludee_mask"), size)]
    rows = [[draw.captioned(tile, name) for name, tile in row] for row in (upper, lower)]
    return draw.tile([[*row, bar] for row in rows])


def _heatmaps(maps: Maps, names: Sequence[str], size: tuple[int, int]) -> list[tuple[str, Image]]:
    """A tile for each map; a grey one, named so, for a map that the head does not predict."""
    tiles = []
    for name in names:
        title, values = name.replace("_", " "), getattr(maps, name)
        if values is None:
            tiles.append((f"no {title}", np.full((*size[::-1], 3), 226, np.uint8)))
        else:
            tiles.append((title, draw.heatmap(values, size)))
    return tiles


def maps_of_masks(occludee: Mask, occluder: Mask | None, box: Box, *, side: int = MAP_SIDE) -> Maps:
    """The four maps that a perfect head would give: true masks cut to the box, and their boundaries.

    A boundary is dilation != erosion with a 3x3 cross; the border of the box is none (as in training).

    Args:
        occludee: (H, W) bool.
        occluder: (H, W) bool, or None for an empty one.
        box: xyxy in pixels.
        side: S of the maps.
    """
    cut = _cut(box, occludee)
    masks = []
    for mask in (_or_empty(occluder, occludee), occludee):
        crop = mask[cut].astype(np.float32)
        masks.append((cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA) >= 0.5).astype(np.uint8))
    edges = [cv2.dilate(mask, _CROSS) != cv2.erode(mask, _CROSS) for mask in masks]
    occluder_boundary, occludee_boundary, occluder_mask, occludee_mask = (
        np.asarray(part, np.float32) for part in (*edges, *masks)
    )
    return Maps(occluder_boundary, occluder_mask, occludee_boundary, occludee_mask)


def _instances_panel(picture: Picture) -> Image:
    masks = [layers.occludee for layers in picture.instances]
    drawn = draw.overlay(picture.image, masks, _colours(picture.instances))
    return _labelled(drawn, picture, range(len(masks)))


def _occludee_panel(picture: Picture) -> Image:
    """The instances that something overlaps, on pale ground."""
    shown = [index for index, layers in enumerate(picture.instances) if layers.occlusion > 0]
    colours = _colours(picture.instances)
    drawn = draw.overlay(
        picture.image,
        [picture.instances[index].occludee for index in shown],
        [colours[index] for index in shown],
        ground=draw.dim(picture.image),
    )
    return _labelled(drawn, picture, shown)


def _occluder_panel(picture: Picture) -> Image:
    """The pixels that are occluder to some instance, each in the colour of the instance it belongs to."""
    regions = [layers.occluder for layers in picture.instances if layers.occluder is not None]
    everywhere = np.logical_or.reduce([np.zeros(picture.image.shape[:2], np.bool_), *regions])
    parts = [layers.occludee & everywhere for layers in picture.instances]
    colours = _colours(picture.instances)
    nobody = everywhere & ~np.logical_or.reduce([np.zeros_like(everywhere), *parts])
    drawn = draw.overlay(
        picture.image, [nobody, *parts], [draw.INK, *colours], ground=draw.dim(picture.image), alpha=0.6
    )
    owners = [index for index, part in enumerate(parts) if part.any()]
    return draw.add_labels(
        drawn, [draw.Label(picture.instances[index].label, colours[index], parts[index]) for index in owners]
    )


def _boundaries_panel(picture: Picture) -> Image:
    """The boundaries of all occluder regions, and over them those of all occludees."""
    drawn = draw.dim(picture.image)
    for layers in picture.instances:
        if layers.occluder is not None:
            x0, y0, x1, y1 = layers.box
            cut = _cut((x0 + 2, y0 + 2, x1 - 2, y1 - 2), layers.occluder)  # its cut along the box is no boundary
            inside = np.ascontiguousarray(layers.occluder[cut])
            draw.fill(drawn[cut], draw.boundary_band(inside, 5, closed=False), draw.OCCLUDER)
    for layers in picture.instances:
        tight = draw.window(layers.occludee)
        if tight is not None:
            inside = np.ascontiguousarray(layers.occludee[tight])
            draw.fill(drawn[tight], draw.boundary_band(inside, 2), draw.OCCLUDEE)
    return drawn


def _placeholder(picture: Picture) -> Image:
    blank = np.full_like(picture.image, 226)
    middle = blank.shape[0] // 2
    for line, text in enumerate(("no image", picture.name[-draw.MAX_TEXT :])):
        draw.write(blank, text, 16, middle + line * (draw.line_height() + 4))
    return blank


def _labelled(drawn: Image, picture: Picture, shown: Sequence[int]) -> Image:
    colours = _colours(picture.instances)
    return draw.add_labels(
        drawn,
        [draw.Label(picture.instances[i].label, colours[i], picture.instances[i].occludee) for i in shown],
    )


def _colours(instances: Sequence[Layers]) -> list[Colour]:
    return [draw.instance_colour(index) for index in range(len(instances))]


def _or_empty(mask: Mask | None, like: Mask) -> Mask:
    return np.zeros_like(like) if mask is None else mask


def _cut(box: Box, mask: Mask) -> tuple[slice, slice]:
    """The (rows, columns) of a box, at least one pixel of the image."""
    height, width = mask.shape
    x0, y0 = min(max(int(box[0]), 0), width - 1), min(max(int(box[1]), 0), height - 1)
    x1, y1 = min(max(int(np.ceil(box[2])), x0 + 1), width), min(max(int(np.ceil(box[3])), y0 + 1), height)
    return slice(y0, y1), slice(x0, x1)


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of a tile: the shape of the box, but never a sliver."""
    scale = CLOSEUP_SIDE / max(height, width)
    return max(round(height * scale), CLOSEUP_SIDE // 3), max(round(width * scale), CLOSEUP_SIDE // 3)
