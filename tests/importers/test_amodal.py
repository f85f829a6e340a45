"""Amodal sets come in with the visible mask in `segmentation`, the whole one beside it, and their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcnet_core import masks
from bcnet_core.annotations.coco import AMODAL_KEY, FRONT_OF, Record
from bcnet_core.importers.amodal import WHOLE_BOX, mend_whole
from bcnet_core.importers.source import Source
from tests.importers.test_coco import found, read, write

HEIGHT, WIDTH = 24, 32
IMAGE = {"id": 5, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}


def rectangle(x0: int, y0: int, x1: int, y1: int) -> list[int]:
    """Return a flat polygon of pixels [x0, x1) x [y0, y1)."""
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def rle(*boxes: tuple[int, int, int, int], cut: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Record:
    """Return the RLE, as json, of boxes [x0, y0, x1, y1) without another box."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    mask[cut[1] : cut[3], cut[0] : cut[2]] = False
    return masks.to_json(masks.encode(mask))


def area(segmentation: Any) -> int:
    """Return the number of pixels of a segmentation."""
    mask = masks.from_segmentation(segmentation, HEIGHT, WIDTH)
    return 0 if mask is None else masks.area(mask)


FRONT, BACK = (4, 4, 14, 14), (10, 8, 24, 20)
"""Two boxes; the first hides 4 x 6 pixels of the second."""
SEEN, HIDDEN = 14 * 12 - 24, 24

KINS: tuple[Record, Record] = (
    {"segmentation": [rectangle(*BACK)], "inmodal_seg": rle(BACK, cut=FRONT), "bbox": [10, 8, 14, 12], "area": 168,
     "inmodal_bbox": [0, 0, 1, 1], "ico_id": 2, "oco_id": 1},
    {"segmentation": [rectangle(*FRONT)], "inmodal_seg": rle(FRONT), "bbox": [4, 4, 10, 10], "area": 100,
     "inmodal_bbox": [4, 4, 10, 10], "ico_id": 1, "oco_id": 1},
)  # fmt: skip
KINS_2020: tuple[Record, Record] = (
    {"a_segm": [rectangle(*BACK)], "i_segm": [rectangle(14, 8, 24, 20), rectangle(10, 14, 14, 20)], "ico_id": 2,
     "a_bbox": [10, 8, 14, 12], "i_bbox": [10, 8, 14, 12], "a_area": 168, "i_area": 144, "oco_id": 1},
    {"a_segm": [rectangle(*FRONT)], "i_segm": [rectangle(*FRONT)], "ico_id": 1,
     "a_bbox": [4, 4, 10, 10], "i_bbox": [4, 4, 10, 10], "a_area": 100, "i_area": 100, "oco_id": 1},
)  # fmt: skip
D2SA: tuple[Record, Record] = (
    {"segmentation": rle(BACK), "visible_mask": rle(BACK, cut=FRONT), "invisible_mask": rle((10, 8, 14, 14)),
     "bbox": [10, 8, 14, 12], "area": 168.0, "iscrowd": False, "occlude_rate": 24 / 168,
     "amodal_region": {"order": 2}, "amodal_base": {"depth_constraint": "1-2"}},
    {"segmentation": rle(FRONT), "visible_mask": rle(FRONT), "bbox": [4, 4, 10, 10], "area": 100.0, "iscrowd": False,
     "occlude_rate": 0.0, "amodal_region": {"order": 1}, "amodal_base": {"depth_constraint": "1-2"}},
)  # fmt: skip


def renamed(visible: str) -> tuple[Record, Record]:
    """Return KINS with another key of the visible mask, and without its order."""
    back, front = (
        {
            visible if key == "inmodal_seg" else key: value
            for key, value in one.items()
            if key not in {"ico_id", "oco_id"}
        }
        for one in KINS
    )
    return back, front


def read_pair(folder: Path, pair: tuple[Record, Record]) -> Source:
    """Read a file of two annotations: 11 is hidden in part by 12."""
    rows = [{"id": 11 + k, "image_id": 5, "category_id": 1, **one} for k, one in enumerate(pair)]
    content = {"images": [IMAGE], "annotations": rows, "categories": [{"id": 1, "name": "car"}]}
    return read(write(folder / "set.json", content))


def region(polygon: list[int], **more: Any) -> Record:
    """Return a region of COCOA."""
    return {"segmentation": polygon, "name": "a thing", "isStuff": 0, "occlude_rate": 0, **more}


def read_regions(folder: Path, regions: list[Any], constraint: str = "", **more: Any) -> Source:
    """Read a COCOA file of one image."""
    record = {"id": 900, "image_id": 5, "author": "x", "regions": regions, "depth_constraint": constraint, **more}
    return read(write(folder / "COCO_amodal_val2014.json", {"images": [IMAGE], "annotations": [record]}))


@pytest.mark.parametrize("pair", [KINS, KINS_2020, D2SA], ids=["KINS", "KINS-2020", "D2SA"])
class TestTwoMasksAnObject:
    def test_the_visible_mask_is_the_segmentation_and_the_whole_one_beside_it(
        self, tmp_path: Path, pair: tuple[Record, Record]
    ) -> None:
        back, front = read_pair(tmp_path, pair).annotations
        assert (area(back["segmentation"]), area(back[AMODAL_KEY])) == (SEEN, SEEN + HIDDEN)
        assert (area(front["segmentation"]), area(front[AMODAL_KEY])) == (100, 100)

    def test_box_and_area_are_those_of_the_visible_mask(self, tmp_path: Path, pair: tuple[Record, Record]) -> None:
        back, _ = read_pair(tmp_path, pair).annotations
        assert (back["bbox"], back["area"], back["amodal_bbox"]) == ([10, 8, 14, 12], SEEN, [10, 8, 14, 12])

    def test_the_order_is_kept(self, tmp_path: Path, pair: tuple[Record, Record]) -> None:
        back, front = read_pair(tmp_path, pair).annotations
        assert FRONT_OF not in back
        assert front[FRONT_OF] == [11]

    def test_every_instance_is_counted(self, tmp_path: Path, pair: tuple[Record, Record]) -> None:
        assert found(read_pair(tmp_path, pair)) == {"amodal_in_segmentation": [11, 12]}

    def test_no_key_of_the_dialect_is_left_to_contradict_the_masks(
        self, tmp_path: Path, pair: tuple[Record, Record]
    ) -> None:
        left = {key for one in read_pair(tmp_path, pair).annotations for key in one}
        assert not left & {"inmodal_seg", "inmodal_bbox", "a_segm", "i_segm", "a_bbox", "i_bbox", "visible_mask",
                           "invisible_mask", "i_area", "a_area"}  # fmt: skip


@pytest.mark.parametrize("pair", [KINS, KINS_2020, D2SA], ids=["KINS", "KINS-2020", "D2SA"])
def test_junk_under_any_key_is_left_to_clean(tmp_path: Path, pair: tuple[Record, Record]) -> None:
    for key in {"id", "image_id", FRONT_OF, *pair[0]}:
        for junk in (
            None,
            True,
            "",
            "x",
            -1,
            1.5,
            [],
            [[]],
            [None],
            {},
            {"order": {}},
            {"size": [1, "a"], "counts": 3},
        ):
            assert len(read_pair(tmp_path, (pair[0] | {key: junk}, pair[1])).annotations) == 2


class TestOrder:
    def test_a_nearer_object_that_covers_nothing_is_not_in_front(self, tmp_path: Path) -> None:
        apart = {**KINS[1], "segmentation": [rectangle(0, 0, 3, 3)], "inmodal_seg": rle((0, 0, 3, 3))}
        assert not any(FRONT_OF in one for one in read_pair(tmp_path, (KINS[0], apart)).annotations)

    def test_objects_of_two_clusters_have_no_order(self, tmp_path: Path) -> None:
        other = {**KINS[1], "oco_id": 2}
        assert not any(FRONT_OF in one for one in read_pair(tmp_path, (KINS[0], other)).annotations)

    def test_ids_follow_where_files_are_joined(self, tmp_path: Path) -> None:
        for split in ("train", "test"):
            rows = [{"id": 11 + k, "image_id": 5, "category_id": 1, **one} for k, one in enumerate(KINS)]
            content = {"images": [IMAGE], "annotations": rows, "categories": [{"id": 1, "name": "car"}]}
            write(tmp_path / f"update_{split}_2019.json", content)
        annotations = read(tmp_path).annotations
        assert len({one["id"] for one in annotations}) == 4
        for back, front in (annotations[:2], annotations[2:]):
            assert front[FRONT_OF] == [back["id"]]


class TestRegions:
    def test_every_region_is_an_instance_of_one_class(self, tmp_path: Path) -> None:
        regions = [region(rectangle(*FRONT)), region(rectangle(*BACK), visible_mask=rle(BACK, cut=FRONT))]
        source = read_regions(tmp_path, regions, "1-2")
        front, back = source.annotations
        assert [one["name"] for one in source.categories] == ["object"]
        assert (area(front["segmentation"]), area(front[AMODAL_KEY])) == (100, 100)
        assert (area(back["segmentation"]), area(back[AMODAL_KEY])) == (SEEN, SEEN + HIDDEN)
        assert front[FRONT_OF] == [back["id"]]
        assert front["name"] == "a thing"
        assert source.places == ["annotation 900, region 1", "annotation 900, region 2"]
        assert (front["bbox"], front["area"]) == ([4, 4, 10, 10], 100)

    def test_stuff_is_left_out_by_name_and_the_order_still_fits(self, tmp_path: Path) -> None:
        sky = region(rectangle(0, 0, 30, 3), isStuff=1)
        source = read_regions(tmp_path, [sky, region(rectangle(*FRONT)), region(rectangle(*BACK))], "2-3,1-3,x,9-2")
        assert found(source)["amodal_stuff"] == ["annotation 900, region 1"]
        assert [one.get(FRONT_OF) for one in source.annotations] == [[2], None]

    def test_places_are_kept_where_files_are_joined(self, tmp_path: Path) -> None:
        read_regions(tmp_path, [region(rectangle(*FRONT))])
        read_pair(tmp_path, KINS)
        assert read(tmp_path).places == ["annotation 900, region 1", "annotation 11", "annotation 12"]

    def test_of_several_annotators_of_an_image_the_first_is_taken(self, tmp_path: Path) -> None:
        record = {"image_id": 5, "regions": [region(rectangle(*FRONT))], "depth_constraint": ""}
        rows = [{**record, "id": 1}, {**record, "id": 2}]
        source = read(write(tmp_path / "amodal.json", {"images": [IMAGE], "annotations": rows}))
        assert len(source.annotations) == 1
        assert found(source)["amodal_annotator"] == ["annotation 2, region 1"]

    @pytest.mark.parametrize("broken", [None, "text", {"name": "no outline"}, {"segmentation": [1, "x"]}])
    def test_a_broken_region_is_left_to_clean(self, tmp_path: Path, broken: Any) -> None:
        source = read_regions(tmp_path, [broken, region(rectangle(*BACK))])
        assert len(source.annotations) == 2
        assert area(source.annotations[1]["segmentation"]) == SEEN + HIDDEN


class TestMending:
    def test_a_sound_whole_mask_stays_as_it_is(self) -> None:
        record = {AMODAL_KEY: [rectangle(*BACK)]}
        assert mend_whole(record, masks.from_segmentation(rle(BACK, cut=FRONT), HEIGHT, WIDTH), HEIGHT, WIDTH) == []
        assert record == {AMODAL_KEY: [rectangle(*BACK)]}

    def test_what_is_seen_is_part_of_the_whole(self) -> None:
        record = {AMODAL_KEY: rle((12, 8, 24, 20))}
        assert mend_whole(record, masks.from_segmentation(rle(BACK), HEIGHT, WIDTH), HEIGHT, WIDTH) == ["amodal_short"]
        assert record == {AMODAL_KEY: rle(BACK)}

    def test_a_seam_is_filled_and_is_no_fault(self) -> None:
        record = {AMODAL_KEY: rle(BACK, cut=(10, 8, 12, 9))}
        assert mend_whole(record, masks.from_segmentation(rle(BACK), HEIGHT, WIDTH), HEIGHT, WIDTH) == []
        assert record == {AMODAL_KEY: rle(BACK)}

    def test_a_whole_mask_ends_at_the_border_of_the_image(self) -> None:
        record = {AMODAL_KEY: [rectangle(20, 8, WIDTH + 9, 20)]}
        visible = masks.from_segmentation(rle((20, 8, 24, 20)), HEIGHT, WIDTH)
        assert mend_whole(record, visible, HEIGHT, WIDTH) == ["amodal_beyond"]
        assert record == {AMODAL_KEY: rle((20, 8, WIDTH, 20))}

    @pytest.mark.parametrize(
        ("whole", "box"),
        [
            ([rectangle(20, 8, WIDTH + 9, 20)], [20, 8, WIDTH - 20, 12]),
            (rle((12, 8, 24, 20)), [20, 8, 50, 12]),  # nothing to mend
            (rle((22, 8, 30, 20)), [20, 8, 10, 12]),
        ],
    )
    def test_the_box_of_a_whole_mask_follows_where_the_mask_is_mended(self, whole: Any, box: list[int]) -> None:
        record = {AMODAL_KEY: whole, WHOLE_BOX: [20, 8, 50, 12]}
        visible = masks.from_segmentation(rle((20, 8, 24, 20)), HEIGHT, WIDTH)
        assert visible is not None
        mend_whole(record, visible, HEIGHT, WIDTH)
        assert record[WHOLE_BOX] == box

    @pytest.mark.parametrize("whole", [[], None, "text", [[1, 2, 3, 4, 5]], {"size": [3, 3], "counts": [9]}])
    def test_a_whole_mask_that_cannot_be_read_is_dropped(self, whole: Any) -> None:
        record = {"id": 1, AMODAL_KEY: whole, WHOLE_BOX: [1, 2, 3, 4]}
        visible = masks.from_segmentation(rle(BACK), HEIGHT, WIDTH)
        assert mend_whole(record, visible, HEIGHT, WIDTH) == ["amodal_unreadable"]
        assert record == {"id": 1}


def test_sets_with_both_masks_as_synth_writes_them_are_read_as_they_are(tmp_path: Path) -> None:
    record = {"id": 1, "image_id": 5, "category_id": 1, "segmentation": rle(FRONT), AMODAL_KEY: rle(FRONT, BACK),
              "bbox": [4, 4, 10, 10], "area": 100, "layer": 3}  # fmt: skip
    content = {"images": [IMAGE], "annotations": [dict(record)], "categories": [{"id": 1, "name": "car"}]}
    source = read(write(tmp_path / "instances_train.json", content))
    assert source.annotations == [record]
    assert not source.findings


@pytest.mark.parametrize("key", ["visible_seg", "visible_segmentation", "inmodal_segmentation", "modal_segmentation"])
def test_the_visible_mask_may_have_other_names(tmp_path: Path, key: str) -> None:
    back, front = read_pair(tmp_path, renamed(key)).annotations
    assert (area(back["segmentation"]), area(back[AMODAL_KEY])) == (SEEN, SEEN + HIDDEN)
    assert not {key, "inmodal_bbox"} & (back.keys() | front.keys())
