"""VIA's projects and exports are read as the balloon data set and today's VIA have them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.importers.source import SPLIT
from tests.importers.readers import found, instances, photos, read, save, write


def polygon(x0: float, y0: float, x1: float, y1: float) -> dict[str, Any]:
    return {"name": "polygon", "all_points_x": [x0, x1, x1, x0], "all_points_y": [y0, y0, y1, y1]}


def region(shape: Any, attributes: Any = None) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": {"class": "leaf"} if attributes is None else attributes}


def entries(**regions: Any) -> dict[str, Any]:
    """Return an export of annotations: the regions of photos by their names, with `_` for a dot."""
    named = {name.replace("_", "."): own for name, own in regions.items()}
    return {
        f"{name}4095": {"filename": name, "size": 4095, "regions": own, "file_attributes": {}}
        for name, own in named.items()
    }


def read_regions(tmp_path: Path, *regions: Any) -> Any:
    save(tmp_path / "a.jpg")
    write(tmp_path / "via.json", entries(a_jpg=list(regions)))
    return read(tmp_path)


class TestShapes:
    @pytest.mark.parametrize(
        "shape",
        [
            polygon(2, 3, 10, 7),
            {"name": "rect", "x": 2, "y": 3, "width": 8, "height": 4},
        ],
        ids=["polygon", "rect"],
    )
    def test_areas_with_corners_are_instances(self, tmp_path: Path, shape: Any) -> None:
        assert instances(read_regions(tmp_path, region(shape))) == {"a.jpg": [("leaf", 32, [2, 3, 8, 4])]}

    def test_points_are_kept_to_the_fraction_of_a_pixel(self, tmp_path: Path) -> None:
        shape = {"name": "polygon", "all_points_x": [1.25, 9, 5], "all_points_y": [2, 2.5, 9.125]}
        source = read_regions(tmp_path, region(shape))
        assert source.annotations[0]["segmentation"] == [[1.25, 2, 9, 2.5, 5, 9.125]]

    def test_a_circle_has_the_area_of_one(self, tmp_path: Path) -> None:
        source = read_regions(tmp_path, region({"name": "circle", "cx": 8, "cy": 6, "r": 5}))
        ((_, area, extent),) = instances(source)["a.jpg"]
        assert area == pytest.approx(math.pi * 25, rel=0.05)
        assert extent == pytest.approx([3, 1, 10, 10], abs=1)

    @pytest.mark.parametrize(("turn", "extent"), [(0.0, [2, 3, 12, 6]), (math.pi / 2, [5, 0, 6, 12])])
    def test_an_ellipse_is_turned_by_radians(self, tmp_path: Path, turn: float, extent: list[int]) -> None:
        shape = {"name": "ellipse", "cx": 8, "cy": 6, "rx": 6, "ry": 3, "theta": turn}
        ((_, area, box),) = instances(read_regions(tmp_path, region(shape)))["a.jpg"]
        assert area == pytest.approx(math.pi * 18, rel=0.05)
        assert box == pytest.approx(extent, abs=1)

    def test_an_ellipse_that_is_not_turned_needs_no_angle(self, tmp_path: Path) -> None:
        source = read_regions(tmp_path, region({"name": "ellipse", "cx": 8, "cy": 6, "rx": 6, "ry": 3}))
        assert len(source.annotations) == 1

    @pytest.mark.parametrize(
        ("drawn", "kind"),
        [
            (region({"name": "point", "cx": 3, "cy": 3}), "shape_without_area"),
            (region({**polygon(2, 3, 10, 7), "name": "polyline"}), "shape_without_area"),
            (region({"name": "rect", "x": 2, "y": 3, "width": 0, "height": 4}), "shape_without_area"),
            (region({"name": "circle", "cx": 8, "cy": 6, "r": 0}), "shape_without_area"),
            (region({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]}), "shape_short"),
            (region({"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2]}), "shape_unreadable"),
            (region({"name": "polygon", "all_points_x": [1, 2, "x"], "all_points_y": [1, 2, 3]}), "shape_unreadable"),
            (region({"name": "polygon"}), "shape_unreadable"),
            (region({"name": "rect", "x": 2, "y": 3, "width": 4}), "shape_unreadable"),
            (region({"name": "rect", "x": 2, "y": 3, "width": 4, "height": math.inf}), "shape_unreadable"),
            (region({"name": "cuboid"}), "shape_unknown"),
            (region({"name": ["polygon"]}), "shape_unknown"),
            (region("a shape"), "shape_unreadable"),
            ("a region", "label_missing"),
            (region(polygon(2, 3, 10, 7), {"class": " "}), "label_missing"),
            (region(polygon(2, 3, 10, 7), {"class": {"leaf": True, "fruit": True}}), "label_several"),
        ],
    )
    def test_what_has_no_area_or_label_is_left_out_by_name(self, tmp_path: Path, drawn: Any, kind: str) -> None:
        source = read_regions(tmp_path, drawn, region(polygon(0, 0, 4, 4)))
        assert found(source) == {kind: ["via.json: region 1 of a.jpg"]}
        assert instances(source) == {"a.jpg": [("leaf", 16, [0, 0, 4, 4])]}


class TestClasses:
    def classes(self, tmp_path: Path, *attributes: Any, **project: Any) -> list[str]:
        save(tmp_path / "a.jpg")
        regions = [region(polygon(k, k, k + 4, k + 4), one) for k, one in enumerate(attributes)]
        content = entries(a_jpg=regions)
        write(tmp_path / "via.json", {"_via_img_metadata": content, **project} if project else content)
        return [name for name, *_ in instances(read(tmp_path))["a.jpg"]]

    def test_without_attributes_all_regions_are_objects(self, tmp_path: Path) -> None:
        assert self.classes(tmp_path, {}, {}) == ["object", "object"]

    def test_the_only_attribute_is_the_class_whatever_it_is_called(self, tmp_path: Path) -> None:
        assert self.classes(tmp_path, {"kind of plant": "leaf"}, {"kind of plant": " fruit "}) == ["leaf", "fruit"]

    def test_of_several_attributes_the_one_called_class_is(self, tmp_path: Path) -> None:
        assert self.classes(tmp_path, {"ripe": "yes", "Class": "leaf"}, {"ripe": "no", "Class": "fruit"}) == [
            "leaf",
            "fruit",
        ]

    def test_an_attribute_without_any_value_does_not_count(self, tmp_path: Path) -> None:
        assert self.classes(tmp_path, {"plant": "leaf", "note": ""}) == ["leaf"]

    def test_ids_of_options_stand_for_their_names_in_a_project(self, tmp_path: Path) -> None:
        options = {"1": "leaf", "2": "fruit", "3": ""}
        attributes = {"region": {"plant": {"type": "radio", "options": options}}}
        chosen = [{"plant": "2"}, {"plant": "1"}, {"plant": "3"}, {"plant": {"2": True, "1": False}}]
        assert self.classes(tmp_path, *chosen, _via_attributes=attributes) == ["fruit", "leaf", "3", "fruit"]

    def test_it_is_said_if_it_cannot_be_told_which_attribute_is_the_class(self, tmp_path: Path) -> None:
        with pytest.raises(BCNetError, match="`ripe`, `plant`") as caught:
            self.classes(tmp_path, {"ripe": "yes", "plant": "leaf"})
        assert caught.value.exit_code == ExitCode.BAD_DATA
        assert "call that one `class`" in caught.value.hints[0]


class TestFiles:
    def test_a_file_for_each_split_lies_beside_its_photos(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            save(tmp_path / split / "a.jpg")
            write(tmp_path / split / "via_region_data.json", entries(a_jpg=[region(polygon(0, 0, 4, 4), {})]))
        source = read(tmp_path)
        assert [(image["file_name"], image[SPLIT]) for image in source.images] == [
            ("train/a.jpg", "train"),
            ("val/a.jpg", "val"),
        ]
        assert photos(source) == {f"{split}/a.jpg": tmp_path / split / "a.jpg" for split in ("train", "val")}

    def test_via_1_numbers_the_regions_in_an_object(self, tmp_path: Path) -> None:
        save(tmp_path / "a.jpg")
        content = entries(a_jpg={"0": region(polygon(0, 0, 4, 4), {}), "1": region(polygon(2, 3, 10, 7), {})})
        for entry in content.values():
            entry |= {"fileref": "", "base64_img_data": ""}
        write(tmp_path / "via_region_data.json", content)
        assert instances(read(tmp_path)) == {"a.jpg": [("object", 16, [0, 0, 4, 4]), ("object", 32, [2, 3, 8, 4])]}

    def test_photos_may_lie_elsewhere_and_have_names_of_another_machine(self, tmp_path: Path) -> None:
        save(tmp_path / "photos/a.jpg")
        content = entries(a_jpg=[region(polygon(0, 0, 4, 4))])
        content["a.jpg4095"]["filename"] = "C:\\field\\a.jpg"
        file = write(tmp_path / "labels/via.json", content)
        assert photos(read(file, tmp_path / "photos")) == {"a.jpg": tmp_path / "photos/a.jpg"}

    def test_a_photo_without_regions_has_no_objects_and_one_that_is_not_listed_is_named(self, tmp_path: Path) -> None:
        for name in "abc":
            save(tmp_path / f"{name}.jpg")
        write(tmp_path / "via.json", entries(a_jpg=[region(polygon(0, 0, 4, 4))], b_jpg=[]))
        source = read(tmp_path)
        assert [image["file_name"] for image in source.images] == ["a.jpg", "b.jpg"]
        assert found(source) == {"photo_unlabeled": ["c.jpg"]}

    def test_a_photo_that_is_missing_or_damaged_has_no_size(self, tmp_path: Path) -> None:
        write(tmp_path / "b.jpg", "no photo")
        write(tmp_path / "via.json", entries(a_jpg=[], b_jpg=[region(polygon(0, 0, 4, 4))]))
        source = read(tmp_path)
        assert [image.get("width") for image in source.images] == [None, None]
        assert photos(source) == {"a.jpg": None, "b.jpg": tmp_path / "b.jpg"}

    def test_other_objects_of_objects_are_no_files_of_via(self, tmp_path: Path) -> None:
        write(tmp_path / "a.json", {"a": {"filename": "a.jpg"}})
        with pytest.raises(BCNetError, match="no json file of the VGG Image Annotator"):
            read(tmp_path, name="via")
