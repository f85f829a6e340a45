"""Turn a mask into COCO polygons that rasterize back to it exactly, or nearly so with fewer points.

The polygons run along pixel edges (integer corners), where pycocotools' rasterizer is exact. A COCO polygon has no
holes, so a mask with holes is cut into pieces without any. The official code traced half a pixel too wide, kept every
second to tenth point and filled holes. scikit-image's `find_contours` cuts the corners of pixels: 27 of 326 regions of
real images came back changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.masks import RLE

MIN_IOU = 0.98
"""Lowest allowed IoU of simplified polygons with their mask."""

DEFAULT_TOLERANCE = 1.0
"""Default tolerance in pixels, at which the polygons of a COCO file take a third of the space of exact ones."""

MOST_PIECES = 500
"""Pieces above which a mask is traced exactly: it is noise, and simplifying it would take minutes."""

LEAST_TOLERANCE = 0.5
"""Tolerance in pixels below which a staircase of pixel edges keeps nearly all of its corners."""

Polygons = NDArray[np.object_]
"""Shapely polygons."""


def to_polygons(rle: RLE, *, tolerance: float = 0.0) -> list[list[int]]:
    """Trace a mask along its pixel edges and drop corners that hardly matter.

    Args:
        rle: the mask.
        tolerance: distance in pixels by which the outlines may differ from the exact ones; 0 is exact. It is halved
            while the IoU with the mask is below `MIN_IOU`, and a mask in more than `MOST_PIECES` pieces is traced
            exactly.

    Returns:
        Flat polygons [x0, y0, x1, y1, ...] in whole pixels, each valid and without holes; none for an empty mask.
        Exact polygons do not overlap, and pycocotools rasterizes their union to `rle`.
    """
    shapes = trace(rle)
    if shapely.get_num_interior_rings(shapes).any():
        pieces = [piece for shape in shapes for piece in _without_holes(shape)]
        # a cut leaves points in the middle of straight lines; normalized, no polygon begins at one
        shapes = shapely.simplify(shapely.normalize(pieces), 0, preserve_topology=False)
    while tolerance >= LEAST_TOLERANCE and len(shapes) <= MOST_PIECES:
        fewer = _flatten(_simplify(shapes, tolerance))
        if not fewer or masks.iou(masks.from_polygons(fewer, *rle["size"]), rle) >= MIN_IOU:
            return fewer
        tolerance /= 2
    return _flatten(shapes)


def to_outline(rle: RLE, *, tolerance: float = 0.0) -> list[int]:
    """Trace a mask as one outline, whatever its parts and holes, for formats that have neither.

    Between its polygons the outline runs along straight bridges from corner to nearest corner, there and back, as that
    of Ultralytics' converter of COCO files. A bridge has no area: pycocotools does not draw it, but OpenCV, which draws
    outlines too, sets the pixels along it.

    Args:
        rle: the mask.
        tolerance: see `to_polygons`.

    Returns:
        A flat polygon [x0, y0, x1, y1, ...] in whole pixels, which may touch itself; empty for an empty mask.
        pycocotools rasterizes the exact one to `rle`, and a simplified one to an IoU of at least `MIN_IOU`.
    """
    outline = _bridged(to_polygons(rle, tolerance=tolerance))
    if not tolerance or not outline or masks.iou(masks.from_polygons([outline], *rle["size"]), rle) >= MIN_IOU:
        return outline
    return _bridged(to_polygons(rle))  # simplified polygons overlapped, which together is background


def to_shape(rle: RLE, *, tolerance: float = 0.0) -> shapely.Geometry:
    """Trace a mask as one valid polygon or multipolygon with holes; an empty one for an empty mask.

    Args:
        rle: the mask.
        tolerance: see `to_polygons`; here the IoU is that of the areas.
    """
    shapes = trace(rle)
    exact = shapely.union_all(shapes)
    while tolerance >= LEAST_TOLERANCE and len(shapes) <= MOST_PIECES:
        fewer = shapely.union_all(_simplify(shapes, tolerance))
        shared = shapely.intersection(fewer, exact).area
        if shared >= MIN_IOU * (fewer.area + exact.area - shared):
            return fewer
        tolerance /= 2
    return exact


def trace(rle: RLE) -> Polygons:
    """Return the exact outlines of a mask as valid polygons, which may have holes, with corners in whole pixels.

    Pixels that only touch at a corner are separated.
    """
    x, y, width, height = masks.bounding_box(rle).astype(int).tolist()
    if width == 0:
        return np.array([], dtype=object)
    pixels = masks.decode_window(rle, x, y, x + width, y + height).view(np.uint8)
    background = cv2.copyMakeBorder(1 - pixels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    # OpenCV joins pixels that touch at a corner, so the contours are those of the background; at double size they run
    # through pixel 2k - 1 or 2k beside an edge at k, so half of it, rounded up, is the position of the edge
    doubled = cv2.resize(background, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    offset = (2 * x - 2, 2 * y - 2)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE, offset=offset)
    numbers = np.repeat(np.arange(len(contours)), [len(contour) for contour in contours])
    points = np.column_stack([(np.concatenate(contours)[:, 0] + 1) // 2, numbers])
    points = points[np.diff(points, axis=0, prepend=-1).any(axis=1)]  # inner corners come twice
    rings = shapely.linearrings(points[:, :2], indices=points[:, 2])
    around = hierarchy[0, :, 3]  # number of the contour around each; -1 for the one around the window
    outer = shapely.is_ccw(rings)
    shapes = shapely.polygons(rings)
    for number in set(around[~outer & (around >= 0)].tolist()):
        shapes[number] = shapely.polygons(rings[number], rings[~outer & (around == number)])
    shapes = shapes[outer]
    valid = shapely.is_valid(shapes)
    if not valid.all():  # contours that touch at a corner
        shapes = np.concatenate([shapes[valid], shapely.get_parts(shapely.buffer(shapes[~valid], 0))])
    normalized: Polygons = shapely.normalize(shapes)  # each begins at its first corner from the left
    return normalized


def _without_holes(polygon: shapely.Polygon) -> list[shapely.Polygon]:
    """Cut a polygon vertically through its middle hole, and the halves likewise, until no hole is left."""
    holes = shapely.get_rings(polygon)[1:]
    if not len(holes):
        return [polygon]
    x0, y0, x1, y1 = polygon.bounds
    left, _, right, _ = sorted(shapely.bounds(holes).tolist())[len(holes) // 2]
    x = (left + right) // 2
    halves = [shapely.clip_by_rect(polygon, start, y0, end, y1) for start, end in ((x0, x), (x, x1))]
    if not shapely.is_valid(halves).all():  # clip_by_rect does not separate parts that touch along the cut
        halves = shapely.intersection(polygon, shapely.box([x0, x], y0, [x, x1], y1))
    parts = (part for part in shapely.get_parts(halves) if isinstance(part, shapely.Polygon))
    return [piece for part in parts for piece in _without_holes(part)]


def _bridged(polygons: Sequence[Sequence[int]]) -> list[int]:
    """Join flat polygons to one by bridges of the least total length: a spanning tree, by Prim's algorithm."""
    points = [np.array(polygon).reshape(-1, 2) for polygon in polygons]
    if len(points) < 2:
        return [value for polygon in polygons for value in polygon]
    starts = np.cumsum([0, *map(len, points)])
    corners = [tuple(corner) for corner in np.concatenate(points).tolist()]
    following = [*range(1, len(corners) + 1)]  # the corner after each
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        following[end - 1] = start
    clouds = np.array([shapely.MultiPoint(part) for part in points])
    distances = shapely.distance(clouds, clouds[0])
    nearest = np.zeros(len(clouds), np.int64)  # the joined polygon that each of the others is closest to
    distances[0] = np.inf
    for _ in range(len(points) - 1):
        added = int(distances.argmin())
        ends = shapely.get_coordinates(shapely.shortest_line(clouds[nearest[added]], clouds[added])).astype(np.int64)
        here, there = (
            int(starts[part] + (points[part] == end).all(axis=1).argmax())
            for part, end in zip((nearest[added], added), ends, strict=True)
        )
        # both corners are passed twice: out over the bridge, around the added polygon, and back
        corners += [corners[there], corners[here]]
        following += [following[there], following[here]]
        following[here], following[there] = len(corners) - 2, len(corners) - 1
        nearer = shapely.distance(clouds, clouds[added])
        closer = (nearer < distances) & np.isfinite(distances)
        nearest[closer], distances[closer] = added, nearer[closer]
        distances[added] = np.inf
    outline: list[int] = []
    corner = 0
    for _ in corners:
        outline.extend(corners[corner])
        corner = following[corner]
    return outline


def _simplify(shapes: Polygons, tolerance: float) -> Polygons:
    """Simplify by Douglas-Peucker; a shape that would vanish or cross itself is left unchanged."""
    fewer = shapely.simplify(shapes, tolerance, preserve_topology=False)
    good: Polygons = np.where(shapely.is_valid(fewer) & ~shapely.is_empty(fewer), fewer, shapes)
    return good


def _flatten(shapes: Polygons) -> list[list[int]]:
    # shapely repeats the first point of a ring at its end
    return [shapely.get_coordinates(shape)[:-1].astype(np.int64).ravel().tolist() for shape in shapes]
