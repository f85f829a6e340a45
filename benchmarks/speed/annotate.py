"""What annotating costs on this machine: seconds, images a second, memory."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

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
"""Composed scenes, at most, that stand for a file where none is given; they are repeated."""


@dataclass(frozen=True)
class AnnotateCosts:
    """What one run costs.

    Attributes:
        workers: processes.
        images: in the file.
        instances: in the file.
        read: seconds to read and check the file.
        annotate: seconds to find and trace the occluders.
        write: seconds to write the result.
        memory: most memory of all processes together, in bytes.
    """

    workers: int
    images: int
    instances: int
    read: float
    annotate: float
    write: float
    memory: int

    @property
    def images_per_second(self) -> float:
        """Of the whole run, reading and writing included."""
        return self.images / (self.read + self.annotate + self.write)


def bench_annotate(
    source: Path | None, *, images: int, workers: list[int], output_format: RegionFormat, tolerance: float
) -> list[AnnotateCosts]:
    """Annotate a file that is repeated to a number of images, once for every number of workers.

    Args:
        source: a COCO file with annotations; composed scenes of 480 x 640 pixels where it is None.
        images: of the repeated file.
        workers: processes of each run.
        output_format: as in `annotate_coco`.
        tolerance: as in `annotate_coco`.

    Raises:
        BCNetError: if the source cannot be read or has no images.
    """
    coco = CocoFile(Path("composed.json"), composed_file(min(images, SCENES))) if source is None else read_coco(source)
    if not coco.images:
        raise data_error(f"`{source}` has no images to repeat")
    run = partial(_run, output_format=output_format, tolerance=tolerance)
    with tempfile.TemporaryDirectory(prefix="bcnet-bench-") as folder:
        path = Path(folder) / "repeated.json"
        write_json(path, repeat(coco, images))
        return [in_fresh_process(run, path, count) for count in workers]


def repeat(coco: CocoFile, images: int) -> Record:
    """The same images and annotations over and over with new ids, up to a number of images."""
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
    """A small COCO file with polygons, as COCO's own annotations are."""
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


def _run(path: Path, workers: int, *, output_format: RegionFormat, tolerance: float) -> AnnotateCosts:
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
    return AnnotateCosts(
        workers, summary.images, summary.instances, read - start, annotated - read, written - annotated, peak.bytes
    )
