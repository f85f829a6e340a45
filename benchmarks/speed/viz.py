"""What drawing costs on this machine, apart from any model."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from bcnet_core import masks
from bcnet_core.annotations.coco import Record
from bcnet_core.annotations.occluder import derive_occluders
from bcnet_core.visualization.draw import paint, save
from bcnet_core.visualization.drawing import Card, Drawing
from bcnet_core.visualization.gallery import File, Page
from bcnet_core.visualization.panels import PANELS, choose_rois, render, roi_card
from bcnet_core.visualization.picture import Instance, Picture, numbered

MANY = 5000
"""Pictures of the page that is built."""
ROIS = 3


@dataclass(frozen=True)
class DrawCosts:
    """Medians over pictures of drawn blobs that overlap.

    Attributes:
        panels: seconds for the panels of a picture.
        rois: seconds for its RoIs, each with its four maps.
        files: seconds for drawing all of these once more and writing them as jpg.
        page: seconds for the index.html of `MANY` such pictures.
        page_bytes: of that file.
    """

    panels: float
    rois: float
    files: float
    page: float
    page_bytes: int


def bench_viz(*, instances: int, height: int, width: int, repeats: int) -> DrawCosts:
    """Draw pictures, one after the other, as `bcnet viz` does.

    Args:
        instances: of a picture.
        height: of the image.
        width: of the image.
        repeats: pictures that are timed, after one that is not.
    """
    seconds: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory(prefix="bcnet-viz-") as name:
        for seed in range(repeats + 1):
            picture = _blobs(np.random.default_rng(seed), instances, height, width)
            start = time.perf_counter()
            scenes: list[Drawing | Card] = list(render(picture, rois=0).panels.values())
            for drawing in scenes:
                paint(drawing)
            drawn = time.perf_counter()
            cards: list[Drawing | Card] = [roi_card(picture, index) for index in choose_rois(picture.instances, ROIS)]
            for drawing in cards:
                paint(drawing)
            painted = time.perf_counter()
            for number, drawing in enumerate(scenes + cards):
                save(drawing, Path(name) / f"{number}.jpg")
            saved = time.perf_counter()
            seconds.append((drawn - start, painted - drawn, saved - painted))
    files: dict[str | int, File] = {key: (f"pictures/0001-{key}.jpg", width, height) for key in (*PANELS, *range(ROIS))}
    start, page = time.perf_counter(), Page("bench")
    for _ in range(MANY):
        page.add(picture, files)
    text = page.html()
    seconds_of_page = time.perf_counter() - start
    panels, rois, written = (median(column) for column in zip(*seconds[1:], strict=True))
    return DrawCosts(panels, rois, written, seconds_of_page, len(text.encode()))


def _blobs(rng: np.random.Generator, count: int, height: int, width: int) -> Picture:
    """Ellipses of COCO-like sizes on noise, in clusters, with their occluders."""
    records: list[Record] = []
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    for _ in range(count):
        radii = rng.uniform(0.03, 0.2, 2) * min(height, width)
        centre = rng.normal(0.5, 0.2, 2).clip(0.1, 0.9) * (width, height)
        points = centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii
        points = points.clip(0, (width, height))
        (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        records.append({"bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0, "segmentation": [points.ravel().tolist()]})
    rles = [masks.from_polygons(record["segmentation"], height, width) for record in records]
    regions = derive_occluders(records, rles, height, width)
    layers = [
        Instance("blob", (x, y, x + w, y + h), rle, region)
        for (x, y, w, h), rle, region in zip((record["bbox"] for record in records), rles, regions, strict=True)
    ]
    return Picture("blobs.jpg", rng.integers(0, 255, (height, width, 3), np.uint8), numbered(layers))
