"""Label images are read: every value of an image is an instance, whatever tool wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.importers.clean import clean
from bcnet_core.importers.source import SPLIT
from tests.importers.readers import HEIGHT, WIDTH, found, instances, photos, read, save

Values = NDArray[Any]


def labels(*values: int, dtype: Any = np.uint8) -> Values:
    """Return a label image with a square of 4 x 4 pixels a value, from left to right."""
    image = np.zeros((HEIGHT, WIDTH), dtype)
    for position, value in enumerate(values):
        image[2:6, 4 * position : 4 * position + 4] = value
    return image


def square(position: int, name: str = "object") -> tuple[str, int, list[int]]:
    return (name, 16, [4 * position, 2, 4, 4])


def label_set(root: Path, values: Values, *, label: str = "masks/0.png", photo: str = "photos/0.jpg") -> Path:
    save(root / photo)
    save(root / label, values)
    return root


class TestValues:
    @pytest.mark.parametrize(
        ("label", "dtype"),
        [("masks/0.png", np.uint8), ("masks/0.png", np.uint16), ("masks/0.tif", np.uint16), ("masks/0.tif", np.int32),
         ("masks/0.tif", np.float32), ("masks/0.bmp", np.uint8)],
    )  # fmt: skip
    def test_every_kind_of_whole_numbers_is_read(self, tmp_path: Path, label: str, dtype: Any) -> None:
        most = 250 if dtype is np.uint8 else 40_000
        source = read(label_set(tmp_path, labels(1, most, dtype=dtype), label=label))
        assert instances(source) == {"photos/0.jpg": [square(0), square(1)]}
        assert source.images[0] | {"height": HEIGHT, "width": WIDTH} == source.images[0]
        assert found(source) == {}

    def test_a_palette_image_counts_by_its_indices(self, tmp_path: Path) -> None:
        label_set(tmp_path, labels())
        save(tmp_path / "masks" / "0.png", labels(1, 2), mode="P")
        assert instances(read(tmp_path)) == {"photos/0.jpg": [square(0), square(1)]}

    def test_every_color_is_an_instance_and_black_and_what_is_transparent_is_background(self, tmp_path: Path) -> None:
        colors = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        for position, color in enumerate([(255, 0, 0, 255), (0, 255, 0, 255), (0, 1, 0, 255), (0, 0, 255, 0)]):
            colors[2:6, 4 * position : 4 * position + 4] = color
        source = read(label_set(tmp_path, colors))
        assert sorted(instances(source)["photos/0.jpg"]) == [square(0), square(1), square(2)]

    def test_an_instance_in_pieces_stays_one(self, tmp_path: Path) -> None:
        source = read(label_set(tmp_path, labels(3, 5, 3)))
        assert instances(source) == {"photos/0.jpg": [("object", 32, [0, 2, 12, 4]), square(1)]}

    def test_255_is_a_border_unless_254_is_an_instance_too(self, tmp_path: Path) -> None:
        label_set(tmp_path, labels(1, 2, 255))
        label_set(tmp_path, labels(254, 255), label="masks/1.png", photo="photos/1.jpg")
        label_set(tmp_path, labels(1, 255, dtype=np.uint16), label="masks/2.png", photo="photos/2.jpg")
        source = read(tmp_path)
        both = [square(0), square(1)]
        assert instances(source) == {"photos/0.jpg": both, "photos/1.jpg": both, "photos/2.jpg": both}
        assert found(source) == {"label_border": ["masks/0.png"]}

    def test_with_classes_txt_thousands_are_the_class(self, tmp_path: Path) -> None:
        label_set(tmp_path, labels(1, 1001, 5001, dtype=np.uint16))
        (tmp_path / "masks" / "classes.txt").write_text("leaf\nfruit\n")
        source = read(tmp_path / "masks", tmp_path / "photos")
        assert [category["name"] for category in source.categories] == ["leaf", "fruit"]
        cleaned = clean(source, None)
        assert [one["category_id"] for one in cleaned.annotations] == [1, 2]
        assert dict(cleaned.findings) == {"category_unlisted": ["0.png: 5001"]}

    def test_cityscapes_has_its_classes_and_groups_are_crowds(self, tmp_path: Path) -> None:
        stem = "aachen_000000_000019"
        for split in ("train", "val"):
            label = f"gtFine/{split}/aachen/{stem}_gtFine_instanceIds.png"
            photo = f"leftImg8bit/{split}/aachen/{stem}_leftImg8bit.png"
            label_set(tmp_path, labels(26001, 24000, 7, 26, dtype=np.uint16), label=label, photo=photo)
            save(tmp_path / label.replace("instanceIds", "labelIds"), labels(26, 24))
        source = read(tmp_path)
        assert [*instances(source).values()] == [[square(3, "car"), square(1, "person"), square(0, "car")]] * 2
        assert [one["iscrowd"] for one in source.annotations] == [1, 0, 0] * 2
        assert len(source.categories) == 10
        assert [image[SPLIT] for image in source.images] == ["train", "val"]
        assert found(source) == {}

    def test_masks_that_have_a_file_each_are_read_as_such(self, tmp_path: Path) -> None:
        save(tmp_path / "photos" / "x.jpg")
        for position in (0, 1):
            save(tmp_path / "masks" / f"x_{position}.png", labels(*[0] * position, 255))
        source = read(tmp_path / "masks", tmp_path / "photos")
        assert instances(source) == {"x.jpg": [square(0), square(1)]}

    @pytest.mark.parametrize("value", [1, 255])
    def test_black_and_white_images_are_refused_as_they_do_not_tell_objects_apart(
        self, tmp_path: Path, value: int
    ) -> None:
        label_set(tmp_path, labels(value, 0, value))
        label_set(tmp_path, labels(value), label="masks/1.png", photo="photos/1.jpg")
        with pytest.raises(BCNetError, match=f"have one value, {value}, so they do not tell objects apart") as caught:
            read(tmp_path)
        assert caught.value.exit_code == ExitCode.BAD_DATA
        assert "--from mask-files" in caught.value.hints[0]


class TestUnreadable:
    @pytest.mark.parametrize("kind", ["jpeg", "damaged", "pages", "fractions", "negative"])
    def test_what_is_no_label_image_is_left_out_by_name(self, tmp_path: Path, kind: str) -> None:
        label_set(tmp_path, labels(1, 2))
        save(tmp_path / "photos" / "1.jpg")
        path = tmp_path / "masks" / ("1.jpg" if kind == "jpeg" else "1.tif")
        if kind == "jpeg":
            save(path, labels(1, 2))
        elif kind == "damaged":
            path.write_bytes(b"II*\0 no tiff")
        elif kind == "pages":
            page = Image.fromarray(labels(1, 2))
            page.save(path, save_all=True, append_images=[page])
        else:
            save(path, labels(1, 2, dtype=np.float32) + np.float32(0.5 if kind == "fractions" else -1))
        source = read(tmp_path)
        assert instances(source) == {"photos/0.jpg": [square(0), square(1)]}
        assert {kind: names for kind, names in found(source).items() if kind != "photo_unlabeled"} == {
            "label_image_unreadable": [f"masks/{path.name}"]
        }

    def test_a_photo_is_no_label_image(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
        with pytest.raises(BCNetError, match="more than 20,000 values: it is a photo, or was smoothed"):
            read(label_set(tmp_path, noise), name="masks")


class TestNames:
    @pytest.mark.parametrize(
        ("photo", "label"),
        [
            ("PNGImages/Fudan1.png", "PedMasks/Fudan1_mask.png"),
            ("a.tif", "a_cp_masks.png"),
            ("b.jpg", "b_annotation.png"),
            ("000_img.png", "000_masks.png"),
            ("x/a.jpg", "x/a_label.tif"),
            ("JPEGImages/2007_1.jpg", "SegmentationObject/2007_1.png"),
            ("images/a.jpg", "labels/a.jpg.png"),
            ("images/left/a.jpg", "masks/left/a.png"),
        ],
    )
    def test_photos_are_found_by_the_names_of_every_tool(self, tmp_path: Path, photo: str, label: str) -> None:
        source = read(label_set(tmp_path, labels(1, 2), label=label, photo=photo))
        assert photos(source) == {photo: tmp_path / photo}
        assert found(source) == {}

    def test_voc_is_read_by_its_objects_with_the_names_of_its_classes(self, tmp_path: Path) -> None:
        border = labels(1, 2, 255)
        label_set(tmp_path, border, label="SegmentationObject/0.png", photo="JPEGImages/0.jpg")
        palette = np.zeros((256, 3), np.uint8)
        palette[[1, 15, 255]] = (128, 0, 0), (192, 128, 128), (224, 224, 192)
        values = labels(15, 1, 255)
        values[2, :4] = 255
        classes = Image.fromarray(values)
        classes.putpalette(palette.ravel().tolist())
        (tmp_path / "SegmentationClass").mkdir()
        classes.save(tmp_path / "SegmentationClass" / "0.png")
        source = read(tmp_path)
        assert instances(source) == {"JPEGImages/0.jpg": [square(0, "person"), square(1, "aeroplane")]}
        assert found(source) == {"label_border": ["SegmentationObject/0.png"]}

    def test_cvat_names_the_colors_of_the_classes_and_colors_every_object(self, tmp_path: Path) -> None:
        root = tmp_path / "export"
        colors = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0), (7, 8, 9), (224, 224, 192)], np.uint8)
        label_set(root, colors[labels(1, 2, 3, 4)], label="SegmentationObject/0.png", photo="JPEGImages/0.jpg")
        save(root / "SegmentationClass" / "0.png", colors[labels(1, 1, 3)])
        (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nleaf:128,0,0::\n")
        rows = instances(read(root))["JPEGImages/0.jpg"]
        assert sorted(rows) == [square(2, "#070809"), square(0, "leaf"), square(1, "leaf")]

    def test_equal_names_in_two_folders_stay_apart(self, tmp_path: Path) -> None:
        for camera, value in (("left", 1), ("right", 2)):
            label_set(
                tmp_path, labels(*range(1, value + 1)), label=f"masks/{camera}/0.png", photo=f"images/{camera}/0.jpg"
            )
        counts = {name: len(rows) for name, rows in instances(read(tmp_path)).items()}
        assert counts == {"images/left/0.jpg": 1, "images/right/0.jpg": 2}

    def test_folders_of_labels_are_found_below_a_folder_whose_name_says_so(self, tmp_path: Path) -> None:
        """As `bcnet predict --format labels` writes them: a folder of labels for photos in folders of their own."""
        for name, count in (("0", 1), ("day/1", 2), ("night/deep/1", 3)):
            save(tmp_path / "photos" / f"{name}.jpg")
            save(tmp_path / "found_labels" / f"{name}.png", labels(*range(1, count + 1)))
        source = read(tmp_path / "found_labels", tmp_path / "photos")
        assert {name: len(rows) for name, rows in instances(source).items()} == {
            "0.jpg": 1, "day/1.jpg": 2, "night/deep/1.jpg": 3,
        }  # fmt: skip
        assert not found(source)
        (tmp_path / "found_labels" / "0.png").unlink()
        (tmp_path / "photos" / "0.jpg").unlink()
        assert len(photos(read(tmp_path / "found_labels", tmp_path / "photos"))) == 2

    def test_photos_and_labels_without_a_partner_are_named(self, tmp_path: Path) -> None:
        label_set(tmp_path, labels(1, 2))
        save(tmp_path / "photos" / "1.jpg")
        save(tmp_path / "masks" / "2.png", labels(1, 2))
        assert found(read(tmp_path)) == {"photo_unlabeled": ["photos/1.jpg"], "label_without_photo": ["masks/2.png"]}

    def test_two_photos_of_one_name_are_not_guessed(self, tmp_path: Path) -> None:
        label_set(tmp_path, labels(1, 2))
        label_set(tmp_path, labels(1, 2), label="masks/1.png", photo="photos/1.jpg")
        save(tmp_path / "photos" / "1.png")
        source = read(tmp_path)
        assert [*photos(source)] == ["photos/0.jpg"]
        assert found(source)["label_ambiguous"] == ["masks/1.png"]

    def test_a_folder_of_masks_alone_asks_for_the_photos(self, tmp_path: Path) -> None:
        save(tmp_path / "masks" / "0.png", labels(1, 2))
        with pytest.raises(BCNetError, match="holds no photo for the 1 images of labels") as caught:
            read(tmp_path / "masks")
        assert "--images" in caught.value.hints[0]

    def test_names_that_fit_no_photo_are_refused(self, tmp_path: Path) -> None:
        label_set(tmp_path, labels(1, 2), photo="photos/other.jpg")
        with pytest.raises(BCNetError, match=r"none of the 1 label images in .* is named like a photo"):
            read(tmp_path, name="masks")

    def test_cellpose_arrays_are_refused_with_the_way_to_save_images(self, tmp_path: Path) -> None:
        save(tmp_path / "a.png")
        np.save(tmp_path / "a_seg.npy", np.zeros(3))
        with pytest.raises(BCNetError, match=r"cellpose's `_seg\.npy`") as caught:
            read(tmp_path, name="masks")
        assert "--save_png" in caught.value.hints[0]

    def test_a_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BCNetError, match="is a file"):
            read(save(tmp_path / "a_mask.png", labels(1)), name="masks")
