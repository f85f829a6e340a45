"""Check whether every instance of a data set will train as it stands."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcnet_core.annotations.coco import read_coco
from bcnet_core.annotations.instances import Omission, find_omissions
from bcnet_core.importers.findings import KINDS, Findings
from bcnet_core.reporting import Reporter

_KIND_OF: dict[Omission, str] = {
    "no_object": "record_odd", "unlisted_image": "image_unlisted", "unlisted_category": "category_unlisted",
    "no_mask": "mask_missing", "bad_mask": "mask_unreadable", "empty_mask": "mask_empty", "no_box": "box_missing",
    "no_extent": "box_zero", "no_id": "annotation_ids", "odd_flag": "flag_odd",
}  # fmt: skip


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
        """The command that makes a clean data root of it."""
        name = self.path.name.removesuffix(".gz").removesuffix(".json")
        photos = ["--images", str(self.photo_folder)] if self.photo_folder else []
        return shlex.join(["bcnet", "data", "import", str(self.path), *photos, "-o", f"{name}_clean"])

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
    """Read every annotation of a COCO file.

    Args:
        path: the file.
        photo_folder: folder of its photos.
        workers: maximum number of processes, 0 for one per CPU core.
        reporter: receiver of the progress.

    Raises:
        BCNetError: if the file is not COCO, or a worker process dies.
    """
    coco = read_coco(path)
    reasons = find_omissions(coco, workers=workers, reporter=reporter)
    findings, crowds = Findings(), reasons.count("crowd")
    for annotation, reason in zip(coco.annotations, reasons, strict=True):
        if reason in _KIND_OF:
            findings.add(_KIND_OF[reason], annotation["id"])
    instances = len(reasons) - crowds
    return CheckReport(path, photo_folder, len(coco.images), instances, reasons.count(None), findings)
