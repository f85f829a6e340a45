"""Compose scenes of objects cut from photographs, pasted over each other so that each is hidden as much as requested.

The true layer order and the whole (amodal) masks are known because they are made here. METHOD section 8 names the set
of this kind that the paper used and never released.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.synth.bank import LARGEST, Cutout, read_bank
from bcnet_core.synth.scenes import Image, Mask, Scene, SceneObject, Window

SCENE_TRIES = 50
"""Compositions to try before a rule counts as impossible."""

OBJECT_TRIES = 12
"""Positions to try for an object before it is left out."""

BISECTIONS = 10
"""Halvings of the distance at which one object hides the wanted share of another."""

SMALLEST = 24
"""Smallest square root of the area of a pasted object, in pixels."""

OVERLAPPING = 0.7
"""Share of objects that are meant to hide another one; the rest lie alone if there is room."""


@dataclass(frozen=True)
class PasteRule:
    """Rule for composing scenes.

    Attributes:
        occlusion: smallest and largest hidden share of an object, if anything hides it, from above 0 to 0.9.
        scale: smallest and largest factor on the size that an object had in its photograph, relative to the picture.
        objects: smallest and largest number of objects of a scene, at least 2; those that do not fit are left out.
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


def compose_from_bank(rng: Generator, *, folder: Path, rule: PasteRule, size: tuple[int, int]) -> Scene:
    """Compose one scene of (height, width) pixels from a bank, with other objects until they fit.

    Raises:
        BCNetError: if no composition meets the rule.
    """
    bank = read_bank(folder)
    for _ in range(SCENE_TRIES):
        count = min(int(rng.integers(rule.objects[0], rule.objects[1] + 1)), len(bank.objects))
        cutouts = []
        for number in rng.choice(len(bank.objects), size=count, replace=False).tolist():
            factor = float(np.exp(rng.uniform(*np.log(rule.scale))))
            scale = bank.objects[number].scale * factor
            cutouts.append(prepare(rng, bank.cutout(number), scale=scale, side=min(size)))
        background = bank.background(int(rng.integers(len(bank.backgrounds))))
        y, x = (int(rng.integers(background.shape[axis] - size[axis] + 1)) for axis in (0, 1))
        scene = compose_pasted(rng, cutouts, background[y : y + size[0], x : x + size[1]], occlusion=rule.occlusion)
        if scene is not None:
            return scene
    least, most = rule.occlusion
    raise BCNetError(
        f"in {SCENE_TRIES} tries no object could be hidden to {least:g} to {most:g} by another one",
        "allow more: --occlusion 0.2..0.6 · --scale 0.5..1.5 · --objects 3..6",
    )


def prepare(rng: Generator, cutout: Cutout, *, scale: float, side: int, mirror: float = 0.5) -> Cutout:
    """Resize an object, mirror it with some probability, and soften its edge.

    `scale` is adjusted if the object would be too small or too large for a scene whose shorter side is `side` pixels.
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
    if rng.random() < mirror:
        image, alpha = image[:, ::-1], alpha[:, ::-1]
    return Cutout(np.ascontiguousarray(image), np.ascontiguousarray(alpha), cutout.label, cutout.source)


def compose_pasted(
    rng: Generator, cutouts: Sequence[Cutout], background: Image, *, occlusion: tuple[float, float]
) -> Scene | None:
    """Paste objects over an (H, W, 3) background, each on top of those before; one that does not fit is left out.

    Every object lies entirely inside the scene, and either nothing hides it, or others hide a share of it within
    `occlusion`; at least one object is hidden in this way. Returns None if no two of them could be placed so.
    """
    image = background.copy()
    objects: list[SceneObject] = []
    for cutout in cutouts:
        mask, cover = cutout.mask, cutout.alpha[..., None]
        for _ in range(OBJECT_TRIES if mask.any() else 0):
            window = _propose(rng, mask, objects, image.shape[:2], occlusion)
            if window is None or not _is_acceptable(mask, window, objects, occlusion):
                continue
            for below in objects:
                below.visible[window] &= ~mask
            whole = np.zeros(image.shape[:2], dtype=bool)
            whole[window] = mask
            objects.append(SceneObject(cutout.label, len(objects), whole, whole.copy(), source=cutout.source))
            image[window] = np.rint(image[window] * (1 - cover) + cutout.image * cover)
            break
    return Scene(image, tuple(objects)) if any(item.occlusion_rate for item in objects) else None


def _propose(
    rng: Generator, mask: Mask, objects: Sequence[SceneObject], size: tuple[int, ...], occlusion: tuple[float, float]
) -> Window | None:
    """Propose a position inside the scene: over an object that nothing hides yet, or anywhere."""
    free = [item.amodal for item in objects if not item.occlusion_rate]
    if free and rng.random() < OVERLAPPING:
        return _position_over(rng, mask, free[int(rng.integers(len(free)))], share=rng.uniform(*occlusion))
    y, x = (int(rng.integers(max(size[axis] - mask.shape[axis], 0) + 1)) for axis in (0, 1))
    return _window(mask, y, x, size)


def _position_over(rng: Generator, mask: Mask, below: Mask, *, share: float) -> Window | None:
    """Find the position in a random direction where an object hides a share of another; None if outside the scene."""
    x, y, width, height = cv2.boundingRect(below.view(np.uint8))
    corner = corner_over(rng, mask, below[y : y + height, x : x + width], share=share)
    return None if corner is None else _window(mask, y + corner[0], x + corner[1], below.shape)


def corner_over(rng: Generator, mask: Mask, under: Mask, *, share: float) -> tuple[int, int] | None:
    """Find where an object hides a share of another one, in a random direction from its center.

    Args:
        rng: decides the direction.
        mask: (h, w) pixels of the object on top.
        under: (H, W) pixels of the other one, cut to its box.
        share: the share of `under` to hide, from 0 to 1; the result hides hardly more.

    Returns:
        Row and column of the corner of `mask` relative to that of `under`, or None if it cannot hide so much.
    """
    height, width = under.shape
    wanted = share * np.count_nonzero(under)
    turn = rng.uniform(0, 2 * math.pi)

    def corner(distance: float) -> tuple[int, int]:
        """Return the object's corner relative to the other's, with their centers this far apart."""
        down, right = distance * math.sin(turn), distance * math.cos(turn)
        return round((height - mask.shape[0]) / 2 + down), round((width - mask.shape[1]) / 2 + right)

    near, far = 0.0, math.hypot(height + mask.shape[0], width + mask.shape[1]) / 2
    if _overlap(under, mask, *corner(near)) < wanted:
        return None
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        near, far = (middle, far) if _overlap(under, mask, *corner(middle)) >= wanted else (near, middle)
    return corner(near)


def _overlap(under: Mask, mask: Mask, y: int, x: int) -> int:
    """Count the pixels that two masks share if the second one's corner is at (y, x) in the first."""
    rows = slice(max(y, 0), min(y + mask.shape[0], under.shape[0]))
    columns = slice(max(x, 0), min(x + mask.shape[1], under.shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return 0
    part = mask[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    return int(np.count_nonzero(under[rows, columns] & part))


def _window(mask: Mask, y: int, x: int, size: tuple[int, ...]) -> Window | None:
    """Return the part of the scene that an object covers; None if it would not lie entirely inside."""
    stop, end = y + mask.shape[0], x + mask.shape[1]
    return (slice(y, stop), slice(x, end)) if min(y, x) >= 0 and stop <= size[0] and end <= size[1] else None


def _is_acceptable(mask: Mask, window: Window, objects: Sequence[SceneObject], occlusion: tuple[float, float]) -> bool:
    """Return whether every object below would stay unhidden, or be hidden by a requested share."""
    for item in objects:
        newly = np.count_nonzero(item.visible[window] & mask)
        hidden = 1 - (np.count_nonzero(item.visible) - newly) / np.count_nonzero(item.amodal)
        if newly and not occlusion[0] <= hidden <= occlusion[1]:
            return False
    return True
