"""A format is a module and a line: what is read needs ids, masks and names of photos, and all else follows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bcnet_core import BCNetError
from bcnet_core.importers import formats
from bcnet_core.importers.convert import import_source
from bcnet_core.importers.source import Format, Source
from tests.importers.pictures import make_picture


def read_list(path: Path, _: Path | None) -> Source:
    """Read a made-up format: a photo, a class and an outline a line."""
    source = Source([], [], [{"id": 1, "name": "leaf"}])
    for line in (path / "outlines.list").read_text().splitlines():
        name, _, *outline = line.split(",")
        source.images.append({"id": name, "file_name": name})
        source.annotations.append({"image_id": name, "category_id": 1, "segmentation": [[*map(float, outline)]]})
    return source


LIST = Format("list", "a list of outlines", lambda path: (path / "outlines.list").is_file(), read_list)


def write(folder: Path) -> Path:
    """Write three photos and their list."""
    for number in range(3):
        make_picture(folder / f"{number}.png", number)
    (folder / "outlines.list").write_text("".join(f"{number}.png,leaf,2,2,30,2,30,20,2,20\n" for number in range(3)))
    return folder


def test_a_new_reader_leaves_ids_sizes_boxes_and_areas_to_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, LIST))
    summary = import_source(write(tmp_path / "set"), tmp_path / "root", val=0)
    assert (summary.format_name, summary.images, summary.instances) == ("list", 3, 3)
    content = json.loads((tmp_path / "root/annotations/instances_train2017.json").read_text())
    assert [(image["id"], image["width"], image["height"]) for image in content["images"]] == [
        (number, 64, 48) for number in (1, 2, 3)
    ]
    for annotation in content["annotations"]:
        assert annotation["bbox"] == [2, 2, 28, 18]
        assert (annotation["area"], annotation["iscrowd"]) == (28 * 18, 0)


def test_a_format_is_chosen_by_its_name_or_by_what_it_recognizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "set")
    with pytest.raises(BCNetError, match="none of the formats") as caught:
        formats.choose_format(source)
    assert len(caught.value.hints) == len(formats.FORMATS)
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, LIST))
    assert formats.choose_format(source) is LIST
    assert formats.choose_format(source, "coco").name == "coco"
    with pytest.raises(BCNetError, match="no format is called `lists`") as caught:
        formats.choose_format(source, "lists")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["export.zip", "export.tar.gz", "labels.7z"])
def test_an_archive_is_to_be_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"packed")
    with pytest.raises(BCNetError, match="is an archive"):
        formats.choose_format(tmp_path / name)
