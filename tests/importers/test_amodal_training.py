"""Amodal sets from end to end: a file of each real format is imported, trains whole masks, and is evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bcnet_core.annotations.coco import AMODAL_KEY, FRONT_OF, Record
from tests.conftest import Bcnet
from tests.importers.test_amodal import (
    BACK,
    D2SA,
    FRONT,
    HEIGHT,
    KINS,
    KINS_2020,
    SEEN,
    WIDTH,
    area,
    rectangle,
    region,
    rle,
)

PHOTOS = 6


def images() -> list[Record]:
    """Return the records of the photos."""
    return [
        {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
        for number in range(1, PHOTOS + 1)
    ]


def pairs(pair: tuple[Record, Record]) -> dict[str, Any]:
    """Return a file with the same two annotations for every photo."""
    rows = [
        {"id": 2 * image["id"] + number, "image_id": image["id"], "category_id": 1, "iscrowd": 0, **one}
        for image in images()
        for number, one in enumerate(pair)
    ]
    return {"images": images(), "annotations": rows, "categories": [{"id": 1, "name": "car"}]}


def regions() -> dict[str, Any]:
    """Return COCOA's file: a record an image, with a region of stuff that is in front of nothing."""
    drawn = [
        region(rectangle(0, 0, WIDTH, 3), isStuff=1),
        region(rectangle(*FRONT)),
        region(rectangle(*BACK), visible_mask=rle(BACK, cut=FRONT), invisible_mask=rle((10, 8, 14, 14))),
    ]
    rows = [
        {"id": 900 + one["id"], "image_id": one["id"], "author": "x", "regions": drawn, "depth_constraint": "2-3"}
        for one in images()
    ]
    return {"images": images(), "annotations": rows}


def cocoa_cls() -> dict[str, Any]:
    """Return COCOA-cls's file: D2SA's keys, polygons, and no visible mask of what nothing hides."""
    back, front = (dict(one) for one in D2SA)
    back["segmentation"], front["segmentation"] = [rectangle(*BACK)], [rectangle(*FRONT)]
    del front["visible_mask"]
    return pairs((back, front))


SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "KINS": ("update_train_2019.json", pairs(KINS)),
    "KINS-2020": ("instances_train.json", pairs(KINS_2020)),
    "COCOA": ("COCO_amodal_train2014.json", regions()),
    "COCOA-cls": ("COCO_amodal_train2014_with_classes.json", cocoa_cls()),
    "D2SA": ("D2S_amodal_training_rot0.json", pairs(D2SA)),
}


def write_photos(folder: Path) -> None:
    """Write noise with a red box in front of a green one; no two photos are the same."""
    folder.mkdir()
    for number in range(1, PHOTOS + 1):
        pixels = np.random.default_rng(number).integers(0, 60, (HEIGHT, WIDTH, 3), np.uint8)
        for color, (x0, y0, x1, y1) in (((40, 200, 40), BACK), ((200, 40, 40), FRONT)):
            pixels[y0:y1, x0:x1] = color
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_a_set_is_imported_trains_whole_masks_and_is_evaluated(name: str, bcnet: Bcnet, tmp_path: Path) -> None:
    file, content = SETS[name]
    write_photos(tmp_path / "photos")
    (tmp_path / file).write_text(json.dumps(content))
    done = bcnet("data", "import", file, "--images", "photos", "-o", "root", "--val", "0.4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    imported = json.loads((tmp_path / "root/annotations/instances_train2017.json").read_text())
    front, back = sorted(imported["annotations"][:2], key=lambda one: area(one["segmentation"]))
    assert [(area(one["segmentation"]), area(one[AMODAL_KEY])) for one in (front, back)] == [(100, 100), (SEEN, 168)]
    assert front[FRONT_OF] == [back["id"]]

    count = len(imported["annotations"])
    told = f"whole masks: all {count} instances; {count // 2} instances hide a part of another"
    train = ("train", "tiny", "--data-root", "root", "--device", "cpu", "model.amodal=true", "solver.steps=3",
             "data.min_size=64", "data.max_size=96", "data.train_sizes=[64]")  # fmt: skip
    for more in (("--dry-run",), ("--run-dir", "run")):
        done = bcnet(*train, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert told in " ".join(done.stderr.split()), done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [row["amodal_mask"] for row in rows if "amodal_mask" in row]
    assert losses and np.isfinite(losses).all() and min(losses) > 0

    done = bcnet("eval", "run", "--device", "cpu", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "AP" in json.loads(done.stdout)["scores"]["masks"]
