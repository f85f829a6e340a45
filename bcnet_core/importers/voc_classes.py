"""Find the classes of VOC's instances: `SegmentationClass` has an image of the classes beside that of the objects.

CVAT exports the same layout as "Segmentation mask", with the names of its colors in `labelmap.txt`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from bcnet_core import masks
from bcnet_core.errors import BCNetError
from bcnet_core.files.images import read_image

CLASS_FOLDER = "SegmentationClass"
COLOR_LIST = "labelmap.txt"
"""File of CVAT with lines `name:r,g,b::`."""
COLOR_LINE = re.compile(r"\s*([^:#][^:]*):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)")
NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""VOC's classes, from label 1."""
BORDER_COLOR = 0xE0E0C0
"""Color of the border around objects, which belongs to none."""


def read_voc_classes(file: Path, rles: dict[int, masks.RLE]) -> dict[int, str] | None:
    """Return the class of every instance of an image of objects, the most frequent one among its pixels.

    A color without a name is called by its hexadecimal number.

    Args:
        file: the image of the objects.
        rles: their masks by value.

    Returns:
        Names of classes by value; None if there is no image of the classes of the same size.
    """
    root = file.parent.parent
    try:
        pixels = read_image(root / CLASS_FOLDER / file.name).astype(np.int64) @ np.array([65536, 256, 1])
    except BCNetError:
        return None
    if any(rle["size"] != [*pixels.shape] for rle in rles.values()):
        return None
    names = _color_names(root / COLOR_LIST)
    classes = {}
    for value, rle in rles.items():
        x, y, width, height = masks.bounding_box(rle).astype(int).tolist()
        inside = masks.decode_window(rle, x, y, x + width, y + height)
        colors, counts = np.unique(pixels[y : y + height, x : x + width][inside], return_counts=True)
        is_class = (colors != 0) & (colors != BORDER_COLOR)
        color = int(colors[np.argmax(counts * is_class)])
        classes[value] = names.get(color, f"#{color:06x}")
    return classes


def _color_names(path: Path) -> dict[int, str]:
    """Return the class names by color, 0xRRGGBB: those of a list, or VOC's own."""
    if not path.is_file():
        return {_voc_color(label): name for label, name in enumerate(NAMES, start=1)}
    lines = path.read_text("utf-8-sig", errors="replace").splitlines()
    matches = (COLOR_LINE.match(line) for line in lines)
    return {int(match[2]) * 65536 + int(match[3]) * 256 + int(match[4]): match[1].strip() for match in matches if match}


def _voc_color(label: int) -> int:
    """Return the color of a label in VOC's palette: its bits, three at a time, from the highest bit of each channel."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (label >> channel & 1) << 7 - bit
        label >>= 3
    return channels[0] * 65536 + channels[1] * 256 + channels[2]
