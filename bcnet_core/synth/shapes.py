"""Procedural scenes of textured shapes that lie on each other, with the true layer order.

The shapes are rigid (discs, boxes, stars) or jointed (figures and worms, each in its own pose). Masks and drawing use
the same signed distances, so a mask holds exactly the pixels whose center its shape covers.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.random import Generator

from bcnet_core.synth import outlines
from bcnet_core.synth.outlines import ASPECTS, CLASSES, POSES, Shape
from bcnet_core.synth.scenes import Floats, Image, Mask, Scene, SceneObject

MIN_SIDE = 64
"""Smallest image side in pixels at which the shapes can still be told apart."""

OBJECTS = (3, 6)
HARD_OBJECTS = (4, 8)
DIAMETER = (26 / 128, 56 / 128)  # of a shape, as a share of the shorter image side
JOINTED_DIAMETER = (36 / 128, 66 / 128)  # of a jointed shape, which fills less of its circle
MIN_VISIBLE = 0.2  # share of a shape that the shapes above it leave visible
CLUSTERED = 0.65  # share of shapes that are put on or beside an earlier one on purpose
NEAR = (0.4, 1.0)  # distance to that earlier one, as a share of both radii together
HARD_NEAR = (0.2, 0.7)
ATTEMPTS = 12


def compose_scene(rng: Generator, *, height: int, width: int, hard: bool = False) -> Scene:
    """Compose one scene of 3 to 6 shapes over a cluttered background.

    Shapes measure 26-56 pixels at 128 x 128, figures and worms 36-66, and grow with the shorter side. Class, rotation,
    pose, colors and texture are independent. A shape that would (almost) hide an earlier one is moved, or left out if
    that fails.

    A hard scene is one heap of up to 8 shapes of one class with the same colors and texture: where two of them meet,
    only outline and shadow show where one ends and which of them is above.

    Raises:
        ValueError: if a side is shorter than `MIN_SIDE` pixels.
    """
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"a scene needs sides of {MIN_SIDE} pixels or more, not {width} x {height}")
    shapes, objects = _arrange(rng, height, width, hard=hard)
    angle = rng.uniform(-0.85, -0.15) * math.pi  # the light comes from above
    canvas = background(rng, height, width)
    look = int(rng.integers(2**32)) if hard else None
    for shape in shapes:
        _paint(rng, canvas, shape, light=(math.cos(angle), math.sin(angle)), look=look)
    canvas += 0.01 * rng.standard_normal(canvas.shape, dtype=np.float32)
    return Scene(np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8), objects)


def _arrange(rng: Generator, height: int, width: int, *, hard: bool) -> tuple[list[Shape], tuple[SceneObject, ...]]:
    """Place shapes from bottom to top and find their visible parts."""
    shapes: list[Shape] = []
    amodal: list[Mask] = []
    visible: list[Mask] = []
    least, most = HARD_OBJECTS if hard else OBJECTS
    for _ in range(int(rng.integers(least, most + 1))):
        for _ in range(ATTEMPTS):
            shape = _random_shape(rng, height, width, shapes, hard=hard)
            mask = shape.mask(height, width)
            left = [seen & ~mask for seen in visible]
            if all(seen.sum() >= MIN_VISIBLE * whole.sum() for seen, whole in zip(left, amodal, strict=True)):
                shapes, amodal, visible = [*shapes, shape], [*amodal, mask], [*left, mask]
                break
    labels = [CLASSES.index(shape.kind) for shape in shapes]
    return shapes, tuple(map(SceneObject, labels, range(len(shapes)), amodal, visible))


def _random_shape(rng: Generator, height: int, width: int, earlier: Sequence[Shape], *, hard: bool) -> Shape:
    """Draw a shape inside the image, often on an earlier one; in a hard scene always, and of the same class."""
    kind = earlier[0].kind if hard and earlier else CLASSES[int(rng.integers(len(CLASSES)))]
    radius = rng.uniform(*(JOINTED_DIAMETER if kind in POSES else DIAMETER)) / 2 * min(height, width)
    x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    if earlier and (hard or rng.random() < CLUSTERED):
        below = earlier[int(rng.integers(len(earlier)))]
        step = rng.uniform(*(HARD_NEAR if hard else NEAR)) * (radius + below.radius)
        turn = rng.uniform(0, 2 * math.pi)
        x = float(np.clip(below.x + step * math.cos(turn), radius, width - radius))
        y = float(np.clip(below.y + step * math.sin(turn), radius, height - radius))
    shape = Shape(kind, x, y, radius, angle=rng.uniform(0, 2 * math.pi))
    if kind in POSES:
        return replace(shape, pose=POSES[kind](rng))
    return replace(shape, aspect=rng.uniform(*ASPECTS[kind]))


def _paint(
    rng: Generator, canvas: Floats, shape: Shape, *, light: tuple[float, float], look: int | None = None
) -> None:
    """Paint one shape and its shadow on the canvas.

    `light` is the unit vector towards the light. Shapes with the same `look` have the same colors and texture.
    """
    drop = rng.uniform(0.08, 0.16) * shape.radius
    window = shape.window(canvas.shape[0], canvas.shape[1], margin=3 * drop)
    fallen = replace(shape, x=shape.x - light[0] * drop, y=shape.y - light[1] * drop)
    shadow = outlines.union(fallen.parts(*fallen.axes(window)))
    below = canvas[window] * (1 - 0.5 * np.clip(0.5 - shadow / (2 * drop), 0, 1)[..., None])
    u, v = shape.axes(window)
    parts = shape.parts(u, v)
    distance = outlines.union(parts)
    x, y = replace(shape, angle=0.0).axes(window)
    slant = (x * light[0] + y * light[1]) / shape.radius
    brightness = shade(slant, distance, light, rim=rng.uniform(0.25, 0.6) * shape.radius)
    brightness *= 1 - 0.4 * outlines.seams(parts, width=max(0.07 * shape.radius, 1.0))
    painter = rng if look is None else np.random.default_rng(look)
    lit = surface(painter, u, v, shape.radius) * brightness[..., None]
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    canvas[window] = below + cover * (lit - below)


def shade(slant: Floats, distance: Floats, light: tuple[float, float], *, rim: float) -> Floats:
    """Return brightness factors: brighter towards the light, bent down at the rim, darker along the outline."""
    down, right = np.gradient(distance)
    bend = np.clip(1 + distance / rim, 0, 1) ** 2 * (right * light[0] + down * light[1])
    outline: Floats = np.clip(1.5 + distance / max(0.16 * rim, 1), 0, 1)
    factors: Floats = (0.92 + 0.16 * slant + 0.45 * bend) * (1 - 0.6 * outline)
    return factors


def surface(rng: Generator, u: Floats, v: Floats, radius: float) -> Floats:
    """Return the unlit (h, w, 3) colors of a shape: two colors, mixed by a texture along the shape's own axes."""
    first = _color(hue := rng.random(), rng.uniform(0.55, 0.9), rng.uniform(0.75, 1.0))
    match int(rng.integers(3)):
        case 0:  # cream
            second = _color(rng.uniform(0.08, 0.16), rng.uniform(0.1, 0.3), 0.97)
        case 1:  # a deep tone
            second = _color(hue + rng.uniform(-0.1, 0.1), rng.uniform(0.6, 0.9), rng.uniform(0.35, 0.5))
        case _:  # another hue
            second = _color(hue + rng.uniform(0.12, 0.5), rng.uniform(0.5, 0.8), rng.uniform(0.7, 1.0))
    return first + rng.uniform(0.3, 0.6) * _texture(rng, u, v, radius)[..., None] * (second - first)


def _texture(rng: Generator, u: Floats, v: Floats, radius: float) -> Floats:
    """Return the share of the second color, (h, w) in [0, 1]."""
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


def background(rng: Generator, height: int, width: int) -> Floats:
    """Return an (H, W, 3) canvas in [0, 1]: mottled muted colors, littered with strokes, arcs and blots."""
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


def _litter(rng: Generator, image: Image, side: int) -> None:
    """Draw one thin or small distractor."""
    color = (_muted(rng, rng.random()) * 255).tolist()
    x, y = rng.integers((image.shape[1], image.shape[0])).tolist()
    thickness = max(1, round(side * rng.uniform(0.006, 0.022)))
    turn, sweep = rng.uniform(0, 360), rng.uniform(60, 250)
    a, b = (side * rng.uniform(0.06, 0.3, size=2)).astype(int).tolist()
    match int(rng.integers(3)):
        case 0:
            cv2.ellipse(image, (x, y), (a, b), turn, 0, sweep, color, thickness, cv2.LINE_AA)
        case 1:
            end = round(x + 2 * a * math.cos(turn)), round(y + 2 * a * math.sin(turn))
            cv2.line(image, (x, y), end, color, thickness, cv2.LINE_AA)
        case _:
            cv2.ellipse(image, (x, y), (a // 8 + 1, b // 8 + 1), turn, 0, 360, color, -1, cv2.LINE_AA)


def _noise(rng: Generator, height: int, width: int, *, cell: float) -> Floats:
    """Return smooth (H, W) noise of unit strength whose blots measure about `cell` pixels."""
    rows, columns = math.ceil(height / cell) + 3, math.ceil(width / cell) + 3
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _muted(rng: Generator, hue: float) -> Floats:
    return _color(hue, rng.uniform(0.05, 0.3), rng.uniform(0.25, 0.75))


def _color(hue: float, saturation: float, value: float) -> Floats:
    """Return RGB in [0, 1]; the hue wraps around at 1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), dtype=np.float32)
