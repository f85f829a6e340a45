"""Compressed run lengths are read whatever characters they consist of: some look like lists of numbers."""

from __future__ import annotations

import numpy as np
import pytest

from bcnet_core import masks
from bcnet_core.annotations.coco import AMODAL_KEY, Record
from bcnet_core.importers.clean import clean
from bcnet_core.importers.source import Source

HEIGHT, WIDTH = 40, 60


def compressed() -> dict[str, Record]:
    """Return masks by a character of the alphabet of compressed run lengths, so that every one of the 64 occurs."""
    generator = np.random.default_rng(0)
    found: dict[str, Record] = {}
    while len(found) < 64:
        x, y, across, down = generator.integers((0, 0, 4, 4), (40, 20, 20, 20))
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[y : y + down, x : x + across] = generator.random((min(down, HEIGHT - y), min(across, WIDTH - x))) < 0.9
        mask[y, x] = True
        rle = masks.to_json(masks.encode(mask))
        for character in rle["counts"]:
            found.setdefault(character, rle)
    return found


@pytest.mark.parametrize(("character", "rle"), compressed().items())
def test_every_character_may_occur(character: str, rle: Record) -> None:
    mask = masks.from_segmentation(rle, HEIGHT, WIDTH)
    assert mask is not None
    assert character in rle["counts"]
    record = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": rle, AMODAL_KEY: rle,
              "bbox": masks.bounding_box(mask).tolist(), "area": masks.area(mask)}  # fmt: skip
    image = {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
    cleaned = clean(Source([image], [record], [{"id": 1, "name": "leaf"}]), None)
    assert cleaned.annotations == [record]
    assert not cleaned.findings


def test_every_character_of_the_alphabet_is_tried() -> None:
    assert set(compressed()) == {chr(code) for code in range(48, 112)}
