"""The augmentation of training images: steps from scene to scene, whose choices a random generator makes.

To add an augmentation, write a step, put it into `training_steps`, and its settings into `config.data`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import functional as color

from bcnet_core import masks
from bcnet_core.config.data import DataConfig
from bcnet_core.masks import RLE

Window = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the stored image, continuous."""


class Placement(NamedTuple):
    """The position of the stored image in the network's input: x_input = scale_x * x + shift_x, and so for y.

    Coordinates are continuous, with pixel edges at the integers. A mirrored or flipped image has a negative scale.
    """

    scale_x: float
    shift_x: float
    scale_y: float
    shift_y: float

    def to_input(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map (N, 4) xyxy boxes of the stored image to the network's input; corners stay ordered."""
        x = boxes[:, 0::2] * self.scale_x + self.shift_x
        y = boxes[:, 1::2] * self.scale_y + self.shift_y
        return np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)


class Scene(NamedTuple):
    """A training image on its way to the network, with N instances.

    Pixels, boxes and masks stay in the frame of the stored image; the other fields say what the network sees of it. So
    the two layers cannot drift apart, and nothing is resampled twice.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        boxes: (N, 4) float64 xyxy.
        labels: (N,) int64.
        occludees: visible mask of each instance.
        occluders: occluder region of each instance; None where nothing overlaps it.
        wholes: whole mask of each instance, hidden parts included; None where it is unknown.
        amodal_boxes: whether boxes enclose the whole masks, where these are known.
        window: part of the image that the network sees.
        size: height and width of the network's input in pixels.
        mirrored: whether the input is mirrored left to right.
        flipped: whether the input is flipped top to bottom.
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    occludees: list[RLE]
    occluders: list[RLE | None]
    wholes: list[RLE | None]
    window: Window
    size: tuple[int, int]
    amodal_boxes: bool = False
    mirrored: bool = False
    flipped: bool = False

    @property
    def placement(self) -> Placement:
        """The position of the stored image in the network's input."""
        (x0, y0, x1, y1), (height, width) = self.window, self.size
        scale_x, scale_y = width / (x1 - x0), height / (y1 - y0)
        shift_x, shift_y = -x0 * scale_x, -y0 * scale_y
        if self.mirrored:
            scale_x, shift_x = -scale_x, width - shift_x
        if self.flipped:
            scale_y, shift_y = -scale_y, height - shift_y
        return Placement(scale_x, shift_x, scale_y, shift_y)

    def render(self) -> NDArray[np.uint8]:
        """Return the (h, w, 3) uint8 pixels of the network's input."""
        seen = resize(self.pixels, *self.size, window=self.window)
        return seen[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


Step = Callable[[Scene, np.random.Generator], Scene]
COLOR_CHANGES = (color.adjust_brightness, color.adjust_contrast, color.adjust_saturation)
"""What `data.color_jitter` has a strength for, in its order."""


def training_steps(data: DataConfig, *, paste: Step | None = None) -> list[Step]:
    """Return the steps that a recipe asks for, in order.

    The whole stored image is prepared first: flips (`flip`, `flip_vertical`), which only note how to show it; pasted
    objects (`copy_paste`); and colors (`color_jitter`), of image and pasted objects alike. Then it is resized, or a
    part of it is cut out (`scale_jitter`, or `train_sizes` and `min_size`). A step without effect makes no random
    choice, so that a recipe without new settings keeps its samples.

    Args:
        data: section `data` of the recipe.
        paste: pastes objects of the training set, see `copy_paste.paste_objects`; `open_training_set` gives it.
    """
    steps: list[Step] = [partial(mirror, probability=data.flip)]
    if data.flip_vertical:
        steps.append(partial(flip, probability=data.flip_vertical))
    if paste is not None:
        steps.append(paste)
    if data.color_jitter is not None:
        steps.append(partial(jitter_colors, strengths=data.color_jitter))
    if data.scale_jitter is not None:
        return [*steps, partial(jitter_scale, factors=data.scale_jitter, side=data.max_size)]
    return [*steps, partial(resize_shorter, sizes=data.train_sizes or (data.min_size,), max_size=data.max_size)]


def mirror(scene: Scene, rng: np.random.Generator, *, probability: float) -> Scene:
    """Mirror left and right with some probability."""
    return scene._replace(mirrored=bool(rng.random() < probability))


def flip(scene: Scene, rng: np.random.Generator, *, probability: float) -> Scene:
    """Flip top and bottom with some probability."""
    return scene._replace(flipped=bool(rng.random() < probability))


def jitter_colors(scene: Scene, rng: np.random.Generator, *, strengths: tuple[float, float, float]) -> Scene:
    """Change the colors as torchvision's `ColorJitter` does, by factors that the generator draws.

    Args:
        scene: any scene.
        rng: decides the factors and their order.
        strengths: largest change of brightness, contrast and saturation, from 0 (none) to 1.
    """
    image = Image.fromarray(scene.pixels)  # torchvision changes it in half the time that it takes for a tensor
    for number in rng.permutation(len(COLOR_CHANGES)).tolist():
        factor = rng.uniform(1 - strengths[number], 1 + strengths[number])
        image = COLOR_CHANGES[number](image, factor)
    return scene._replace(pixels=np.asarray(image))


def resize_shorter(scene: Scene, rng: np.random.Generator, *, sizes: Sequence[int], max_size: int) -> Scene:
    """Resize so that the shorter side is one of `sizes`, but the longer side is at most `max_size` pixels."""
    size = sizes[int(rng.integers(len(sizes)))] if len(sizes) > 1 else sizes[0]
    height, width = scene.pixels.shape[:2]
    return scene._replace(size=target_size(height, width, min_size=size, max_size=max_size))


def jitter_scale(scene: Scene, rng: np.random.Generator, *, factors: tuple[float, float], side: int) -> Scene:
    """Apply large-scale jitter (Ghiasi et al., 2021): resize by a random factor, then crop a random window.

    Args:
        scene: the whole image.
        rng: decides factor and window.
        factors: least and largest length of the longer side, in `side`s.
        side: largest height and width of the result, pixels.
    """
    height, width = scene.pixels.shape[:2]
    scale = rng.uniform(*factors) * side / max(height, width)
    whole = [max(1, round(height * scale)), max(1, round(width * scale))]
    cut = [min(length, side) for length in whole]
    y, x = (int(rng.integers(length - part + 1)) for length, part in zip(whole, cut, strict=True))
    per_y, per_x = height / whole[0], width / whole[1]
    window = (x * per_x, y * per_y, (x + cut[1]) * per_x, (y + cut[0]) * per_y)
    return crop(scene, window)._replace(size=(cut[0], cut[1]))


def crop(scene: Scene, window: Window) -> Scene:
    """Show the network a part of the image; instances keep the part of their box and masks that is in it."""
    scene, (height, width) = scene._replace(window=window), scene.pixels.shape[:2]
    x0, y0, x1, y1 = (int(np.ceil(edge - 0.5)) for edge in window)  # pixels whose center is in the window
    if (x0, y0, x1, y1) == (0, 0, width, height):
        return scene
    seen = masks.from_box(x0, y0, x1, y1, height, width)
    parts = [masks.intersection(rle, seen) for rle in scene.occludees]
    kept = [index for index, rle in enumerate(parts) if masks.area(rle)]
    occluders, wholes = (
        [None if (rle := rles[index]) is None else masks.intersection(rle, seen) for index in kept]
        for rles in (scene.occluders, scene.wholes)
    )
    occludees = [parts[index] for index in kept]
    boxed = [whole if whole and scene.amodal_boxes else part for whole, part in zip(wholes, occludees, strict=True)]
    corners = [_cropped_box(scene.boxes[index], rle, window) for index, rle in zip(kept, boxed, strict=True)]
    return scene._replace(
        boxes=np.array(corners).reshape(-1, 4),
        labels=scene.labels[kept],
        occludees=occludees,
        occluders=occluders,
        wholes=wholes,
    )


def _cropped_box(box: NDArray[np.float64], part: RLE, window: Window) -> NDArray[np.float64]:
    """Return the tight box of the part of an instance in the window if this cuts it, or its own box."""
    x0, y0, x1, y1 = window
    if box[0] >= x0 and box[1] >= y0 and box[2] <= x1 and box[3] <= y1:
        return box
    x, y, width, height = masks.bounding_box(part)
    cropped: NDArray[np.float64] = np.array([x, y, x + width, y + height]).clip([x0, y0] * 2, [x1, y1] * 2)
    return cropped


def target_size(height: int, width: int, *, min_size: int, max_size: int) -> tuple[int, int]:
    """Return the (height, width) with a shorter side of `min_size`, or a longer side of `max_size` if that is less."""
    scale = min(min_size / min(height, width), max_size / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: NDArray[np.uint8], height: int, width: int, *, window: Window | None = None) -> NDArray[np.uint8]:
    """Resize an (H, W, 3) uint8 image, or a window of it, bilinear and antialiased."""
    whole = (0, 0, image.shape[1], image.shape[0])
    if image.shape[:2] == (height, width) and window in (None, whole):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=window))
