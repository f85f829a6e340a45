"""What tools write is repaired where it has one reading, left out by kind where not, and kept where it is sound."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcnet_core import masks
from bcnet_core.annotations.coco import AMODAL_KEY, FRONT_OF, OCCLUDER_KEY, Record
from bcnet_core.importers.clean import judge
from bcnet_core.importers.findings import KINDS
from bcnet_core.importers.source import PHOTO, Cleaned, Photo, Source

HEIGHT, WIDTH = 40, 60
SQUARE = [5, 8, 25, 8, 25, 28, 5, 28]
BOX = [5, 8, 20, 20]
FLAT = [30, 10, 50, 10, 50, 16, 30, 16]
FLAT_BOX = [30, 10, 20, 6]

Content = dict[str, list[Record]]


def content() -> Content:
    """Return a sound set: a square and a flat rectangle in one image, and a square in another."""
    image = {"height": HEIGHT, "width": WIDTH}
    square = {"iscrowd": 0, "bbox": [*BOX], "area": 400, "segmentation": [[*SQUARE]]}
    return {
        "images": [{"id": 1, "file_name": "a.png", **image}, {"id": 2, "file_name": "b.png", **image}],
        "annotations": [
            {"id": 11, "image_id": 1, "category_id": 1, **copy.deepcopy(square)},
            {"id": 12, "image_id": 1, "category_id": 2, "iscrowd": 0, "bbox": [*FLAT_BOX], "area": 120,
             "segmentation": [[*FLAT]]},
            {"id": 13, "image_id": 2, "category_id": 1, **copy.deepcopy(square)},
        ],
        "categories": [{"id": 1, "name": "leaf"}, {"id": 2, "name": "fruit"}],
    }  # fmt: skip


def square_rle() -> Record:
    """Return the square as run lengths with counts as a list."""
    runs = [5 * HEIGHT + 8, 20, *[20, 20] * 19]
    return {"size": [HEIGHT, WIDTH], "counts": [*runs, HEIGHT * WIDTH - sum(runs)]}


def shares(polygon: list[float]) -> list[float]:
    """Return the coordinates of a polygon as shares of the sides."""
    return [value / (HEIGHT if index % 2 else WIDTH) for index, value in enumerate(polygon)]


def cleaned(made: Content, photos: list[Photo] | None = None) -> tuple[Cleaned, int]:
    """Clean a set; returns it, and the number of instances that train as they stand."""
    before = copy.deepcopy(made)
    judged = judge(Source(**made), photos)
    assert made == before, "the source was changed"
    return judged.cleaned, judged.trainable


def with_first(**values: Any) -> Content:
    """Return the set with other values in its first annotation; None removes the key."""
    made = content()
    made["annotations"][0] |= values
    for key in [key for key, value in values.items() if value is None]:
        del made["annotations"][0][key]
    return made


def test_a_sound_set_stays_as_it_is() -> None:
    made = content()
    made["annotations"][0] |= {"score": 0.5, "attributes": {"dirty": True}}
    made["images"][0]["license"] = 3
    result, trainable = cleaned(made)
    assert (result.images, result.annotations, result.categories) == tuple(made.values())
    assert (result.instances, trainable, bool(result.findings)) == (3, 3, False)


REPAIRED: dict[str, tuple[str, Record]] = {
    "flat": ("polygon_flat", {"segmentation": SQUARE}),
    "points": ("polygon_points", {"segmentation": [[SQUARE[i : i + 2] for i in range(0, 8, 2)]]}),
    "points_by_name": (
        "polygon_points", {"segmentation": [{"x": x, "y": y} for x, y in zip(SQUARE[::2], SQUARE[1::2], strict=True)]},
    ),
    "nested": ("polygon_nested", {"segmentation": [[SQUARE]]}),
    "text_of_numbers": ("mask_text", {"segmentation": [[str(value) for value in SQUARE]]}),
    "text_of_a_list": ("mask_text", {"segmentation": str([SQUARE])}),
    "text_in_a_list": ("mask_text", {"segmentation": [" ".join(map(str, SQUARE))]}),
    "float_runs": ("rle_numbers", {"segmentation": {**square_rle(), "counts": [*map(float, square_rle()["counts"])]}}),
    "runs_as_text": ("rle_numbers", {"segmentation": {**square_rle(), "counts": str(square_rle()["counts"])}}),
    "list_of_runs": ("rle_list", {"segmentation": [square_rle()]}),
    "no_box": ("box_missing", {"bbox": None}),
    "box_as_text": ("box_missing", {"bbox": [str(side) for side in BOX]}),
    "box_not_finite": ("box_missing", {"bbox": [5, 8, float("nan"), 20]}),
    "zero": ("box_zero", {"bbox": [0, 0, 0, 0]}),
    "corners": ("box_corners", {"bbox": [5, 8, 25, 28]}),
    "center": ("box_center", {"bbox": [15, 18, 20, 20]}),
    "from_the_bottom": ("box_mirrored", {"bbox": [5, HEIGHT - 28, 20, 20]}),
    "from_the_right": ("box_mirrored", {"bbox": [WIDTH - 25, 8, 20, 20]}),
    "box_in_shares": ("box_shares", {"bbox": [5 / WIDTH, 8 / HEIGHT, 20 / WIDTH, 20 / HEIGHT]}),
    "of_a_larger_photo": ("box_scaled", {"bbox": [20, 32, 80, 80]}),
    "of_another_object": ("box_other", {"bbox": [44, 26, 10, 9]}),
    "no_area": ("area_missing", {"area": None}),
    "area_of_zero": ("area_missing", {"area": 0}),
    "no_id": ("annotation_ids", {"id": None}),
    "id_as_text": ("annotation_ids", {"id": "11"}),
    "id_of_another": ("annotation_id_twice", {"id": 12}),
    "occluder": ("occluder_unreadable", {OCCLUDER_KEY: [[1, 2, 3, "x", 5, 6]]}),
    "whole_mask_short": ("amodal_short", {AMODAL_KEY: [[5, 8, 15, 8, 15, 28, 5, 28]]}),
    "whole_mask_beyond": ("amodal_beyond", {AMODAL_KEY: [[-9, 8, 25, 8, 25, 28, -9, 28]]}),
    "whole_mask_unreadable": ("amodal_unreadable", {AMODAL_KEY: "nothing"}),
    "whole_mask_flat": ("polygon_flat", {AMODAL_KEY: SQUARE}),
    "box_of_the_whole": ("box_whole", {AMODAL_KEY: [[5, 8, 55, 8, 55, 28, 5, 28]], "bbox": [5, 8, 50, 20]}),
}  # fmt: skip


@pytest.mark.parametrize("name", REPAIRED)
def test_what_has_one_reading_is_repaired(name: str) -> None:
    kind, values = REPAIRED[name]
    made = with_first(**values)
    named = made["annotations"][0].get("id", "annotations[0]") if kind != "annotation_id_twice" else 12
    result, trainable = cleaned(made)
    assert dict(result.findings) == {kind: [named]}
    assert KINDS[kind].effect == "repaired"
    first = result.annotations[0]
    rle = masks.from_segmentation(first["segmentation"], HEIGHT, WIDTH)
    assert rle is not None
    assert (masks.area(rle), masks.bounding_box(rle).tolist()) == (400, BOX)
    assert (first["bbox"], first["area"], first["iscrowd"]) == (BOX, 400, 0)
    assert len({one["id"] for one in result.annotations}) == 3
    assert {type(one["id"]) for one in result.annotations} == {int}
    assert result.instances == 3
    assert trainable >= 2
    again = Content(images=result.images, annotations=result.annotations, categories=result.categories)
    repeated, sound = cleaned(again)
    assert (dict(repeated.findings), sound, repeated.annotations) == ({}, 3, result.annotations)


LEFT_OUT: dict[str, tuple[str, Record]] = {
    "no_mask": ("mask_missing", {"segmentation": None}),
    "empty_list": ("mask_missing", {"segmentation": []}),
    "box_as_mask": ("mask_is_box", {"segmentation": [BOX]}),
    "flat_box_as_mask": ("mask_is_box", {"segmentation": BOX}),
    "one_point": ("polygon_few_points", {"segmentation": [[5, 8]]}),
    "odd": ("polygon_odd", {"segmentation": [SQUARE[:-1]]}),
    "words": ("mask_unreadable", {"segmentation": "see the photo"}),
    "not_a_number": ("mask_unreadable", {"segmentation": [[*SQUARE[:-1], None]]}),
    "negative_runs": ("mask_unreadable", {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [-4, 2404]}}),
    "broken_runs": ("mask_unreadable", {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [1, 2]}}),
    "outside": ("mask_empty", {"segmentation": [[70, 8, 90, 8, 90, 28]]}),
    "runs_of_nothing": ("mask_empty", {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}}),
    "runs_of_another_size": ("rle_size", {"segmentation": {"size": [20, 30], "counts": [300, 100, 200]}}),
    "shares_or_a_speck": ("coordinates_unclear", {"segmentation": [shares(SQUARE)], "bbox": [0, 0, 9, 9]}),
    "x_and_y": ("box_turned", {"bbox": [8, 5, 20, 20]}),
    "flag": ("flag_odd", {"iscrowd": 2}),
    "image": ("image_unlisted", {"image_id": 99}),
    "category": ("category_unlisted", {"category_id": 99}),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_cannot_be_known_is_left_out_by_kind(name: str) -> None:
    kind, values = LEFT_OUT[name]
    made = with_first(**values)
    if kind == "box_turned":
        made["annotations"][0] |= {"bbox": [8, 5, 30, 20], "segmentation": [[5, 8, 25, 8, 25, 38, 5, 38]]}
    result, trainable = cleaned(made)
    assert dict(result.findings) == {kind: [11]}
    assert KINDS[kind].effect == "left_out"
    assert [one["id"] for one in result.annotations] == [12, 13]
    assert (result.instances, trainable) == (3, 2 + (kind == "box_turned"))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("polygon_short_part", {"segmentation": [SQUARE, [1, 1, 2, 2]]}),
        ("box_loose", {"bbox": [2, 8, 23, 24]}),
    ],
)
def test_what_trains_anyway_is_put_right_and_is_no_fault(kind: str, values: Record) -> None:
    result, trainable = cleaned(with_first(**values))
    assert dict(result.findings) == {kind: [11]}
    assert not result.findings.counts(["repaired", "left_out"])
    assert (trainable, result.annotations[0]["bbox"], result.annotations[0]["segmentation"]) == (3, BOX, [SQUARE])


def test_a_box_of_the_points_is_right_where_the_mask_is_smaller() -> None:
    """COCO's rasterizer drops spikes, and its boxes keep them."""
    spiked = [5, 8, 25, 8, 25, 28, 5, 28, 5, 18.2, 1, 18.1, 5, 18]
    for box in ([1, 8, 24, 20], BOX):
        made = with_first(segmentation=[spiked], bbox=box)
        result, trainable = cleaned(made)
        assert (result.annotations, trainable) == (made["annotations"], 3)


def test_rows_and_columns_are_exchanged_if_the_box_shows_it() -> None:
    rows = masks.to_json(masks.encode(masks.decode(read(FLAT)).T))
    counts = masks.runs(rows["counts"].encode()).tolist()
    made = content()
    made["annotations"][1]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    result, _ = cleaned(made)
    assert dict(result.findings) == {"rle_turned": [12]}
    assert masks.bounding_box(read(result.annotations[1]["segmentation"])).tolist() == FLAT_BOX


def read(segmentation: Any) -> masks.RLE:
    """Return the mask of a polygon or of json run lengths."""
    value = segmentation if isinstance(segmentation, dict) else [segmentation]
    rle = masks.from_segmentation(value, HEIGHT, WIDTH)
    assert rle is not None
    return rle


def test_shares_of_the_sides_become_pixels() -> None:
    made = content()
    for one in made["annotations"]:
        one["segmentation"] = [shares(one["segmentation"][0])]
    result, trainable = cleaned(made)
    assert dict(result.findings) == {"coordinates_shares": [11, 12, 13]}
    assert [one["segmentation"] for one in result.annotations] == [[SQUARE], [FLAT], [SQUARE]]
    assert trainable == 0


def test_one_instance_in_shares_is_told_by_its_box() -> None:
    result, _ = cleaned(with_first(segmentation=[shares(SQUARE)]))
    assert dict(result.findings) == {"coordinates_shares": [11]}
    assert result.annotations[0]["segmentation"] == [SQUARE]


class TestCrowds:
    """Flags mark crowds, COCO's regions of many objects, or single objects that a tool flagged."""

    def flagged(self, share: float, *, one_an_image: bool = True) -> Content:
        """Return a set of 20 images with 5 instances each, of which a share is flagged."""
        made = content()
        square = made["annotations"][0]
        made["images"] = [{**made["images"][0], "id": number, "file_name": f"{number}.png"} for number in range(20)]
        made["annotations"] = [
            {**square, "id": number, "image_id": number % 20 if one_an_image else number // 5, "iscrowd": 0}
            for number in range(100)
        ]
        for one in made["annotations"][: round(share * 100)]:
            one |= {"iscrowd": 1, "segmentation": square_rle()}
        return made

    def test_few_of_them_are_crowds_and_stay(self) -> None:
        made = self.flagged(0.1)
        result, trainable = cleaned(made)
        assert (result.annotations, result.instances, trainable) == (made["annotations"], 90, 90)
        assert not result.findings

    @pytest.mark.parametrize("share", [0.25, 0.6, 1])
    def test_a_quarter_of_a_file_is_flagged_by_a_tool(self, share: float) -> None:
        result, trainable = cleaned(self.flagged(share))
        assert len(dict(result.findings)["crowd_flags"]) == 100 * share
        assert {one["iscrowd"] for one in result.annotations} == {0}
        assert (result.instances, trainable) == (100, 100 - 100 * share)

    def test_two_of_a_category_in_an_image_are_no_crowds(self) -> None:
        result, _ = cleaned(self.flagged(0.1, one_an_image=False))
        assert len(dict(result.findings)["crowd_flags"]) == 10

    def test_keys_of_cvat_and_supervision_tell(self) -> None:
        made = self.flagged(0.1)
        for one in made["annotations"]:
            one["attributes"] = {"occluded": False}
        assert len(dict(cleaned(made)[0].findings)["crowd_flags"]) == 10
        made = self.flagged(0.1)
        for category in made["categories"]:
            category["supercategory"] = "common-objects"
        assert len(dict(cleaned(made)[0].findings)["crowd_flags"]) == 10

    def test_an_imported_root_is_taken_at_its_word(self) -> None:
        judged = judge(Source(**self.flagged(0.6), imported=True), None)
        assert not judged.cleaned.findings
        assert judged.cleaned.instances == 40

    def test_a_missing_flag_is_none(self) -> None:
        result, trainable = cleaned(with_first(iscrowd=None))
        assert (result.annotations[0]["iscrowd"], trainable, bool(result.findings)) == (0, 3, False)


IMAGES: dict[str, tuple[str, Callable[[Content], Any], Any]] = {
    "id_as_text": ("image_ids", lambda made: made["images"][0].update(id="1"), "1"),
    "id_as_float": ("image_ids", lambda made: made["images"][0].update(id=1.0), 1.0),
    "size_as_text": ("image_sizes", lambda made: made["images"][0].update(height="40", width="60"), "a.png"),
    "size_as_float": ("image_sizes", lambda made: made["images"][0].update(height=40.0), "a.png"),
    "name_twice": ("file_name_twice", lambda made: made["images"].append({**made["images"][0], "id": 3}), "a.png"),
    "swapped": ("size_swapped", lambda made: made["images"][0].update(height=30, width=40), "a.png"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_repaired(name: str) -> None:
    kind, change, named = IMAGES[name]
    made = content()
    change(made)
    if kind == "size_swapped":
        made["annotations"][1]["segmentation"] = [[1, 30, 20, 30, 20, 39, 1, 39]]
        made["annotations"][1] |= {"bbox": [1, 30, 19, 9], "area": 171}
    result, _ = cleaned(made)
    assert dict(result.findings) == {kind: [named]}
    assert [image["id"] for image in result.images] == [1, 2]
    first = result.images[0]
    assert (first["height"], first["width"]) == ((40, 30) if kind == "size_swapped" else (40, 60))
    assert [one["image_id"] for one in result.annotations] == [1, 1, 2]


def test_instances_that_repeat_in_a_merged_image_are_left_out() -> None:
    made = content()
    made["images"].append({**made["images"][0], "id": 3})
    twin = {**made["annotations"][0], "id": 14, "image_id": 3}
    made["annotations"] += [twin, {**made["annotations"][1], "id": 15, "image_id": 3, "category_id": 1}]
    result, _ = cleaned(made)
    assert dict(result.findings) == {"annotation_twice": [14], "file_name_twice": ["a.png"]}
    assert [(one["id"], one["image_id"]) for one in result.annotations] == [(11, 1), (12, 1), (13, 2), (15, 1)]


@pytest.mark.parametrize(
    ("kind", "values", "named"),
    [
        ("image_unnamed", {"file_name": ""}, 1),
        ("size_unknown", {"height": 0}, "a.png"),
        ("size_unknown", {"height": 2**20, "width": 2**20}, "a.png"),
    ],
)
def test_images_are_left_out_with_their_instances(kind: str, values: Record, named: Any) -> None:
    made = content()
    made["images"][0] |= values
    result, trainable = cleaned(made)
    assert dict(result.findings) == {"image_left_out": [11, 12], kind: [named]}
    assert ([one["id"] for one in result.images], result.instances, trainable) == ([2], 3, 1)


def test_images_that_share_an_id_are_both_left_out() -> None:
    made = content()
    made["images"][1]["id"] = 1
    made["annotations"][2]["image_id"] = 1
    result, _ = cleaned(made)
    assert dict(result.findings) == {"image_left_out": [11, 12, 13], "image_id_twice": ["a.png", "b.png"]}


def photo(stored: tuple[int, int], upright: tuple[int, int] | None = None, flaw: str | None = None) -> Photo:
    """Return a photo of these sizes."""
    return Photo(Path("a.png"), stored, upright or stored, flaw)


class TestPhotos:
    """Photos tell the size that masks were drawn on."""

    def test_of_another_size_leaves_the_image_out(self) -> None:
        result, trainable = cleaned(content(), [photo((80, 120)), photo((HEIGHT, WIDTH))])
        assert dict(result.findings) == {"image_left_out": [11, 12], "size_of_photo": ["a.png"]}
        assert trainable == 1

    def test_without_a_size_in_the_file_gives_it(self) -> None:
        made = content()
        del made["images"][0]["height"]
        result, trainable = cleaned(made, [photo((HEIGHT, WIDTH))] * 2)
        assert dict(result.findings) == {"size_missing": ["a.png"]}
        assert (result.images[0]["height"], trainable) == (HEIGHT, 1)

    def test_the_smaller_size_that_the_masks_do_not_fit_is_wrong(self) -> None:
        made = content()
        made["images"][0] |= {"height": 15, "width": 30}
        result, _ = cleaned(made, [photo((HEIGHT, WIDTH))] * 2)
        assert dict(result.findings) == {"size_wrong": ["a.png"]}
        assert (result.images[0]["height"], result.images[0]["width"]) == (HEIGHT, WIDTH)

    def test_turned_by_exif_have_the_size_that_the_masks_fit(self) -> None:
        made = content()
        made["images"][0] |= {"height": 30, "width": 60}
        made["annotations"][1] |= {"segmentation": [[1, 45, 20, 45, 20, 55, 1, 55]], "bbox": [1, 45, 19, 10]}
        made["annotations"][1]["area"] = 190
        result, _ = cleaned(made, [photo((30, 60), (60, 30)), photo((HEIGHT, WIDTH))])
        assert dict(result.findings) == {"size_swapped": ["a.png"]}
        assert (result.images[0]["height"], result.images[0]["width"]) == (60, 30)

    def test_with_a_flaw_leave_the_image_out(self) -> None:
        result, trainable = cleaned(content(), [photo((0, 0), flaw="photo_damaged"), photo((HEIGHT, WIDTH))])
        assert dict(result.findings) == {"image_left_out": [11, 12], "photo_damaged": ["a.png"]}
        assert trainable == 1

    def test_under_another_name_do_not_train_as_they_stand(self) -> None:
        size = (HEIGHT, WIDTH)
        result, trainable = cleaned(content(), [photo(size, flaw="photo_name"), photo(size)])
        assert dict(result.findings) == {"photo_name": ["a.png"]}
        assert (len(result.annotations), trainable) == (3, 1)


CATEGORIES: dict[str, tuple[str, list[Record], Any, list[tuple[int, str]], list[int]]] = {
    "name_twice": (
        "category_twice", [{"id": 1, "name": "leaf"}, {"id": 2, "name": "leaf"}], 2, [(1, "leaf")], [1, 1, 1],
    ),
    "id_as_text": (
        "category_ids", [{"id": "1", "name": "leaf"}, {"id": 2, "name": "fruit"}], "1",
        [(1, "leaf"), (2, "fruit")], [1, 2, 1],
    ),
    "no_name": (
        "category_unnamed", [{"id": 1}, {"id": 2, "name": "fruit"}], 1, [(1, "1"), (2, "fruit")], [1, 2, 1],
    ),
    "no_id": (
        "category_odd", [{"id": 1, "name": "leaf"}, {"id": 2, "name": "fruit"}, {"name": "stem"}], "categories[2]",
        [(1, "leaf"), (2, "fruit")], [1, 2, 1],
    ),
    "project": (
        "category_root",
        [{"id": 0, "name": "farm"}, *({"id": one, "name": str(one), "supercategory": "farm"} for one in (1, 2))],
        "farm", [(1, "1"), (2, "2")], [1, 2, 1],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CATEGORIES)
def test_categories_are_repaired(name: str) -> None:
    kind, records, named, listed, used = CATEGORIES[name]
    result, _ = cleaned({**content(), "categories": records})
    assert dict(result.findings) == {kind: [named]}
    assert [(one["id"], one["name"]) for one in result.categories] == listed
    assert [one["category_id"] for one in result.annotations] == used


def test_an_id_of_two_categories_leaves_out_their_instances() -> None:
    result, _ = cleaned({**content(), "categories": [{"id": 1, "name": "leaf"}, {"id": 1, "name": "stem"},
                                                     {"id": 2, "name": "fruit"}]})  # fmt: skip
    assert dict(result.findings) == {"category_ambiguous": [11, 13], "category_id_twice": [1]}
    assert [one["id"] for one in result.annotations] == [12]


def test_the_order_follows_new_ids_and_forgets_what_is_left_out() -> None:
    made = content()
    made["annotations"][0] |= {"id": "x", FRONT_OF: ["y", 13]}
    made["annotations"][1] |= {"id": "y", "segmentation": []}
    made["annotations"][2] |= {FRONT_OF: ["x"]}
    result, _ = cleaned(made)
    assert [(one["id"], one[FRONT_OF]) for one in result.annotations] == [(14, [13]), (13, [14])]


def test_worker_processes_find_the_same() -> None:
    made = content()
    made["images"] = [{**made["images"][0], "id": number, "file_name": f"{number}.png"} for number in range(1, 1200)]
    made["annotations"] = [
        {**made["annotations"][0], "id": number, "image_id": number, "bbox": BOX if number % 3 else [0, 0, 0, 0]}
        for number in range(1, 1200)
    ]
    one, two = (judge(Source(**made), None, workers=workers) for workers in (1, 2))
    assert one.trainable == two.trainable == 800
    assert dict(one.cleaned.findings) == dict(two.cleaned.findings) == {"box_zero": [*range(3, 1200, 3)]}
    assert one.cleaned.annotations == two.cleaned.annotations


@pytest.mark.parametrize("flag", ["0", "false", None])
def test_a_flag_of_another_form_is_told_because_training_leaves_it_out(flag: Any) -> None:
    made = content()
    made["annotations"][0]["iscrowd"] = flag
    found, trainable = cleaned(made)
    assert dict(found.findings) == {"flag_form": [11]}
    assert trainable == 2
    assert [one["iscrowd"] for one in found.annotations] == [0, 0, 0]


def test_an_image_or_a_category_may_be_given_by_name() -> None:
    made = content()
    made["annotations"][0]["image_id"] = "a.png"
    made["annotations"][1]["category_id"] = "fruit"
    found, trainable = cleaned(made)
    assert dict(found.findings) == {"references": [11, 12]}
    assert trainable == 1
    assert [(one["image_id"], one["category_id"]) for one in found.annotations] == [(1, 1), (1, 2), (2, 1)]


@pytest.mark.parametrize(
    "text", [["5.0,8.0 25.0,8.0 25.0,28.0 5.0,28.0"], [["5.0,8.0", "25.0,8.0", "25.0,28.0", "5.0,28.0"]]]
)
def test_points_as_text_in_a_list_are_read_in_pixels(text: list[Any]) -> None:
    made = content()
    for one in made["annotations"]:
        one.update(segmentation=copy.deepcopy(text), bbox=[*BOX], area=400)
    found, _ = cleaned(made)
    assert [one["segmentation"] for one in found.annotations] == [[SQUARE]] * 3


def test_numbers_with_a_decimal_comma_are_not_taken_for_points() -> None:
    made = content()
    made["annotations"][0]["segmentation"] = [["5,0", "8,0", "25,0", "8,0", "25,0", "28,0", "5,0", "28,0"]]
    found, _ = cleaned(made)
    assert dict(found.findings) == {"mask_unreadable": [11]}


def test_images_of_one_name_are_two_if_the_reader_knows_two_photos(tmp_path: Path) -> None:
    made = content()
    for image in made["images"]:
        image |= {"file_name": "0.png", PHOTO: tmp_path / str(image["id"]) / "0.png"}
    result, _ = cleaned(made)
    assert not dict(result.findings)
    assert [image["id"] for image in result.images] == [1, 2]


@pytest.mark.parametrize("name", [" leaf ", "leaf\t"])
def test_names_of_categories_that_differ_by_spaces_are_one(name: str) -> None:
    made = content()
    made["categories"] = [{"id": 1, "name": "leaf"}, {"id": 2, "name": name}]
    result, _ = cleaned(made)
    assert [one["name"] for one in result.categories] == ["leaf"]
    assert dict(result.findings) == {"category_twice": [2]}


def test_names_of_categories_that_differ_by_unicode_forms_are_one() -> None:
    made = content()
    made["categories"] = [{"id": 1, "name": "caf\u00e9"}, {"id": 2, "name": "cafe\u0301"}]
    assert [one["id"] for one in cleaned(made)[0].categories] == [1]


def test_padded_text_is_the_name_of_a_photo_before_it_is_an_id() -> None:
    made = content()
    made["images"][0]["file_name"], made["images"][1]["file_name"] = "0002.png", "0001.png"  # of the ids 1 and 2
    made["annotations"][0]["image_id"], made["annotations"][2]["image_id"] = "0002", "2"
    found, _ = cleaned(made)
    assert [one["image_id"] for one in found.annotations] == [1, 1, 2]
    for image in made["images"]:
        image["id"] = f"000{image['id']}"  # the ids of images are text, too
    made["annotations"][0]["image_id"] = "0002"
    found, _ = cleaned(made)
    assert found.annotations[0]["image_id"] == 2


@pytest.mark.parametrize("whole", [100, 1000])
def test_a_mask_in_percent_beside_a_box_in_pixels_is_left_out_by_name(whole: int) -> None:
    made = content()
    made["images"][0] |= {"width": 1600, "height": 1200}
    pixels = [160, 120, 1200, 120, 1200, 960, 160, 960]
    percent = [value / (1200 if at % 2 else 1600) * whole for at, value in enumerate(pixels)]
    made["annotations"][0] |= {"bbox": [160, 120, 1040, 840], "segmentation": [percent]}
    found, _ = cleaned(made)
    assert dict(found.findings)["mask_percent"] == [11]
    assert 11 not in [one["id"] for one in found.annotations]
