"""Small pictures of overlapping squares, and their COCO file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64
SQUARES = ((6, 8, 20), (18, 16, 24))
"""x, y and side of the two squares in every picture; the second hides a corner of the first."""


def make_picture(path: Path, seed: int) -> None:
    """Write a picture with two squares."""
    pixels = np.random.default_rng(seed).integers(0, 60, (HEIGHT, WIDTH, 3), np.uint8)
    for number, (x, y, side) in enumerate(SQUARES):
        pixels[y : y + side, x : x + side] = (200, 90 + 60 * number, 40)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_coco(folder: Path, count: int, *, seed: int = 0, name: str = "{:02d}.png") -> dict[str, Any]:
    """Write pictures into a folder and return their COCO file: a leaf and a fruit in each."""
    images, annotations = [], []
    for number in range(count):
        make_picture(folder / name.format(number), seed + number)
        images.append({"id": number + 1, "file_name": name.format(number), "width": WIDTH, "height": HEIGHT})
        for label, (x, y, side) in enumerate(SQUARES, start=1):
            outline = [x, y, x + side, y, x + side, y + side, x, y + side]
            annotations.append({
                "id": len(annotations) + 1, "image_id": number + 1, "category_id": label, "iscrowd": 0,
                "bbox": [x, y, side, side], "area": side * side, "segmentation": [outline],
            })  # fmt: skip
    categories = [{"id": 1, "name": "leaf"}, {"id": 2, "name": "fruit"}]
    return {"images": images, "annotations": annotations, "categories": categories}
