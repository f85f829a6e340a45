"""Procedural scenes of textured shapes that lie on each other, with the true order of the layers.

The shapes are rigid (discs, boxes, stars) or jointed (figures and worms, each in a pose of its own).
Pure: a random generator in, a `Scene` out. Geometry (where each shape lies, what it hides) comes before drawing.
Both read the same signed distances, so a mask holds exactly the pixels whose centre its shape covers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from bcnet_core.synth import outlines, painting
from bcnet_core.synth.scene import Floats, Mask, Scene, SceneObject, Window

ASPECTS = {"disc": (0.9, 1.0), "box": (0.4, 0.62), "star": (0.85, 1.0)}  # short by long axis
POSES: dict[str, Callable[[Generator], outlines.Pose]] = {
    "figure": outlines.pose_figure,
    "worm": outlines.pose_worm,
}
CLASSES = (*ASPECTS, *POSES)
"""The class names; a `SceneObject.label` is an index into them."""

MIN_SIDE = 64
"""The smallest image side in pixels at which the shapes can still be told apart."""

OBJECTS = (3, 6)
HARD_OBJECTS = (4, 8)
DIAMETER = (26 / 128, 56 / 128)  # of a shape, as a share of the shorter image side
JOINTED_DIAMETER = (36 / 128, 66 / 128)  # of one that fills less of its circle
MIN_VISIBLE = 0.2  # the share of a shape that the shapes above it leave visible
CLUSTERED = 0.65  # the share of shapes that are put on or beside an earlier one on purpose
NEAR = (0.4, 1.0)  # how far from it, as a share of both radii together
HARD_NEAR = (0.2, 0.7)
ATTEMPTS = 12


def compose_scene(rng: Generator, *, height: int, width: int, hard: bool = False) -> Scene:
    """Compose one scene of 3 to 6 shapes over a cluttered background.

    Shapes measure 26-56 pixels at 128 x 128, figures and worms, which fill less of their circle, 36-66; they grow
    with the shorter side. Class, rotation, pose, colours and texture are independent. A shape that would (almost)
    hide an earlier one is put elsewhere, or left out where that fails, so whatever is drawn is also in
    `Scene.objects`.

    A hard scene is one heap of up to 8 shapes of one class in one set of colours and one texture: where two of them
    meet, nothing but outline and shadow says where the one ends, and which of them is above.

    Args:
        rng: the only source of randomness; the same state gives the same scene.
        height: of the image in pixels, at least `MIN_SIDE`.
        width: of the image in pixels, at least `MIN_SIDE`.
        hard: whether to compose a hard scene.

    Raises:
        ValueError: if a side is shorter than `MIN_SIDE`.
    """
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"a scene needs sides of {MIN_SIDE} pixels or more, not {width} x {height}")
    shapes, objects = _arrange(rng, height, width, hard=hard)
    angle = rng.uniform(-0.85, -0.15) * math.pi  # the light comes from above
    canvas = painting.background(rng, height, width)
    look = int(rng.integers(2**32)) if hard else None
    for shape in shapes:
        _paint(rng, canvas, shape, light=(math.cos(angle), math.sin(angle)), look=look)
    canvas += 0.01 * rng.standard_normal(canvas.shape, dtype=np.float32)
    return Scene(np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8), objects)


@dataclass(frozen=True)
class _Shape:
    """A shape's geometry: centre and radius in pixels, angle in radians.

    A rigid shape has an aspect, its short by its long axis; a jointed one has a pose.
    """

    kind: str
    x: float
    y: float
    radius: float
    angle: float
    aspect: float = 1.0
    pose: outlines.Pose = ()

    def window(self, height: int, width: int, margin: float = 0.0) -> Window:
        """The rows and columns of the image that the shape can touch."""
        reach = (1.0 if self.pose else 1.2) * self.radius + margin
        rows = slice(max(int(self.y - reach), 0), min(int(self.y + reach) + 2, height))
        return rows, slice(max(int(self.x - reach), 0), min(int(self.x + reach) + 2, width))

    def axes(self, window: Window) -> tuple[Floats, Floats]:
        """Coordinates of a window's pixels along the shape's own two axes, in pixels from its centre."""
        y = (np.arange(window[0].start, window[0].stop, dtype=np.float32) - self.y)[:, None]
        x = (np.arange(window[1].start, window[1].stop, dtype=np.float32) - self.x)[None, :]
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return x * cos + y * sin, y * cos - x * sin

    def parts(self, u: Floats, v: Floats) -> list[Floats]:
        """Signed distances to the outline of each part in pixels, at own coordinates; negative inside."""
        match self.kind:
            case "disc":
                return [outlines.ellipse(u, v, self.radius, self.radius * self.aspect)]
            case "box":
                return [outlines.rounded_box(u, v, 0.92 * self.radius, 0.92 * self.radius * self.aspect)]
            case "star":
                return [outlines.star(u, v / self.aspect, 1.1 * self.radius) * self.aspect]
            case _:
                return [outlines.capsule(u, v, self.radius, part) for part in self.pose]

    def mask(self, height: int, width: int) -> Mask:
        """The (H, W) mask of the pixels whose centre the shape covers."""
        window = self.window(height, width)
        mask = np.zeros((height, width), dtype=bool)
        mask[window] = outlines.union(self.parts(*self.axes(window))) <= 0
        return mask


def _arrange(rng: Generator, height: int, width: int, *, hard: bool) -> tuple[list[_Shape], tuple[SceneObject, ...]]:
    """Shapes from bottom to top, and what is seen of them."""
    shapes: list[_Shape] = []
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


def _random_shape(rng: Generator, height: int, width: int, earlier: Sequence[_Shape], *, hard: bool) -> _Shape:
    """A shape inside the image, often on top of an earlier one; in a hard scene always, and of the same class."""
    kind = earlier[0].kind if hard and earlier else CLASSES[int(rng.integers(len(CLASSES)))]
    radius = rng.uniform(*(JOINTED_DIAMETER if kind in POSES else DIAMETER)) / 2 * min(height, width)
    x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    if earlier and (hard or rng.random() < CLUSTERED):
        below = earlier[int(rng.integers(len(earlier)))]
        step = rng.uniform(*(HARD_NEAR if hard else NEAR)) * (radius + below.radius)
        turn = rng.uniform(0, 2 * math.pi)
        x = float(np.clip(below.x + step * math.cos(turn), radius, width - radius))
        y = float(np.clip(below.y + step * math.sin(turn), radius, height - radius))
    shape = _Shape(kind, x, y, radius, angle=rng.uniform(0, 2 * math.pi))
    if kind in POSES:
        return replace(shape, pose=POSES[kind](rng))
    return replace(shape, aspect=rng.uniform(*ASPECTS[kind]))


def _paint(
    rng: Generator, canvas: Floats, shape: _Shape, *, light: tuple[float, float], look: int | None = None
) -> None:
    """Draw one shape and its shadow over what is there.

    `light` is the unit vector towards the light. Shapes of one `look` have the same colours and texture.
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
    shade = painting.shade(slant, distance, light, rim=rng.uniform(0.25, 0.6) * shape.radius)
    shade *= 1 - 0.4 * outlines.seams(parts, width=max(0.07 * shape.radius, 1.0))
    painter = rng if look is None else np.random.default_rng(look)
    surface = painting.surface(painter, u, v, shape.radius) * shade[..., None]
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    canvas[window] = below + cover * (surface - below)
