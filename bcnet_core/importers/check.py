"""Check whether every instance of a data set will train as it stands."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcnet_core.annotations.coco import read_coco
from bcnet_core.annotations.faults import first_fault
from bcnet_core.annotations.instances import find_omissions
from bcnet_core.errors import BCNetError
from bcnet_core.files.json_files import paused_collector
from bcnet_core.importers.clean import judge
from bcnet_core.importers.findings import KINDS, Findings
from bcnet_core.importers.formats import choose_format
from bcnet_core.importers.photos import find_photos
from bcnet_core.reporting import Reporter


@dataclass(frozen=True)
class CheckReport:
    """Result of `check_file`.

    Attributes:
        path: the file or folder.
        photo_folder: the folder of photos that was looked at, if any.
        images: number of image records.
        instances: number of annotations that are meant as instances, wrongly flagged ones included.
        trainable: number of those that a training takes as they stand.
        findings: faults by kind.
    """

    path: Path
    photo_folder: Path | None
    images: int
    instances: int
    trainable: int
    findings: Findings

    @property
    def is_sound(self) -> bool:
        """Whether every instance trains and nothing needs repair."""
        return self.trainable == self.instances and not self.findings.counts(("repaired", "left_out"))

    @property
    def import_command(self) -> str:
        """The command that makes a clean data root of it, outside of the folders that it reads."""
        photos = ["--images", str(self.photo_folder)] if self.photo_folder else []
        output = Path(self.path.absolute().name.removesuffix(".gz").removesuffix(".json") + "_clean")
        here, folders = Path.cwd(), [one.absolute() for one in (self.path, self.photo_folder) if one and one.is_dir()]
        around = [folder for folder in folders if here.is_relative_to(folder)]
        if around:
            output = min(around, key=lambda folder: len(folder.parts)).parent / output
        return shlex.join(["bcnet", "data", "import", str(self.path), *photos, "-o", str(output)])

    def way_out(self, kind: str) -> str:
        """Return what the user can do about a kind of fault."""
        return KINDS[kind].way_out or self.import_command

    def as_json(self) -> dict[str, Any]:
        """Return the report as printed by `--json`."""
        return {
            "images": self.images,
            "instances": self.instances,
            "trainable": self.trainable,
            "findings": [
                {"kind": kind, "count": len(ids), "ids": ids, "way_out": self.way_out(kind)}
                for kind, ids in self.findings
            ],
        }


def check_file(
    path: Path, photo_folder: Path | None = None, *, workers: int = 1, reporter: Reporter | None = None
) -> CheckReport:
    """Read every annotation of a COCO file, and decode every photo if their folder is given.

    Args:
        path: the file; or a file or folder of any other format that can be imported, of which nothing trains as it is.
        photo_folder: folder of its photos.
        workers: maximum number of processes, 0 for one per CPU core.
        reporter: receiver of the progress.

    Raises:
        BCNetError: if the source is in no format that is read, or a worker process dies.
    """
    chosen = choose_format(path)
    with paused_collector():
        source = chosen.read(path, photo_folder)
        photos = None
        if photo_folder is not None:
            photos = find_photos(source.images, photo_folder, workers=workers, reporter=reporter)
        images = len(source.images)
        judged = judge(source, photos, workers=workers, reporter=reporter)
        if source.verbatim:
            content = {"images": source.images, "categories": source.categories}
            trainable = 0 if first_fault(content, check_annotations=False) else judged.trainable
        else:
            trainable = _count_trainable(path, workers=workers)
    cleaned = judged.cleaned
    if chosen.name != "coco" or path.is_dir():
        cleaned.findings.add("format_other", path.name)
    return CheckReport(path, photo_folder, images, cleaned.instances, trainable, cleaned.findings)


def _count_trainable(path: Path, *, workers: int) -> int:
    """Return how many annotations a training takes of a file that had to be translated, as it stands there."""
    try:
        coco = read_coco(path, check_annotations=False)
    except BCNetError:
        return 0
    return find_omissions(coco, workers=workers).count(None)
