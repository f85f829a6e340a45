"""YOLO segmentation is read in the layouts of Ultralytics, Roboflow, Label Studio and CVAT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bcnet_core.errors import BCNetError
from bcnet_core.importers.source import SPLIT, Source
from tests.importers.readers import HEIGHT, WIDTH, found, instances, photos, read, save, write

CONFIG = "train: images/train\nval: images/val\nnames: [leaf, fruit]\n"


def line(label: Any, x0: int, y0: int, x1: int, y1: int) -> str:
    """Return the line of a rectangle given in pixels."""
    corners = (x0, y0, x1, y0, x1, y1, x0, y1)
    return " ".join([str(label), *(f"{v / (HEIGHT if k % 2 else WIDTH):.6f}" for k, v in enumerate(corners))]) + "\n"


LEAF = line(0, 2, 3, 10, 7)
ROW = ("leaf", 32, [2, 3, 8, 4])


def ultralytics(root: Path, *, config: str | None = CONFIG, labels: str = LEAF) -> None:
    """Write images/train/t.jpg, images/val/v.jpg, their label files and data.yaml."""
    for split in ("train", "val"):
        save(root / "images" / split / f"{split[0]}.jpg")
        write(root / "labels" / split / f"{split[0]}.txt", labels)
    if config is not None:
        write(root / "data.yaml", config)


def splits(source: Source) -> dict[str, Any]:
    return {image["file_name"]: image.get(SPLIT) for image in source.images}


class TestLayouts:
    def test_ultralytics_folders_keep_their_splits_and_names(self, tmp_path: Path) -> None:
        ultralytics(tmp_path)
        source = read(tmp_path)
        assert instances(source) == {"images/train/t.jpg": [ROW], "images/val/v.jpg": [ROW]}
        assert splits(source) == {"images/train/t.jpg": "train", "images/val/v.jpg": "val"}
        assert [category["name"] for category in source.categories] == ["leaf", "fruit"]
        assert found(source) == {}

    def test_data_yaml_itself_may_be_given(self, tmp_path: Path) -> None:
        ultralytics(tmp_path)
        assert len(read(tmp_path / "data.yaml").annotations) == 2

    @pytest.mark.parametrize(
        "config",
        [
            "path: /content/sets/leaves\ntrain: images/train\nval: images/val\nnames: {0: leaf, 1: fruit}\n",
            "train: ../images/train\nval: ../images/val\nnc: 2\nnames: ['leaf', 'fruit']\n",
            "train: C:\\sets\\images\\train\nval: C:\\sets\\images\\val\nnames: {1: fruit, 0: leaf}\n",
            "train: [images/train]\nval: [images/val]\ntest:\nnames: [leaf, fruit]\n",
        ],
        ids=["another machine", "Roboflow", "Windows", "lists"],
    )
    def test_paths_of_other_machines_are_found(self, tmp_path: Path, config: str) -> None:
        ultralytics(tmp_path, config=config)
        source = read(tmp_path)
        assert splits(source) == {"images/train/t.jpg": "train", "images/val/v.jpg": "val"}
        assert instances(source)["images/train/t.jpg"] == [ROW]

    def test_roboflow_has_one_folder_a_split_and_its_test_split_is_left_out_by_name(self, tmp_path: Path) -> None:
        for split in ("train", "valid", "test"):
            save(tmp_path / split / "images" / "x.jpg")
            write(tmp_path / split / "labels" / "x.txt", line(0, 0, 0, 2 + len(split), 4))
        config = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [leaf]\n"
        write(tmp_path / "data.yaml", config)
        source = read(tmp_path)
        assert splits(source) == {"train/images/x.jpg": "train", "valid/images/x.jpg": "val"}
        assert [area for ((_, area, _),) in instances(source).values()] == [28, 28]
        assert found(source) == {"image_of_test": ["test/images/x.jpg"]}

    def test_a_test_split_validates_where_there_is_no_other(self, tmp_path: Path) -> None:
        ultralytics(tmp_path, config="train: images/train\ntest: images/val\nnames: [leaf, fruit]\n")
        assert splits(read(tmp_path)) == {"images/train/t.jpg": "train", "images/val/v.jpg": "val"}

    def test_splits_may_be_lists_of_photos(self, tmp_path: Path) -> None:
        ultralytics(tmp_path, config="train: train.txt\nval: val.txt\nnames: [leaf, fruit]\n")
        write(tmp_path / "train.txt", "data/images/train/t.jpg\n")
        write(tmp_path / "val.txt", "data/images/val/v.jpg\n")
        source = read(tmp_path)
        assert splits(source) == {"images/train/t.jpg": "train", "images/val/v.jpg": "val"}
        assert found(source) == {}

    def test_without_data_yaml_folders_give_the_splits_and_classes_txt_the_names(self, tmp_path: Path) -> None:
        ultralytics(tmp_path, config=None)
        write(tmp_path / "classes.txt", "leaf\nfruit\n")
        source = read(tmp_path)
        assert splits(source) == {"images/train/t.jpg": "train", "images/val/v.jpg": "val"}
        assert instances(source)["images/val/v.jpg"] == [ROW]

    def test_label_files_may_lie_beside_the_photos(self, tmp_path: Path) -> None:
        save(tmp_path / "a.jpg")
        write(tmp_path / "a.txt", LEAF)
        write(tmp_path / "obj.names", "leaf\n")
        assert instances(read(tmp_path)) == {"a.jpg": [ROW]}

    def test_photos_may_lie_in_a_folder_that_is_given(self, tmp_path: Path) -> None:
        photo = save(tmp_path / "photos" / "a.jpg")
        write(tmp_path / "labels" / "a.txt", LEAF)
        write(tmp_path / "labels" / "classes.txt", "leaf\n")
        source = read(tmp_path / "labels", tmp_path / "photos")
        assert photos(source) == {"a.jpg": photo}
        assert instances(source) == {"a.jpg": [ROW]}

    def test_one_folder_for_both_splits_is_not_split(self, tmp_path: Path) -> None:
        ultralytics(tmp_path, config="train: images\nval: images\nnames: [leaf, fruit]\n")
        source = read(tmp_path)
        assert splits(source) == {"images/train/t.jpg": None, "images/val/v.jpg": None}
        assert found(source) == {}

    def test_a_photo_in_both_splits_is_trained_on_and_named(self, tmp_path: Path) -> None:
        ultralytics(tmp_path, config="train: images\nval: images/val\nnames: [leaf, fruit]\n")
        assert found(read(tmp_path)) == {"photo_in_both": ["images/val/v.jpg"]}

    def test_photos_that_data_yaml_does_not_list_are_left_out_by_name(self, tmp_path: Path) -> None:
        ultralytics(tmp_path)
        save(tmp_path / "images" / "extra" / "e.jpg")
        source = read(tmp_path)
        assert found(source) == {"photo_unlisted": ["images/extra/e.jpg"]}
        assert "images/extra/e.jpg" not in photos(source)


class TestLabels:
    def read_labels(self, tmp_path: Path, text: str) -> Source:
        save(tmp_path / "images" / "a.jpg")
        write(tmp_path / "labels" / "a.txt", text)
        write(tmp_path / "classes.txt", "leaf\nfruit\n")
        return read(tmp_path, name="yolo")

    def test_coordinates_are_shares_of_the_upright_photo(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "a.jpg")
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "images" / "a.jpg", exif=exif)
        write(tmp_path / "labels" / "a.txt", LEAF)
        write(tmp_path / "classes.txt", "leaf\n")
        assert instances(read(tmp_path)) == {"images/a.jpg": [ROW]}

    def test_boxes_are_annotations_without_a_mask(self, tmp_path: Path) -> None:
        source = self.read_labels(tmp_path, LEAF + "1 0.5 0.5 0.25 0.5\n")
        assert source.annotations[1]["bbox"] == [6, 3, 4, 6]
        assert source.annotations[1]["segmentation"] == []

    def test_outlines_a_little_beyond_the_photo_are_kept(self, tmp_path: Path) -> None:
        source = self.read_labels(tmp_path, "0 -0.01 0 1.02 0 1.02 0.5 -0.01 0.5\n")
        assert instances(source) == {"images/a.jpg": [("leaf", 96, [0, 0, 16, 6])]}

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("0 0.1 0.1 0.5 0.1 0.5\n", "label_line_unreadable"),
            ("0 0.1 0.1 0.5\n", "label_line_unreadable"),
            ("leaf 0.1 0.1 0.5 0.1 0.5 0.5\n", "label_line_unreadable"),
            ("0.5 0.1 0.1 0.5 0.1 0.5 0.5\n", "label_line_unreadable"),
            ("0 0.1 nan 0.5 0.1 0.5 0.5\n", "label_line_unreadable"),
            ("0 2 3 10 3 10 7 2 7\n", "label_line_beyond"),
        ],
        ids=["odd", "short", "name", "fraction", "not finite", "pixels"],
    )
    def test_lines_that_are_no_outline_are_left_out_by_name(self, tmp_path: Path, text: str, kind: str) -> None:
        source = self.read_labels(tmp_path, LEAF + "\n" + text)
        assert instances(source) == {"images/a.jpg": [ROW]}
        assert found(source) == {kind: ["labels/a.txt: line 3"]}

    def test_class_numbers_may_be_floats_and_lines_may_end_as_on_windows(self, tmp_path: Path) -> None:
        source = self.read_labels(tmp_path, "\ufeff" + LEAF.replace("0 ", "0.0 ", 1).replace("\n", "\r\n"))
        assert instances(source) == {"images/a.jpg": [ROW]}

    def test_photos_without_a_label_file_are_background(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "b.jpg")
        assert instances(self.read_labels(tmp_path, LEAF)) == {"images/a.jpg": [ROW], "images/b.jpg": []}

    def test_label_files_without_a_photo_are_named_and_other_text_files_are_not(self, tmp_path: Path) -> None:
        write(tmp_path / "labels" / "gone.txt", LEAF)
        write(tmp_path / "notes.txt", "taken in May")
        assert found(self.read_labels(tmp_path, LEAF)) == {"label_without_photo": ["labels/gone.txt"]}

    def test_a_label_file_that_is_no_text_is_named(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "b.jpg")
        write(tmp_path / "labels" / "b.txt", "").write_bytes(b"\xff\xfe\x00")
        assert found(self.read_labels(tmp_path, LEAF)) == {"label_file_damaged": ["labels/b.txt"]}

    def test_classes_without_names_are_called_by_their_number(self, tmp_path: Path) -> None:
        save(tmp_path / "images" / "a.jpg")
        write(tmp_path / "labels" / "a.txt", line(3, 0, 0, 4, 4))
        source = read(tmp_path)
        assert instances(source) == {"images/a.jpg": [("3", 16, [0, 0, 4, 4])]}
        assert found(source) == {"category_unnamed": [3]}

    def test_names_that_yaml_takes_for_something_else_stay_text(self, tmp_path: Path) -> None:
        ultralytics(tmp_path, config=CONFIG.replace("leaf, fruit", "yes, 1.0"))
        assert [category["name"] for category in read(tmp_path).categories] == ["yes", "1.0"]


class TestRefused:
    def test_photos_that_are_elsewhere_are_asked_for(self, tmp_path: Path) -> None:
        write(tmp_path / "labels" / "a.txt", LEAF)
        with pytest.raises(BCNetError, match="no label file of YOLO that fits a photo") as caught:
            read(tmp_path, name="yolo")
        assert "--images" in caught.value.hints[0]

    def test_splits_that_are_elsewhere_are_named(self, tmp_path: Path) -> None:
        ultralytics(tmp_path, config="train: elsewhere/a\nval: elsewhere/b\nnames: [leaf, fruit]\n")
        with pytest.raises(BCNetError, match="names `elsewhere/a` and `elsewhere/b`, where no photo is"):
            read(tmp_path)

    def test_keypoints_are_refused(self, tmp_path: Path) -> None:
        ultralytics(tmp_path, config=CONFIG + "kpt_shape: [17, 2]\n")
        with pytest.raises(BCNetError, match="keypoints, which have no masks"):
            read(tmp_path, name="yolo")

    def test_a_split_never_leads_out_of_the_folder(self, tmp_path: Path) -> None:
        save(tmp_path / "private" / "p.jpg")
        ultralytics(tmp_path / "set", config="train: ../private\nval: images/val\nnames: [leaf, fruit]\n")
        assert [*photos(read(tmp_path / "set"))] == ["images/val/v.jpg"]
