"""A data root holds what was cleaned, under names that its photos have, and replaces nothing that is not its own."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from bcnet_core import BCNetError
from bcnet_core.importers.findings import Findings
from bcnet_core.importers.root import GENERATOR, RECORD, check_root, write_root
from bcnet_core.importers.source import PHOTO, SPLIT, Cleaned, Photo


def make_set(folder: Path, names: dict[str, str]) -> Cleaned:
    """Return a set with one image and one instance a photo; `names` has the `file_name` of each by its photo's path."""
    photos = []
    for number, path in enumerate(names):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f"photo {number}")
        photos.append(Photo(folder / path, (4, 4), (4, 4)))
    images = [
        {"id": number, "file_name": name, "width": 4, "height": 4, "by": "me", PHOTO: photo.path, SPLIT: "val"}
        for number, (name, photo) in enumerate(zip(names.values(), photos, strict=True))
    ]
    annotations = [{"id": 10 + number, "image_id": number, "x": [0.1]} for number in range(len(images))]
    return Cleaned(images, annotations, [{"id": 1, "name": "leaf"}], photos, Findings(), len(images))


def names_written(tmp_path: Path, names: dict[str, str]) -> list[str]:
    """Return the names that photos get in a training set; each leads to its own photo."""
    cleaned, root = make_set(tmp_path / "photos", names), tmp_path / "root"
    root.mkdir()
    write_root(root, cleaned, {}, ["train"] * len(names))
    images = json.loads((root / "annotations/instances_train2017.json").read_text())["images"]
    for number, image in enumerate(images):
        assert (root / "train2017" / image["file_name"]).read_text() == f"photo {number}"
    return [image["file_name"] for image in images]


def test_both_splits_are_written_with_all_keys_and_the_same_categories(tmp_path: Path) -> None:
    cleaned, root = make_set(tmp_path, {"a.png": "a.png", "b.png": "b.png", "c.png": "c.png"}), tmp_path / "root"
    root.mkdir()
    write_root(root, cleaned, {"info": {"year": 1}, "licenses": []}, ["train", "val", "train"])
    for split, ids in {"train": [0, 2], "val": [1]}.items():
        content = json.loads((root / f"annotations/instances_{split}2017.json").read_text())
        assert content == {
            "info": {"year": 1},
            "licenses": [],
            "images": [
                {"id": number, "file_name": f"{'abc'[number]}.png", "width": 4, "height": 4, "by": "me"}
                for number in ids
            ],
            "annotations": [cleaned.annotations[number] for number in ids],
            "categories": cleaned.categories,
        }
    assert sorted(path.name for path in root.iterdir()) == ["annotations", "train2017", "val2017"]


def test_photos_are_absolute_links_to_the_files_themselves_or_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real.png").write_text("photo")
    (tmp_path / "link.png").symlink_to("real.png")
    cleaned = make_set(tmp_path, {"x.png": "x.png"})._replace(photos=[Photo(Path("link.png"), (4, 4), (4, 4))])
    for name, copy in {"links": False, "copies": True}.items():
        (tmp_path / name).mkdir()
        write_root(Path(name), cleaned, {}, ["train"], copy=copy)
    link, copied = (tmp_path / name / "train2017/link.png" for name in ("links", "copies"))
    assert link.readlink() == (tmp_path / "real.png").resolve()
    assert not copied.is_symlink()
    assert copied.read_text() == "photo"


@pytest.mark.parametrize(
    ("wanted", "written"),
    [
        ({"a.png": "a.png", "cam1/a.png": "cam1/a.png"}, ["a.png", "cam1/a.png"]),
        ({"cam1/a.png": "..\\cam1\\a.png", "cam2/a.png": "/d/?d=cam2/a.png"}, ["a.png", "cam2/a.png"]),
        ({"cam1/a.png": "C:a", "cam2/a.png": "a.png"}, ["cam1/a.png", "a.png"]),
        ({"a.png": "./a.png", "b/a.png": "../b/a.png"}, ["a.png", "b/a.png"]),
        ({"A.png": "A.png", "x/a.png": "a.png"}, ["A.png", "x/a.png"]),
        ({"d/b.png": "d/b.png", "a/d": "d"}, ["d/b.png", "a/d"]),
        ({"a/d": "d", "d/b.png": "d/b.png"}, ["d", "b.png"]),
        ({"a.png": ""}, ["a.png"]),
    ],
)  # fmt: skip
def test_a_photo_keeps_its_name_or_gets_the_shortest_ending_of_its_path(
    tmp_path: Path, wanted: dict[str, str], written: list[str]
) -> None:
    assert names_written(tmp_path, wanted) == written


def test_one_photo_of_several_images_gets_several_names(tmp_path: Path) -> None:
    cleaned, root = make_set(tmp_path, {"a.png": "a.png"}), tmp_path / "root"
    root.mkdir()
    images = [{**cleaned.images[0], "id": number} for number in range(40)]
    write_root(root, cleaned._replace(images=images, annotations=[], photos=cleaned.photos * 40), {}, ["train"] * 40)
    assert len({*(root / "train2017").rglob("*.png")}) == 40


def test_a_file_system_without_links_is_told_of_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    (tmp_path / "root").mkdir()
    with pytest.raises(BCNetError, match="there can be no links") as caught:
        write_root(tmp_path / "root", make_set(tmp_path, {"a.png": "a.png"}), {}, ["train"])
    assert "--copy" in str(caught.value.hints)


@pytest.mark.parametrize("added", ["notes.txt", "annotations/bilayer.json", "annotations"])
def test_only_an_import_without_other_files_is_replaced(tmp_path: Path, added: str) -> None:
    root, source = tmp_path / "root", tmp_path / "source"
    source.mkdir()
    (root / "annotations").mkdir(parents=True)
    with pytest.raises(BCNetError, match="holds something other"):
        check_root(root, source, overwrite=True)
    (root / RECORD).write_text(json.dumps({"generator": GENERATOR}))
    check_root(root, source, overwrite=True)
    with pytest.raises(BCNetError, match="exists already"):
        check_root(root, source, overwrite=False)
    if added != "annotations":
        (root / added).write_text("mine")
    else:
        (root / RECORD).write_text("[1]")
    with pytest.raises(BCNetError, match="holds something other"):
        check_root(root, source, overwrite=True)


def test_a_root_is_apart_from_its_source(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for root, match in {
        source / "root": "lies in the input",
        source: "holds the input",
        tmp_path: "holds the input",
    }.items():
        with pytest.raises(BCNetError, match=match):
            check_root(root, source, overwrite=True)
    with pytest.raises(BCNetError, match="cannot be created"):
        check_root(Path(), source, overwrite=True)
    check_root(tmp_path / "new", source, overwrite=False)
