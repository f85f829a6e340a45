"""An import keeps what is sound as it is, leaves nothing half-written, and says what it could not take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bcnet_core import BCNetError
from bcnet_core.importers.convert import default_folder, import_source
from bcnet_core.importers.root import RECORD
from bcnet_core.reporting import SilentReporter
from tests.importers.pictures import make_coco

Content = dict[str, Any]


def read(root: Path, split: str) -> Content:
    """Return the COCO file of a split."""
    content: Content = json.loads((root / f"annotations/instances_{split}2017.json").read_text())
    return content


def everything(folder: Path) -> dict[str, bytes | str]:
    """Return the content of every file below a folder, and where every link leads."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def write(folder: Path, content: Content, name: str = "all.json") -> Path:
    """Write a COCO file into a folder."""
    (folder / name).write_text(json.dumps(content))
    return folder / name


def test_a_clean_file_keeps_everything_but_the_place_of_its_photos(tmp_path: Path) -> None:
    content = make_coco(tmp_path / "photos", 10)
    content |= {"info": {"year": 2026, "made_by": "me"}, "licenses": [{"id": 1}], "our_key": [None, {"x": 1.5}]}
    for key in ("images", "annotations", "categories"):
        for number, record in enumerate(content[key]):
            record["our_key"] = {"number": number}
    source = write(tmp_path, content)
    before = everything(tmp_path / "photos") | {"json": source.read_bytes()}
    summary = import_source(source, tmp_path / "root", images=tmp_path / "photos", val=0.3)
    parts = [read(tmp_path / "root", split) for split in ("train", "val")]
    assert [len(part["images"]) for part in parts] == [7, 3]
    for key in ("images", "annotations"):
        joined = sorted((record for part in parts for record in part[key]), key=lambda record: record["id"])
        assert joined == content[key]
    assert all(
        {**part, "images": [], "annotations": []} == {**content, "images": [], "annotations": []} for part in parts
    )
    assert not summary.findings
    assert json.loads((tmp_path / "root" / RECORD).read_text()) == summary.as_json()
    assert everything(tmp_path / "photos") | {"json": source.read_bytes()} == before


@pytest.mark.parametrize("val", [None, 0.4, 0])
def test_importing_twice_equals_once(tmp_path: Path, val: float | None) -> None:
    content = make_coco(tmp_path / "photos", 9)
    for image in content["images"]:
        image["file_name"] = "C:\\Users\\me\\" + image["file_name"]
    content["annotations"][2]["segmentation"] = []
    first = import_source(write(tmp_path, content), tmp_path / "1", images=tmp_path / "photos", val=val)
    assert first.as_json()["repaired"] == {"photo_name": 9}
    assert sum(first.as_json()["left_out"].values()) == 1
    second = import_source(tmp_path / "1", tmp_path / "2", val=val)
    once, twice = everything(tmp_path / "1"), everything(tmp_path / "2")
    assert {**twice, RECORD: b""} == {**once, RECORD: b""}
    assert not second.findings
    assert (second.images, second.instances, second.splits) == (first.images, first.instances, first.splits)


def test_photos_that_are_nowhere_are_one_error_that_says_what_to_do(tmp_path: Path) -> None:
    content = make_coco(tmp_path / "photos", 3)
    (tmp_path / "other").mkdir()
    (tmp_path / "json").mkdir()
    source = write(tmp_path / "json", content)
    with pytest.raises(BCNetError, match="none of the 3 photos") as caught:
        import_source(source, tmp_path / "root")
    assert caught.value.exit_code == 3
    assert "--images DIR" in caught.value.hints[0]
    with pytest.raises(BCNetError, match="other` has none of the 3 photos") as caught:
        import_source(source, tmp_path / "root", images=tmp_path / "other")
    assert "--images" not in caught.value.hints[0]
    assert not (tmp_path / "root").exists()


def test_a_set_without_an_instance_is_refused_with_the_reasons(tmp_path: Path) -> None:
    content = make_coco(tmp_path / "photos", 3)
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    with pytest.raises(BCNetError, match="none of the 6 instances") as caught:
        import_source(write(tmp_path, content), tmp_path / "root")
    assert caught.value.exit_code == 3
    assert caught.value.hints[0].startswith("6 instances")
    assert not (tmp_path / "root").exists()


def test_a_validation_set_is_there_unless_nobody_wants_it_or_there_is_one_photo(tmp_path: Path) -> None:
    source = write(tmp_path, make_coco(tmp_path / "photos", 3))
    assert [*import_source(source, tmp_path / "none", val=0).splits] == ["train"]
    assert sorted(path.name for path in (tmp_path / "none/annotations").iterdir()) == ["instances_train2017.json"]
    assert not (tmp_path / "none/val2017").exists()
    (tmp_path / "alone").mkdir()
    told = Told()
    alone = write(tmp_path / "alone", make_coco(tmp_path / "alone", 1))
    assert [*import_source(alone, tmp_path / "one", reporter=told).splits] == ["train"]
    assert "no validation set: there is one photo only" in told.warnings[0]


def test_classes_that_differ_in_case_only_are_told(tmp_path: Path) -> None:
    content = make_coco(tmp_path / "photos", 3)
    content["categories"] += [{"id": 7, "name": "Stem  cell"}, {"id": 8, "name": "stem cell"}]
    for annotation in content["annotations"][:2]:
        annotation["category_id"] = 7 if annotation is content["annotations"][0] else 8
    told = Told()
    import_source(write(tmp_path, content), tmp_path / "root", reporter=told, val=0)
    assert told.warnings == ["2 categories differ in case or spaces only: Stem  cell, stem cell; are they one?"]


def test_a_class_that_would_never_be_trained_is_told(tmp_path: Path) -> None:
    content = make_coco(tmp_path / "photos", 5)
    told = Told()
    import_source(write(tmp_path, content), tmp_path / "plain", reporter=told)
    assert told.warnings == []
    held_out = read(tmp_path / "plain", "val")["images"][0]["id"]
    content["categories"].append({"id": 7, "name": "stem"})
    next(one for one in content["annotations"] if one["image_id"] == held_out)["category_id"] = 7
    import_source(write(tmp_path, content), tmp_path / "root", reporter=told)
    assert "1 categories: stem" in told.warnings[0]


def test_copies_are_no_links(tmp_path: Path) -> None:
    import_source(write(tmp_path, make_coco(tmp_path / "photos", 2)), tmp_path / "root", copy=True)
    photos = [path for path in (tmp_path / "root").rglob("*.png") if not path.is_symlink()]
    assert sorted(path.read_bytes() for path in photos) == sorted(
        p.read_bytes() for p in (tmp_path / "photos").iterdir()
    )


def test_a_dry_run_finds_the_same_and_writes_nothing(tmp_path: Path) -> None:
    source = write(tmp_path, make_coco(tmp_path / "photos", 4))
    dry = import_source(source, tmp_path / "root", dry_run=True)
    assert not (tmp_path / "root").exists()
    assert import_source(source, tmp_path / "root").as_json() == dry.as_json()


def test_an_import_replaces_an_import_if_asked(tmp_path: Path) -> None:
    first, root = write(tmp_path, make_coco(tmp_path / "photos", 4)), tmp_path / "root"
    import_source(first, root)
    (tmp_path / "new").mkdir()
    second = write(tmp_path / "new", make_coco(tmp_path / "new", 2, seed=9))
    with pytest.raises(BCNetError, match="exists already"):
        import_source(second, root)
    import_source(second, root, overwrite=True)
    assert sum(len(read(root, split)["images"]) for split in ("train", "val")) == 2


def test_photos_that_would_be_removed_with_an_older_import_are_not_linked(tmp_path: Path) -> None:
    content = make_coco(tmp_path / "photos", 3)
    source, root = write(tmp_path, content), tmp_path / "earlier"
    import_source(source, root, copy=True)
    import_source(source, root, images=tmp_path / "photos", overwrite=True)
    import_source(source, root, images=tmp_path / "photos", copy=True, overwrite=True)
    before = everything(root)
    with pytest.raises(BCNetError, match="would be removed with the old"):
        import_source(source, root, overwrite=True)
    assert everything(root) == before


def test_photos_are_looked_for_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "set/annotations").mkdir(parents=True)
    (tmp_path / "set/train2017").mkdir()
    assert default_folder(tmp_path / "set") == tmp_path / "set"
    assert default_folder(tmp_path / "set/all.json") == tmp_path / "set"
    assert default_folder(tmp_path / "set/annotations/instances_train2017.json") == tmp_path / "set/train2017"
    assert default_folder(tmp_path / "set/annotations/all.json") == tmp_path / "set"


class Told:
    """A reporter that keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        silent = SilentReporter()
        self.info, self.progress = silent.info, silent.progress

    def warning(self, message: str) -> None:
        """Keep a warning."""
        self.warnings.append(message)
