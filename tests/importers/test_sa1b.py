"""SA-1B's folders are read: one json a photo, masks without a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bcnet_core import masks
from bcnet_core.errors import BCNetError
from tests.importers.readers import HEIGHT, WIDTH, found, instances, photos, read, rectangle, save, write


def sa1b(path: Path, *boxes: tuple[int, int, int, int], photo: str | None = None) -> Path:
    rows: list[Any] = []
    for number, corners in enumerate(boxes, start=7000):
        rle = masks.encode(rectangle(*corners))
        own = {"bbox": masks.bounding_box(rle).tolist(), "area": masks.area(rle), "predicted_iou": 0.9}
        rows.append({"id": number, "segmentation": masks.to_json(rle), **own})
    image = {"image_id": 5, "width": WIDTH, "height": HEIGHT, "file_name": photo or f"{path.stem}.jpg"}
    return write(path, {"image": image, "annotations": rows})


def test_every_mask_is_an_object_and_ids_that_repeat_stay_apart(tmp_path: Path) -> None:
    for name in ("sa_1", "sa_2"):
        save(tmp_path / f"{name}.jpg")
        sa1b(tmp_path / f"{name}.json", (0, 0, 4, 4), (5, 5, 8, 7))
    source = read(tmp_path)
    rows = [("object", 16, [0, 0, 4, 4]), ("object", 6, [5, 5, 3, 2])]
    assert instances(source) == {"sa_1.jpg": rows, "sa_2.jpg": rows}
    assert [one["id"] for one in source.annotations] == [1, 2, 3, 4]
    assert source.annotations[0]["predicted_iou"] == 0.9
    assert found(source) == {}


def test_photos_may_lie_in_another_folder(tmp_path: Path) -> None:
    photo = save(tmp_path / "photos" / "sa_1.jpg")
    sa1b(tmp_path / "json" / "sa_1.json", (0, 0, 4, 4))
    assert photos(read(tmp_path / "json", tmp_path / "photos")) == {"sa_1.jpg": photo}


def test_an_entry_that_is_no_object_becomes_an_instance_without_a_mask(tmp_path: Path) -> None:
    save(tmp_path / "sa_1.jpg")
    path = sa1b(tmp_path / "sa_1.json", (0, 0, 4, 4))
    write(path, path.read_text().replace('"annotations": [', '"annotations": [null, '))
    assert [one.get("segmentation") is not None for one in read(tmp_path).annotations] == [False, True]


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "0.json", {"images": [], "annotations": []})
    with pytest.raises(BCNetError, match="holds no json file of SA-1B"):
        read(tmp_path, name="sa1b")
