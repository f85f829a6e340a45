"""Every command of the table in docs/own-data.md imports what its tool writes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import REPO, Bcnet
from tests.docs.exports import EXPORTS, NAMES

ROW = re.compile(r"^\| ([^|]+) \| [^|]+ \| `bcnet (data import [^`]+)` \|$", re.MULTILINE)
COMMANDS = dict(ROW.findall((REPO / "docs/own-data.md").read_text(encoding="utf-8")))
WITHOUT_CLASSES = {
    "cellpose", "scikit-image, Fiji, napari, QuPath", "PASCAL VOC", "one mask file an object", "COCOA", "SA-1B",
}  # fmt: skip


def test_every_row_has_a_set_that_tests_it() -> None:
    assert COMMANDS.keys() == EXPORTS.keys()


@pytest.mark.parametrize("tool", EXPORTS)
def test_the_command_of_a_tool_imports_what_it_writes(bcnet: Bcnet, tmp_path: Path, tool: str) -> None:
    expected = EXPORTS[tool](tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = bcnet(*shlex.split(COMMANDS[tool]), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "root/import.json").read_text())
    assert record["instances"] == expected
    assert record["left_out"] == {}
    assert [*record["splits"]] == ["train", "val"]
    if tool == "Cityscapes":
        assert {"person", "car"} < set(record["categories"])
    else:
        assert sorted(record["categories"]) == (["object"] if tool in WITHOUT_CLASSES else sorted(NAMES))
    for split in ("train", "val"):
        file = tmp_path / f"root/annotations/instances_{split}2017.json"
        checked = bcnet("data", "check", file, "--images", tmp_path / f"root/{split}2017")
        assert checked.returncode == 0, checked.stdout
    assert {path: path.read_bytes() for path in before} == before
