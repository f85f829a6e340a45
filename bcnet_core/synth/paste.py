"""Scenes of objects cut from photographs, pasted over each other so that each is hidden as much as was asked for.

Pure: a random generator, pictures of objects and a background in, a `Scene` out. The true order of the layers and the
whole (amodal) masks are known because they are made here; METHOD section 8 names the set of this kind that the paper
used and never released.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bcnet_core.errors import usage_error
from bcnet_core.synth.scene import Floats, Mask, Scene, SceneObject, Window

PLACES = 12
"""Places that are tried for an object before it is left out."""

BISECTIONS = 10
"""Halvings of the distance at which one object hides the wanted share of another."""

LARGEST = 0.7
"""The longest side of a pasted object, by the shorter side of the scene."""

SMALLEST = 24
"""The least square root of the area of a pasted object, in pixels."""

OVERLAPPING = 0.7
"""The share of objects that are meant to hide another one; the rest lies alone, if there is room."""


@dataclass(frozen=True)
class PasteRule:
    """How scenes are composed.

    Attributes:
        occlusion: least and largest share of an object that others hide, if any do, from above 0 to 0.9.
        scale: least and largest factor on the size that an object had in its photograph, relative to the picture.
        objects: least and largest number of objects of a scene, at least 2; those that find no place are left out.
    """

    occlusion: tuple[float, float] = (0.2, 0.6)
    scale: tuple[float, float] = (0.7, 1.4)
    objects: tuple[int, int] = (3, 6)

    def __post_init__(self) -> None:
        least, most = self.occlusion
        if not 0 < least < most <= 0.9:
            raise usage_error(
                f"the occlusion is a range above 0 up to 0.9, not {least:g} to {most:g}", "--occlusion 0.2..0.6"
            )
        least, most = self.scale
        if not 0 < least <= most <= 10:
            raise usage_error(f"the scale is above 0 and at most 10, not {least:g} to {most:g}", "--scale 0.7..1.4")
        least, most = self.objects
        if not 2 <= least <= most <= 50:
            raise usage_error(f"a scene has from 2 to at most 50 objects, not {least} to {most}", "--objects 3..6")


@dataclass(frozen=True)
class Cutout:
    """A whole object, cut from a photograph.

    Attributes:
        image: (h, w, 3) uint8, RGB; around the object it still shows what was there.
        alpha: (h, w) float32 in [0, 1], how much of the object a pixel is.
        label: index into the class names of the scene.
        source: the id of the annotation that it was cut along.
    """

    image: NDArray[np.uint8]
    alpha: Floats
    label: int
    source: int

    @property
    def mask(self) -> Mask:
        """The (h, w) pixels that count as the object."""
        return self.alpha >= 0.5


def compose_pasted(
    rng: Generator, cutouts: Sequence[Cutout], background: NDArray[np.uint8], *, occlusion: tuple[float, float]
) -> Scene | None:
    """Paste objects over a background, one over the other.

    Every object lies wholly inside the scene, and either nothing hides it, or others hide a share of it within
    `occlusion`; at least one object is hidden so.

    Args:
        rng: the only source of randomness.
        cutouts: the objects, from bottom to top; one that finds no place is left out.
        background: (H, W, 3) uint8, RGB; it is not changed.
        occlusion: least and largest hidden share of an object that is hidden at all.

    Returns:
        The scene; None if no two of the objects could be placed so.
    """
    height, width = background.shape[:2]
    placed: list[tuple[Cutout, Window]] = []
    amodal: list[Mask] = []
    visible: list[Mask] = []
    for cutout in cutouts:
        mask = cutout.mask
        for _ in range(PLACES if mask.any() else 0):
            window = _propose(rng, mask, amodal, visible, (height, width), occlusion)
            if window is None or not _acceptable(mask, window, amodal, visible, occlusion):
                continue
            for seen in visible:
                seen[window] &= ~mask
            whole = np.zeros((height, width), dtype=bool)
            whole[window] = mask
            placed.append((cutout, window))
            amodal.append(whole)
            visible.append(whole.copy())
            break
    if all(np.array_equal(whole, seen) for whole, seen in zip(amodal, visible, strict=True)):
        return None
    image = background.copy()
    for cutout, window in placed:
        cover = cutout.alpha[..., None]
        image[window] = np.rint(image[window] * (1 - cover) + cutout.image * cover)
    objects = [
        SceneObject(cutout.label, layer, whole, seen, source=cutout.source)
        for layer, ((cutout, _), whole, seen) in enumerate(zip(placed, amodal, visible, strict=True))
    ]
    return Scene(image, tuple(objects))


def prepare(rng: Generator, cutout: Cutout, *, scale: float, side: int) -> Cutout:
    """Resize an object, perhaps mirror it, and soften its edge.

    Args:
        rng: decides whether it is mirrored.
        cutout: as it was cut.
        scale: the wanted factor; it is changed where the object would be too small or too large for the scene.
        side: the shorter side of the scene in pixels.
    """
    height, width = cutout.alpha.shape
    area = float(cutout.alpha.sum())
    scale = min(max(scale, SMALLEST / math.sqrt(area)), LARGEST * side / max(height, width))
    size = (max(round(width * scale), 4), max(round(height * scale), 4))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(cutout.image, size, interpolation=method)
    alpha = cv2.resize(cutout.alpha, size, interpolation=method)
    # the edge lies a little inside, where the photograph shows the object and not what was behind it
    alpha = np.clip(2 * cv2.GaussianBlur(alpha, (0, 0), sigmaX=1.0) - 0.7, 0, 1)
    if rng.random() < 0.5:
        image, alpha = image[:, ::-1], alpha[:, ::-1]
    return Cutout(np.ascontiguousarray(image), np.ascontiguousarray(alpha), cutout.label, cutout.source)


def _propose(
    rng: Generator,
    mask: Mask,
    amodal: Sequence[Mask],
    visible: Sequence[Mask],
    size: tuple[int, int],
    occlusion: tuple[float, float],
) -> Window | None:
    """A place inside the scene: over an object that nothing hides yet, or anywhere."""
    free = [number for number, seen in enumerate(visible) if np.count_nonzero(seen) == np.count_nonzero(amodal[number])]
    if free and rng.random() < OVERLAPPING:
        below = amodal[free[int(rng.integers(len(free)))]]
        return _place_over(rng, mask, below, share=rng.uniform(*occlusion))
    y, x = (int(rng.integers(max(size[axis] - mask.shape[axis], 0) + 1)) for axis in (0, 1))
    return _window(mask, y, x, size)


def _place_over(rng: Generator, mask: Mask, below: Mask, *, share: float) -> Window | None:
    """Where in a random direction an object hides the given share of another; None where it cannot, or not inside."""
    x, y, width, height = cv2.boundingRect(below.view(np.uint8))
    under = below[y : y + height, x : x + width]
    wanted = share * np.count_nonzero(under)
    turn = rng.uniform(0, 2 * math.pi)

    def corner(distance: float) -> tuple[int, int]:
        """Of the object, seen from that of the other, with their middles this far apart."""
        down, right = distance * math.sin(turn), distance * math.cos(turn)
        return round((height - mask.shape[0]) / 2 + down), round((width - mask.shape[1]) / 2 + right)

    near, far = 0.0, math.hypot(height + mask.shape[0], width + mask.shape[1]) / 2
    if _overlap(under, mask, *corner(near)) < wanted:
        return None
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        near, far = (middle, far) if _overlap(under, mask, *corner(middle)) >= wanted else (near, middle)
    down, right = corner(near)
    return _window(mask, y + down, x + right, below.shape)


def _overlap(under: Mask, mask: Mask, y: int, x: int) -> int:
    """The pixels that two masks share where the second one's corner lies at (y, x) in the first."""
    rows = slice(max(y, 0), min(y + mask.shape[0], under.shape[0]))
    columns = slice(max(x, 0), min(x + mask.shape[1], under.shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return 0
    part = mask[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    return int(np.count_nonzero(under[rows, columns] & part))


def _window(mask: Mask, y: int, x: int, size: tuple[int, ...]) -> Window | None:
    """The part of the scene that an object would take; None where it would not lie wholly inside."""
    stop, end = y + mask.shape[0], x + mask.shape[1]
    return (slice(y, stop), slice(x, end)) if min(y, x) >= 0 and stop <= size[0] and end <= size[1] else None


def _acceptable(
    mask: Mask, window: Window, amodal: Sequence[Mask], visible: Sequence[Mask], occlusion: tuple[float, float]
) -> bool:
    """Whether every object below would stay unhidden, or be hidden by a share that was asked for."""
    for whole, seen in zip(amodal, visible, strict=True):
        newly = np.count_nonzero(seen[window] & mask)
        if newly:
            total = np.count_nonzero(whole)
            hidden = 1 - (np.count_nonzero(seen) - newly) / total
            if not occlusion[0] <= hidden <= occlusion[1]:
                return False
    return True
