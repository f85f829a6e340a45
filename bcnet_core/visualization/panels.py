"""The panels of one picture: what both layers say about it, over the whole image and inside single RoIs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from bcnet_core.config.choices import LayerChoice
from bcnet_core.visualization import draw
from bcnet_core.visualization.drawing import (
    BLANK,
    INK,
    OCCLUDEE,
    OCCLUDER,
    Drawing,
    Image,
    Label,
    Patch,
    Shape,
    boundary_band,
    instance_color,
    patch_of_mask,
    patch_of_rle,
)
from bcnet_core.visualization.labels import LINE, MAX_TEXT
from bcnet_core.visualization.picture import Instance, Picture, pixel_box
from bcnet_core.visualization.rois import Roi, choose_rois, roi_card

LONGEST = 1280
"""Longest side of a panel in pixels; larger images are shown smaller. RoIs are cut from the image as it is."""
SMALL = 512
"""Images with a much shorter longest side are enlarged to about this, by a whole factor."""
PANELS = {
    "image": "image",
    "instances": "instances",
    "occludee": "occludee layer",
    "occluder": "occluder layer",
    "boundaries": "boundaries",
}
"""Key and title of the panels, in the order they are shown. That of the true instances is `true-` + key."""


class Rendered(NamedTuple):
    """All that is drawn of one picture: the panels by their keys, and a few RoIs."""

    panels: dict[str, Drawing]
    rois: tuple[Roi, ...]


def render(
    picture: Picture, *, layer: LayerChoice = "both", rois: int = 3, size: tuple[int, int] | None = None
) -> Rendered:
    """Say what is to be drawn of one picture.

    Args:
        picture: what to show.
        layer: leave out what belongs to the other one alone.
        rois: how many instances are shown from near, the most occluded first.
        size: (height, width) of the panels; None for `display_size`.

    Returns:
        The panels, those of the true instances each after its own where a picture knows both, and the RoIs; for an
        unreadable image one panel that says why.
    """
    if picture.fault is not None:
        return Rendered({"image": _placeholder(picture)}, ())
    image = draw.resize_image(picture.image, size or display_size(*picture.image.shape[:2]))
    pale, scale = draw.dim(image), image.shape[1] / picture.image.shape[1]
    sheets = [("", _Sheet(image, pale, scale, picture.instances))]
    if picture.truth is not None:
        sheets.append(("true-", _Sheet(image, pale, scale, picture.truth)))
    panels = {"image": Drawing(image)}
    for key, panel in (("instances", _instances), ("occludee", _occludees), ("occluder", _occluders)):
        if layer in ("both", key) or key == "instances":
            panels |= {prefix + key: panel(sheet) for prefix, sheet in sheets}
    panels |= {f"{prefix}boundaries": _boundaries(sheet, layer) for prefix, sheet in sheets}
    chosen = choose_rois(picture.instances, rois)
    return Rendered(panels, tuple(Roi(index, roi_card(picture, index, layer=layer)) for index in chosen))


def panel_title(key: str) -> str:
    """What is written under a panel."""
    own = key.removeprefix("true-")
    return PANELS[own] if own == key else f"true {PANELS[own]}"


def display_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) in which an image is shown."""
    longest = max(height, width)
    scale = max(round(SMALL / longest), 1) if longest <= LONGEST else LONGEST / longest
    return max(round(height * scale), 1), max(round(width * scale), 1)


@dataclass(frozen=True)
class _Sheet:
    """Instances on an image as it is shown, its pale ground, and how many times as large it is shown."""

    image: Image
    pale: Image
    scale: float
    instances: tuple[Instance, ...]

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.image.shape[:2]
        return height, width

    @cached_property
    def occludees(self) -> list[Patch | None]:
        return [patch_of_rle(layers.occludee, self.size) for layers in self.instances]

    @cached_property
    def occluders(self) -> list[Patch | None]:
        return [patch_of_rle(layers.occluder, self.size) for layers in self.instances]


def _scene(ground: Image, parts: Sequence[tuple[Instance, Patch]], *, alpha: float = 0.45) -> Drawing:
    """Instances in their colors with their labels; small ones lie on top of large ones."""
    ordered = sorted(parts, key=lambda part: -np.count_nonzero(part[1].mask))
    shapes = tuple(Shape(patch, instance_color(layers.color), alpha) for layers, patch in ordered)
    labels = tuple(Label(layers.label, instance_color(layers.color), patch) for layers, patch in parts)
    return Drawing(ground, shapes, labels)


def _instances(sheet: _Sheet) -> Drawing:
    there = [
        (layers, patch) for layers, patch in zip(sheet.instances, sheet.occludees, strict=True) if patch is not None
    ]
    return _scene(sheet.image, there)


def _occludees(sheet: _Sheet) -> Drawing:
    """The instances that something overlaps, on pale ground."""
    there = [
        (layers, patch)
        for layers, patch in zip(sheet.instances, sheet.occludees, strict=True)
        if patch is not None and layers.occlusion > 0
    ]
    return _scene(draw.seen_through(sheet.image, [patch for _, patch in there], sheet.pale), there)


def _occluders(sheet: _Sheet) -> Drawing:
    """The pixels that are occluder to some instance, each in the color of the instance it belongs to."""
    regions = [patch for patch in sheet.occluders if patch is not None]
    everywhere = np.zeros(sheet.size, np.bool_)
    for patch in regions:
        everywhere[patch.window] |= patch.mask
    nobody, parts = everywhere.copy(), []
    for layers, visible in zip(sheet.instances, sheet.occludees, strict=True):
        if visible is not None:
            mask = visible.mask & everywhere[visible.window]
            nobody[visible.window] &= ~visible.mask
            if mask.any():
                parts.append((layers, visible._replace(mask=mask)))
    ground = draw.seen_through(sheet.image, regions, sheet.pale)
    scene, rest = _scene(ground, parts, alpha=0.6), patch_of_mask(nobody)
    return scene if rest is None else scene._replace(shapes=(Shape(rest, INK, 0.6), *scene.shapes))


def _boundaries(sheet: _Sheet, layer: LayerChoice) -> Drawing:
    """The boundaries of all occluder regions, and over them those of all occludees."""
    shapes = []
    for layers, region in zip(sheet.instances, sheet.occluders, strict=True):
        if region is not None and layer != "occludee":
            x0, y0, x1, y1 = (side * sheet.scale for side in layers.box)
            inner = (x0 + 2, y0 + 2, x1 - 2, y1 - 2)  # where the box cuts it off, the region has no boundary
            inside = _inside(region, pixel_box(inner, *sheet.size))
            band = boundary_band(inside.mask, 5, closed=False)
            shapes.append(Shape(inside._replace(mask=band), OCCLUDER, 1.0, 0))
    if layer != "occluder":
        there = [patch for patch in sheet.occludees if patch is not None]
        shapes += [Shape(patch._replace(mask=boundary_band(patch.mask, 2)), OCCLUDEE, 1.0, 0) for patch in there]
    return Drawing(sheet.pale, tuple(shapes))


def _inside(patch: Patch, box: tuple[int, int, int, int]) -> Patch:
    """What lies of a patch inside the whole pixels x0, y0, x1, y1, as a patch of just that box."""
    x0, y0, x1, y1 = box
    mask = np.zeros((y1 - y0, x1 - x0), np.bool_)
    rows, columns = patch.window
    top, bottom = max(y0, rows.start), min(y1, rows.stop)
    left, right = max(x0, columns.start), min(x1, columns.stop)
    if top < bottom and left < right:
        part = patch.mask[top - patch.y : bottom - patch.y, left - patch.x : right - patch.x]
        mask[top - y0 : bottom - y0, left - x0 : right - x0] = part
    return Patch(x0, y0, mask)


def _placeholder(picture: Picture) -> Drawing:
    blank = np.full((*display_size(*picture.image.shape[:2]), 3), BLANK, np.uint8)
    middle = blank.shape[0] // 2
    for line, text in enumerate(("no image", picture.name[-MAX_TEXT:])):
        draw.write(blank, text, 16, middle + line * (LINE + 4))
    return Drawing(blank)
