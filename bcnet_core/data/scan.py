"""Read every image of a data set before training, so that none ends a run at step 40,000."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.images import read_listed
from bcnet_core.files.workers import parallel_map
from bcnet_core.reporting import Reporter

CHUNK = 64
"""Images of one task of a worker."""
SHOWN = 10
"""Broken images that the error names."""


def scan_images(coco: CocoFile, image_dir: Path, *, workers: int, reporter: Reporter) -> None:
    """Read every image that a file lists, as training would.

    Args:
        coco: the file.
        image_dir: the folder of its images.
        workers: processes, 0 for one per CPU core.
        reporter: told of the progress.

    Raises:
        BCNetError: naming the images that are missing, damaged, of more than 8 bits, or of another size than the file
            says.
    """
    tasks = [coco.images[start : start + CHUNK] for start in range(0, len(coco.images), CHUNK)]
    faults: list[str] = []
    work = partial(_faults, image_dir)
    with (
        reporter.progress(f"scanning {image_dir.name}", len(coco.images)) as progress,
        parallel_map(work, tasks, workers=workers, most=len(tasks)) as done,
    ):
        for task, found in zip(tasks, done, strict=True):
            faults += found
            progress.advance(len(task))
    if faults:
        raise data_error(
            f"{len(faults):,} of the {len(coco.images):,} images in `{coco.path}` cannot be used",
            *faults[:SHOWN],
            *([f"and {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else []),
            "replace these files, or drop them from the json",
        )


def _faults(image_dir: Path, images: list[Record]) -> list[str]:
    """What is wrong with some images, a sentence each."""
    return [fault for image in images if (fault := _fault(image_dir, image)) is not None]


def _fault(image_dir: Path, image: Record) -> str | None:
    try:
        read_listed(image_dir, image)
    except BCNetError as error:
        return error.message
    return None
