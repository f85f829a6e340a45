"""Words for the tests of readers: small photos, and the masks and names that a reader returns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcnet_core import masks
from bcnet_core.importers.formats import FORMATS, choose_format
from bcnet_core.importers.source import PHOTO, Source

WIDTH, HEIGHT = 16, 12


def write(path: Path, content: Any) -> Path:
    """Write text, or anything else as json, and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def save(path: Path, values: NDArray[Any] | None = None, mode: str | None = None) -> Path:
    """Save an image, a gray photo by default, and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8) if values is None else values
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette([(index * 7) % 256 for index in range(768)])
    elif mode is not None:
        image = image.convert(mode)
    image.save(path)
    return path


def rectangle(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.bool_]:
    """Return a mask of the half-open pixel box."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def read(path: Path, images: Path | None = None, *, name: str = "auto") -> Source:
    """Read a source in the format that recognizes it, or in the one named; no other may recognize a folder."""
    if name == "auto" and path.is_dir():
        recognized = [one.name for one in FORMATS if one.recognize(path)]
        assert len(recognized) == 1, recognized
    return choose_format(path, name).read(path, images)


def instances(source: Source) -> dict[str, list[tuple[str, int, list[int]]]]:
    """Return, for the name of every photo, the class, area and box [x, y, width, height] of its instances."""
    names = {category["id"]: category["name"] for category in source.categories}
    assert len({one["id"] for one in source.annotations}) == len(source.annotations) == len(source.places)
    found: dict[str, list[tuple[str, int, list[int]]]] = {}
    for image in source.images:
        own = [one for one in source.annotations if one["image_id"] == image["id"]]
        rows = found.setdefault(image["file_name"], [])
        for one in own:
            rle = masks.from_segmentation(one["segmentation"], image["height"], image["width"])
            assert rle is not None
            assert one["bbox"] == masks.bounding_box(rle).tolist()
            assert one["area"] == masks.area(rle)
            rows.append((names[one["category_id"]], masks.area(rle), masks.bounding_box(rle).astype(int).tolist()))
    return found


def photos(source: Source) -> dict[str, Path | None]:
    """Return the paths of the photos by the names of the images."""
    return {image["file_name"]: image.get(PHOTO) for image in source.images}


def found(source: Source) -> dict[str, list[Any]]:
    """Return the findings of a source by kind."""
    return dict(source.findings)
