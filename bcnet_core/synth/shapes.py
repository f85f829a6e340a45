"""Procedural scenes of textured shapes that lie on each other, with the true order of the layers.

Pure: a random generator in, a `Scene` out. Geometry (where each shape lies, what it hides) comes before drawing.
Both read the same signed distances, so a mask holds exactly the pixels whose centre its shape covers.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Window = tuple[slice, slice]

ASPECTS = {"disc": (0.8, 1.0), "box": (0.5, 0.8), "star": (0.85, 1.0)}  # short by long axis
CLASSES = tuple(ASPECTS)
"""The class names; a `SceneObject.label` is an index into them."""

MIN_SIDE = 64
"""The smallest image side in pixels at which the shapes can still be told apart."""

OBJECTS = (3, 6)
DIAMETER = (20 / 128, 60 / 128)  # of a shape, as a share of the shorter image side
MIN_VISIBLE = 0.2  # the share of a shape that the shapes above it leave visible
CLUSTERED = 0.65  # the share of shapes that are put on or beside an earlier one on purpose
ATTEMPTS = 12


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene of H x W pixels.

    Attributes:
        label: index into the scene's class names.
        layer: 0 at the bottom; where two objects overlap, the higher layer is seen.
        amodal: (H, W) bool, the whole object inside the image, hidden parts included.
        visible: (H, W) bool, the part of it that is seen.
    """

    label: int
    layer: int
    amodal: Mask
    visible: Mask

    @property
    def occlusion_rate(self) -> float:
        """The hidden share of the amodal area, in [0, 1)."""
        return 1.0 - float(np.count_nonzero(self.visible) / np.count_nonzero(self.amodal))


@dataclass(frozen=True)
class Scene:
    """A picture and everything that is in it.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        objects: from the bottom layer to the top one; none of them is hidden completely.
    """

    image: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]


def compose_scene(rng: Generator, *, height: int, width: int) -> Scene:
    """Compose one scene of 3 to 6 shapes over a cluttered background.

    Shapes measure 20-60 pixels at 128 x 128 and grow with the shorter side. Class, size, rotation, colours
    and texture are independent. A shape that would (almost) hide an earlier one is put elsewhere, or left out
    where that fails, so whatever is drawn is also in `Scene.objects`.

    Args:
        rng: the only source of randomness; the same state gives the same scene.
        height: of the image in pixels, at least `MIN_SIDE`.
        width: of the image in pixels, at least `MIN_SIDE`.

    Raises:
        ValueError: if a side is shorter than `MIN_SIDE`.
    """
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"a scene needs sides of {MIN_SIDE} pixels or more, not {width} x {height}")
    shapes, objects = _arrange(rng, height, width)
    angle = rng.uniform(-0.85, -0.15) * math.pi  # the light comes from above
    canvas = _background(rng, height, width)
    for shape in shapes:
        _paint(rng, canvas, shape, light=(math.cos(angle), math.sin(angle)))
    canvas += 0.01 * rng.standard_normal(canvas.shape, dtype=np.float32)
    return Scene(np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8), objects)


@dataclass(frozen=True)
class _Shape:
    """A shape's geometry: centre and radius in pixels, angle in radians, aspect = short by long axis."""

    kind: str
    x: float
    y: float
    radius: float
    aspect: float
    angle: float

    def window(self, height: int, width: int, margin: float = 0.0) -> Window:
        """The rows and columns of the image that the shape can touch."""
        reach = 1.2 * self.radius + margin
        rows = slice(max(int(self.y - reach), 0), min(int(self.y + reach) + 2, height))
        return rows, slice(max(int(self.x - reach), 0), min(int(self.x + reach) + 2, width))

    def axes(self, window: Window) -> tuple[Floats, Floats]:
        """Coordinates of a window's pixels along the shape's own two axes, in pixels from its centre."""
        y = (np.arange(window[0].start, window[0].stop, dtype=np.float32) - self.y)[:, None]
        x = (np.arange(window[1].start, window[1].stop, dtype=np.float32) - self.x)[None, :]
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return x * cos + y * sin, y * cos - x * sin

    def distance(self, u: Floats, v: Floats) -> Floats:
        """Signed distance to the outline in pixels at own coordinates; negative inside."""
        match self.kind:
            case "disc":
                return _ellipse(u, v, self.radius, self.radius * self.aspect)
            case "box":
                return _rounded_box(u, v, 0.92 * self.radius, 0.92 * self.radius * self.aspect)
            case _:
                return _star(u, v / self.aspect, 1.1 * self.radius) * self.aspect

    def mask(self, height: int, width: int) -> Mask:
        """The (H, W) mask of the pixels whose centre the shape covers."""
        window = self.window(height, width)
        mask = np.zeros((height, width), dtype=bool)
        mask[window] = self.distance(*self.axes(window)) <= 0
        return mask


def _ellipse(u: Floats, v: Floats, a: float, b: float) -> Floats:
    near = np.hypot(u / a, v / b)
    steep = np.hypot(u / a**2, v / b**2)
    result: Floats = np.maximum(near * (near - 1) / np.maximum(steep, 1e-6), -b)
    return result


def _rounded_box(u: Floats, v: Floats, a: float, b: float) -> Floats:
    rounding = 0.1 * b
    du, dv = np.abs(u) - (a - rounding), np.abs(v) - (b - rounding)
    outside: Floats = np.hypot(np.maximum(du, 0), np.maximum(dv, 0))
    return outside + np.minimum(np.maximum(du, dv), 0) - rounding


def _star(u: Floats, v: Floats, radius: float, points: int = 5, notch: float = 0.45) -> Floats:
    """A star with rounded tips: all its outline is one segment, repeated by folding the plane."""
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


def _arrange(rng: Generator, height: int, width: int) -> tuple[list[_Shape], tuple[SceneObject, ...]]:
    """Shapes from bottom to top, and what is seen of them."""
    shapes: list[_Shape] = []
    amodal: list[Mask] = []
    visible: list[Mask] = []
    for _ in range(int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))):
        for _ in range(ATTEMPTS):
            shape = _random_shape(rng, height, width, shapes)
            mask = shape.mask(height, width)
            left = [seen & ~mask for seen in visible]
            if all(seen.sum() >= MIN_VISIBLE * whole.sum() for seen, whole in zip(left, amodal, strict=True)):
                shapes, amodal, visible = [*shapes, shape], [*amodal, mask], [*left, mask]
                break
    labels = [CLASSES.index(shape.kind) for shape in shapes]
    return shapes, tuple(map(SceneObject, labels, range(len(shapes)), amodal, visible))


def _random_shape(rng: Generator, height: int, width: int, earlier: Sequence[_Shape]) -> _Shape:
    """A shape inside the image, often on top of an earlier one."""
    radius = rng.uniform(*DIAMETER) / 2 * min(height, width)
    x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    if earlier and rng.random() < CLUSTERED:
        below = earlier[int(rng.integers(len(earlier)))]
        step = rng.uniform(0.4, 1.0) * (radius + below.radius)
        turn = rng.uniform(0, 2 * math.pi)
        x = float(np.clip(below.x + step * math.cos(turn), radius, width - radius))
        y = float(np.clip(below.y + step * math.sin(turn), radius, height - radius))
    kind = CLASSES[int(rng.integers(len(CLASSES)))]
    return _Shape(kind, x, y, radius, aspect=rng.uniform(*ASPECTS[kind]), angle=rng.uniform(0, 2 * math.pi))


def _paint(rng: Generator, canvas: Floats, shape: _Shape, *, light: tuple[float, float]) -> None:
    """Draw one shape and its shadow over what is there; `light` is the unit vector towards the light."""
    drop = rng.uniform(0.08, 0.16) * shape.radius
    window = shape.window(canvas.shape[0], canvas.shape[1], margin=3 * drop)
    fallen = replace(shape, x=shape.x - light[0] * drop, y=shape.y - light[1] * drop)
    shadow = fallen.distance(*fallen.axes(window))
    below = canvas[window] * (1 - 0.5 * np.clip(0.5 - shadow / (2 * drop), 0, 1)[..., None])
    u, v = shape.axes(window)
    distance = shape.distance(u, v)
    x, y = replace(shape, angle=0.0).axes(window)
    slant = (x * light[0] + y * light[1]) / shape.radius
    shade = _shade(slant, distance, light, rim=rng.uniform(0.15, 0.5) * shape.radius)
    surface = _surface(rng, u, v, shape.radius) * shade[..., None]
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    canvas[window] = below + cover * (surface - below)


def _shade(slant: Floats, distance: Floats, light: tuple[float, float], *, rim: float) -> Floats:
    """Brightness factors: brighter towards the light, bent down at the rim, darker along the outline."""
    down, right = np.gradient(distance)
    bend = np.clip(1 + distance / rim, 0, 1) ** 2 * (right * light[0] + down * light[1])
    outline: Floats = np.clip(1.5 + distance / max(0.16 * rim, 1), 0, 1)
    shade: Floats = (0.92 + 0.16 * slant + 0.3 * bend) * (1 - 0.6 * outline)
    return shade


def _surface(rng: Generator, u: Floats, v: Floats, radius: float) -> Floats:
    """The unlit (h, w, 3) colours of a shape: two colours, mixed by a texture along the shape's own axes."""
    first = _colour(hue := rng.random(), rng.uniform(0.55, 0.9), rng.uniform(0.75, 1.0))
    match int(rng.integers(3)):
        case 0:  # cream
            second = _colour(rng.uniform(0.08, 0.16), rng.uniform(0.1, 0.3), 0.97)
        case 1:  # a deep tone
            second = _colour(hue + rng.uniform(-0.1, 0.1), rng.uniform(0.6, 0.9), rng.uniform(0.35, 0.5))
        case _:  # another hue
            second = _colour(hue + rng.uniform(0.12, 0.5), rng.uniform(0.5, 0.8), rng.uniform(0.7, 1.0))
    return first + rng.uniform(0.3, 0.6) * _texture(rng, u, v, radius)[..., None] * (second - first)


def _texture(rng: Generator, u: Floats, v: Floats, radius: float) -> Floats:
    """How much of the second colour is where, (h, w) in [0, 1]."""
    period = max(radius * rng.uniform(0.3, 0.65), 4.0)
    a, b = u * (2 * math.pi / period), v * (2 * math.pi / period)
    steep = max(1.2, period / 12)
    textures: tuple[Callable[[], Floats], ...] = (
        lambda: np.sin(a),  # stripes
        lambda: np.cos(a / 1.2) + np.cos(b / 1.2) - 0.8,  # dots
        lambda: _noise(rng, *u.shape, cell=period / 2),  # blots
        lambda: 0.4 * u / (radius * steep),  # a gradient
    )
    mix: Floats = np.clip(0.5 + steep * textures[int(rng.integers(len(textures)))](), 0, 1)
    return mix


def _background(rng: Generator, height: int, width: int) -> Floats:
    """An (H, W, 3) canvas in [0, 1]: mottled muted colours, littered with strokes, arcs and blots."""
    side = min(height, width)
    mix = np.full((height, width), 0.5, dtype=np.float32)
    for cell, strength in ((0.45, 0.35), (0.16, 0.2), (0.05, 0.12)):
        mix += strength * _noise(rng, height, width, cell=side * cell)
    first, second = _muted(rng, hue := rng.random()), _muted(rng, hue + rng.uniform(-0.25, 0.25))
    image = np.rint((first + np.clip(mix, 0, 1)[..., None] * (second - first)) * 255).astype(np.uint8)
    for _ in range(int(rng.integers(8, 17))):
        _litter(rng, image, side)
    blurred: Floats = cv2.GaussianBlur(image, (0, 0), sigmaX=0.006 * side + 0.2).astype(np.float32)
    return blurred / 255


def _litter(rng: Generator, image: NDArray[np.uint8], side: int) -> None:
    """Draw one thin or small thing that is no object."""
    colour = (_muted(rng, rng.random()) * 255).tolist()
    x, y = rng.integers((image.shape[1], image.shape[0])).tolist()
    thickness = max(1, round(side * rng.uniform(0.006, 0.022)))
    turn, sweep = rng.uniform(0, 360), rng.uniform(60, 250)
    a, b = (side * rng.uniform(0.06, 0.3, size=2)).astype(int).tolist()
    match int(rng.integers(3)):
        case 0:
            cv2.ellipse(image, (x, y), (a, b), turn, 0, sweep, colour, thickness, cv2.LINE_AA)
        case 1:
            end = round(x + 2 * a * math.cos(turn)), round(y + 2 * a * math.sin(turn))
            cv2.line(image, (x, y), end, colour, thickness, cv2.LINE_AA)
        case _:
            cv2.ellipse(image, (x, y), (a // 8 + 1, b // 8 + 1), turn, 0, 360, colour, -1, cv2.LINE_AA)


def _noise(rng: Generator, height: int, width: int, *, cell: float) -> Floats:
    """Smooth (H, W) noise of unit strength whose blots measure about `cell` pixels."""
    rows, columns = math.ceil(height / cell) + 3, math.ceil(width / cell) + 3
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _muted(rng: Generator, hue: float) -> Floats:
    return _colour(hue, rng.uniform(0.05, 0.3), rng.uniform(0.25, 0.75))


def _colour(hue: float, saturation: float, value: float) -> Floats:
    """RGB in [0, 1]; the hue goes round at 1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), dtype=np.float32)
