"""Whatever a COCO file holds, an import makes a root that trains as it stands, or says in a sentence why it cannot."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from PIL import Image

from bcnet_core.annotations.coco import read_coco
from bcnet_core.errors import ExitCode
from bcnet_core.importers.check import check_file
from bcnet_core.importers.convert import import_source
from bcnet_core.importers.root import annotation_file, photo_folder
from bcnet_core.importers.splits import SPLITS
from tests.fuzz.conftest import as_bytes, bounded, mutated
from tests.fuzz.test_fuzz import COCO, attempt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the two photos."""
    folder = tmp_path_factory.mktemp("imports")
    for number in (1, 2):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


@bounded
@given(document=mutated(COCO))
def test_any_coco_file_is_imported_soundly_or_refused(folder: Path, document: Any) -> None:
    source, root, again = folder / "set.json", folder / "root", folder / "again"
    source.write_bytes(as_bytes(document))
    for output in (root, again):
        shutil.rmtree(output, ignore_errors=True)
    summary, error = attempt(partial(import_source, source, root))
    if error is not None:
        assert error.exit_code == ExitCode.BAD_DATA
        assert len(error.message) < 400
        assert not root.exists()
        return
    assert summary.instances > 0
    counted = 0
    for split in summary.splits:
        report = check_file(annotation_file(root, split), photo_folder(root, split))
        assert report.is_sound, dict(report.findings)
        counted += report.instances
        assert len(read_coco(annotation_file(root, split)).images) == summary.splits[split].images
    assert counted == summary.instances
    import_source(root, again)
    for split in SPLITS:
        first, second = annotation_file(root, split), annotation_file(again, split)
        assert first.exists() == second.exists()
        assert not first.exists() or first.read_bytes() == second.read_bytes()
