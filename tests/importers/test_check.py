"""A check counts what a training takes of a file as it stands, and names the command that makes the rest usable."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from bcnet_core.annotations.coco import read_coco
from bcnet_core.annotations.instances import find_omissions
from bcnet_core.errors import BCNetError
from bcnet_core.importers.check import check_file
from bcnet_core.importers.convert import import_source
from tests.importers.pictures import make_coco

Content = dict[str, Any]


def write(folder: Path, content: Any) -> Path:
    """Write a file beside the folder of photos."""
    (folder / "set.json").write_text(json.dumps(content))
    return folder / "set.json"


def test_a_sound_file_is_sound_with_and_without_its_photos(tmp_path: Path) -> None:
    source = write(tmp_path, make_coco(tmp_path / "photos", 3))
    for photos in (None, tmp_path / "photos"):
        report = check_file(source, photos)
        assert (report.is_sound, report.images, report.instances, report.trainable) == (True, 3, 6, 6)
        assert report.as_json()["findings"] == []


def faulty(content: Content) -> Content:
    """Give a set several faults, of which some are repaired by an import."""
    first, second, third, *_ = content["annotations"]
    first["segmentation"] = []
    second["bbox"] = [0, 0, 0, 0]
    third["segmentation"] = third["segmentation"][0]
    return content


def test_training_takes_as_many_as_the_check_says(tmp_path: Path) -> None:
    source = write(tmp_path, faulty(make_coco(tmp_path / "photos", 4)))
    report = check_file(source)
    assert report.trainable == find_omissions(read_coco(source, check_annotations=False)).count(None) == 5
    assert (report.is_sound, report.instances) == (False, 8)
    assert dict(report.findings) == {
        "mask_missing": [1], "box_zero": [2], "polygon_flat": [3],
    }  # fmt: skip


@pytest.mark.parametrize(
    "refuse",
    [
        lambda content: content["images"][0].update(id="1"),
        lambda content: content["images"][0].pop("width"),
        lambda content: content["images"][0].update(id=2),
        lambda content: content["images"][0].update(coco_url=content["images"][0].pop("file_name")),
        lambda content: content["images"].append(None),
        lambda content: content["categories"][0].pop("name"),
        lambda content: content["categories"][0].update(id=1.0),
        lambda content: content.update(annotations={str(one["id"]): one for one in content["annotations"]}),
    ],
)
def test_nothing_trains_of_a_file_that_training_refuses(tmp_path: Path, refuse: Any) -> None:
    content = make_coco(tmp_path / "photos", 3)
    refuse(content)
    source = write(tmp_path, content)
    with pytest.raises(BCNetError):
        read_coco(source, check_annotations=False)
    report = check_file(source)
    assert (report.is_sound, report.instances, report.trainable) == (False, 6, 0)


def test_whole_masks_under_the_key_of_visible_ones_are_told_though_they_train(tmp_path: Path) -> None:
    content = make_coco(tmp_path / "photos", 2)
    for annotation in content["annotations"]:
        annotation["inmodal_seg"] = annotation["segmentation"]
    report = check_file(write(tmp_path, content))
    assert (report.is_sound, report.instances, report.trainable) == (False, 4, 4)
    assert {kind: len(ids) for kind, ids in report.findings} == {"amodal_in_segmentation": 4}


def test_damaged_photos_take_their_instances_with_them(tmp_path: Path) -> None:
    source = write(tmp_path, make_coco(tmp_path / "photos", 3))
    (tmp_path / "photos/01.png").write_text("no photo")
    (tmp_path / "photos/02.png").unlink()
    report = check_file(source, tmp_path / "photos")
    assert (report.instances, report.trainable) == (6, 2)
    assert dict(report.findings)["photo_damaged"] == ["01.png"]
    assert dict(report.findings)["photo_missing"] == ["02.png"]


def test_other_formats_are_read_and_nothing_of_them_trains_as_it_stands(tmp_path: Path) -> None:
    make_coco(tmp_path / "set", 1)
    shape = {"label": "leaf", "shape_type": "polygon", "points": [[1, 1], [20, 1], [20, 20]]}
    record = {"shapes": [shape], "imagePath": "00.png", "imageHeight": 48, "imageWidth": 64, "imageData": None}
    (tmp_path / "set/00.json").write_text(json.dumps(record))
    report = check_file(tmp_path / "set")
    assert (report.is_sound, report.instances, report.trainable) == (False, 1, 0)
    assert dict(report.findings) == {"format_other": ["set"]}


def test_the_suggested_import_runs_and_its_result_is_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my set").mkdir()
    source = write(tmp_path / "my set", faulty(make_coco(tmp_path / "my set", 5)))
    for here, path, photos in (
        (tmp_path, source, None),
        (tmp_path, source.relative_to(tmp_path), tmp_path / "my set"),
        (tmp_path / "my set", Path("set.json"), Path()),
        (tmp_path / "my set", Path(), None),
    ):
        monkeypatch.chdir(here)
        words = shlex.split(check_file(path, photos).import_command)
        assert words[:4] == ["bcnet", "data", "import", str(path)]
        assert words[4:-2] == ([] if photos is None else ["--images", str(photos)])
        root = Path(words[-1])
        assert import_source(path, root, images=photos, overwrite=True).instances == 9
        for split in ("train", "val"):
            file = root / f"annotations/instances_{split}2017.json"
            assert check_file(file, root / f"{split}2017").is_sound
