"""COCO json is read whichever tool wrote it: other containers, names in other keys, folders of several files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bcnet_core.annotations.coco import Record
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.importers.coco import COCO
from bcnet_core.importers.source import PHOTO, SPLIT, Source


def square(number: int, image: Any, *, category: Any = 1) -> Record:
    """Return the annotation of a square of 4 x 4 pixels."""
    corners = [2, 2, 6, 2, 6, 6, 2, 6]
    return {"id": number, "image_id": image, "category_id": category, "segmentation": [corners], "bbox": [2, 2, 4, 4]}


def coco_set(*names: str, classes: tuple[str, ...] = ("leaf",), first: int = 1) -> Record:
    """Return a COCO set with one square in each image, of the classes in turn; ids count on from `first`."""
    images = [{"id": first + k, "file_name": name, "width": 16, "height": 12} for k, name in enumerate(names)]
    squares = [square(first + k, first + k, category=1 + k % len(classes)) for k in range(len(names))]
    categories = [{"id": 1 + k, "name": name} for k, name in enumerate(classes)]
    return {"info": {"year": 2026}, "images": images, "annotations": squares, "categories": categories}


def write(path: Path, content: Any) -> Path:
    """Write a json file, and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def save(*paths: Path) -> None:
    """Save a small photo under each path."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 12)).save(path)


def read(path: Path, photos: Path | None = None) -> Source:
    """Read a source that is recognized as COCO."""
    assert COCO.recognize(path)
    return COCO.read(path, photos)


def found(source: Source) -> dict[str, list[Any]]:
    """Return the findings of a source by kind."""
    return dict(source.findings)


def classes_of(source: Source) -> list[str]:
    """Return the class names of the annotations, in order."""
    names = {category["id"]: category["name"] for category in source.categories}
    return [names[annotation["category_id"]] for annotation in source.annotations]


class TestOneFile:
    def test_a_clean_file_is_read_as_it_is_with_unknown_keys(self, tmp_path: Path) -> None:
        content = coco_set("a.jpg", "b.jpg")
        content["images"][0]["camera"], content["annotations"][1]["attributes"] = "left", {"occluded": True}
        source = read(write(tmp_path / "result.json", content))
        assert source.images == content["images"]
        assert source.annotations == content["annotations"]
        assert source.categories == content["categories"]
        assert source.header == {"info": {"year": 2026}}
        assert not source.findings

    def test_a_gzipped_file_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "result.json.gz"
        path.write_bytes(gzip.compress(json.dumps(coco_set("a.jpg")).encode()))
        assert len(read(path).annotations) == 1

    def test_lists_may_be_objects_by_id_as_livecell_writes_them(self, tmp_path: Path) -> None:
        content = coco_set("a.tif", "b.tif")
        by_id = {key: {str(one["id"]): one for one in content[key]} for key in ("images", "annotations", "categories")}
        source = read(write(tmp_path / "livecell.json", {**content, **by_id}))
        assert (source.images, source.annotations) == (content["images"], content["annotations"])
        assert source.categories == content["categories"]

    def test_records_of_an_object_get_their_key_as_id_if_they_have_none(self, tmp_path: Path) -> None:
        content = coco_set("a.jpg")
        bare = {"7": {key: value for key, value in square(7, 1).items() if key != "id"}}
        assert read(write(tmp_path / "a.json", {**content, "annotations": bare})).annotations[0]["id"] == "7"

    def test_annotations_may_be_an_object_of_lists_by_image(self, tmp_path: Path) -> None:
        content = coco_set("a.jpg", "b.jpg")
        bare = [{key: value for key, value in one.items() if key != "image_id"} for one in content["annotations"]]
        grouped = {"1": [bare[0]], "2": [bare[1]]}
        source = read(write(tmp_path / "a.json", {**content, "annotations": grouped}))
        assert [one["image_id"] for one in source.annotations] == ["1", "2"]

    def test_a_single_class_may_stand_without_a_list(self, tmp_path: Path) -> None:
        content = {**coco_set("a.jpg"), "categories": {"id": 1, "name": "leaf", "supercategory": ""}}
        source = read(write(tmp_path / "a.json", content))
        assert [one["name"] for one in source.categories] == ["leaf"]
        assert found(source) == {"list_as_object": ["a.json: categories"]}

    @pytest.mark.parametrize(
        ("image", "name"),
        [
            ({"coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg"}, "val2017/000000397133.jpg"),
            ({"file_name": "a.jpg", "coco_url": "AmlDatastore://photos/b.jpg"}, "a.jpg"),
            ({"path": "/datasets/leaves/a.jpg"}, "/datasets/leaves/a.jpg"),
            ({"url": "https://host/x/a%20b.jpg?sig=1"}, "x/a%20b.jpg"),
            ({"license": 1}, ""),
        ],
    )
    def test_the_name_of_a_photo_is_taken_from_the_key_that_has_it(
        self, tmp_path: Path, image: Record, name: str
    ) -> None:
        content = {
            **coco_set(),
            "images": [{"id": 1, "width": 16, "height": 12, **image}],
            "annotations": [square(1, 1)],
        }
        source = read(write(tmp_path / "lvis.json", content))
        assert source.images[0]["file_name"] == name
        assert found(source) == ({"photo_key": [name]} if name and "file_name" not in image else {})

    def test_classes_without_a_list_are_called_by_their_ids(self, tmp_path: Path) -> None:
        content = {**coco_set("a.jpg"), "annotations": [square(1, 1, category=3), square(2, 1, category=8)]}
        del content["categories"]
        source = read(write(tmp_path / "a.json", content))
        assert source.categories == [{"id": 3, "name": "3"}, {"id": 8, "name": "8"}]
        assert found(source) == {"category_unnamed": ["3", "8"]}

    def test_without_any_class_all_instances_are_objects(self, tmp_path: Path) -> None:
        content = coco_set("a.jpg")
        del content["categories"], content["annotations"][0]["category_id"]
        source = read(write(tmp_path / "a.json", content))
        assert classes_of(source) == ["object"]
        assert found(source) == {"category_unnamed": ["object"]}

    def test_records_that_are_no_objects_are_left_out_and_counted(self, tmp_path: Path) -> None:
        content = coco_set("a.jpg")
        content["annotations"].insert(0, "broken")
        content["images"].append(None)
        content["categories"].append(3)
        source = read(write(tmp_path / "a.json", content))
        assert (len(source.images), len(source.annotations), len(source.categories)) == (1, 1, 1)
        assert found(source) == {
            "record_odd": ["annotations[0]"],
            "image_odd": ["images[1]"],
            "category_odd": ["categories[1]"],
        }


IMAGES = [{"id": 1, "file_name": "a.jpg", "width": 16, "height": 12}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"images": IMAGES, "annotations": [{"id": 1, "image_id": 1, "caption": "a leaf"}]}, "captions"),
        ({"images": IMAGES, "annotations": [{"image_id": 1, "segments_info": []}], "categories": []}, "panoptic"),
        ({"images": IMAGES, "annotations": [{"image_id": 1, "keypoints": [1, 2, 2]}]}, "keypoints"),
        ({"images": IMAGES, "annotations": [{"image_id": 1, "category_id": 1}]}, "without masks"),
        ({"images": IMAGES}, "no `annotations`"),
        ({"annotations": [square(1, 1)]}, "no `images`"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "VGG Image Annotator"),
        ({"a.jpg123": {"filename": "a.jpg", "size": 123, "regions": []}}, "VGG Image Annotator"),
        ({"version": "5.4", "shapes": [], "imagePath": "a.jpg"}, "labelme"),
        ({"image": {"image_id": 1}, "annotations": []}, "SA-1B"),
        ({"version": "2.0", "item": {"name": "a.jpg"}, "annotations": []}, "Darwin"),
        ({"size": {"height": 12, "width": 16}, "objects": []}, "Supervisely"),
        ({"info": {"description": "ISAT"}, "objects": []}, "ISAT"),
        ({"metadata": {"name": "a.jpg"}, "instances": []}, "SuperAnnotate"),
        ({"project_name": "leaves", "images": [{"labels": []}], "label_classes": []}, "Hasty"),
        ({"info": {}, "categories": {"label": {}}, "items": []}, "Datumaro"),
        ({"samples": [{"filepath": "a.jpg"}]}, "FiftyOne"),
        ({"videos": [], "annotations": [], "categories": []}, "videos"),
        ({"type": "FeatureCollection", "features": []}, "GeoJSON"),
        ([{"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [0, 0, 1, 1]}], "list of results"),
        ([{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}], "Label Studio"),
        ([{"data_row": {"id": "x"}, "projects": {}}], "Labelbox"),
        ([{"file_name": "a.jpg", "annotations": []}], "detectron2"),
        ([], "is a list"),
        ("text", "no object"),
    ],
)
def test_json_that_is_no_coco_is_refused_with_the_name_of_what_it_is(tmp_path: Path, content: Any, said: str) -> None:
    path = write(tmp_path / "some.json", content)
    with pytest.raises(BCNetError, match=said) as refused:
        read(path)
    assert refused.value.exit_code == ExitCode.BAD_DATA
    assert str(path) in refused.value.message


class TestFolder:
    def test_roboflow_keeps_its_splits_with_the_photos_beside_the_files(self, tmp_path: Path) -> None:
        for split, name in (("train", "a.jpg"), ("valid", "b.jpg")):
            write(tmp_path / split / "_annotations.coco.json", coco_set(name, first=0))
            save(tmp_path / split / name)
        source = read(tmp_path)
        assert [(image[SPLIT], image[PHOTO]) for image in source.images] == [
            ("train", tmp_path / "train" / "a.jpg"), ("val", tmp_path / "valid" / "b.jpg"),
        ]  # fmt: skip
        assert len({image["id"] for image in source.images}) == 2
        assert [one["image_id"] for one in source.annotations] == [image["id"] for image in source.images]
        assert len({one["id"] for one in source.annotations}) == 2

    @pytest.mark.parametrize(
        ("files", "photos"),
        [
            (("annotations/instances_train2017.json", "annotations/instances_val2017.json"), ("train2017", "val2017")),
            (("annotations/instances_Train.json", "annotations/instances_Validation.json"),
             ("images/Train", "images/Validation")),
            (("annotations/instances_train.json", "annotations/instances_val.json"), ("images/train", "images/val")),
            (("train/labels.json", "validation/labels.json"), ("train/data", "validation/data")),
            (("train.json", "val.json"), ("images", "images")),
            (("leaves_train.json", "leaves_val.json"), ("train/images", "val/images")),
        ],
    )  # fmt: skip
    def test_photos_are_found_where_tools_put_them(
        self, tmp_path: Path, files: tuple[str, str], photos: tuple[str, str]
    ) -> None:
        for number, (file, folder) in enumerate(zip(files, photos, strict=True)):
            name = "same.jpg" if photos[0] != photos[1] else f"{number}.jpg"
            write(tmp_path / file, coco_set(name, first=10 * number))
            save(tmp_path / folder / name)
        source = read(tmp_path)
        assert [image[SPLIT] for image in source.images] == ["train", "val"]
        assert [image[PHOTO].parent for image in source.images] == [tmp_path / folder for folder in photos]

    def test_photos_of_the_folder_that_the_user_gave_go_before(self, tmp_path: Path) -> None:
        write(tmp_path / "set" / "train.json", coco_set("a.jpg"))
        save(tmp_path / "set" / "a.jpg", tmp_path / "photos" / "train" / "a.jpg")
        assert read(tmp_path / "set", tmp_path / "photos").images[0][PHOTO] == tmp_path / "photos" / "train" / "a.jpg"

    def test_kitti_has_equal_names_in_training_and_testing(self, tmp_path: Path) -> None:
        for split, folder in (("train", "training"), ("val", "testing")):
            write(tmp_path / "kins" / f"instances_{split}.json", coco_set("000000.png"))
            save(tmp_path / "kitti" / folder / "image_2" / "000000.png")
        places = [image[PHOTO].relative_to(tmp_path) for image in read(tmp_path / "kins", tmp_path / "kitti").images]
        assert places == [Path("kitti", folder, "image_2", "000000.png") for folder in ("training", "testing")]

    def test_a_name_that_leaves_the_folder_is_no_photo(self, tmp_path: Path) -> None:
        save(tmp_path / "secret.jpg", tmp_path / "set" / "a.jpg")
        write(tmp_path / "set" / "a.json", coco_set("a.jpg", "../secret.jpg"))
        assert [PHOTO in image for image in read(tmp_path / "set").images] == [True, False]

    def test_ids_are_kept_where_the_files_share_none(self, tmp_path: Path) -> None:
        first, second = coco_set("a.jpg"), coco_set("b.jpg", first=50)
        write(tmp_path / "instances_train.json", first)
        write(tmp_path / "instances_val.json", second)
        source = read(tmp_path)
        assert [image["id"] for image in source.images] == [1, 50]
        assert source.annotations == first["annotations"] + second["annotations"]

    def test_ids_that_clash_are_renumbered_without_hiding_faults_of_one_file(self, tmp_path: Path) -> None:
        first, second = coco_set("a.jpg", "b.jpg"), coco_set("c.jpg")
        first["images"][1]["id"] = 1  # a fault for `clean` to find
        second["annotations"].append(square(9, 77))  # of an image that is not listed
        second["images"][0]["id"] = "1"
        write(tmp_path / "1.json", first)
        write(tmp_path / "2.json", second)
        source = read(tmp_path)
        one, two, three = (image["id"] for image in source.images)
        assert one == two != three
        belongs = [annotation["image_id"] for annotation in source.annotations]
        assert belongs[2] == three
        assert belongs[3] not in {one, three}

    def test_classes_are_joined_by_name_and_listed_for_all(self, tmp_path: Path) -> None:
        write(tmp_path / "train.json", coco_set("a.jpg", "b.jpg", "c.jpg", classes=("leaf", "fruit", "stem")))
        write(tmp_path / "val.json", coco_set("d.jpg", "e.jpg", "f.jpg", classes=("stem", "leaf", "bud"), first=50))
        source = read(tmp_path)
        assert classes_of(source) == ["leaf", "fruit", "stem", "stem", "leaf", "bud"]
        assert sorted(one["name"] for one in source.categories) == ["bud", "fruit", "leaf", "stem"]
        assert len({one["id"] for one in source.categories}) == 4

    def test_a_name_that_a_file_lists_twice_stays_for_clean_to_find(self, tmp_path: Path) -> None:
        write(tmp_path / "1.json", coco_set("a.jpg", "b.jpg", classes=("leaf", "leaf")))
        write(tmp_path / "2.json", coco_set("c.jpg", first=50))
        assert [one["name"] for one in read(tmp_path).categories] == ["leaf", "leaf"]

    def test_a_test_split_beside_a_validation_split_is_left_out_by_name(self, tmp_path: Path) -> None:
        for number, split in enumerate(("train", "valid", "test")):
            write(tmp_path / split / "_annotations.coco.json", coco_set(f"{split}.jpg", first=10 * number))
        source = read(tmp_path)
        assert [image["file_name"] for image in source.images] == ["train.jpg", "valid.jpg"]
        assert len(source.annotations) == 2
        assert found(source) == {"image_of_test": ["test.jpg"]}

    def test_a_test_split_validates_if_there_is_no_other(self, tmp_path: Path) -> None:
        write(tmp_path / "update_train_2020.json", coco_set("a.jpg"))
        write(tmp_path / "update_test_2020.json", coco_set("b.jpg", first=50))
        assert {image["file_name"]: image[SPLIT] for image in read(tmp_path).images} == {
            "a.jpg": "train",
            "b.jpg": "val",
        }

    def test_one_split_alone_is_no_split(self, tmp_path: Path) -> None:
        write(tmp_path / "annotations" / "instances_train2017.json", coco_set("a.jpg"))
        assert not any(SPLIT in image for image in read(tmp_path).images)

    def test_files_of_other_tasks_and_other_json_are_left_out_by_name(self, tmp_path: Path) -> None:
        content = coco_set("a.jpg")
        write(tmp_path / "annotations" / "instances_train2017.json", content)
        write(tmp_path / "annotations" / "person_keypoints_train2017.json", content)
        captions = {**content, "annotations": [{"id": 1, "image_id": 1, "caption": "a leaf"}]}
        write(tmp_path / "annotations" / "captions_train2017.json", captions)
        write(tmp_path / "import.json", {"images": 1, "instances": 1})
        write(tmp_path / "._a.json", content)
        source = read(tmp_path)
        assert len(source.annotations) == 1
        assert found(source) == {
            "file_left_out": ["annotations/captions_train2017.json", "annotations/person_keypoints_train2017.json"]
        }

    @pytest.mark.parametrize("photo", ["train2017/a.jpg", "elsewhere.jpg"])
    def test_two_files_of_the_same_photos_are_refused(self, tmp_path: Path, photo: str) -> None:
        for name in ("instances_train2017.json", "instances_train2017_bilayer.json"):
            write(tmp_path / "annotations" / name, coco_set("a.jpg"))
        save(tmp_path / photo)
        with pytest.raises(BCNetError, match="list the same photos") as refused:
            read(tmp_path)
        assert refused.value.exit_code == ExitCode.BAD_DATA

    def test_splits_whose_photos_have_overwritten_each_other_are_refused(self, tmp_path: Path) -> None:
        for split in ("Train", "Validation"):
            write(tmp_path / "annotations" / f"instances_{split}.json", coco_set("frame_0.png", "frame_1.png"))
        save(tmp_path / "images" / "frame_0.png", tmp_path / "images" / "frame_1.png")
        with pytest.raises(BCNetError, match="list the same photos"):
            read(tmp_path)

    def test_a_single_photo_in_both_splits_is_left_to_the_import(self, tmp_path: Path) -> None:
        for split, names in (("train", "abcd"), ("val", "defg")):
            write(tmp_path / f"{split}.json", coco_set(*(f"{name}.jpg" for name in names)))
            save(*(tmp_path / "images" / f"{name}.jpg" for name in names))
        assert [image["file_name"][0] for image in read(tmp_path).images] == [*"abcd", *"defg"]

    def test_one_file_an_image_makes_one_set(self, tmp_path: Path) -> None:
        for name in ("a", "b", "c"):
            write(tmp_path / "annotations" / f"{name}.json", coco_set(f"{name}.tif"))
            save(tmp_path / "images" / f"{name}.tif")
        source = read(tmp_path)
        assert [image[PHOTO].stem for image in source.images] == ["a", "b", "c"]
        assert [one["image_id"] for one in source.annotations] == [image["id"] for image in source.images] == [1, 2, 3]

    def test_a_damaged_file_is_refused_rather_than_left_out(self, tmp_path: Path) -> None:
        write(tmp_path / "train.json", coco_set("a.jpg"))
        (tmp_path / "val.json").write_text(json.dumps(coco_set("b.jpg"))[:-9])
        with pytest.raises(BCNetError, match=r"val\.json` is not json"):
            read(tmp_path)

    def test_folders_without_a_coco_file_are_not_recognized(self, tmp_path: Path) -> None:
        save(tmp_path / "a.jpg")
        assert not COCO.recognize(tmp_path)
        write(tmp_path / "a.json", {"version": "5.4", "shapes": [{"images": 1}], "imagePath": "a.jpg"})
        write(tmp_path / "b.json", {"image": {"images": []}, "annotations": []})
        assert not COCO.recognize(tmp_path)
        with pytest.raises(BCNetError, match="has no COCO file"):
            COCO.read(tmp_path, None)
