"""labelme's files are read as labelme and its descendants write them; what has no area is left out by name."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.importers.source import SPLIT
from tests.importers.readers import HEIGHT, WIDTH, found, instances, photos, read, save, write


def shape(label: Any, points: Any, kind: Any = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def box(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def labelme(path: Path, *shapes: Any, photo: str | None = None, size: tuple[int, int] | None = (HEIGHT, WIDTH)) -> Path:
    """Write the file of one photo, which lies beside it."""
    height, width = size or (None, None)
    content = {"version": "5.4.1", "flags": {}, "shapes": [*shapes], "imagePath": photo or f"{path.stem}.jpg"}
    return write(path, {**content, "imageData": None, "imageHeight": height, "imageWidth": width})


def encoded(pixels: NDArray[np.bool_]) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def read_shapes(tmp_path: Path, *shapes: Any, **more: Any) -> Any:
    save(tmp_path / "0.jpg")
    labelme(tmp_path / "0.json", *shapes, **more)
    return read(tmp_path)


class TestShapes:
    def test_polygons_are_kept_to_the_fraction_of_a_pixel(self, tmp_path: Path) -> None:
        source = read_shapes(tmp_path, shape("leaf", [[1.25, 2], [9, 2.5], [5, 9.125]]))
        assert source.annotations[0]["segmentation"] == [[1.25, 2, 9, 2.5, 5, 9.125]]

    @pytest.mark.parametrize(
        "drawn",
        [
            shape("leaf", [[10, 7], [2, 3]], "rectangle"),
            shape("leaf", box(2, 3, 10, 7), "rectangle", score=None, difficult=False, attributes={}),
            shape("leaf", box(2, 3, 10, 7), "rotation", direction=0.0),
            shape("leaf", box(2, 3, 10, 7), "oriented_rectangle"),
            shape("leaf", box(2, 3, 10, 7), "quadrilateral"),
            shape("leaf", box(2, 3, 10, 7), None),
        ],
        ids=["two corners", "four corners", "rotation", "oriented", "quadrilateral", "no type"],
    )
    def test_rectangles_of_every_tool_are_instances(self, tmp_path: Path, drawn: Any) -> None:
        assert instances(read_shapes(tmp_path, drawn)) == {"0.jpg": [("leaf", 32, [2, 3, 8, 4])]}

    def test_a_circle_has_the_area_of_one(self, tmp_path: Path) -> None:
        source = read_shapes(tmp_path, shape("leaf", [[400, 300], [400, 500]], "circle"), size=(600, 800))
        ((_, area, extent),) = instances(source)["0.jpg"]
        assert area == pytest.approx(math.pi * 200**2, rel=0.002)
        assert extent == pytest.approx([200, 100, 400, 400], abs=1)

    def test_masks_lie_at_their_first_corner_and_are_cut_at_the_edge_of_the_image(self, tmp_path: Path) -> None:
        ring = np.ones((4, 5), bool)
        ring[1:3, 1:4] = False
        source = read_shapes(
            tmp_path,
            shape("leaf", [[3, 2], [7, 5]], "mask", mask=encoded(ring)),
            shape("fruit", [[-2.0, 10.0], [2.0, 13.0]], "mask", mask=encoded(np.ones((4, 5), bool))),
        )
        assert instances(source) == {"0.jpg": [("leaf", 14, [3, 2, 5, 4]), ("fruit", 6, [0, 10, 3, 2])]}

    def test_shapes_of_one_label_and_group_are_one_instance(self, tmp_path: Path) -> None:
        source = read_shapes(
            tmp_path,
            shape("leaf", box(0, 0, 4, 4), group_id=1),
            shape("leaf", box(8, 0, 12, 4), group_id=1),
            shape("fruit", box(0, 6, 4, 10), group_id=1),
            shape("leaf", box(8, 6, 12, 10), group_id=2),
            shape("leaf", [[13, 6], [14, 9]], "mask", mask=encoded(np.ones((4, 2), bool)), group_id=2),
        )
        rows = instances(source)["0.jpg"]
        assert rows == [("leaf", 32, [0, 0, 12, 4]), ("fruit", 16, [0, 6, 4, 4]), ("leaf", 24, [8, 6, 7, 4])]

    @pytest.mark.parametrize(
        ("drawn", "kind"),
        [
            (shape("leaf", [[3, 3], [9, 9]]), "shape_short"),
            (shape("leaf", [[3, 3]], "rectangle"), "shape_short"),
            (shape("leaf", [[3, 3], [9, 9], [3, 9]], "rotation"), "shape_short"),
            (shape("leaf", [[3, 3]], "circle"), "shape_short"),
            (shape("leaf", [[3, 3], [3, 3]], "circle"), "shape_without_area"),
            (shape("leaf", [[3, 3]], "point"), "shape_without_area"),
            (shape("leaf", [[3, 3], [9, 3], [9, 9]], "linestrip"), "shape_without_area"),
            (shape("leaf", box(3, 3, 9, 9) * 2, "cuboid"), "shape_unknown"),
            (shape("leaf", [[3, "x"], [9, 3], [9, 9]]), "shape_unreadable"),
            (shape("leaf", [[3, math.inf], [9, 3], [9, 9]]), "shape_unreadable"),
            (shape("leaf", None), "shape_unreadable"),
            (shape("leaf", [[3, 3], [6, 6]], "mask", mask="no image"), "shape_unreadable"),
            (shape("leaf", [[3, 3], [6, 6]], "mask"), "shape_unreadable"),
            (shape("leaf", [[3, 3], [6, 6]], "mask", mask=encoded(np.ones((8, 8), bool))), "shape_unreadable"),
            ("a shape", "shape_unreadable"),
            (shape("leaf", box(3, 3, 9, 9), ["polygon"]), "shape_unreadable"),
            (shape("leaf", [[1e300, 0], [1e300, 1]], "mask", mask=encoded(np.ones((2, 1), bool))), "shape_unreadable"),
            (shape(None, box(3, 3, 9, 9)), "label_missing"),
            (shape(" ", box(3, 3, 9, 9)), "label_missing"),
            (shape("__ignore__", box(3, 3, 9, 9)), "label_ignored"),
        ],
    )
    def test_what_is_no_mask_is_left_out_by_name_and_the_rest_is_kept(
        self, tmp_path: Path, drawn: Any, kind: str
    ) -> None:
        source = read_shapes(tmp_path, shape("leaf", box(0, 0, 4, 4)), drawn)
        assert instances(source) == {"0.jpg": [("leaf", 16, [0, 0, 4, 4])]}
        assert found(source) == {kind: ["0.json: shape 2"]}

    def test_classes_are_the_labels_sorted(self, tmp_path: Path) -> None:
        source = read_shapes(tmp_path, shape("stem", box(0, 0, 4, 4)), shape(7, box(0, 0, 4, 4)))
        assert [category["name"] for category in source.categories] == ["7", "stem"]

    def test_a_photo_without_objects_stays(self, tmp_path: Path) -> None:
        assert instances(read_shapes(tmp_path)) == {"0.jpg": []}


class TestPhotos:
    def test_paths_of_windows_and_of_a_folder_beside_lead_to_the_photo(self, tmp_path: Path) -> None:
        photo = save(tmp_path / "images" / "0.jpg")
        labelme(tmp_path / "labels" / "0.json", photo="..\\images\\0.jpg")
        assert photos(read(tmp_path)) == {"images/0.jpg": photo}

    def test_files_of_one_name_in_two_folders_belong_to_their_own_photos(self, tmp_path: Path) -> None:
        for camera in ("left", "right"):
            save(tmp_path / camera / "0.jpg")
            labelme(tmp_path / camera / "0.json", shape(camera, box(0, 0, 4, 4)))
        rows = {name: row[0] for name, (row,) in instances(read(tmp_path)).items()}
        assert rows == {"left/0.jpg": "left", "right/0.jpg": "right"}

    def test_a_renamed_copy_belongs_to_the_photo_of_its_name_though_it_names_the_old_one(self, tmp_path: Path) -> None:
        for name in ("0", "turned_0"):
            save(tmp_path / f"{name}.jpg")
            labelme(tmp_path / f"{name}.json", shape(name, box(0, 0, 4, 4)), photo="0.jpg")
        rows = {name: row[0] for name, (row,) in instances(read(tmp_path)).items()}
        assert rows == {"0.jpg": "0", "turned_0.jpg": "turned_0"}

    def test_a_file_of_another_name_belongs_to_the_photo_that_it_names(self, tmp_path: Path) -> None:
        save(tmp_path / "leaf.jpg")
        labelme(tmp_path / "checked.json", photo="leaf.jpg")
        assert [*photos(read(tmp_path))] == ["leaf.jpg"]

    def test_photos_may_lie_in_a_folder_that_is_given(self, tmp_path: Path) -> None:
        photo = save(tmp_path / "photos" / "0.png")
        labelme(tmp_path / "labels" / "0.json")
        assert photos(read(tmp_path / "labels", tmp_path / "photos")) == {"0.png": photo}

    def test_a_photo_outside_the_folder_is_not_taken(self, tmp_path: Path) -> None:
        save(tmp_path / "private.jpg")
        labelme(tmp_path / "set" / "0.json", photo="../private.jpg")
        assert photos(read(tmp_path / "set")) == {"../private.jpg": None}

    def test_a_photo_that_is_only_inside_of_the_file_is_named(self, tmp_path: Path) -> None:
        path = labelme(tmp_path / "0.json", shape("leaf", box(0, 0, 4, 4)))
        write(path, path.read_text().replace('"imageData": null', '"imageData": "/9j/4AAQ"'))
        source = read(tmp_path)
        assert found(source) == {"photo_embedded": ["0.json"]}
        assert photos(source) == {"0.jpg": None}

    def test_photos_without_a_file_are_left_out_by_name(self, tmp_path: Path) -> None:
        save(tmp_path / "1.jpg")
        source = read_shapes(tmp_path, shape("leaf", box(0, 0, 4, 4)))
        assert [*photos(source)] == ["0.jpg"]
        assert found(source) == {"photo_unlabeled": ["1.jpg"]}

    def test_a_size_that_is_missing_is_that_of_the_photo(self, tmp_path: Path) -> None:
        source = read_shapes(
            tmp_path, shape("leaf", [[0, 0], [3, 3]], "mask", mask=encoded(np.ones((4, 4), bool))), size=None
        )
        assert instances(source) == {"0.jpg": [("leaf", 16, [0, 0, 4, 4])]}

    def test_folders_named_train_and_val_are_the_splits(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            save(tmp_path / split / f"{split}.jpg")
            labelme(tmp_path / split / f"{split}.json")
        assert [image[SPLIT] for image in read(tmp_path).images] == ["train", "val"]

    def test_one_file_may_be_given(self, tmp_path: Path) -> None:
        save(tmp_path / "1.jpg")
        read_shapes(tmp_path)
        source = read(tmp_path / "0.json")
        assert [*photos(source)] == ["0.jpg"]
        assert found(source) == {}


class TestFiles:
    def test_damaged_and_other_json_files_are_left_out_by_name(self, tmp_path: Path) -> None:
        write(tmp_path / "damaged.json", '{"shapes": [')
        write(tmp_path / "settings.json", {"theme": "dark"})
        source = read_shapes(tmp_path, shape("leaf", box(0, 0, 4, 4)))
        assert len(source.annotations) == 1
        assert found(source) == {"label_file_damaged": ["damaged.json"], "label_file_foreign": ["settings.json"]}

    def test_a_folder_without_a_file_of_labelme_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BCNetError, match="holds no json file of labelme") as caught:
            read(tmp_path, name="labelme")
        assert caught.value.exit_code == ExitCode.BAD_DATA

    def test_a_folder_of_damaged_files_is_refused_with_the_place_of_the_damage(self, tmp_path: Path) -> None:
        write(tmp_path / "0.json", "{")
        with pytest.raises(BCNetError, match=r"0\.json` is not json: .* in line 1"):
            read(tmp_path, name="labelme")
