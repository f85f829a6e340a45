"""Panels of a picture: both layers and the whole masks over the image, and who is in front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bcnet_core.config.choices import LayerChoice
from bcnet_core.visualization import draw
from bcnet_core.visualization.drawing import (
    BLANK,
    INK,
    OCCLUDEE,
    OCCLUDER,
    Arrow,
    Drawing,
    Image,
    Patch,
    Point,
    Shape,
    boundary_band,
    cut,
    inner_point,
    instance_color,
    patch_of_mask,
    patch_of_rle,
)
from bcnet_core.visualization.layout import LINE, MAX_TEXT
from bcnet_core.visualization.picture import Box, Instance, Picture, order_of, pixel_box

LONGEST = 1280
"""Longest side of a panel in pixels; larger images are reduced. Close-ups are cropped from the original image."""
SHORTEST = 24
"""Least length of an arrow in pixels."""
SMALL = 512
"""Images with a much shorter longest side are enlarged to about this, by a whole factor."""
PANELS = {
    "image": "image",
    "instances": "instances",
    "occludee": "occludee layer",
    "occluder": "occluder layer",
    "boundaries": "boundaries",
    "whole": "whole masks",
}
"""Keys and titles of the panels in display order. The panel of the true instances has the key `true-` + key."""


def draw_panels(
    picture: Picture,
    *,
    layer: LayerChoice = "both",
    boxes: bool = False,
    order: bool = False,
    size: tuple[int, int] | None = None,
) -> dict[str, Drawing]:
    """Draw the panels of a picture by key, each followed by its counterpart of the true instances if there are any.

    The panel of the instances has the boxes of true ones that differ from their masks, and with `boxes` those of all.
    There is a panel of whole masks if any is known; with `order`, its arrows lead from the instance in front to the one
    behind it.
    `size` is the (height, width) of the panels, by default `display_size`. An unreadable image gives a single panel
    that names it.
    """
    if picture.fault is not None:
        return {"image": _placeholder(picture)}
    image = draw.resize_image(picture.image, size or display_size(*picture.image.shape[:2]))
    pale, scale = draw.dim(image), image.shape[1] / picture.image.shape[1]
    sheets = [("", _sheet(image, pale, scale, picture.instances))]
    if picture.truth is not None:
        sheets.append(("true-", _sheet(image, pale, scale, picture.truth)))
    panels = {"image": Drawing(image)}
    panels |= {f"{prefix}instances": _instances(sheet, boxes=boxes) for prefix, sheet in sheets}
    if layer != "occluder":
        panels |= {f"{prefix}occludee": _occludees(sheet) for prefix, sheet in sheets}
    if layer != "occludee":
        panels |= {f"{prefix}occluder": _occluders(sheet) for prefix, sheet in sheets}
    panels |= {f"{prefix}boundaries": _boundaries(sheet, layer) for prefix, sheet in sheets}
    if layer != "occluder":
        known = [pair for pair in sheets if any(one.whole is not None for one in pair[1].instances)]
        panels |= {f"{prefix}whole": _wholes(sheet, order=order) for prefix, sheet in known}
    return panels


def panel_title(key: str) -> str:
    """Return the caption of a panel."""
    own = key.removeprefix("true-")
    return PANELS[own] if own == key else f"true {PANELS[own]}"


def display_size(height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) at which an image is displayed."""
    longest = max(height, width)
    scale = max(round(SMALL / longest), 1) if longest <= LONGEST else LONGEST / longest
    return max(round(height * scale), 1), max(round(width * scale), 1)


class _Sheet(NamedTuple):
    """A displayed image, its pale version, its scale, its instances, those seen, and those with an occluder."""

    image: Image
    pale: Image
    scale: float
    instances: Sequence[Instance]
    occludees: list[tuple[Instance, Patch]]
    occluders: list[tuple[Instance, Patch]]

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.image.shape[:2]
        return height, width


def _sheet(image: Image, pale: Image, scale: float, instances: Sequence[Instance]) -> _Sheet:
    height, width = image.shape[:2]
    seen, hidden = (
        [(one, patch) for one, rle in layer if (patch := patch_of_rle(rle, (height, width))) is not None]
        for layer in ([(one, one.occludee) for one in instances], [(one, one.occluder) for one in instances])
    )
    return _Sheet(image, pale, scale, instances, seen, hidden)


def _overlay(ground: Image, parts: Sequence[tuple[Instance, Patch]], *, alpha: float = 0.45) -> Drawing:
    """Draw instances in their colors with their labels, small ones on top of large ones."""
    ordered = sorted(parts, key=lambda part: -np.count_nonzero(part[1].mask))
    shapes = (Shape(patch, instance_color(one.color), alpha, label=one.label) for one, patch in ordered)
    return Drawing(ground, tuple(shapes))


def _instances(sheet: _Sheet, *, boxes: bool) -> Drawing:
    """Draw the instances that are seen, and over them the boxes that are asked for or differ from their masks."""
    drawing = _overlay(sheet.image, sheet.occludees)
    frames = []
    for one in sheet.instances:
        frame = _frame(one.box, sheet) if boxes or (one.score is None and one.box_differs) else None
        if frame is not None:
            label = one.label if one.occludee is None else None  # else it is beside the mask
            frames.append(Shape(frame, instance_color(one.color), 1.0, 0, label))
    return drawing._replace(shapes=(*drawing.shapes, *frames))


def _frame(box: Box, sheet: _Sheet) -> Patch | None:
    """Return the part of the outline of a box that lies in a displayed image, two pixels wide."""
    height, width = sheet.size
    x0, x1 = sorted(round(side * sheet.scale) for side in box[::2])
    y0, y1 = sorted(round(side * sheet.scale) for side in box[1::2])
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(max(x1, x0 + 1), width), min(max(y1, y0 + 1), height)
    if left >= right or top >= bottom:
        return None
    mask = np.ones((bottom - top, right - left), np.bool_)
    mask[max(y0 + 2 - top, 0) : max(y1 - 2 - top, 0), max(x0 + 2 - left, 0) : max(x1 - 2 - left, 0)] = False
    return Patch(left, top, mask) if mask.any() else None


def _occludees(sheet: _Sheet) -> Drawing:
    """Draw the occluded instances, on a pale background."""
    occluded = [(instance, patch) for instance, patch in sheet.occludees if instance.occlusion > 0]
    return _overlay(draw.reveal(sheet.image, [patch for _, patch in occluded], sheet.pale), occluded)


def _occluders(sheet: _Sheet) -> Drawing:
    """Draw all pixels that occlude any instance, in the colors of the instances they belong to."""
    regions = [patch for _, patch in sheet.occluders]
    everywhere = np.zeros(sheet.size, np.bool_)
    for patch in regions:
        everywhere[patch.window] |= patch.mask
    unowned, parts = everywhere.copy(), []
    for instance, visible in sheet.occludees:
        mask = visible.mask & everywhere[visible.window]
        unowned[visible.window] &= ~visible.mask
        if mask.any():
            parts.append((instance, visible._replace(mask=mask)))
    drawing = _overlay(draw.reveal(sheet.image, regions, sheet.pale), parts, alpha=0.6)
    rest = patch_of_mask(unowned)
    return drawing if rest is None else drawing._replace(shapes=(Shape(rest, INK, 0.6), *drawing.shapes))


def _boundaries(sheet: _Sheet, layer: LayerChoice) -> Drawing:
    """Draw the boundaries of all occluder regions, and over them those of all occludees."""
    shapes = []
    if layer != "occludee":
        for instance, region in sheet.occluders:
            x0, y0, x1, y1 = (side * sheet.scale for side in instance.box)
            inner = (x0 + 2, y0 + 2, x1 - 2, y1 - 2)  # where the box cuts it off, the region has no boundary
            left, top, right, bottom = pixel_box(inner, *sheet.size)
            whole = np.zeros(sheet.size, np.bool_)
            whole[region.window] = region.mask
            band = boundary_band(whole[top:bottom, left:right], 5, closed=False)
            shapes.append(Shape(Patch(left, top, band), OCCLUDER, 1.0, 0))
    if layer != "occluder":
        for _, patch in sheet.occludees:
            shapes.append(Shape(patch._replace(mask=boundary_band(patch.mask, 2)), OCCLUDEE, 1.0, 0))
    return Drawing(sheet.pale, tuple(shapes))


def _wholes(sheet: _Sheet, *, order: bool) -> Drawing:
    """Draw the instances with their hidden parts hatched, and on request an arrow for each pair of `order_of`."""
    visible = {id(one): patch for one, patch in sheet.occludees}
    seen = [visible.get(id(one)) for one in sheet.instances]
    wholes = [patch_of_rle(one.whole, sheet.size) for one in sheet.instances]
    parts = zip(wholes, seen, strict=True)
    hidden = [cut(whole, own, inside=False) if whole and own else whole for whole, own in parts]
    hatched = [
        Shape(patch, instance_color(one.color), label=None if own else one.label, hatched=True)
        for one, own, patch in zip(sheet.instances, seen, hidden, strict=True)
        if patch is not None
    ]
    arrows = []
    centers = [None if patch is None else inner_point(patch) for patch in seen] if order else []
    for front, back in order_of(sheet.instances) if order else ():
        over, under, tail = seen[front], hidden[back], centers[front]
        goal = (over and under and cut(under, over, inside=True)) or under or seen[back]
        if tail and goal:
            tip = inner_point(goal)
            arrows.append(_arrow(tail, tip, centers[back] or tip))
    hatched.sort(key=lambda shape: -np.count_nonzero(shape.patch.mask))
    return Drawing(sheet.pale, (*hatched, *_overlay(sheet.pale, sheet.occludees, alpha=0.35).shapes), tuple(arrows))


def _arrow(tail: Point, tip: Point, behind: Point) -> Arrow:
    """Lead an arrow from one point to another, or if they are too near, in the direction of a third."""
    if math.dist(tail, tip) < SHORTEST:
        distance = math.dist(tail, behind)
        x, y = ((behind[0] - tail[0]) / distance, (behind[1] - tail[1]) / distance) if distance else (0.0, 1.0)
        tip = tail[0] + SHORTEST * x, tail[1] + SHORTEST * y
    return Arrow(tail, tip)


def _placeholder(picture: Picture) -> Drawing:
    blank = np.full((*display_size(*picture.image.shape[:2]), 3), BLANK, np.uint8)
    middle = blank.shape[0] // 2
    for line, text in enumerate(("no image", picture.name[-MAX_TEXT:])):
        draw.write(blank, text, 16, middle + line * (LINE + 4), BLANK)
    return Drawing(blank)
