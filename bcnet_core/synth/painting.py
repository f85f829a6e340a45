"""How things look: the background of a scene, and the colours, textures and shading of what lies on it.

Pure, for the scenes that are composed from shapes: a random generator and distances in, colours out.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bcnet_core.synth.scene import Floats


def shade(slant: Floats, distance: Floats, light: tuple[float, float], *, rim: float) -> Floats:
    """Brightness factors: brighter towards the light, bent down at the rim, darker along the outline."""
    down, right = np.gradient(distance)
    bend = np.clip(1 + distance / rim, 0, 1) ** 2 * (right * light[0] + down * light[1])
    outline: Floats = np.clip(1.5 + distance / max(0.16 * rim, 1), 0, 1)
    shade: Floats = (0.92 + 0.16 * slant + 0.45 * bend) * (1 - 0.6 * outline)
    return shade


def surface(rng: Generator, u: Floats, v: Floats, radius: float) -> Floats:
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


def background(rng: Generator, height: int, width: int) -> Floats:
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
