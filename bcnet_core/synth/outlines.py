"""Geometry of the procedural shapes: signed distances to rigid and jointed outlines, and poses of the jointed ones.

Coordinates u, v run along a shape's own two axes, in pixels from its center; distances are in pixels, negative inside.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from bcnet_core.synth.scenes import Floats, Mask, Window


class Capsule(NamedTuple):
    """A part of a jointed shape: a disc that moves from one joint to the next and grows or shrinks on the way.

    Lengths are in units of the shape's radius, u and v from its center.
    """

    u: float
    v: float
    radius: float
    end_u: float
    end_v: float
    end_radius: float


Pose = tuple[Capsule, ...]
"""Parts of a jointed shape from the lowest to the topmost, all within the unit disc."""


class _Limb(NamedTuple):
    """An arm or leg of two capsules; angles in radians, 0 towards the feet, positive outwards."""

    u: float
    v: float
    length: float
    radii: tuple[float, float, float]
    swing: tuple[float, float]
    bend: tuple[float, float]


_ARM = _Limb(0.22, -0.45, length=0.32, radii=(0.2, 0.2, 0.19), swing=(0.6, 2.0), bend=(-0.7, 1.0))
_LEG = _Limb(0.16, 0.0, length=0.33, radii=(0.24, 0.23, 0.21), swing=(0.2, 0.8), bend=(-0.7, 0.4))


def ellipse(u: Floats, v: Floats, a: float, b: float) -> Floats:
    """Distance to an ellipse of semi-axes a and b; exact on the outline and near it."""
    near = np.hypot(u / a, v / b)
    steep = np.hypot(u / a**2, v / b**2)
    result: Floats = np.maximum(near * (near - 1) / np.maximum(steep, 1e-6), -b)
    return result


def rounded_box(u: Floats, v: Floats, a: float, b: float) -> Floats:
    """Distance to a rounded box of half sides a and b."""
    rounding = 0.1 * b
    du, dv = np.abs(u) - (a - rounding), np.abs(v) - (b - rounding)
    outside: Floats = np.hypot(np.maximum(du, 0), np.maximum(dv, 0))
    return outside + np.minimum(np.maximum(du, dv), 0) - rounding


def star(u: Floats, v: Floats, radius: float, points: int = 5, notch: float = 0.45) -> Floats:
    """Distance to a star with rounded tips: its outline is one segment, repeated by folding the plane."""
    rounding, sector = 0.05 * radius, 2 * math.pi / points
    turned = np.abs(np.mod(np.arctan2(v, u) + sector / 2, sector) - sector / 2)
    length = np.hypot(u, v)
    tip = radius - 1.6 * rounding
    dx, dy = length * np.cos(turned) - tip, length * np.sin(turned)
    ex, ey = notch * tip * math.cos(sector / 2) - tip, notch * tip * math.sin(sector / 2)
    along = np.clip((dx * ex + dy * ey) / (ex * ex + ey * ey), 0, 1)
    outline = np.hypot(dx - along * ex, dy - along * ey)
    signed: Floats = np.where(dx * ey < dy * ex, -outline, outline)
    return signed - rounding


def capsule(u: Floats, v: Floats, radius: float, part: Capsule) -> Floats:
    """Distance to one part of a jointed shape, that is, to the nearest of its discs."""
    start_u, start_v, first, end_u, end_v, last = (radius * length for length in part)
    length, shrunk = math.hypot(end_u - start_u, end_v - start_v), first - last
    heading = math.atan2(end_v - start_v, end_u - start_u)
    cos, sin = math.cos(heading), math.sin(heading)
    along = u * cos + v * sin - (start_u * cos + start_v * sin)
    across = np.abs(v * cos - u * sin - (start_v * cos - start_u * sin))
    lean = shrunk / math.sqrt(max(length**2 - shrunk**2, 1e-6))
    center = np.minimum(np.maximum(along - lean * across, 0), length)
    along -= center
    result: Floats = np.sqrt(along * along + across * across) + (shrunk / max(length, 1e-6)) * center - first
    return result


def union(parts: Sequence[Floats]) -> Floats:
    """Distance to the union of parts; where several overlap, to the outline of the one that reaches deepest."""
    return functools.reduce(np.minimum, parts)


def seams(parts: Sequence[Floats], *, width: float) -> Floats:
    """Strength in [0, 1] of the lines where a part ends on top of lower ones; 0 from `width` pixels beside a line."""
    below = parts[0]
    lines = np.zeros_like(below)
    for part in parts[1:]:
        line = np.maximum(1 - np.abs(part) / width, 0) * (below < 0)
        lines = np.where(part < 0, line, np.maximum(lines, line))
        below = np.minimum(below, part)
    return lines


def pose_figure(rng: Generator) -> Pose:
    """Pose a doll with head, torso, and arms and legs of two capsules each, its joints at random angles."""
    tilt = rng.uniform(-0.35, 0.35)
    head_u, head_v = 0.53 * math.sin(tilt), -0.45 - 0.53 * math.cos(tilt)
    parts = [Capsule(0, -0.45, 0.34, 0, 0, 0.32), Capsule(head_u, head_v, 0.35, head_u, head_v, 0.35)]
    for limb in (_LEG, _ARM):
        for side in (-1, 1):
            swing = rng.uniform(*limb.swing)
            headings = side * swing, side * (swing + rng.uniform(*limb.bend))
            parts += _chain(side * limb.u, limb.v, headings, limb.length, limb.radii)
    return _fitted(parts)


def pose_worm(rng: Generator) -> Pose:
    """Pose a worm of 5 to 7 tapering capsules along a bending spine."""
    count = int(rng.integers(5, 8))
    turns = rng.uniform(-0.4, 0.4) + rng.uniform(-0.35, 0.35, size=count)
    radii = np.linspace(0.42, rng.uniform(0.26, 0.34), count + 1)
    return _fitted(_chain(0.0, 0.0, np.cumsum(turns).tolist(), 0.3, radii.tolist()))


def _chain(u: float, v: float, headings: Sequence[float], length: float, radii: Sequence[float]) -> list[Capsule]:
    """Chain capsules from joint to joint, each of the given length in its own direction."""
    parts = []
    for heading, radius, end_radius in zip(headings, radii[:-1], radii[1:], strict=True):
        end_u, end_v = u + length * math.sin(heading), v + length * math.cos(heading)
        parts.append(Capsule(u, v, radius, end_u, end_v, end_radius))
        u, v = end_u, end_v
    return parts


def _fitted(parts: Sequence[Capsule]) -> Pose:
    """Move and scale parts to fill the unit disc."""
    discs = np.array(parts).reshape(-1, 3)  # (2P, 3): u, v and radius at both ends
    centers, radii = discs[:, :2], discs[:, 2:]
    centers -= ((centers - radii).min(axis=0) + (centers + radii).max(axis=0)) / 2
    discs /= (np.hypot(centers[:, 0], centers[:, 1]) + discs[:, 2]).max()
    return tuple(Capsule(*row) for row in discs.reshape(-1, 6).tolist())


ASPECTS = {"disc": (0.9, 1.0), "box": (0.4, 0.62), "star": (0.85, 1.0)}
"""Range of the short by the long axis of each rigid shape."""
POSES: dict[str, Callable[[Generator], Pose]] = {"figure": pose_figure, "worm": pose_worm}
CLASSES = (*ASPECTS, *POSES)
"""Class names; a `SceneObject.label` is an index into them."""


@dataclass(frozen=True)
class Shape:
    """Geometry of a shape: the name of its class, its center and radius in pixels, and its rotation in radians.

    `aspect` is the short by the long axis of a rigid shape; `pose` holds the parts of a jointed one.
    """

    kind: str
    x: float
    y: float
    radius: float
    angle: float
    aspect: float = 1.0
    pose: Pose = ()

    def window(self, height: int, width: int, margin: float = 0.0) -> Window:
        """Return the rows and columns of the image that the shape can touch."""
        reach = (1.0 if self.pose else 1.2) * self.radius + margin
        rows = slice(max(int(self.y - reach), 0), min(int(self.y + reach) + 2, height))
        return rows, slice(max(int(self.x - reach), 0), min(int(self.x + reach) + 2, width))

    def axes(self, window: Window) -> tuple[Floats, Floats]:
        """Return the coordinates u and v of a window's pixels."""
        y = (np.arange(window[0].start, window[0].stop, dtype=np.float32) - self.y)[:, None]
        x = (np.arange(window[1].start, window[1].stop, dtype=np.float32) - self.x)[None, :]
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return x * cos + y * sin, y * cos - x * sin

    def parts(self, u: Floats, v: Floats) -> list[Floats]:
        """Return the signed distances to the outline of each part."""
        match self.kind:
            case "disc":
                return [ellipse(u, v, self.radius, self.radius * self.aspect)]
            case "box":
                return [rounded_box(u, v, 0.92 * self.radius, 0.92 * self.radius * self.aspect)]
            case "star":
                return [star(u, v / self.aspect, 1.1 * self.radius) * self.aspect]
            case _:
                return [capsule(u, v, self.radius, part) for part in self.pose]

    def mask(self, height: int, width: int) -> Mask:
        """Return the (H, W) mask of the pixels whose center the shape covers."""
        window = self.window(height, width)
        mask = np.zeros((height, width), dtype=bool)
        mask[window] = union(self.parts(*self.axes(window))) <= 0
        return mask
