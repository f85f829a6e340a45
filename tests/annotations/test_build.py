"""`annotate_coco` on whole files: regions, untouched keys, counts, and independence of the number of processes."""

import copy
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from bcnet_core import masks
from bcnet_core.annotations import build
from bcnet_core.annotations.build import AnnotateSummary, annotate_coco
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, read_coco
from bcnet_core.annotations.occluder import OccluderRule
from bcnet_core.config.choices import RegionFormat
from bcnet_core.errors import BCNetError, ExitCode
from tests.annotations.conftest import CountingReporter

RULE = OccluderRule()
BOX = [0, 0, 20, 20]


def square(x: float, y: float, side: float = 20) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def annotation(number: int, *, image: int = 1, bbox: list[float] | None = None, **keys: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": 1, "bbox": bbox or BOX, "area": 1.5, "iscrowd": 0, **keys}


def coco_of(*annotations: dict[str, Any], images: int = 1) -> CocoFile:
    content = {
        "info": {"year": 2017, "odd": [None, 1.0, "ä"]},
        "licenses": [{"id": 3}],
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48} for number in range(1, images + 1)
        ],
        "annotations": list(annotations),
        "categories": [{"id": 1, "name": "thing"}],
        "unknown": {"key": 1},
    }
    return CocoFile(Path("memory.json"), content)


def skipped_ids(summary: AnnotateSummary) -> dict[str, list[int]]:
    return {reason: [one.annotation for one in those] for reason, those in summary.skipped.items()}


def entries(content: dict[str, Any]) -> list[Any]:
    return [one[OCCLUDER_KEY] for one in content["annotations"]]


@pytest.fixture
def pair() -> CocoFile:
    return coco_of(
        annotation(9, bbox=[0, 0, 20, 20], segmentation=square(0, 0), attributes={"z": 1}),
        annotation(4, bbox=[10, 0, 20, 20], segmentation=square(10, 0)),
        annotation(5, bbox=[40, 20, 20, 20], segmentation=square(40, 20)),
    )


@pytest.mark.parametrize("output_format", ["polygon", "rle"])
def test_both_formats_hold_the_exact_region(pair: CocoFile, output_format: RegionFormat) -> None:
    content, summary = annotate_coco(pair, rule=RULE, output_format=output_format)
    first, second, third = entries(content)
    for entry in (first, second):
        region = masks.from_segmentation(entry, 48, 64)
        assert region is not None
        assert masks.decode(region)[0:20, 10:20].all()
        assert masks.area(region) == 200
    assert third == []
    assert (summary.images, summary.instances, summary.with_occluder, summary.skipped) == (1, 3, 2, {})


def test_nothing_else_changes(pair: CocoFile) -> None:
    before = copy.deepcopy(pair.content)
    content, _ = annotate_coco(pair, rule=RULE)
    assert pair.content == before
    stripped = [{key: value for key, value in one.items() if key != OCCLUDER_KEY} for one in content["annotations"]]
    assert json.dumps({**content, "annotations": stripped}) == json.dumps(before)


def test_annotating_again_changes_nothing(pair: CocoFile) -> None:
    once, _ = annotate_coco(pair, rule=RULE)
    again, _ = annotate_coco(CocoFile(pair.path, once), rule=RULE)
    assert json.dumps(again) == json.dumps(once)


def test_a_stored_region_is_replaced_in_its_position(pair: CocoFile) -> None:
    stale = {OCCLUDER_KEY: [[1, 1, 2, 2, 3, 3]], **pair.annotations[2]}
    content, _ = annotate_coco(coco_of(stale), rule=RULE)
    assert next(iter(content["annotations"][0].items())) == (OCCLUDER_KEY, [])


def test_annotations_without_a_mask_are_counted_and_kept() -> None:
    coco = coco_of(
        annotation(1),
        annotation(2, segmentation=None),
        annotation(3, segmentation=[]),
        annotation(4, segmentation={"size": [48, 64], "counts": [48 * 64]}),
        annotation(5, segmentation=[[1, 1, 9, 9]]),
        annotation(6, segmentation=[[100, 100, 120, 100, 120, 120]]),
        annotation(7, segmentation="text"),
        annotation(8, segmentation={"size": [48, 64], "counts": "zzzzzzz"}),
        annotation(9, segmentation=[[0, 0, float("nan"), 5, 5, 5]]),
        annotation(10, segmentation={"size": 5, "counts": []}),
        annotation(11, segmentation=square(10, 0), bbox=[10, 0, 20, 20]),
    )
    content, summary = annotate_coco(coco, rule=RULE)
    assert skipped_ids(summary) == {
        "missing": [1, 2], "empty": [3, 4], "degenerate": [5, 6], "unreadable": [7, 8, 9, 10],
    }  # fmt: skip
    assert all(masks.area(masks.from_segmentation(entry, 48, 64)) == 200 for entry in entries(content)[:10])  # type: ignore[arg-type]
    assert entries(content)[10] == []
    assert summary.with_occluder == 10


def test_annotations_skipped_by_the_rule_are_counted() -> None:
    coco = coco_of(
        annotation(1, segmentation=square(0, 0), iscrowd=1),
        annotation(2, segmentation=square(0, 0)),
        annotation(3, segmentation=square(10, 19), bbox=[10, 19, 20, 20]),  # 10 pixels in the box of the first two
        annotation(4, segmentation=square(0, 0), bbox=[-30, 5, 20, 20]),
        annotation(5, segmentation=square(0, 0), bbox=[5, 5, 0, 0]),
        annotation(6, bbox=[0, 99, 20, 20], iscrowd=1),
    )
    rule = OccluderRule(min_iou=0.0)
    content, summary = annotate_coco(coco, rule=rule)
    assert skipped_ids(summary) == {"missing": [6], "crowd": [1], "outside": [4, 5, 6], "small": [3]}
    assert [entry != [] for entry in entries(content)] == [True, True, False, False, False, False]
    content, summary = annotate_coco(coco, rule=OccluderRule(min_iou=0.0, min_area=9, crowd=True))
    assert skipped_ids(summary) == {"missing": [6], "outside": [4, 5, 6]}
    assert entries(content)[2] != []


def test_repeated_ids_are_allowed() -> None:
    coco = coco_of(
        annotation(1, segmentation=square(0, 0)), annotation(1, segmentation=square(10, 0), bbox=[10, 0, 20, 20])
    )
    content, summary = annotate_coco(coco, rule=RULE)
    assert summary.repeated_ids == [1]
    assert [masks.area(masks.from_segmentation(entry, 48, 64)) for entry in entries(content)] == [200, 200]  # type: ignore[arg-type]


def test_default_polygons_are_close_and_small(coco_mini: Path) -> None:
    """Compare with the exact regions, and with the size of the official script's file for the same images."""
    coco = read_coco(coco_mini / "annotations" / "instances_val2017.json")
    exact, _ = annotate_coco(coco, rule=RULE, output_format="rle")
    close, _ = annotate_coco(coco, rule=RULE)
    pixel_exact, _ = annotate_coco(coco, rule=RULE, tolerance=0)
    sizes = {image["id"]: (image["height"], image["width"]) for image in coco.images}
    for record, region, near, same in zip(
        coco.annotations, entries(exact), entries(close), entries(pixel_exact), strict=True
    ):
        size = sizes[record["image_id"]]
        wanted = masks.from_segmentation(region, *size)
        assert masks.from_segmentation(same, *size) == wanted
        drawn = masks.from_segmentation(near, *size)
        assert (drawn is None) == (wanted is None)
        if drawn is not None and wanted is not None:
            assert masks.iou(drawn, wanted) >= 0.98
    numbers = json.loads((Path(__file__).parents[1] / "parity" / "official_annotate.json").read_text())
    assert len(json.dumps(entries(close), separators=(",", ":"))) <= 1.3 * numbers["bytes_of_occluders_as_integers"]
    whole = len(json.dumps(close, separators=(",", ":")))
    assert whole <= 1.3 * numbers["bytes_of_file"]


@pytest.mark.parametrize("output_format", ["polygon", "rle"])
def test_a_very_wide_image_takes_no_extra_memory(output_format: RegionFormat) -> None:
    far = 900_000
    coco = coco_of(
        annotation(1, segmentation=square(far, 0), bbox=[far, 0, 20, 20]),
        annotation(2, segmentation=square(far + 10, 0), bbox=[far + 10, 0, 20, 20]),
    )
    coco.images[0].update(width=50_000_000, height=20)
    tracemalloc.start()
    content, _ = annotate_coco(coco, rule=RULE, output_format=output_format, tolerance=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000
    assert [entry != [] for entry in entries(content)] == [True, True]
    if output_format == "polygon":
        assert sorted(set(entries(content)[0][0])) == [0, 20, far + 10, far + 20]


@pytest.mark.parametrize("tolerance", [-0.1, float("inf"), float("nan")])
def test_an_invalid_tolerance_is_an_error(pair: CocoFile, tolerance: float) -> None:
    with pytest.raises(BCNetError) as caught:
        annotate_coco(pair, rule=RULE, tolerance=tolerance)
    assert caught.value.message == f"the tolerance is 0 pixels or more, not {tolerance}"
    assert caught.value.exit_code == ExitCode.USAGE


def test_polygons_are_simplified_by_default_and_exact_on_request() -> None:
    """A staircase of pixels needs fewer corners if it may become a slope."""
    stairs = [[0, 0, 20, 0, 20, 20, *(value for step in range(19, 0, -1) for value in (step, step + 1, step, step))]]
    coco = coco_of(annotation(1, segmentation=square(0, 0)), annotation(2, segmentation=stairs))
    (default,) = entries(annotate_coco(coco, rule=RULE)[0])[0]
    (wide,) = entries(annotate_coco(coco, rule=RULE, tolerance=1.0)[0])[0]
    (exact,) = entries(annotate_coco(coco, rule=RULE, tolerance=0)[0])[0]
    assert default == wide
    assert len(default) < len(exact)
    assert all(type(value) is int for value in default)


def test_a_region_of_exactly_min_area_is_small() -> None:
    coco = coco_of(
        annotation(1, segmentation=square(0, 0)), annotation(2, segmentation=square(18, 10), bbox=[18, 10, 20, 20])
    )
    for least, kept in ((19, True), (20, False)):
        content, summary = annotate_coco(coco, rule=OccluderRule(min_iou=0, min_area=least))
        assert [entry != [] for entry in entries(content)] == [kept, kept]
        assert (summary.with_occluder, skipped_ids(summary)) == ((2, {}) if kept else (0, {"small": [1, 2]}))


def test_skipped_annotations_are_grouped_by_reason_with_their_image() -> None:
    """Reasons have a fixed order; annotations follow the order of the images."""
    coco = coco_of(
        annotation(5, image=2, bbox=[0, 99, 20, 20]),
        annotation(6, image=1, segmentation=square(0, 0), bbox=[64, 0, 5, 5]),
        annotation(7, image=2, segmentation=[]),
        images=2,
    )
    summary = annotate_coco(coco, rule=RULE)[1]
    assert list(summary.skipped.items()) == [("missing", [(5, 2)]), ("empty", [(7, 2)]), ("outside", [(6, 1), (5, 2)])]


def test_a_crowd_without_a_mask_is_not_counted_as_a_crowd() -> None:
    coco = coco_of(annotation(1, iscrowd=1), annotation(2, iscrowd=1, segmentation=square(0, 0)))
    del coco.annotations[0]["iscrowd"]
    assert skipped_ids(annotate_coco(coco, rule=RULE)[1]) == {"missing": [1], "crowd": [2]}
    assert skipped_ids(annotate_coco(coco, rule=OccluderRule(crowd=True))[1]) == {"missing": [1]}


@pytest.mark.parametrize(
    ("box", "outside"),
    [
        ([0, 0, 1, 1], False),
        ([63, 47, 9, 9], False),
        ([64, 0, 9, 9], True),
        ([0, 48, 9, 9], True),
        ([5, 5, 0, 9], True),
        ([5, 5, 9, 0], True),
        ([5.2, 5, 0.7, 9], True),
        ([5.2, 5, 0.9, 9], False),
        ([-9, 0, 9, 9], True),
        ([0, -9, 9, 10], False),
    ],
)
def test_a_box_without_a_pixel_of_the_image_is_outside(box: list[float], outside: bool) -> None:
    summary = annotate_coco(coco_of(annotation(1, bbox=box, segmentation=square(0, 0))), rule=RULE)[1]
    assert ("outside" in summary.skipped) == outside


def test_each_repeated_id_is_listed_once() -> None:
    coco = coco_of(*(annotation(number, segmentation=square(0, 0)) for number in (3, 1, 3, 2, 1, 3)))
    assert annotate_coco(coco, rule=RULE)[1].repeated_ids == [3, 1]


def test_one_shared_pixel_is_enough_without_thresholds() -> None:
    coco = coco_of(
        annotation(1, segmentation=square(0, 0)), annotation(2, segmentation=square(19, 19), bbox=[19, 19, 20, 20])
    )
    content, summary = annotate_coco(coco, rule=OccluderRule(min_iou=0, min_area=0), tolerance=0)
    assert [sorted(entry[0]) for entry in entries(content)] == [[19, 19, 19, 19, 20, 20, 20, 20]] * 2
    assert (summary.with_occluder, summary.skipped) == (2, {})


@pytest.mark.parametrize("right", [600, 19_999, 20_000, 20_001, 20_002])
def test_polygons_share_equal_coordinates_unless_images_are_huge(right: int) -> None:
    """Otherwise the numbers of a large file take a gigabyte."""
    left = right - 20
    two = (annotation(one, segmentation=square(left, 0), bbox=[left, 0, 20, 20]) for one in (1, 2))
    coco = coco_of(*two)
    coco.images[0].update(width=right + 5)
    (first,), (second,) = entries(annotate_coco(coco, rule=RULE, tolerance=0)[0])
    assert first == second == [left, 0, left, 20, right, 20, right, 0]
    assert all(one is other for one, other in zip(first, second, strict=True)) == (right <= 20_000)


def test_progress_is_reported_in_images(pair: CocoFile) -> None:
    reporter = CountingReporter()
    annotate_coco(pair, rule=RULE, reporter=reporter)
    assert (reporter.title, reporter.total, reporter.done) == ("images", 1, 1)


def test_files_without_images_or_annotations() -> None:
    for coco in (coco_of(), coco_of(images=0)):
        content, summary = annotate_coco(coco, rule=RULE)
        assert content == coco.content
        assert summary.instances == 0


def test_the_number_of_processes_does_not_matter(coco_mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "CHUNK", 3)
    coco = read_coco(coco_mini / "annotations" / "instances_val2017.json")
    reporter = CountingReporter()
    one, summary = annotate_coco(coco, rule=RULE, workers=1)
    two, summary_of_two = annotate_coco(coco, rule=RULE, workers=2, reporter=reporter)
    assert json.dumps(two) == json.dumps(one)
    assert summary == summary_of_two
    assert (summary.images, summary.instances, summary.with_occluder) == (79, 624, 326)
    assert reporter.done == reporter.total == 79
