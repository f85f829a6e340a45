"""Turn one shape of a labelme file into a polygon or a mask, or say why it is neither."""

from __future__ import annotations

import base64
import io
import math
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image
from shapely import affinity

from bcnet_core.masks.rle import FARTHEST

IGNORED = {"__ignore__", "_background_"}
"""Labels that labelme itself does not count as objects."""
WITHOUT_AREA = {"point", "points", "line", "linestrip"}
QUADRANGLES = {"rectangle", "rotation", "oriented_rectangle", "quadrilateral"}
"""Shapes of four corners; labelme's rectangles have two opposite ones."""
MOST_MASK_BYTES = 2**26
"""Bytes of the longest mask that is decoded."""
DEVIATION = 0.1
"""Distance in pixels by which the polygon of a circle may differ from it."""


class ShapeError(Exception):
    """A shape that is no instance; `kind` is the kind of fault."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class DrawnMask(NamedTuple):
    """A mask that covers a part of the image.

    Attributes:
        x: column of its first pixel in the image, which may be outside.
        y: row of its first pixel.
        pixels: (H, W) bool.
    """

    x: int
    y: int
    pixels: NDArray[np.bool_]


Outline = list[float] | DrawnMask
"""A flat polygon [x0, y0, x1, y1, ...] in pixels, or a mask."""


def outline_of(shape: Any) -> tuple[str, Outline]:  # noqa: ANN401  (as read from json)
    """Return the label and the outline of a shape.

    Raises:
        ShapeError: if it has no label, no area, too few points, or cannot be read.
    """
    if not isinstance(shape, dict) or not isinstance(shape.get("shape_type") or "", str):
        raise ShapeError("shape_unreadable")
    label, kind = _label(shape.get("label")), shape.get("shape_type") or "polygon"
    if kind in WITHOUT_AREA:
        raise ShapeError("shape_without_area")
    points = read_points(shape.get("points"))
    if kind == "mask":
        return label, _mask(shape.get("mask"), points)
    if kind == "circle":
        return label, _circle(points)
    if kind not in QUADRANGLES | {"polygon"}:
        raise ShapeError("shape_unknown")
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    if len(points) < (4 if kind in QUADRANGLES else 3):
        raise ShapeError("shape_short")
    return label, [value for point in points for value in point]


def _label(value: Any) -> str:  # noqa: ANN401  (as read from json)
    if not isinstance(value, str | int) or not str(value).strip():
        raise ShapeError("label_missing")
    if value in IGNORED:
        raise ShapeError("label_ignored")
    return str(value)


def read_points(value: Any) -> list[tuple[float, float]]:  # noqa: ANN401  (as read from json)
    """Return points (x, y), which must be numbers that a coordinate can have.

    Raises:
        ShapeError: if they cannot be read.
    """
    try:
        points = [(float(x), float(y)) for x, y in value]
    except (TypeError, ValueError):
        raise ShapeError("shape_unreadable") from None
    if not all(abs(side) <= FARTHEST for point in points for side in point):  # false if one is not a number
        raise ShapeError("shape_unreadable")
    return points


def _circle(points: list[tuple[float, float]]) -> list[float]:
    """Return a circle, given by its center and a point on it, as a polygon."""
    if len(points) != 2:
        raise ShapeError("shape_short")
    radius = math.dist(*points)
    return ellipse(points[0], radius, radius)


def ellipse(center: tuple[float, float], wide: float, high: float, *, degrees: float = 0.0) -> list[float]:
    """Return an ellipse as a flat polygon in pixels.

    Args:
        center: its (x, y).
        wide: half of its width before it is turned.
        high: half of its height before it is turned.
        degrees: how far it is turned around its center, from x towards y.

    Raises:
        ShapeError: if it has no area.
    """
    if not (wide > 0 and high > 0):
        raise ShapeError("shape_without_area")
    segments = math.ceil(math.pi / math.acos(max(1 - DEVIATION / max(wide, high), 0)) / 4)  # of a quarter
    unit = shapely.Point(0, 0).buffer(1, quad_segs=max(segments, 4))
    shape = affinity.translate(affinity.rotate(affinity.scale(unit, wide, high), degrees), *center)
    corners: list[float] = np.round(shapely.get_coordinates(shape.exterior)[:-1], 3).ravel().tolist()
    return corners


def _mask(encoded: Any, points: list[tuple[float, float]]) -> DrawnMask:  # noqa: ANN401  (as read from json)
    """Decode a mask, an image in base64 between two corners, which are pixels that it covers."""
    if not isinstance(encoded, str) or len(points) != 2 or len(encoded) > MOST_MASK_BYTES:
        raise ShapeError("shape_unreadable")
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded)), formats=["PNG"]) as image:
            pixels = np.array(image) != 0
    except Exception:
        raise ShapeError("shape_unreadable") from None
    corners = np.round(points).astype(int)
    (x0, y0), (x1, y1) = corners.tolist()
    fits = abs(pixels.shape[0] - (y1 - y0 + 1)) <= 1 and abs(pixels.shape[1] - (x1 - x0 + 1)) <= 1
    if pixels.ndim != 2 or not fits:
        raise ShapeError("shape_unreadable")
    return DrawnMask(x0, y0, pixels)
