"""`python -m benchmarks annotate`: speed and memory of `bcnet annotate`."""

from __future__ import annotations

import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from bcnet_cli import console
from bcnet_cli.options import Json
from bcnet_core import masks
from bcnet_core.annotations.build import annotate_coco
from bcnet_core.annotations.coco import CocoFile, Record, read_coco
from bcnet_core.annotations.occluder import OccluderRule
from bcnet_core.annotations.polygons import to_polygons
from bcnet_core.config.choices import RegionFormat
from bcnet_core.errors import data_error
from bcnet_core.files.json_files import write_json
from bcnet_core.synth.outlines import CLASSES
from bcnet_core.synth.shapes import compose_scene
from benchmarks.memory import in_fresh_process, watch_memory

SCENES = 40
"""Upper bound of the composed scenes that are repeated where no file is given."""


def annotate(
    source: Annotated[
        Path | None, typer.Argument(metavar="COCO.json", help="A file to repeat; default composed scenes.")
    ] = None,
    *,
    images: Annotated[int, typer.Option("--images", min=1, help="Images to annotate.")] = 5000,
    workers: Annotated[
        list[int] | None, typer.Option("--workers", min=1, help="Processes; may be repeated; default 1 and all cores.")
    ] = None,
    output_format: Annotated[RegionFormat, typer.Option("--format", help="Format of occluder regions.")] = "polygon",
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Tolerance of polygons, pixels.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Measure `bcnet annotate`: images per second and peak memory, reading and writing the json included.

    The file is repeated with new ids until it has enough images; train2017 has 118,287.

    **Examples**

    `python -m benchmarks annotate`

    `python -m benchmarks annotate annotations/instances_val2017.json --images 118287 --workers 2 --json`
    """
    coco = CocoFile(Path("composed.json"), composed_file(min(images, SCENES))) if source is None else read_coco(source)
    if not coco.images:
        raise data_error(f"`{source}` has no images to repeat")
    run = partial(_run, output_format=output_format, tolerance=tolerance)
    with tempfile.TemporaryDirectory(prefix="bcnet-bench-") as folder:
        path = Path(folder) / "repeated.json"
        write_json(path, repeat(coco, images))
        counts = workers or sorted({1, os.cpu_count() or 1})
        results = [{"workers": count, **in_fresh_process(run, path, count)} for count in counts]
    if as_json:
        console.out.print(json.dumps(results))
        return
    first = results[0]
    title = f"annotate {first['images']:,} images, {first['instances']:,} instances"
    table = console.make_table(title, "processes", *(f"{one['workers']}" for one in results))
    for part in ("read", "annotate", "write"):
        table.add_row(f"{part}, s", *(f"{one[part]:.1f}" for one in results))
    table.add_row("images/s, all of it", *(f"{one['images_per_second']:,.0f}" for one in results))
    table.add_row("images/s, annotate", *(f"{one['images'] / one['annotate']:,.0f}" for one in results))
    table.add_row("peak memory, MB", *(f"{one['memory'] / 1e6:,.0f}" for one in results))
    console.out.print(table)


def repeat(coco: CocoFile, images: int) -> Record:
    """Repeat images and annotations with new ids up to a number of images."""
    by_image = coco.annotations_by_image()
    records: list[Record] = []
    annotations: list[Record] = []
    for number in range(1, images + 1):
        image = coco.images[(number - 1) % len(coco.images)]
        records.append({**image, "id": number})
        first = len(annotations) + 1
        annotations += [
            {**annotation, "id": first + place, "image_id": number}
            for place, annotation in enumerate(by_image[image["id"]])
        ]
    return {**coco.content, "images": records, "annotations": annotations}


def composed_file(scenes: int = SCENES) -> Record:
    """Compose a small COCO file with polygons, like COCO's own annotations."""
    images: list[Record] = []
    annotations: list[Record] = []
    for number in range(1, scenes + 1):
        scene = compose_scene(np.random.default_rng(number), height=480, width=640)
        images.append({"id": number, "file_name": f"{number}.png", "width": 640, "height": 480})
        for item in scene.objects:
            rle = masks.encode(item.visible)
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": item.label + 1, "iscrowd": 0,
                    "bbox": masks.bounding_box(rle).tolist(), "area": masks.area(rle),
                    "segmentation": to_polygons(rle, tolerance=1.0),
                }
            )  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _run(path: Path, workers: int, *, output_format: RegionFormat, tolerance: float) -> dict[str, float]:
    with watch_memory() as peak:
        start = time.perf_counter()
        coco = read_coco(path)
        read = time.perf_counter()
        content, summary = annotate_coco(
            coco, rule=OccluderRule(), output_format=output_format, tolerance=tolerance, workers=workers
        )
        annotated = time.perf_counter()
        write_json(path.with_name("annotated.json"), content)
        written = time.perf_counter()
    return {
        "images": summary.images,
        "instances": summary.instances,
        "read": read - start,
        "annotate": annotated - read,
        "write": written - annotated,
        "images_per_second": summary.images / (written - start),
        "memory": peak.bytes,
    }
