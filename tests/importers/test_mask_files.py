"""Sets with one mask file an object are read, in the layouts that people keep them in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bcnet_core.errors import BCNetError
from tests.importers.readers import HEIGHT, WIDTH, found, instances, photos, read, rectangle, save

LEFT, RIGHT = ("object", 16, [1, 2, 4, 4]), ("object", 30, [8, 2, 6, 5])


def mask(path: Path, row: tuple[str, int, list[int]], *, value: int = 255) -> Path:
    x, y, width, height = row[2]
    return save(path, rectangle(x, y, x + width, y + height).astype(np.uint8) * value)


class TestLayouts:
    def test_dsb_2018_has_a_folder_a_photo_with_images_and_masks(self, tmp_path: Path) -> None:
        for name in ("00ae65", "0a7d30"):
            save(tmp_path / name / "images" / f"{name}.png")
            mask(tmp_path / name / "masks" / "07a9bf.png", LEFT)
            mask(tmp_path / name / "masks" / "3eaf22.png", RIGHT)
        source = read(tmp_path)
        rows = [LEFT, RIGHT]
        assert instances(source) == {"00ae65/images/00ae65.png": rows, "0a7d30/images/0a7d30.png": rows}
        assert found(source) == {}

    def test_a_photo_whose_name_is_not_that_of_its_folder_is_the_only_one_in_it(self, tmp_path: Path) -> None:
        for name in ("first", "second"):
            save(tmp_path / name / "photo.png")
            mask(tmp_path / name / "masks" / "a.png", LEFT)
            mask(tmp_path / name / "masks" / "b.png", RIGHT)
        assert [*instances(read(tmp_path)).values()] == [[LEFT, RIGHT], [LEFT, RIGHT]]

    def test_a_folder_of_masks_a_photo(self, tmp_path: Path) -> None:
        save(tmp_path / "photos" / "x.jpg")
        mask(tmp_path / "masks" / "x" / "0.png", LEFT)
        mask(tmp_path / "masks" / "x" / "1.png", RIGHT)
        assert instances(read(tmp_path)) == {"photos/x.jpg": [LEFT, RIGHT]}

    def test_a_folder_of_masks_a_photo_is_recognized_without_its_photos(self, tmp_path: Path) -> None:
        save(tmp_path / "photos" / "x.jpg")
        mask(tmp_path / "masks" / "x" / "0.png", LEFT)
        mask(tmp_path / "masks" / "x" / "1.png", RIGHT)
        assert instances(read(tmp_path / "masks", tmp_path / "photos")) == {"x.jpg": [LEFT, RIGHT]}

    def test_names_begin_with_that_of_the_photo_and_the_longest_counts(self, tmp_path: Path) -> None:
        save(tmp_path / "photos" / "x.jpg")
        save(tmp_path / "photos" / "x_1.jpg")
        for name, row in (("x_0", LEFT), ("x_1_0", RIGHT), ("x_1_1", LEFT)):
            mask(tmp_path / "masks" / f"{name}.png", row)
        assert instances(read(tmp_path)) == {"photos/x.jpg": [LEFT], "photos/x_1.jpg": [RIGHT, LEFT]}

    def test_masks_may_lie_beside_the_photo_with_a_number(self, tmp_path: Path) -> None:
        save(tmp_path / "x.png")
        mask(tmp_path / "x_0.png", LEFT)
        mask(tmp_path / "x_mask_1.png", RIGHT)
        assert instances(read(tmp_path, name="mask-files")) == {"x.png": [LEFT, RIGHT]}

    def test_one_object_a_photo_may_have_the_name_of_the_photo(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            save(tmp_path / "photos" / f"{name}.jpg")
            mask(tmp_path / "masks" / f"{name}_mask.png", LEFT)
        source = read(tmp_path / "masks", tmp_path / "photos", name="mask-files")
        assert instances(source) == {"a.jpg": [LEFT], "b.jpg": [LEFT]}

    @pytest.mark.parametrize("layout", ["masks/{}/x_0.png", "masks/x/{}/0.png", "{}/masks/x_0.png"])
    def test_a_folder_between_names_the_class(self, tmp_path: Path, layout: str) -> None:
        save(tmp_path / "photos" / "x.jpg")
        mask(tmp_path / layout.format("leaf"), LEFT)
        mask(tmp_path / layout.format("fruit"), RIGHT)
        source = read(tmp_path)
        assert sorted(instances(source)["photos/x.jpg"]) == [("fruit", *RIGHT[1:]), ("leaf", *LEFT[1:])]

    def test_folders_of_cameras_name_no_class(self, tmp_path: Path) -> None:
        for camera, row in (("left", LEFT), ("right", RIGHT)):
            save(tmp_path / "photos" / camera / "x.jpg")
            mask(tmp_path / "masks" / camera / "x_0.png", row)
            mask(tmp_path / "masks" / camera / "x_1.png", row)
        assert instances(read(tmp_path)) == {"photos/left/x.jpg": [LEFT] * 2, "photos/right/x.jpg": [RIGHT] * 2}


class TestMasks:
    def read_beside_two(self, tmp_path: Path) -> dict[str, list[object]]:
        """Read a set in which the third mask of a photo, `x_2.png`, is the one to judge."""
        save(tmp_path / "photos" / "x.jpg")
        mask(tmp_path / "masks" / "x_0.png", LEFT)
        mask(tmp_path / "masks" / "x_1.png", RIGHT)
        source = read(tmp_path)
        return {"rows": [*instances(source)["photos/x.jpg"][2:]], **found(source)}

    @pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA"])
    def test_every_mode_of_a_black_and_white_image_is_read(self, tmp_path: Path, mode: str) -> None:
        save(tmp_path / "masks" / "x_2.png", rectangle(1, 2, 5, 6).astype(np.uint8) * 255, mode=mode)
        assert self.read_beside_two(tmp_path) == {"rows": [LEFT]}

    def test_16_bits_and_a_value_of_1_are_read(self, tmp_path: Path) -> None:
        save(tmp_path / "masks" / "x_2.png", rectangle(1, 2, 5, 6).astype(np.uint16))
        assert self.read_beside_two(tmp_path) == {"rows": [LEFT]}

    def test_a_smoothed_border_is_cut_at_half_of_the_highest_value_and_counted(self, tmp_path: Path) -> None:
        values = rectangle(1, 2, 5, 6).astype(np.uint8) * 255
        values[1, 1:5], values[6, 1:5] = 100, 140
        save(tmp_path / "masks" / "x_2.png", values)
        assert self.read_beside_two(tmp_path) == {
            "rows": [("object", 20, [1, 2, 4, 5])], "mask_smoothed": ["masks/x_2.png"],
        }  # fmt: skip

    def test_an_image_with_several_values_is_left_out_by_name(self, tmp_path: Path) -> None:
        save(tmp_path / "masks" / "x_2.png", np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH))
        assert self.read_beside_two(tmp_path) == {"rows": [], "label_image_unreadable": ["masks/x_2.png"]}

    def test_a_damaged_mask_is_left_out_by_name(self, tmp_path: Path) -> None:
        save(tmp_path / "masks" / "x_2.png").write_bytes(b"\x89PNG no")
        assert self.read_beside_two(tmp_path) == {"rows": [], "label_image_unreadable": ["masks/x_2.png"]}

    def test_masks_and_photos_without_a_partner_are_named(self, tmp_path: Path) -> None:
        save(tmp_path / "photos" / "z.jpg")
        mask(tmp_path / "masks" / "y_0.png", LEFT)
        expected = {"rows": [], "photo_unlabeled": ["photos/z.jpg"], "label_without_photo": ["masks/y_0.png"]}
        assert self.read_beside_two(tmp_path) == expected


def test_photos_in_a_folder_of_their_own_are_found(tmp_path: Path) -> None:
    photo = save(tmp_path / "elsewhere" / "x.jpg")
    mask(tmp_path / "masks" / "x_0.png", LEFT)
    assert photos(read(tmp_path / "masks", tmp_path / "elsewhere", name="mask-files")) == {"x.jpg": photo}


def test_names_that_fit_no_photo_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "photos" / "x.jpg")
    mask(tmp_path / "masks" / "y_0.png", LEFT)
    with pytest.raises(BCNetError, match=r"none of the 1 mask files in .* is named like a photo"):
        read(tmp_path, name="mask-files")
