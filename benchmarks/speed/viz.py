"""`python -m benchmarks viz`: speed of `bcnet viz`, apart from any model."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer

from bcnet_cli import console
from bcnet_cli.options import ImageSize, Json, parse_size
from bcnet_core import masks
from bcnet_core.annotations.coco import Record
from bcnet_core.annotations.occluder import derive_occluders
from bcnet_core.visualization.closeups import choose_rois, roi_card
from bcnet_core.visualization.draw import paint, save
from bcnet_core.visualization.drawing import Card, Drawing
from bcnet_core.visualization.gallery import File, Page
from bcnet_core.visualization.panels import PANELS, draw_panels
from bcnet_core.visualization.picture import Instance, Picture, numbered

MANY = 5000
"""Pictures of the page."""
ROIS = 3


def viz(
    *,
    size: ImageSize = "480x640",
    instances: Annotated[int, typer.Option("--instances", min=1, help="Instances of a picture.")] = 15,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Pictures that are timed; medians are shown.")] = 20,
    as_json: Json = False,
) -> None:
    """Measure `bcnet viz` apart from any model: five panels and three RoIs of a picture, and a page of 5,000.

    **Examples**

    `python -m benchmarks viz`

    `python -m benchmarks viz --size 1080x1920 --instances 100 --json`
    """
    height, width = parse_size(size)
    seconds: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory(prefix="bcnet-viz-") as name:
        for seed in range(repeats + 1):
            picture = _blobs(np.random.default_rng(seed), instances, height, width)
            seconds.append(_draw(picture, Path(name)))
    panels, rois, files = (median(column) for column in zip(*seconds[1:], strict=True))
    start = time.perf_counter()
    text = _page(picture)
    costs = {
        "panels": panels, "rois": rois, "files": files,
        "page": time.perf_counter() - start, "page_bytes": len(text.encode()),
    }  # fmt: skip
    if as_json:
        console.out.print(json.dumps(costs))
        return
    table = console.make_table(f"{size}, {instances} instances, median of {repeats} pictures", "", "")
    table.add_row("draw five panels, ms", f"{1000 * panels:.1f}")
    table.add_row("draw three RoIs, ms", f"{1000 * rois:.1f}")
    table.add_row("draw and write all as jpg, ms", f"{1000 * files:.1f}")
    table.add_row("page of 5,000 pictures, s", f"{costs['page']:.1f}")
    table.add_row("page of 5,000 pictures, MB", f"{costs['page_bytes'] / 1e6:.1f}")
    console.out.print(table)


def _draw(picture: Picture, folder: Path) -> tuple[float, float, float]:
    """Return the seconds to draw the panels, to draw the RoIs, and to draw and write all of them."""
    start = time.perf_counter()
    panels: list[Drawing | Card] = list(draw_panels(picture).values())
    for drawing in panels:
        paint(drawing)
    drawn = time.perf_counter()
    cards: list[Drawing | Card] = [roi_card(picture, index) for index in choose_rois(picture.instances, ROIS)]
    for drawing in cards:
        paint(drawing)
    painted = time.perf_counter()
    for number, drawing in enumerate(panels + cards):
        save(drawing, folder / f"{number}.jpg")
    return drawn - start, painted - drawn, time.perf_counter() - painted


def _page(picture: Picture) -> str:
    """Return the HTML of a page with `MANY` pictures."""
    height, width = picture.image.shape[:2]
    files: dict[str | int, File] = {key: (f"pictures/0001-{key}.jpg", width, height) for key in (*PANELS, *range(ROIS))}
    page = Page("bench")
    for _ in range(MANY):
        page.add(picture, files)
    return page.html()


def _blobs(rng: np.random.Generator, count: int, height: int, width: int) -> Picture:
    """Draw ellipses of COCO-like sizes on noise, in clusters, with their occluders."""
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
